"""What every batched simulator offers, whichever engine it runs and wherever."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from policies.interface import Float, RobotSpec
from sim2real.sim.stepper import SimState


class Engine(Protocol):
    """B copies of a robot, stepped by control ticks from states that the caller gives.

    :class:`sim2real.sim.batch.BatchStepper` is one in this process,
    :class:`sim2real.sim.remote.stepper.RemoteStepper` one in a process of its own.

    Attributes:
        robot: the robot.
        rate_hz: control rate, Hz.
        decimation: physics steps in a control tick.
    """

    robot: RobotSpec
    rate_hz: float
    decimation: int

    @property
    def delay_ticks(self) -> int:
        """Set-points before the present one that can still be on their way to the motors."""

    def at_motor(self, targets_rad: Float, previous_rad: Float) -> Float:
        """Set-points (B, ticks, n) as the motors see them, mean over each tick, (B, ticks, n)."""

    def step(
        self,
        state: SimState,
        targets_rad: Float,
        previous_rad: Float | None = None,
        delta_rad: Float | None = None,
    ) -> SimState:
        """Advance B states by ``ticks`` control ticks; the same input gives the same answer.

        Args:
            state: B states, arrays (B, ...).
            targets_rad: set-points held over each tick, (B, ticks, n).
            previous_rad: set-points of the ticks before, newest last, (B, k, n): what is still in
                the actuator delay. Default: the joint positions.
            delta_rad: added to the set-points behind the delay, at the motors, (B, ticks, n).

        Returns:
            The states after each tick, arrays (B, ticks, ...).
        """

    def close(self) -> None:
        """Free what the engine holds."""

    def __enter__(self) -> Engine: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> bool | None: ...
