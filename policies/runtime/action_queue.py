"""Plans of actions on a grid of steps, and what an executor of plans is.

Time is counted in steps of the policy's rate; nothing here looks at a clock. Arrays of actions are
(..., T, A): a leading axis is a batch of runs that go in step with each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from policies.diffusion.interface import Prefix
from policies.errors import InputError
from policies.interface import Float


@dataclass(frozen=True, kw_only=True)
class Hold:
    """What is sent while there is no plan: the robot shall stay where it is.

    Attributes:
        rest: action that keeps a robot at rest, (A,).
        keep: entries that go on with their last value instead (a position, an opening), (A,).
    """

    rest: tuple[float, ...]
    keep: tuple[bool, ...]

    def __post_init__(self) -> None:
        if len(self.rest) != len(self.keep):
            raise InputError(
                f"hold: expected as many entries in rest as in keep, got {len(self.rest)} and "
                f"{len(self.keep)}; give one of each an action entry"
            )

    def after(self, last: Float | None) -> Float:
        """The action after ``last``, (..., A), or the first one."""
        rest = np.asarray(self.rest, dtype=np.float64)
        return rest.copy() if last is None else np.where(self.keep, last, rest)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A chunk of actions and the step at which it begins.

    Attributes:
        request: id of the request that it answers.
        start: step of its first action.
        actions: (..., T, A).
    """

    request: int
    start: int
    actions: Float

    @property
    def end(self) -> int:
        """First step beyond it."""
        return self.start + int(self.actions.shape[-2])

    def at(self, step: int) -> Float | None:
        """Action for ``step``, (..., A), or None where the plan has none."""
        if not self.start <= step < self.end:
            return None
        return np.asarray(self.actions[..., step - self.start, :])

    def from_step(self, step: int) -> Float:
        """The plan moved so that it begins at ``step``; zeros beyond its end, (..., T, A)."""
        moved = np.zeros_like(self.actions)
        index = step - self.start
        rest = self.actions[..., index:, :]
        moved[..., : rest.shape[-2], :] = rest
        return moved


@dataclass(frozen=True, kw_only=True)
class Request:
    """A question to the model, made at a step and to be answered with a chunk.

    Attributes:
        id: number that the answer must carry.
        step: step of the newest observation in the window.
        executed: actions by which the running plan has moved on since the last answer.
        prefix: plan that the answer shall continue, or None.
    """

    id: int
    step: int
    executed: int = 0
    prefix: Prefix | None = None


@runtime_checkable
class Executor(Protocol):
    """Decides when the model is asked, and which action is sent at each step.

    At each step, in this order: :meth:`reply` for each answer that has come, :meth:`request`,
    :meth:`reply` for an answer that came at once, :meth:`action`.
    """

    def reset(self) -> None:
        """Forget plans, requests and the last action; ids go on, so that old answers stay old."""

    def request(self, step: int) -> Request | None:
        """What to ask at ``step``, or None."""

    def reply(self, request: int, actions: Float, step: int) -> bool:
        """Take the answer to a request at ``step``.

        Args:
            request: id of the request.
            actions: the chunk, (..., T, A).
            step: present step.

        Returns:
            False if the answer was dropped: its request is unknown, given up or overtaken.
        """

    def action(self, step: int) -> Float:
        """The action for ``step``, (..., A)."""

    def upcoming(self, step: int) -> Float | None:
        """Actions from ``step`` on as far as they are known, (..., k, A), or None without a plan.

        For a caller that sends its plan ahead, and does by itself what is done without one; it
        does not call :meth:`action`.
        """
