"""What a learner asks of an environment: B copies of a task side by side, in NumPy arrays."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the two networks see; the critic may see what no robot can measure.

    Attributes:
        actor: (B, actor inputs).
        critic: (B, critic inputs).
    """

    actor: Float32
    critic: Float32


@dataclass(frozen=True, kw_only=True)
class Transition:
    """Result of one step of B environments; those that ended have begun anew.

    Attributes:
        inputs: what the next action answers, after the resets.
        reward: (B,).
        terminated: episodes that ended in a state without future (a fall), (B,).
        truncated: episodes that were cut off, e.g. at a time limit, (B,); the learner bootstraps
            from the value of ``final_critic``.
        final_critic: the critic's input before the resets, (B, critic inputs).
        metrics: means to be logged, by name.
    """

    inputs: Inputs
    reward: Float32
    terminated: Flags
    truncated: Flags
    final_critic: Float32
    metrics: dict[str, float] = field(default_factory=dict)


class VectorEnv(Protocol):
    """B environments that step in lock-step and begin anew by themselves."""

    @property
    def count(self) -> int:
        """Number of environments B."""

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Number of actor inputs, critic inputs and actions."""

    def reset(self) -> Inputs:
        """Begin a new episode in every environment."""

    def step(self, action: Float32) -> Transition:
        """Act once, (B, actions); actions are not bounded here."""
