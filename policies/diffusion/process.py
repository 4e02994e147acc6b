"""How actions become noise: diffusion, score and flow matching as one family, in NumPy.

Every method here mixes clean actions with Gaussian noise, ``noisy = alpha clean + sigma noise``,
and trains a network on some other mixture of the two. They differ in five numbers for each noise
level (:class:`Coefficients`) and in the levels that training draws. Training and sampling use the
same ones, so they cannot disagree, and what changes a plan (guidance, composition, a prefix) is
written once, for the estimate of the clean actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np

from policies.interface import Float
from policies.processors import Float32

DiffusionPrediction = Literal["v", "epsilon"]
FlowPrediction = Literal["preconditioned", "velocity"]
Prediction = Literal["v", "epsilon", "preconditioned", "velocity"]
PREDICTIONS: dict[str, tuple[Prediction, ...]] = {
    "ddpm": ("v", "epsilon"),
    "flow": ("preconditioned", "velocity"),
    "streaming": ("preconditioned", "velocity"),
}
"""Kind of model -> what its network may answer, the default first."""


SIGMA_MIN, SIGMA_MAX, _RHO = 0.01, 20.0, 7.0
_SIGMA_DATA = 0.5
_COSINE_OFFSET = 0.008
_BETA_MAX = 0.999


@dataclass(frozen=True, kw_only=True)
class Gains:
    """What a sampler multiplies with at a level; with axes to multiply (B, Tp, A).

    A sampler goes through the same few levels again and again, so these are worth keeping.

    Attributes:
        scale: factor on the noisy actions before the network sees them, float32.
        time: what the network is told of the level, float32, (B,) or (B, Tp).
        output, noisy: the clean actions are ``output * answer + noisy * noisy actions``.
        error: error of the flow's velocity by that of the network's answer, (B,) or (B, Tp).
    """

    scale: Float32
    time: Float32
    output: Float
    noisy: Float
    error: Float


@dataclass(frozen=True, kw_only=True)
class Coefficients:
    """What a noise level means; arrays of the shape of the level.

    Attributes:
        alpha, sigma: ``noisy = alpha clean + sigma noise``.
        scale: factor on the noisy actions before the network sees them.
        time: what the network is told of the level.
        clean, noise: the network's target is ``clean * actions + noise * noise``.
    """

    alpha: Float
    sigma: Float
    scale: Float
    time: Float
    clean: Float
    noise: Float

    def gains(self) -> Gains:
        """How the clean actions follow from the network's answer to the noisy ones."""
        share = 1.0 / (self.clean * self.sigma - self.noise * self.alpha)
        return Gains(
            scale=spread(self.scale).astype(np.float32),
            time=self.time.astype(np.float32),
            output=spread(self.sigma * share),
            noisy=spread(-self.noise * share),
            error=share,
        )


def spread(level: Float) -> Float:
    """A level of each run (B,) or of each step (B, Tp) with axes to multiply (B, Tp, A)."""
    return level[:, None, None] if level.ndim == 1 else level[..., None]


class Process(Protocol):
    """A way from actions to noise."""

    def coefficients(self, level: Float) -> Coefficients:
        """What each of the levels means."""

    def draw(self, rng: np.random.Generator, batch: int) -> Float:
        """Levels for training, (batch,) or (batch, Tp)."""

    def ladder(self, steps: int) -> Float:
        """Levels that a sampler visits in so many steps, noisiest first, (steps,)."""


