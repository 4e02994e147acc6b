"""The emulated hand: homing, moves and grasps that take their time."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np

from realign_franka_driver import layout
from realign_franka_driver.arm import Arm
from realign_franka_driver.layout import PERIOD_S, GripperCommand, GripperStatus

_TOLERANCE_M = 0.002
_HOMING_M_S = 0.05
_LONGEST_S = 5.0
_ROOM_C = 25


class _Task(Enum):
    NONE = 0
    CLOSE = 1  # first half of homing
    OPEN = 2
    MOVE = 3
    GRASP = 4


class Gripper:
    """The fingers of an :class:`Arm`, moved at a speed by :meth:`tick`.

    Args:
        arm: the arm that carries them.
    """

    def __init__(self, arm: Arm) -> None:
        self.arm = arm
        assert arm.robot.gripper is not None  # the arm has seen to it
        self.max_width_m = arm.robot.gripper.max_width_m
        self.is_grasped = False
        self.ended: GripperStatus | None = None
        self._task = _Task.NONE
        self._goal = self._target = arm.width_m
        self._speed = _HOMING_M_S
        self._since = 0
        self._accepted = (0.0, 0.0)
        self._ticks = 0
        self._state: Any = np.zeros((), dtype=layout.GRIPPER_STATE)

    @property
    def busy(self) -> bool:
        """True while a command runs."""
        return self._task is not _Task.NONE

    def start(self, command: GripperCommand, request: Any) -> None:
        """Begin homing, a move or a grasp; ``request`` is its record."""
        self._since, self.is_grasped = self._ticks, False
        if command is GripperCommand.HOMING:
            self._task, self._goal, self._speed = _Task.CLOSE, 0.0, _HOMING_M_S
            return
        self._task = _Task.GRASP if command is GripperCommand.GRASP else _Task.MOVE
        self._goal, self._speed = float(request["width"]), float(request["speed"])
        if self._task is _Task.GRASP:
            low, high = float(request["epsilon_inner"]), float(request["epsilon_outer"])
            self._accepted = (self._goal - low, self._goal + high)
        if not (0.0 <= self._goal <= self.max_width_m and self._speed > 0.0):
            self._end(GripperStatus.FAIL)

    def stop(self) -> None:
        """Stay where it is; a running command is aborted."""
        self._goal = self._target = self.arm.width_m
        if self.busy:
            self._end(GripperStatus.ABORTED)

    def _end(self, status: GripperStatus) -> None:
        self._task, self.ended = _Task.NONE, status

    def tick(self) -> None:
        """One period of 1 ms."""
        self._ticks += 1
        if not self.busy:
            return
        step = self._speed * PERIOD_S
        self._target += min(max(self._goal - self._target, -step), step)
        self.arm.set_width(self._target)
        width = self.arm.width_m
        if abs(self._target - self._goal) > 1e-9:
            return
        arrived = abs(width - self._goal) < _TOLERANCE_M
        late = (self._ticks - self._since) * PERIOD_S > _LONGEST_S
        if self._task is _Task.CLOSE and (arrived or late):
            self._task, self._goal = _Task.OPEN, self.max_width_m
        elif self._task is _Task.GRASP and (arrived or late):
            # Nothing is between the fingers of an arm in free space but what was asked for.
            low, high = self._accepted
            self.is_grasped = not arrived and low <= width <= high
            done = GripperStatus.SUCCESS if self.is_grasped else GripperStatus.UNSUCCESSFUL
            self._end(done)
        elif arrived or late:
            self._end(GripperStatus.SUCCESS if arrived else GripperStatus.UNSUCCESSFUL)

    def read(self) -> Any:
        """State record of this moment."""
        state = self._state
        state["message_id"] = self._ticks
        state["width"], state["max_width"] = self.arm.width_m, self.max_width_m
        state["is_grasped"], state["temperature"] = self.is_grasped, _ROOM_C
        return state
