"""What simulators offer, whichever engine they run and wherever: batches, and one robot."""

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


class OneRobot(Protocol):
    """One robot that keeps its state, for closed loops.

    :class:`sim2real.sim.stepper.Stepper` is one in this process,
    :class:`sim2real.sim.remote.stepper.RemoteRobot` one in a process of its own.

    Attributes:
        robot: the robot.
        decimation: physics steps in a control tick.
    """

    robot: RobotSpec
    decimation: int

    def reset(self, state: SimState) -> None:
        """Put the robot into ``state``, arrays (n,)."""

    def step(self, target_rad: Float, *, damp: bool = False) -> None:
        """Hold the set-point (n,), rad, for one control tick.

        Args:
            target_rad: joint set-points, (n,), rad.
            damp: True for torque = -kd qdot instead of the PD loop.
        """

    @property
    def state(self) -> SimState:
        """The present state, arrays (n,)."""

    @property
    def effort_nm(self) -> Float:
        """Motor torques of the last physics step, (n,), Nm."""

    def close(self) -> None:
        """Free what the simulator holds."""