@dataclass(frozen=True)
class VariancePreserving:
    """Denoising diffusion (Ho et al. 2020) with the cosine schedule.

    A level is the index 0 (almost clean) to ``levels - 1`` (noise).

    Attributes:
        levels: how many.
        prediction: what the network answers: ``epsilon``, the noise, whose error counts
            ``1 / alpha`` times where there is much of it, which is where few steps are taken; or
            ``v``, alpha noise - sigma actions (Salimans and Ho 2022), whose error never does.
    """

    levels: int = 100
    prediction: DiffusionPrediction = "v"

    @cached_property
    def alpha_bar(self) -> Float:
        """Share of the variance that is signal at each level, (levels,)."""
        time = np.arange(self.levels + 1) / self.levels
        signal = np.cos((time + _COSINE_OFFSET) / (1 + _COSINE_OFFSET) * np.pi / 2) ** 2
        bar: Float = np.cumprod(1.0 - np.minimum(1.0 - signal[1:] / signal[:-1], _BETA_MAX))
        return bar

    def coefficients(self, level: Float) -> Coefficients:
        """See :class:`Process`; levels are whole numbers."""
        bar = self.alpha_bar[level.astype(np.intp)]
        alpha, sigma = np.sqrt(bar), np.sqrt(1.0 - bar)
        one, noise_only = np.ones_like(bar), self.prediction == "epsilon"
        return Coefficients(
            alpha=alpha,
            sigma=sigma,
            scale=one,
            time=level / self.levels,
            clean=0.0 * one if noise_only else -sigma,
            noise=one if noise_only else alpha,
        )

    def draw(self, rng: np.random.Generator, batch: int) -> Float:
        """Uniform over the levels."""
        return rng.integers(self.levels, size=batch).astype(np.float64)

    def ladder(self, steps: int) -> Float:
        """Evenly spaced from the last level, which is what pure noise belongs to.

        Starting lower, as is usual, takes noise for a mixture that it is not (Lin et al. 2024).
        """
        return np.round(self.levels - np.arange(steps) * self.levels / steps) - 1.0


@dataclass(frozen=True)
class Karras:
    """Score matching of Karras et al. (2022), as in BESO; a level is the noise itself, sigma."""

    def coefficients(self, level: Float) -> Coefficients:
        """See :class:`Process`."""
        total = level**2 + _SIGMA_DATA**2
        skip = _SIGMA_DATA**2 / total
        out = level * _SIGMA_DATA / np.sqrt(total)
        return Coefficients(
            alpha=np.ones_like(level),
            sigma=level,
            scale=1.0 / np.sqrt(total),
            time=np.log(level) / 4.0,
            clean=(1.0 - skip) / out,
            noise=-skip * level / out,
        )

    def draw(self, rng: np.random.Generator, batch: int) -> Float:
        """Log-logistic around the spread of the data, cut to the range, as in BESO."""
        u = rng.uniform(0.005, 0.995, size=batch)
        level = _SIGMA_DATA * np.exp(np.log(u / (1.0 - u)))
        return np.clip(level, SIGMA_MIN, SIGMA_MAX)

    def ladder(self, steps: int) -> Float:
        """Levels that are evenly spaced in ``sigma^(1/7)``."""
        u = np.arange(steps) / max(steps - 1, 1)
        low, high = SIGMA_MIN ** (1 / _RHO), SIGMA_MAX ** (1 / _RHO)
        levels: Float = (high + u * (low - high)) ** _RHO
        return levels


@dataclass(frozen=True)
class Flow:
    """Flow matching along straight lines; a level is the time from 0 (noise) to 1 (clean).

    Attributes:
        prediction: what the network answers: ``velocity``, or ``preconditioned``: what is left of
            it after the part that is linear in the noisy plan if actions are Gaussian, scaled to
            one size, as EDM does for scores. The network then need not pass the noise through to
            subtract it. It sees the noisy plan times what that says of the actions: nothing at
            time 0, where a single step is the regression that it should be.
    """

    prediction: FlowPrediction = "preconditioned"

    def coefficients(self, level: Float) -> Coefficients:
        """See :class:`Process`."""
        one = np.ones_like(level)
        scale, clean, noise = one, one, -one
        if self.prediction == "preconditioned":
            root = np.sqrt((1.0 - level) ** 2 + (level * _SIGMA_DATA) ** 2)
            scale = level / root
            clean = (1.0 - level) / (_SIGMA_DATA * root)
            noise = -level * _SIGMA_DATA / root
        return Coefficients(
            alpha=level, sigma=1.0 - level, scale=scale, time=level, clean=clean, noise=noise
        )

    def draw(self, rng: np.random.Generator, batch: int) -> Float:
        """Uniform, with a tenth of the runs at the start, where a single step begins."""
        level = rng.uniform(size=batch)
        return np.where(rng.random(batch) < 0.1, 0.0, level)

    def ladder(self, steps: int) -> Float:
        """Evenly spaced from 0."""
        return np.arange(steps) / steps


