"""Policies that plan ahead, and how they are run: the model is asked beside the robot's motion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from policies.diffusion.interface import CameraSpec, ChunkModel, Window
from policies.errors import InputError
from policies.interface import ActionChunk, Float, Observation, Policy


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How a policy that plans ahead is run.

    Attributes:
        executor: one of :data:`policies.runtime.execution.EXECUTORS`.
        action_horizon: steps from one request to the next; None for the policy's own.
        inference_delay_steps: steps from an observation to the use of its answer, at least; for
            runs with a latency that can be repeated.
        in_flight: requests that may be under way at a time, for ``async`` and ``rtc``. The model is
            asked one question at a time, so more than one is for answers that are under way for
            other reasons: ``inference_delay_steps``.
        fade: steps beyond the delay over which the bond of ``rtc`` to the running plan fades; None
            for all that it has.
        deadline_s: time after which a request that is not answered leaves the robot without
            commands, once its plan has run out, s.
        wait_s: time that a tick waits for its answer where the last one took less than a period,
            s; None for half a period.
        lockstep: the clock stands still while the model is evaluated: what comes out depends on
            the observations and the seed only.
    """

    executor: str = "receding"
    action_horizon: int | None = None
    inference_delay_steps: int = 0
    in_flight: int = 1
    fade: int | None = None
    deadline_s: float = 0.3
    wait_s: float | None = None
    lockstep: bool = False

    def __post_init__(self) -> None:
        if not 0.0 < self.deadline_s < float("inf"):
            raise InputError(f"deadline_s: expected a time above 0 s, got {self.deadline_s:g}")
        if self.action_horizon is not None and self.action_horizon < 1:
            raise InputError(f"action_horizon: expected 1 or more, got {self.action_horizon}")


@runtime_checkable
class PlanningPolicy(Policy, Protocol):
    """A policy in parts, so that its model can be asked beside the motion of the robot.

    Commands and speeds are those of the joints that it moves, (joints,), rad and rad/s.
    """

    model: ChunkModel

    def at_rest(self, observation: Observation) -> tuple[Float, Float]:
        """Command and speed of a robot that stands where it is."""

    def observe(self, observation: Observation, command: Float, speed: Float) -> None:
        """Take the observation of a tick, and the command that is in force at it."""

    def window(self) -> Window:
        """What the model is asked with at this tick, as a copy."""

    def decode(
        self, actions: Float, observation: Observation, command: Float, speed: Float
    ) -> tuple[Float, Float]:
        """Actions from now on, (steps, A) -> commands and speeds, (steps, joints) each."""

    def stop(
        self, observation: Observation, command: Float, speed: Float, steps: int
    ) -> tuple[Float, Float]:
        """Commands and speeds, (steps, joints) each, that bring the robot to rest."""

    def chunk(self, observation: Observation, commands: Float) -> ActionChunk:
        """Commands from now on, (steps, joints), for all joints of the robot."""


def cameras_of(policy: Policy) -> tuple[CameraSpec, ...]:
    """Cameras that a policy looks through, or none."""
    return policy.model.spec.cameras if isinstance(policy, PlanningPolicy) else ()


@runtime_checkable
class Connected(Protocol):
    """A model that holds something that must be let go."""

    def close(self) -> None:
        """Let go."""
