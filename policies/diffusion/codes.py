"""Plans as a few discrete codes, chosen one after the other: an autoregressive chunk policy.

After VQ-BeT (Lee et al. 2024): residual codes of a plan, predicted from the observation, and an
offset for what they leave out. The codes of a group refine the plan that the groups before have
given. They are found by k-means on plans and then on what is left of them, not by training an
autoencoder: a decoder is not needed, and no code stays unused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from policies.diffusion.config import CODE_GROUPS, CODES
from policies.errors import InputError
from policies.interface import Float
from policies.processors import Float32

_ITERATIONS = 25
_MOST_SAMPLES = 20_000

Answer = Callable[[Float32, Float32], tuple[Float32, Float32]]
"""Plan so far (B, Tp, A) and share of the groups that it is made of (B,) -> offset (B, Tp, A) and
logits of the codes of all groups (B, groups * codes)."""


@dataclass(frozen=True, kw_only=True)
class ResidualCodes:
    """Codebooks for normalised plans.

    Attributes:
        vectors: what each code adds to a plan, (groups, codes, Tp, A).
        error: root-mean-square of what is left after each group, (groups,).
    """

    vectors: Float
    error: Float

    def assign(self, plans: Float) -> NDArray[np.intp]:
        """Codes of plans (B, Tp, A), (B, groups): in each group the one that is nearest."""
        left, out = plans.reshape(len(plans), -1), []
        for group in self.vectors.reshape(len(self.vectors), len(self.vectors[0]), -1):
            out.append(_nearest(left, group))
            left = left - group[out[-1]]
        return np.stack(out, axis=1)

    def plan(self, codes: NDArray[np.intp], groups: int) -> Float:
        """Plan that the first ``groups`` of the codes (B, groups) add up to, (B, Tp, A)."""
        total = np.zeros((len(codes), *self.vectors.shape[2:]))
        for i in range(groups):
            total = total + self.vectors[i][codes[:, i]]
        return total

    def sample(
        self,
        answer: Answer,
        batch: int,
        rng: np.random.Generator,
        prefix: tuple[Float, Float] | None = None,
    ) -> Float:
        """Draw plans, (B, Tp, A), with one evaluation for each group and one for the offset.

        Args:
            answer: the network, for the present observations.
            batch: B.
            rng: for the draws.
            prefix: normalised actions (B, Tp, A) and weights (Tp, 1): codes are the less likely
                the further they lead away from it.
        """
        groups, size = self.vectors.shape[:2]
        plan = np.zeros((batch, *self.vectors.shape[2:]))
        for i in range(groups + 1):
            done = np.full(batch, i / groups, dtype=np.float32)
            offset, logits = answer(plan.astype(np.float32), done)
            if i == groups:
                plan = plan + offset
                break
            score = logits[:, i * size : (i + 1) * size].astype(np.float64)
            if prefix is not None:
                actions, weights = prefix
                miss = plan[:, None] + self.vectors[i][None] - actions[:, None]
                score = score - 0.5 * np.sum(weights * miss**2, axis=(2, 3)) / self.error[i] ** 2
            # The largest of logits with Gumbel noise is a draw from their softmax.
            picked = np.argmax(score + rng.gumbel(size=score.shape), axis=1)
            plan = plan + self.vectors[i][picked]
        if prefix is not None:
            plan = plan + prefix[1] * (prefix[0] - plan)
        return plan

    def dump(self) -> bytes:
        """Content of a safetensors file; :func:`load_codes` reads it back."""
        return save({"vectors": self.vectors, "error": self.error})


def load_codes(data: bytes, shape: tuple[int, int], what: str) -> ResidualCodes:
    """Read codebooks.

    Args:
        data: content of a safetensors file.
        shape: of a plan, (Tp, A).
        what: name of the file in error texts.

    Raises:
        InputError: it is none, or for plans of another shape.
    """
    try:
        arrays = load(data)
        vectors, error = arrays["vectors"], arrays["error"]
    except (SafetensorError, KeyError) as reason:
        raise InputError(
            f"{what}: expected safetensors with 'vectors' and 'error', got something else; copy "
            "the checkpoint again"
        ) from reason
    fits = vectors.ndim == 4 and vectors.shape[2:] == shape and error.shape == vectors.shape[:1]
    if not fits or not np.isfinite(vectors).all() or not np.all(error > 0.0):
        raise InputError(
            f"{what}: expected finite codes of plans of shape {shape}, got {vectors.shape}; copy "
            "the checkpoint again"
        )
    return ResidualCodes(vectors=vectors.astype(np.float64), error=error.astype(np.float64))


def fit_codes(
    plans: Float, rng: np.random.Generator, *, groups: int = CODE_GROUPS, codes: int = CODES
) -> ResidualCodes:
    """Codebooks by k-means on plans, then on what is left of them.

    Args:
        plans: normalised, (N, Tp, A).
        rng: for the start.
        groups: codebooks.
        codes: in each; there must be as many plans.

    Raises:
        InputError: there are too few plans.
    """
    if len(plans) < codes:
        raise InputError(
            f"training: expected at least {codes} frames for {codes} codes, got {len(plans)}; "
            "record more"
        )
    left = plans.reshape(len(plans), -1)
    if len(left) > _MOST_SAMPLES:
        left = left[rng.choice(len(left), _MOST_SAMPLES, replace=False)]
    vectors, error = [], []
    for _ in range(groups):
        vectors.append(_k_means(left, codes, rng))
        left = left - vectors[-1][_nearest(left, vectors[-1])]
        error.append(max(float(np.sqrt(np.mean(left**2))), 1e-3))
    shape = (groups, codes, *plans.shape[1:])
    return ResidualCodes(vectors=np.stack(vectors).reshape(shape), error=np.array(error))


def _nearest(points: Float, centres: Float) -> NDArray[np.intp]:
    distance = np.sum(centres**2, axis=1) - 2.0 * points @ centres.T
    return np.argmin(distance, axis=1)


def _k_means(points: Float, count: int, rng: np.random.Generator) -> Float:
    """Centres (count, size), started far from each other (k-means++)."""
    centres = points[rng.integers(len(points), size=1)]
    nearest = np.sum((points - centres) ** 2, axis=1)
    while len(centres) < count:
        total = nearest.sum()
        share = nearest / total if total > 0.0 else None
        pick = points[rng.choice(len(points), p=share)]
        centres = np.vstack([centres, pick])
        nearest = np.minimum(nearest, np.sum((points - pick) ** 2, axis=1))
    for _ in range(_ITERATIONS):
        owner = _nearest(points, centres)
        count_of = np.bincount(owner, minlength=count)
        total_of = np.zeros_like(centres)
        np.add.at(total_of, owner, points)
        used = count_of > 0
        centres = np.where(used[:, None], total_of / np.maximum(count_of, 1)[:, None], centres)
    return centres
