"""Commands of the guard for a joint_trajectory_controller: what to send, and when to be silent.

The controller interpolates, and holds the last point when nothing more comes; so silence is how
this back end stops an arm. It checks names, not values: those are checked here. Pure.
"""

from __future__ import annotations

from enum import Enum

import numpy as np

from policies.interface import Float, RobotSpec

NS = 1_000_000_000


class Halt(Enum):
    """Why nothing is sent any more; the text is for people."""

    NONE = ""
    BAD_COMMAND = "a command that is not finite"
    FAR_START = "the first command is far from the measured pose"
    JUMP = "a command that jumps"
    NOT_FOLLOWING = "the arm does not follow"
    ROBOT_SILENT = "no joint states from the robot"
    SECOND_COMMANDER = "another publisher of trajectories for this controller"
    NO_CONTROLLER = "no controller listens"


class TrajectoryCore:
    """Decides which commands reach the controller.

    Args:
        robot: the arm.
        start_rad: largest distance of the first command from the measured pose, rad.
        jump_rad: largest distance between two commands, rad.
        lead_rad: largest distance of a command from the measured pose, rad; beyond it the arm does
            not follow (a reflex, a user stop), and must not find a command far away when it does.
        state_timeout_s: largest age of the newest joint state, s.
        pause_s: time without commands after which the next one counts as the first, s.
    """

    def __init__(
        self,
        robot: RobotSpec,
        *,
        start_rad: float = 0.1,
        jump_rad: float = 0.1,
        lead_rad: float = 0.3,
        state_timeout_s: float = 0.1,
        pause_s: float = 0.1,
    ) -> None:
        self.robot = robot
        self.halted_by = Halt.NONE
        self.detail = ""
        self.sent = 0
        self._start_rad, self._jump_rad, self._lead_rad = start_rad, jump_rad, lead_rad
        self._timeout_s, self._pause_s = state_timeout_s, pause_s
        self._qpos: Float | None = None
        self._state_ns = self._command_ns = 0
        self._last: Float | None = None

    def on_state(self, qpos_rad: Float, now_ns: int) -> None:
        """Take measured positions, (n,) rad, in canonical order."""
        if np.isfinite(qpos_rad).all():
            self._qpos, self._state_ns = qpos_rad, now_ns

    def on_command(self, target_rad: Float | None, now_ns: int) -> Float | None:
        """The point to send for a command, (n,) rad, or None for none.

        Args:
            target_rad: the guard's command, None to stand still.
            now_ns: steady time.
        """
        if self.halted_by is not Halt.NONE or target_rad is None:
            self._last = None
            return None
        if not np.isfinite(target_rad).all():
            self.halt(Halt.BAD_COMMAND)
            return None
        if self._qpos is None or (now_ns - self._state_ns) / NS > self._timeout_s:
            self.halt(Halt.ROBOT_SILENT)
            return None
        if (now_ns - self._command_ns) / NS > self._pause_s:
            self._last = None
        if self._last is None:
            checks = [(Halt.FAR_START, self._qpos, self._start_rad)]
        else:
            checks = [
                (Halt.JUMP, self._last, self._jump_rad),
                (Halt.NOT_FOLLOWING, self._qpos, self._lead_rad),
            ]
        for why, origin, limit in checks:
            distance = np.abs(target_rad - origin)
            if distance.max() > limit:
                joint = self.robot.joint_names[int(distance.argmax())]
                self.halt(why, f"{joint} by {distance.max():.2f} rad")
                return None
        self._last, self._command_ns = target_rad, now_ns
        self.sent += 1
        return target_rad

    def halt(self, reason: Halt, detail: str = "") -> None:
        """Send nothing more until :meth:`reset`; the first reason is kept."""
        if self.halted_by is Halt.NONE:
            self.halted_by, self.detail = reason, detail

    def reset(self) -> None:
        """An operator clears a halt: the next command counts as the first."""
        self.halted_by, self.detail, self._last = Halt.NONE, "", None

    @property
    def text(self) -> str:
        """Why it halted, for people; empty where it did not."""
        return f"{self.halted_by.value}{': ' * bool(self.detail)}{self.detail}"
