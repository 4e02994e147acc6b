"""The driver's own control law and watchdog: joint torques for every period of 1 ms.

Commands of the guard are interpolated, a joint impedance pulls the arm along them, and a low-pass
and a limit on the rate of torque end it, in the order in which libfranka has them. When commands
stay away the reference decelerates and stands; soon after the motion is ended for good, which the
robot answers by holding its pose. Pure: the caller passes the clock and talks to the robot.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from policies.interface import Float, RobotSpec

NS = 1_000_000_000
PERIOD_S = 0.001
# Joint impedance of libfranka's published example, Nm/rad and Nm s/rad: the spec's gains are those
# of the robot's internal position controller, too stiff for torques that travel over a network.
STIFFNESS_NM_RAD = (600.0, 600.0, 600.0, 600.0, 250.0, 150.0, 50.0)
DAMPING_NM_S_RAD = (50.0, 50.0, 50.0, 50.0, 30.0, 25.0, 15.0)


class Mode(Enum):
    """What the driver does with the arm."""

    WAITING = 0  # no motion: the robot holds its pose by itself
    TRACKING = 1
    HOLD = 2  # the reference decelerates and stands
    STOPPED = 3  # as HOLD until the motion has ended; latched


class Stop(Enum):
    """Why the motion was ended for good; the text is for people."""

    NONE = ""
    COMMANDS_SILENT = "no commands from the guard"
    ROBOT_SILENT = "no state from the robot"
    ABORTED = "the robot ended the motion"
    USER_STOP = "the user stop is pressed"
    NODE_DIED = "the driver node died"
    BAD_COMMAND = "a command that is not finite"
    JUMP = "a command that jumps"
    FINISHED = "the run is over"


@dataclass(frozen=True, kw_only=True)
class DriverConfig:
    """Gains, times and thresholds of the driver.

    Attributes:
        stiffness_nm_rad, damping_nm_s_rad: joint impedance, Nm/rad and Nm s/rad.
        cutoff_hz: of the low-pass on torques, Hz (libfranka's default).
        torque_rate_nm_s: largest rate of change of a torque, Nm/s; the robot's limit less 1.
        command_timeout_s: age of the newest command at which the reference decelerates, s (ten
            commands of a guard at 200 Hz).
        hold_s: time in HOLD after which the motion is ended, s.
        jump_rad: largest distance of a command from the reference, rad.
        command_period_s: time between two commands of the guard, s.
        settle_s: longest time that an ending motion may take once its reference stands, s.
    """

    stiffness_nm_rad: tuple[float, ...] = STIFFNESS_NM_RAD
    damping_nm_s_rad: tuple[float, ...] = DAMPING_NM_S_RAD
    cutoff_hz: float = 100.0
    torque_rate_nm_s: float = 999.0
    command_timeout_s: float = 0.05
    hold_s: float = 0.5
    jump_rad: float = 0.1
    command_period_s: float = 0.005
    settle_s: float = 0.3


class DriverCore:
    """Commands and states in, torques out.

    Args:
        robot: the arm; joint arrays are in its order.
        config: gains, times and thresholds.
    """

    def __init__(self, robot: RobotSpec, config: DriverConfig | None = None) -> None:
        self.robot = robot
        self.config = config or DriverConfig()
        self.mode = Mode.WAITING
        self.stopped_by = Stop.NONE
        self.detail = ""
        self.in_motion = False
        self.reference_rad: Float = robot.default_rad
        self.reference_rad_s: Float = np.zeros(robot.n)
        self._kp = np.array(self.config.stiffness_nm_rad)
        self._kd = np.array(self.config.damping_nm_s_rad)
        self._effort = robot.effort_limit_nm
        self._braking_rad_s = robot.array("acceleration_limit_rad_s2") * PERIOD_S
        time_constant_s = 1.0 / (2.0 * math.pi * self.config.cutoff_hz)
        self._share = PERIOD_S / (PERIOD_S + time_constant_s)
        self._step_nm = self.config.torque_rate_nm_s * PERIOD_S
        self._target: Float | None = None
        self._start: Float = robot.default_rad
        self._start_ns = self._command_ns = self._hold_ns = self._still_ns = 0
        self._duration_s = self.config.command_period_s

    # ---- inputs -------------------------------------------------------------------------------

    def on_command(self, target_rad: Float | None, now_ns: int) -> None:
        """Take a position to track, (n,) rad, or None to stand still."""
        if self.mode is Mode.STOPPED:
            return
        if target_rad is None:
            self._command_ns = now_ns
            if self.mode is Mode.TRACKING:
                self._hold(now_ns)
            return
        if not np.isfinite(target_rad).all():
            self.stop(Stop.BAD_COMMAND)
            return
        if self.in_motion:
            distance = np.abs(target_rad - self.reference_rad)
            if distance.max() > self.config.jump_rad:
                joint = self.robot.joint_names[int(distance.argmax())]
                self.stop(Stop.JUMP, f"{joint} by {distance.max():.2f} rad")
                return
            needed = float((distance / self.robot.velocity_limit_rad_s).max())
            self._duration_s = max(self.config.command_period_s, needed)
        self._start, self._start_ns = self.reference_rad, now_ns
        self._target, self._command_ns = target_rad, now_ns
        self.mode = Mode.TRACKING

    def begin(self, qpos_rad: Float, now_ns: int) -> None:
        """The robot has begun a motion, at rest at ``qpos_rad``, (n,)."""
        self.in_motion = True
        self.reference_rad, self.reference_rad_s = qpos_rad, np.zeros(self.robot.n)
        self._still_ns = 0
        target, self._target = self._target, None
        if target is not None and self.mode is Mode.TRACKING:
            self.on_command(target, now_ns)

    def ended(self) -> None:
        """The motion is over, whoever ended it."""
        self.in_motion = False
        self._target = None
        if self.mode is not Mode.STOPPED:
            self.mode = Mode.WAITING

    def stop(self, reason: Stop, detail: str = "") -> None:
        """Decelerate, end the motion, and stay so until :meth:`reset`; the first reason is kept."""
        if self.mode is not Mode.STOPPED:
            self.mode = Mode.STOPPED
            self.stopped_by, self.detail = reason, detail

    def reset(self) -> None:
        """An operator clears a stop: the next command begins a motion."""
        if not self.in_motion:
            self.mode, self._target = Mode.WAITING, None
            self.stopped_by, self.detail = Stop.NONE, ""

    @property
    def wants_motion(self) -> bool:
        """True where a motion should run and none does."""
        return self.mode is Mode.TRACKING and not self.in_motion

    @property
    def stop_text(self) -> str:
        """Why it stopped, for people; empty where it did not."""
        return f"{self.stopped_by.value}{': ' * bool(self.detail)}{self.detail}"

    # ---- output -------------------------------------------------------------------------------

    def torque(
        self, qpos_rad: Float, qvel_rad_s: Float, coriolis_nm: Float, last_nm: Float, now_ns: int
    ) -> Float:
        """Torques for this period, (n,), Nm; gravity is the robot's own business.

        Args:
            qpos_rad: measured positions, (n,).
            qvel_rad_s: measured velocities, (n,).
            coriolis_nm: Coriolis torques of the robot's model, (n,).
            last_nm: torques that the robot has followed last (``tau_J_d``), (n,).
            now_ns: steady time.
        """
        self._watch(now_ns)
        self._advance(now_ns)
        wanted = (
            self._kp * (self.reference_rad - qpos_rad)
            + self._kd * (self.reference_rad_s - qvel_rad_s)
            + coriolis_nm
        )
        wanted = np.clip(wanted, -self._effort, self._effort)
        smooth = last_nm + self._share * (wanted - last_nm)
        limited: Float = np.clip(smooth, last_nm - self._step_nm, last_nm + self._step_nm)
        return limited

    def finished(self, qvel_rad_s: Float, now_ns: int) -> bool:
        """True once a motion that must end stands still."""
        if self.mode is not Mode.STOPPED or self.reference_rad_s.any():
            return False
        self._still_ns = self._still_ns or now_ns
        waited = (now_ns - self._still_ns) / NS > self.config.settle_s
        return waited or bool(np.abs(qvel_rad_s).max() < 0.005)

    def _watch(self, now_ns: int) -> None:
        silent_s = (now_ns - self._command_ns) / NS
        if self.mode is Mode.TRACKING and silent_s > self.config.command_timeout_s:
            self._hold(now_ns)
        if self.mode is Mode.HOLD and (now_ns - self._hold_ns) / NS > self.config.hold_s:
            # A guard that tells us to stand still is no fault; one that says nothing is.
            silent = silent_s > self.config.command_timeout_s
            self.stop(Stop.COMMANDS_SILENT if silent else Stop.FINISHED)

    def _hold(self, now_ns: int) -> None:
        self.mode, self._hold_ns = Mode.HOLD, now_ns

    def _advance(self, now_ns: int) -> None:
        """One period of the reference: along the commands, or to a stand."""
        if self.mode is not Mode.TRACKING or self._target is None:
            slower = np.maximum(np.abs(self.reference_rad_s) - self._braking_rad_s, 0.0)
            self.reference_rad_s = np.sign(self.reference_rad_s) * slower
            self.reference_rad = self.reference_rad + PERIOD_S * self.reference_rad_s
            return
        # This period counts too, so that a command is reached when the next one comes.
        share = min(((now_ns - self._start_ns) / NS + PERIOD_S) / self._duration_s, 1.0)
        place = self._start + share * (self._target - self._start)
        speed = (self._target - self._start) / self._duration_s if share < 1.0 else 0.0
        self.reference_rad = place
        # Speed is smoothed over a command or two: a late command is not a stop.
        self.reference_rad_s = self.reference_rad_s + 0.15 * (speed - self.reference_rad_s)
