"""What an environment is to evaluation: one robot, one task, a state in and an action out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from policies.interface import Float
from policies.runtime.action_queue import Hold


@dataclass(frozen=True, kw_only=True)
class EnvironmentSpec:
    """Names, rates and limits of a task.

    Attributes:
        name: name of the task.
        state_names: names of the D entries of the state, in order.
        action_names: names of the A entries of an action, in order.
        rate_hz: steps a second, Hz.
        max_steps: steps after which a run has failed.
        hold: what keeps the robot where it is.
        smooth: action entries that smoothness is measured on, (A,); a gripper's command is not.
    """

    name: str
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    rate_hz: float
    max_steps: int
    hold: Hold
    smooth: tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is observed at one step.

    Attributes:
        state: raw units, (D,).
        images: camera name -> RGB, uint8, (H, W, 3).
        instruction: what the robot was told to do, where a task tells it in words.
    """

    state: Float
    images: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    instruction: str | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an action led to.

    Attributes:
        seen: the observation after it.
        success: the task is solved.
        failure: the task can no longer be solved (a collision, a fall).
    """

    seen: Seen
    success: bool = False
    failure: bool = False

    @property
    def done(self) -> bool:
        """True if nothing more is to be learnt from the run."""
        return self.success or self.failure


@runtime_checkable
class Environment(Protocol):
    """A task that can be started over with a seed."""

    spec: EnvironmentSpec

    def reset(self, seed: int) -> Seen:
        """Start over; the same seed gives the same run for the same actions."""

    def step(self, action: Float) -> Outcome:
        """Do one action, raw units, (A,)."""


class Expert(Protocol):
    """Solves a task with knowledge that a policy does not have."""

    def reset(self, seed: int) -> None:
        """Start over."""

    def act(self, seen: Seen) -> Float:
        """What it would do, (A,)."""
