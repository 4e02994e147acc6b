"""The rolling plan of a streaming policy (Streaming Diffusion Policy, Høeg et al. 2024).

The plan is never started over: what is executed leaves it at the front, noise enters at the back,
and what lies in between keeps what was already decided. An action costs ``steps / Tp`` evaluations
on average, however many steps it takes from noise to clean.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies.diffusion.process import Rolling
from policies.diffusion.samplers import Estimator
from policies.interface import Float

_NEAR = 1e-9


class RollingPlan:
    """Steps of a plan, noisier the further ahead they are.

    Args:
        process: horizon and levels at rest.
        shape: of the plan, (B, Tp, A).
        steps: evaluations that a step sees on its way from noise to clean.
        primer: ``denoise`` starts from noise throughout; ``zero`` and ``constant`` from a plan
            that stays at the centre of the actions, or at ``constant``, noised to levels at which
            a plan is after an answer was executed.
        constant: normalised action, (A,).
        rng: noise.

    Attributes:
        noisy: the plan, normalised, (B, Tp, A).
        level: 0 for noise to 1 for clean, (Tp,).
        clean: estimate of the clean plan, (B, Tp, A).
    """

    def __init__(
        self,
        process: Rolling,
        shape: tuple[int, int, int],
        steps: int,
        primer: str,
        constant: Float,
        rng: np.random.Generator,
    ) -> None:
        self._process, self._step, self._rng = process, 1.0 / steps, rng
        self._rest = process.rest()
        self.noisy = rng.standard_normal(shape)
        self.level = np.zeros(shape[1])
        if primer != "denoise":
            start = np.zeros_like(constant) if primer == "zero" else constant
            moved = np.concatenate([self._rest[process.execute :], np.zeros(process.execute)])
            self.level = moved
            self.noisy = moved[:, None] * start + (1.0 - moved)[:, None] * self.noisy
        self.clean = self.noisy

    def advance(self, executed: int) -> None:
        """Drop the first ``executed`` steps and append as many of noise."""
        executed = min(executed, len(self.level))
        fresh = self._rng.standard_normal((len(self.noisy), executed, self.noisy.shape[2]))
        self.noisy = np.concatenate([self.noisy[:, executed:], fresh], axis=1)
        self.clean = np.concatenate([self.clean[:, executed:], fresh], axis=1)
        self.level = np.concatenate([self.level[executed:], np.zeros(executed)])

    def pin(self, actions: Float, held: NDArray[np.bool_]) -> None:
        """Fix steps to known actions.

        Args:
            actions: normalised, (B, Tp, A).
            held: which steps, (Tp,).
        """
        self.noisy = np.where(held[:, None], actions, self.noisy)
        self.clean = np.where(held[:, None], actions, self.clean)
        self.level = np.where(held, 1.0, self.level)

    def settle(self, estimator: Estimator) -> Float:
        """Denoise to the levels of rest; returns the estimate of the clean plan, (B, Tp, A)."""
        runs = len(self.noisy)
        rows = np.arange(runs)
        for move in _moves(self.level.tobytes(), self._rest.tobytes(), self._step, runs):
            self.clean = estimator(self.noisy, move.level, rows).clean
            # A step that was clean before has a share of 0: it stays as it is, to the last bit.
            self.noisy = self.noisy + move.share * (self.clean - self.noisy)
            self.level = move.after
        return np.where((self.level >= 1.0)[:, None], self.noisy, self.clean)


class _Move(NamedTuple):
    """One evaluation of a streaming model: every step of the plan moves towards rest.

    Attributes:
        level: of each step before, (B, Tp).
        share: how far each step moves towards its estimate, (Tp, 1).
        after: levels after it, (Tp,).
    """

    level: Float
    share: Float
    after: Float


@lru_cache(maxsize=64)
def _moves(start: bytes, rest: bytes, step: float, runs: int) -> tuple[_Move, ...]:
    """The way to rest, which is the same at every answer but the first.

    Args:
        start: levels, (Tp,), as bytes.
        rest: levels at rest, likewise.
        step: by how much levels rise at a time.
        runs: size of the batch.
    """
    level, target = np.frombuffer(start), np.frombuffer(rest)
    moves = []
    while np.any(level < target - _NEAR):
        after = np.minimum(np.maximum(level, target), level + step)
        # Rounding must not leave a step that is a hair short of clean.
        after = np.where(np.abs(after - target) < _NEAR, target, after)
        share = (after - level) / np.maximum(1.0 - level, _NEAR)
        moves.append(_Move(np.tile(level, (runs, 1)), share[:, None], after))
        level = after
    return tuple(moves)
