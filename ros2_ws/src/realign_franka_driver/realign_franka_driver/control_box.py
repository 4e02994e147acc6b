"""The control box without its network: motions, their supervision, errors, and the state.

One call of :meth:`ControlBox.tick` is one period of 1 ms. A command that breaks a limit, an arm
that is too fast and a client that misses 20 periods in a row end a motion with a reflex; then only
an error recovery makes the next motion possible.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from policies.interface import Float
from realign_franka_driver.arm import Arm
from realign_franka_driver.errors import Error
from realign_franka_driver.faults import BoxFault
from realign_franka_driver.generators import CartesianGenerator, JointGenerator, MotionGenerator
from realign_franka_driver.layout import (
    PERIOD_S,
    Controller,
    Generator,
    MoveStatus,
    RobotMode,
)
from realign_franka_driver.limits import BoxLimits

LOST_IN_A_ROW = 20
_FIRST_COMMAND_S = 0.5
_RATE_WINDOW = 100
_TORQUE_ROUNDING_NM = 0.01


class ControlBox:
    """Motions of one arm.

    Args:
        arm: the arm.
        faults: what goes wrong.
        seed: of losses.
    """

    def __init__(self, arm: Arm, *, faults: tuple[BoxFault, ...] = (), seed: int = 0) -> None:
        self.arm, self.faults = arm, faults
        self.limits = BoxLimits.of(arm.robot)
        self.mode = RobotMode.IDLE
        self.controller: Controller | None = None
        self.generator_kind: Generator | None = None
        self.generator: MotionGenerator | None = None
        self.errors: set[Error] = set()
        self.reflex_reason: set[Error] = set()
        self.ended: MoveStatus | None = None  # how the motion ended in the last tick, if it did
        self.ticks = self.moving_ticks = self.answered = 0
        self.reflexes: list[str] = []
        self.was_answered = False
        self.torque: Float = np.zeros(7)
        self.tool: Float = np.eye(4)  # end effector in the nominal end effector
        self.stiffness_frame: Float = np.eye(4)
        self.load = (0.0, np.zeros(3), np.zeros(9))
        self.torque_rate: Float = np.zeros(7)
        self.hold: Float = arm.qpos_rad
        self.hold_rate: Float = np.zeros(7)
        self._recent: deque[bool] = deque(maxlen=_RATE_WINDOW)
        self._lost = self._waited = 0
        self._begun = False
        self._first_tick: int | None = None
        self._done: set[BoxFault] = set()
        self._rng = np.random.default_rng(seed)

    # ---- requests -----------------------------------------------------------------------------

    @property
    def moving(self) -> bool:
        """True while a motion runs."""
        return self.mode is RobotMode.MOVE

    @property
    def motion_s(self) -> float:
        """Time since the first motion began, s; 0 before it."""
        return 0.0 if self._first_tick is None else (self.ticks - self._first_tick) * PERIOD_S

    def start(self, controller: int, generator: int) -> MoveStatus:
        """Begin a motion; both numbers are those of a Move request."""
        if self.mode is not RobotMode.IDLE:
            return MoveStatus.NOT_POSSIBLE_REJECTED
        if controller not in list(Controller) or generator not in list(Generator):
            return MoveStatus.INVALID_ARGUMENT_REJECTED
        kind = Generator(generator)
        if kind is Generator.NONE and controller != Controller.EXTERNAL:
            return MoveStatus.INVALID_ARGUMENT_REJECTED
        start = self.hold if controller != Controller.EXTERNAL else self.arm.qpos_rad
        self.controller, self.generator_kind = Controller(controller), kind
        self.generator = self._make_generator(kind, start)
        self.torque, self.torque_rate = np.zeros(7), np.zeros(7)
        self._recent.clear()
        self._lost = self._waited = 0
        self._begun = False
        self.mode = RobotMode.MOVE
        self.reflex_reason = set()
        if self._first_tick is None:
            self._first_tick = self.ticks
        return MoveStatus.MOTION_STARTED

    def _make_generator(self, kind: Generator, start: Float) -> MotionGenerator | None:
        if kind is Generator.NONE:
            return None
        position = kind in (Generator.JOINT_POSITION, Generator.CARTESIAN_POSITION)
        if kind in (Generator.JOINT_POSITION, Generator.JOINT_VELOCITY):
            return JointGenerator(start, self.limits, position=position)
        return CartesianGenerator(
            start, self.limits, self.arm.kinematics, position=position, tool=self.tool
        )

    def cancel(self) -> None:
        """End the motion because the client asks for it."""
        if self.moving:
            self._end(MoveStatus.PREEMPTED, RobotMode.IDLE)

    def recover(self) -> bool:
        """Automatic error recovery; False where the user stop is pressed."""
        if self.mode is RobotMode.USER_STOPPED:
            return False
        self.errors = set()
        if self.mode is RobotMode.REFLEX:
            self.mode = RobotMode.IDLE
        return True

    def silent(self) -> bool:
        """True while a fault keeps states and commands from passing."""
        now = self.motion_s
        return self._first_tick is not None and any(
            fault.kind == "silence" and fault.active(now) for fault in self.faults
        )

    def loses(self) -> bool:
        """True where a fault makes this packet get lost."""
        share = sum(fault.value for fault in self.faults if fault.kind == "loss")
        return bool(share and self._rng.random() < share)

    # ---- time ---------------------------------------------------------------------------------

    def tick(self, command: Any) -> None:
        """One period under the command record that answers the last state, None for none."""
        self.ticks += 1
        self.ended = None
        self._apply_faults()
        if self.moving:
            self._move(command)
        if self.moving and self.controller is Controller.EXTERNAL:
            self.arm.push(self.torque)
            self.hold, self.hold_rate = self.arm.qpos_rad, self.arm.qvel_rad_s
        elif self.moving:
            assert self.generator is not None
            self.hold, self.hold_rate = self.generator.q, self.generator.dq
            self.arm.follow(self.hold, self.hold_rate)
        else:
            self._brake()
        self._supervise()

    def _brake(self) -> None:
        """Decelerate as fast as allowed, then stay."""
        step = self.limits.acceleration_rad_s2 * PERIOD_S
        self.hold_rate = np.sign(self.hold_rate) * np.maximum(np.abs(self.hold_rate) - step, 0.0)
        self.hold = self.hold + PERIOD_S * self.hold_rate
        self.arm.follow(self.hold, self.hold_rate)

    def _move(self, command: Any) -> None:
        self.moving_ticks += 1
        self.was_answered = command is not None
        self.answered += self.was_answered
        if command is None and not self._begun:
            self._waited += 1
            if self._waited * PERIOD_S > _FIRST_COMMAND_S:
                self._reflex(Error.COMMUNICATION_CONSTRAINTS_VIOLATION)
            return
        self._begun = True
        self._recent.append(command is not None)
        self._lost = 0 if command is not None else self._lost + 1
        if self._lost >= LOST_IN_A_ROW:
            self._reflex(Error.COMMUNICATION_CONSTRAINTS_VIOLATION)
            return
        if command is not None and (command["motion_finished"] or command["torque_finished"]):
            self._end(MoveStatus.SUCCESS, RobotMode.IDLE)
            return
        wrong = self.generator.advance(command) if self.generator is not None else None
        if wrong is None and command is not None and self.controller is Controller.EXTERNAL:
            wrong = self._take_torque(np.array(command["tau"]))
        if wrong is not None:
            self._reflex(wrong)

    def _take_torque(self, torque: Float) -> Error | None:
        self.torque_rate = (torque - self.torque) / PERIOD_S
        self.torque = torque
        if not (np.abs(torque) <= self.limits.effort_nm).all():
            return Error.TAU_J_RANGE_VIOLATION
        limit = self.limits.torque_rate_nm_s + _TORQUE_ROUNDING_NM / PERIOD_S
        if np.abs(self.torque_rate).max() > limit:
            return Error.CONTROLLER_TORQUE_DISCONTINUITY
        return None

    def _supervise(self) -> None:
        """The arm itself, whatever was commanded."""
        q, dq = self.arm.qpos_rad, self.arm.qvel_rad_s
        if not self.moving:
            return
        if (q < self.limits.lower_rad).any() or (q > self.limits.upper_rad).any():
            self._reflex(Error.JOINT_POSITION_LIMITS_VIOLATION)
            return
        # Measured speed is noisy where commanded speed is not: a tenth more is allowed.
        lowest, highest = self.limits.velocity_range(q)
        slack = 0.1 * self.limits.velocity_rad_s
        if (dq < lowest - slack).any() or (dq > highest + slack).any():
            self._reflex(Error.JOINT_VELOCITY_VIOLATION)

    def _apply_faults(self) -> None:
        if self._first_tick is None:
            return
        now = self.motion_s
        for fault in self.faults:
            if fault.kind == "reflex" and fault not in self._done and fault.active(now):
                self._done.add(fault)
                if self.moving:
                    self._reflex(fault.error)
        pressed = any(f.kind == "estop" and f.active(now) for f in self.faults)
        if pressed and self.mode is not RobotMode.USER_STOPPED:
            if self.moving:
                self._end(MoveStatus.EMERGENCY_ABORTED, RobotMode.USER_STOPPED)
            self.mode = RobotMode.USER_STOPPED
        elif not pressed and self.mode is RobotMode.USER_STOPPED:
            self.mode = RobotMode.REFLEX if self.errors else RobotMode.IDLE

    def _reflex(self, error: Error) -> None:
        self.errors.add(error)
        self.reflex_reason = {error}
        self.reflexes.append(error.name.lower())
        self._end(MoveStatus.REFLEX_ABORTED, RobotMode.REFLEX)

    def _end(self, status: MoveStatus, mode: RobotMode) -> None:
        self.hold, self.hold_rate = self.arm.qpos_rad, self.arm.qvel_rad_s
        if self.generator is not None and self.controller is not Controller.EXTERNAL:
            self.hold, self.hold_rate = self.generator.q, self.generator.dq
        self.mode, self.ended = mode, status
        self.controller = self.generator_kind = self.generator = None
        self.torque, self.torque_rate = np.zeros(7), np.zeros(7)

    @property
    def success_rate(self) -> float:
        """Share of the last 100 periods of a motion that were answered in time."""
        return sum(self._recent) / len(self._recent) if self.moving and self._recent else 0.0
