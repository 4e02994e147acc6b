"""The driver's own watchdog: what to send to the motors at this tick, whoever else is alive.

Damping until the first command; then the newest set-points. When commands stay away the robot is
held at its measured pose, and damped soon after; when the robot, the operator's remote or a
temperature says so it is damped at once. Damping is latched until an operator resets it. Pure: the
caller passes the clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from policies.interface import Float, RobotSpec
from realign_unitree_driver import remote
from realign_unitree_driver.layout import Message
from realign_unitree_driver.wiring import Ankles, Wiring

NS = 1_000_000_000


class Mode(Enum):
    """What the motors are told."""

    WAITING = 0
    TRACKING = 1
    HOLD = 2
    DAMP = 3


class Stop(Enum):
    """Why the robot is being damped for good; the text is for people."""

    NONE = ""
    COMMANDS_SILENT = "no commands from the guard"
    ROBOT_SILENT = "no valid LowState from the robot"
    REMOTE = "stop keys on the wireless remote"
    HOT = "a motor is too hot"
    WRONG_MODE = "the robot changed its type or its ankle mode"
    SECOND_COMMANDER = "another publisher of low-level commands"
    NODE_DIED = "the driver node died"
    BAD_COMMAND = "a command that is not finite"
    FINISHED = "the run is over"
    WIRE_DIED = "the wire process died"


@dataclass(frozen=True, kw_only=True)
class DriverConfig:
    """Times and gains of the driver's watchdog.

    Attributes:
        command_timeout_s: age of the newest command at which the robot is held, s (ten commands of
            a guard at 200 Hz).
        hold_s: time in HOLD after which it is damped, s.
        blend_s: time over which the set-point moves to the held pose, and back, s.
        state_timeout_s: age of the newest valid LowState at which it is damped, s.
        damping_kd_nm_s_rad: velocity gain of every motor while damping, Nm s/rad. Unitree's own
            examples use 3 and 8.
    """

    command_timeout_s: float = 0.05
    hold_s: float = 0.5
    blend_s: float = 0.1
    state_timeout_s: float = 0.1
    damping_kd_nm_s_rad: float = 5.0


class DriverCore:
    """LowState and set-points in, LowCmd out.

    Args:
        robot: the robot; joint arrays are in its order.
        wiring: its low-level interface.
        config: times and gains.
        ankles: ankle mode.
        mode_machine: robot type as it was reported at start, echoed in every command.
    """

    def __init__(
        self,
        robot: RobotSpec,
        wiring: Wiring,
        config: DriverConfig | None = None,
        *,
        ankles: Ankles = "pr",
        mode_machine: int = 0,
    ) -> None:
        self.robot = robot
        self.wiring = wiring
        self.config = config or DriverConfig()
        self.index = wiring.index(robot, ankles)
        self.mode = Mode.WAITING
        self.stopped_by = Stop.NONE
        self.message: Message = wiring.new_command(ankles, mode_machine)
        self.qpos_rad: Float = robot.default_rad
        self.keys: frozenset[str] = frozenset()
        self.case_c = self.winding_c = 0.0
        self._mode_machine = mode_machine
        self._mode_pr = int(ankles == "ab")
        self._odd_states = 0
        self._target: Float | None = None
        self._command_ns = self._state_ns = self._hold_ns = 0
        self._blend_ns: int | None = None
        self._blend_from: Float = robot.default_rad
        self._sent: Float = robot.default_rad

    # ---- inputs -------------------------------------------------------------------------------

    def on_state(self, state: Any, now_ns: int) -> None:
        """Take a LowState record whose checksum is right."""
        self._state_ns = now_ns
        self.qpos_rad = state["motor_state"]["q"][self.index].astype(np.float64)
        self.keys = remote.pressed(state["wireless_remote"])
        if remote.wants_stop(self.keys):
            self.stop(Stop.REMOTE)
        self.case_c, self.winding_c = self.wiring.hottest_c(state)
        if self.case_c > self.wiring.case_limit_c or self.winding_c > self.wiring.winding_limit_c:
            self.stop(Stop.HOT)
        if self.wiring.mode_machine is not None:
            odd = int(state["mode_machine"]) != self._mode_machine or (
                self.mode in (Mode.TRACKING, Mode.HOLD) and int(state["mode_pr"]) != self._mode_pr
            )
            self._odd_states = self._odd_states + 1 if odd else 0
            if self._odd_states * 0.002 > self.config.state_timeout_s:
                self.stop(Stop.WRONG_MODE)

    def on_command(self, target_rad: Float | None, now_ns: int) -> None:
        """Take set-points, (n,) rad, or None for damping."""
        if self.mode is Mode.DAMP:
            return
        if target_rad is not None and not np.isfinite(target_rad).all():
            self.stop(Stop.BAD_COMMAND)
            return
        if self.mode is Mode.HOLD and target_rad is not None:
            self._blend_from, self._blend_ns = self._sent, now_ns
        self._target = target_rad
        self._command_ns = now_ns
        self.mode = Mode.TRACKING

    def stop(self, reason: Stop) -> None:
        """Damp from now on, until :meth:`reset`; the first reason is kept."""
        if self.mode is not Mode.DAMP:
            self.mode = Mode.DAMP
            self.stopped_by = reason

    def reset(self) -> None:
        """An operator clears a stop: damping goes on until the next command."""
        self.mode = Mode.WAITING
        self.stopped_by = Stop.NONE
        self._target = None
        self._blend_ns = None

    # ---- output -------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> Message:
        """The command for now, sealed; the same message object every time."""
        self._watch(now_ns)
        motors, index = self.message.data["motor_cmd"], self.index
        target = self._set_point(now_ns)
        if target is None:
            motors["q"][index] = 0.0
            motors["kp"][index] = 0.0
            motors["kd"][index] = self.config.damping_kd_nm_s_rad
        else:
            self._sent = target
            motors["q"][index] = target
            motors["kp"][index] = self.robot.kp_nm_rad
            motors["kd"][index] = self.robot.kd_nm_s_rad
        self.message.seal()
        return self.message

    def _watch(self, now_ns: int) -> None:
        if self._state_ns and (now_ns - self._state_ns) / NS > self.config.state_timeout_s:
            self.stop(Stop.ROBOT_SILENT)
        silent_s = (now_ns - self._command_ns) / NS
        if self.mode is Mode.TRACKING and silent_s > self.config.command_timeout_s:
            if self._target is None:  # damped by the guard already
                self.mode = Mode.WAITING
                return
            self.mode, self._hold_ns = Mode.HOLD, now_ns
            self._blend_from, self._blend_ns = self._sent, now_ns
            self._target = self.qpos_rad
        if self.mode is Mode.HOLD and (now_ns - self._hold_ns) / NS > self.config.hold_s:
            self.stop(Stop.COMMANDS_SILENT)

    def _set_point(self, now_ns: int) -> Float | None:
        if self.mode in (Mode.WAITING, Mode.DAMP) or self._target is None:
            return None
        if self._blend_ns is None:
            return self._target
        share = (now_ns - self._blend_ns) / NS / self.config.blend_s
        if share >= 1.0:
            if self.mode is Mode.TRACKING:
                self._blend_ns = None
            return self._target
        blended: Float = self._blend_from + share * (self._target - self._blend_from)
        return blended