@dataclass(frozen=True)
class Regression:
    """No process at all: the network sees no actions and answers the chunk (behaviour cloning)."""

    def coefficients(self, level: Float) -> Coefficients:
        """See :class:`Process`."""
        one, zero = np.ones_like(level), np.zeros_like(level)
        return Coefficients(alpha=zero, sigma=one, scale=zero, time=zero, clean=one, noise=zero)

    def draw(self, rng: np.random.Generator, batch: int) -> Float:
        """There is one level, 0."""
        return np.zeros(batch)

    def ladder(self, steps: int) -> Float:
        """The one level."""
        return np.zeros(1)


@dataclass(frozen=True, kw_only=True)
class Rolling:
    """Flow matching with a level of its own for each step of the plan (streaming policies).

    Levels rise from noise to clean as a step comes nearer: a plan at rest is clean over its first
    ``execute`` steps, and each further group of ``execute`` steps is one rung noisier.

    Attributes:
        horizon: steps in the plan, Tp; a multiple of ``execute``.
        execute: steps that are carried out before the next answer, Ta.
        prediction: see :class:`Flow`.
    """

    horizon: int
    execute: int
    prediction: FlowPrediction = "preconditioned"

    def coefficients(self, level: Float) -> Coefficients:
        """As :class:`Flow`, for each step."""
        return Flow(self.prediction).coefficients(level)

    def rest(self) -> Float:
        """Levels of a plan that is ready to be carried out, (horizon,)."""
        groups = self.horizon // self.execute
        return 1.0 - (np.arange(self.horizon) // self.execute) / groups

    def draw(self, rng: np.random.Generator, batch: int) -> Float:
        """Levels that occur while streaming, and others so that any start can be denoised.

        Half are a plan on its way to rest after any number of executed steps; a quarter is one
        that is denoised from scratch; a quarter falls at random along the plan.
        """
        groups = self.horizon // self.execute
        executed = np.where(
            rng.random(batch) < 0.5, self.execute, rng.integers(1, self.execute + 1, size=batch)
        )
        index = np.arange(self.horizon)[None] + executed[:, None]
        start = np.where(index < self.horizon, 1.0 - (index // self.execute) / groups, 0.0)
        moved = start + rng.uniform(size=(batch, 1)) / groups
        streaming = np.minimum(np.maximum(moved, start), self.rest())
        scratch = np.minimum(rng.uniform(size=(batch, 1)), self.rest())
        falling = -np.sort(-rng.uniform(size=streaming.shape), axis=1)
        pick = rng.random((batch, 1))
        return np.where(pick < 0.5, streaming, np.where(pick < 0.75, scratch, falling))

    def ladder(self, steps: int) -> Float:
        """As :class:`Flow`."""
        return Flow().ladder(steps)


def make_process(
    kind: str,
    *,
    diffusion_steps: int,
    prediction: Prediction | None,
    prediction_horizon: int,
    action_horizon: int,
) -> Process:
    """The process of a kind of model.

    Args:
        kind: ``ddpm``, ``edm``, ``flow``, ``streaming``, or one without noise.
        diffusion_steps: levels of ``ddpm``.
        prediction: what the network answers, one of :data:`PREDICTIONS` for the kind.
        prediction_horizon: of the model, for ``streaming``.
        action_horizon: of the model, for ``streaming``.
    """
    if kind == "edm":
        return Karras()
    if kind == "ddpm":
        return VariancePreserving(diffusion_steps, "v" if prediction == "v" else "epsilon")
    answer: FlowPrediction = "velocity" if prediction == "velocity" else "preconditioned"
    if kind == "flow":
        return Flow(answer)
    if kind == "streaming":
        return Rolling(horizon=prediction_horizon, execute=action_horizon, prediction=answer)
    if kind in ("mlp", "vqbet"):
        return Regression()
    raise ValueError(f"no process of the name {kind!r}")
