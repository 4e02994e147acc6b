"""The driver's own watchdog: what the servos are told at this cycle, whoever else is alive.

The torque stays as it is until the first command. Then the newest set-points, no faster than the
joints can go. When commands stay away the arm is held where it is, for good soon after; when a
servo says that something is wrong, or falls silent, at once. A servo keeps its last goal by itself:
holding needs no stream. Pure: the caller passes the clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from policies.interface import Float, RobotSpec
from realign_serial_driver.sts import error_names

NS = 1_000_000_000


class Mode(Enum):
    """What the servos are told."""

    WAITING = 0
    TRACKING = 1
    HOLD = 2
    STOPPED = 3
    LIMP = 4


class Stop(Enum):
    """Why the arm is being held for good, or limp; the text is for people."""

    NONE = ""
    COMMANDS_SILENT = "no commands from the guard"
    SERVO_SILENT = "a servo does not answer"
    PORT_LOST = "the serial port went away"
    HOT = "a servo is too hot"
    OVERLOAD = "a servo is overloaded"
    OVERCURRENT = "a servo draws too much current"
    VOLTAGE = "the servos' voltage is out of range"
    ANGLE = "a servo is out of its range"
    BAD_COMMAND = "a command that is not finite"
    OPERATOR = "the operator released the torque"
    FINISHED = "the run is over"


_STOP_OF = {
    "overheated": Stop.HOT,
    "overload": Stop.OVERLOAD,
    "overcurrent": Stop.OVERCURRENT,
    "voltage": Stop.VOLTAGE,
    "angle": Stop.ANGLE,
}
# A hot servo gets hotter while it holds.
_LIMP_AFTER = (Stop.HOT, Stop.OPERATOR)
# Whatever the arm pushes against, it must not go on.
_PUSHING = (Stop.OVERLOAD, Stop.OVERCURRENT)


@dataclass(frozen=True, kw_only=True)
class ArmConfig:
    """Times and limits of the driver's watchdog.

    Attributes:
        command_timeout_s: age of the newest command at which the arm is held, s (ten commands of a
            guard at 200 Hz).
        hold_s: time in HOLD after which only an operator goes on, s.
        state_timeout_s: time without an answer of a servo at which the arm is stopped, s.
        missed_cycles: cycles in a row without its answer that there must be in that time: a pause
            of our own is not the servo's.
        error_replies: replies in a row with an error bit that count.
        temperature_c: servo temperature at which the arm is let go, Celsius; the servo's own limit
            is 70 from the factory.
        lead_rad: largest distance between a held set-point and the measured position: what a servo
            needs to carry the arm.
        speed_factor: fastest set-point, in units of the joints' speed limit.
    """

    command_timeout_s: float = 0.05
    hold_s: float = 0.5
    state_timeout_s: float = 0.1
    missed_cycles: int = 5
    error_replies: int = 3
    temperature_c: float = 65.0
    lead_rad: float = 0.1
    speed_factor: float = 1.5


@dataclass(frozen=True, kw_only=True)
class Order:
    """What to tell the servos.

    Attributes:
        torque: on, off, or None to leave it as it is.
        goal_rad: set-points, (n,), rad; None for none.
    """

    torque: bool | None = None
    goal_rad: Float | None = None


class ArmCore:
    """Positions and set-points in, orders out; arrays (n,) in the robot's order.

    Args:
        robot: the arm.
        limits_rad: lower and upper end of each joint, (n,) each, rad.
        config: times and limits.
    """

    def __init__(
        self, robot: RobotSpec, limits_rad: tuple[Float, Float], config: ArmConfig | None = None
    ) -> None:
        self.robot = robot
        self.config = config or ArmConfig()
        self.mode = Mode.WAITING
        self.stopped_by = Stop.NONE
        self.qpos_rad: Float | None = None
        self._lower, self._upper = limits_rad
        self._heard_ns: dict[int, int] = {}
        self._missed: dict[int, int] = {}
        self._errors: dict[tuple[int, str], int] = {}
        self._target: Float | None = None
        self._goal: Float | None = None
        self._command_ns = self._hold_ns = self._tick_ns = 0
        self._slack = False

    # ---- inputs -------------------------------------------------------------------------------

    def on_state(self, qpos_rad: Float) -> None:
        """Take positions of all joints, (n,), rad."""
        self.qpos_rad = qpos_rad

    def on_replies(self, errors: Mapping[int, int], now_ns: int) -> None:
        """Take the error bits of the servos that answered in a cycle, by servo."""
        for servo in self._heard_ns.keys() - errors.keys():
            self._missed[servo] += 1
        for servo, bits in errors.items():
            self._heard_ns[servo], self._missed[servo] = now_ns, 0
            names = error_names(bits)
            for name, stop in _STOP_OF.items():
                count = self._errors.get((servo, name), 0) + 1 if name in names else 0
                self._errors[servo, name] = count
                if count >= self.config.error_replies:
                    self.stop(stop)

    def on_temperature(self, temperature_c: float) -> None:
        """Take the temperature of a servo, Celsius."""
        if temperature_c > self.config.temperature_c:
            self.stop(Stop.HOT)

    def on_command(self, target_rad: Float | None, now_ns: int) -> None:
        """Take set-points, (n,) rad; None for the guard's stop."""
        if self.mode in (Mode.STOPPED, Mode.LIMP) or self.qpos_rad is None:
            return
        if target_rad is not None and not np.isfinite(target_rad).all():
            self.stop(Stop.BAD_COMMAND)
            return
        if target_rad is None:
            self._stand_by()
            return
        self._command_ns = now_ns
        self.mode, self._slack = Mode.TRACKING, False
        self._target = np.clip(target_rad, self._lower, self._upper)

    def stop(self, reason: Stop) -> None:
        """Hold from now on (let go where holding harms), until :meth:`reset`; the first counts."""
        limp = reason in _LIMP_AFTER or self.robot.stop == "damp"
        if self.mode is Mode.LIMP or (self.mode is Mode.STOPPED and not limp):
            return
        if self.stopped_by is Stop.NONE or limp:
            self.stopped_by = reason
        moved = self.mode in (Mode.TRACKING, Mode.HOLD)
        self.mode = Mode.LIMP if limp else Mode.STOPPED
        if moved:
            self._freeze(0.0 if reason in _PUSHING else self.config.lead_rad)

    def reset(self) -> None:
        """An operator clears a stop: the torque stays as it is until the next command."""
        self.mode, self.stopped_by = Mode.WAITING, Stop.NONE
        self._target = self._goal = None
        self._slack = False
        self._errors.clear()

    # ---- output -------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> Order:
        """The order for now."""
        self._watch(now_ns)
        dt_s = min((now_ns - self._tick_ns) / NS, 0.05) if self._tick_ns else 0.0
        self._tick_ns = now_ns
        if self.mode is Mode.LIMP:
            return Order(torque=False)
        if self._target is None or self.qpos_rad is None:
            return Order(torque=False if self._slack else None)
        if self._goal is None:  # never from a goal of another time
            self._goal = self.qpos_rad
        step = self.config.speed_factor * self.robot.velocity_limit_rad_s * dt_s
        self._goal = np.clip(self._target, self._goal - step, self._goal + step)
        return Order(torque=True, goal_rad=self._goal)

    def silent(self, now_ns: int) -> list[int]:
        """Servos that have not answered for too long."""
        limit_ns = self.config.state_timeout_s * NS
        return [
            servo
            for servo, then in self._heard_ns.items()
            if now_ns - then > limit_ns and self._missed[servo] >= self.config.missed_cycles
        ]

    def _watch(self, now_ns: int) -> None:
        if self.silent(now_ns):
            self.stop(Stop.SERVO_SILENT)
        silent_s = (now_ns - self._command_ns) / NS
        if self.mode is Mode.TRACKING and silent_s > self.config.command_timeout_s:
            self.mode, self._hold_ns = Mode.HOLD, now_ns
            self._freeze(self.config.lead_rad)
        if self.mode is Mode.HOLD and (now_ns - self._hold_ns) / NS > self.config.hold_s:
            self.stop(Stop.COMMANDS_SILENT)

    def _stand_by(self) -> None:
        """The guard stops the arm: hold, or let go where that is how this robot stops."""
        if self.mode is Mode.WAITING:
            return
        self.mode = Mode.WAITING
        if self.robot.stop == "brake":
            self._freeze(self.config.lead_rad)
        else:
            self._target, self._goal, self._slack = None, None, True

    def _freeze(self, lead_rad: float) -> None:
        """Stay at the present set-point, drawn near to where the arm is."""
        if self.qpos_rad is None or self._goal is None:
            self._target = self.qpos_rad
            return
        self._target = np.clip(self._goal, self.qpos_rad - lead_rad, self.qpos_rad + lead_rad)
