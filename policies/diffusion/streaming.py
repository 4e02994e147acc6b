"""The rolling plan of a streaming policy (Streaming Diffusion Policy, Høeg et al. 2024).

The plan is never started over: what is executed leaves it at the front, noise enters at the back,
and what lies in between keeps what was already decided. An action costs ``steps / Tp`` evaluations
on average, however many steps it takes from noise to clean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.diffusion.process import Rolling
from policies.diffusion.samplers import Estimator, rolling_step
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
        while np.any(self.level < self._rest - _NEAR):
            self.noisy, self.level, self.clean = rolling_step(
                estimator, self._process, self.noisy, self.level, self._rest, self._step
            )
        return np.where((self.level >= 1.0)[:, None], self.noisy, self.clean)
