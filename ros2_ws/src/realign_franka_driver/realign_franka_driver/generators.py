"""Motion generators of the control box: set-points from commands, judged as the box judges them.

A position command's first derivative is a velocity, a velocity command's is an acceleration: the
same step has another name on each interface. A packet that is lost is replaced by a motion of
constant acceleration.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from policies.interface import Float
from realign_franka_driver.errors import Error
from realign_franka_driver.layout import PERIOD_S
from realign_franka_driver.limits import BoxLimits
from sim2real.sim.kinematics import Kinematics

_START_RAD, _START_M = 1e-3, 1e-3
# Clients limit their rates by a state in single precision: 2.4e-7 rad over one or three periods.
_ROUNDING = (1e-3, 0.5, 500.0)
_DAMPING = 1e-4
_FRAME = 1e-4


class MotionGenerator(Protocol):
    """Set-points of the internal controller.

    Attributes:
        q, dq, ddq: joint set-point and its derivatives, (7,), rad and s.
    """

    q: Float
    dq: Float
    ddq: Float

    def advance(self, command: Any) -> Error | None:
        """One period under a command record, or None for a lost one; returns what is wrong."""


class JointGenerator:
    """Joint positions or velocities.

    Args:
        q: where the motion starts, (7,), rad.
        limits: of the box.
        position: True for positions, False for velocities.
    """

    def __init__(self, q: Float, limits: BoxLimits, *, position: bool) -> None:
        # Clients begin where the state says that they are.
        self.q: Float = q.astype(np.float32).astype(np.float64)
        self.dq: Float = np.zeros_like(self.q)
        self.ddq: Float = np.zeros_like(self.q)
        self.limits, self._position, self._begun = limits, position, False

    def advance(self, command: Any) -> Error | None:
        """See :class:`MotionGenerator`."""
        if command is None:
            self.dq = self.dq + PERIOD_S * self.ddq
            self.q = self.q + PERIOD_S * self.dq
            return None
        target: Float = np.array(command["q"])
        first, self._begun = not self._begun, True
        if self._position and first and np.abs(target - self.q).max() > _START_RAD:
            return Error.JOINT_POSITION_MOTION_GENERATOR_START_POSE_INVALID
        dq: Float = (target - self.q) / PERIOD_S if self._position else np.array(command["dq"])
        ddq = (dq - self.dq) / PERIOD_S
        jerk = (ddq - self.ddq) / PERIOD_S
        self.q = target if self._position else self.q + PERIOD_S * dq
        self.dq, self.ddq = dq, ddq
        return self._judge(jerk)

    def _judge(self, jerk: Float) -> Error | None:
        limits = self.limits
        if (self.q < limits.lower_rad).any() or (self.q > limits.upper_rad).any():
            return Error.JOINT_MOTION_GENERATOR_POSITION_LIMITS_VIOLATION
        lowest, highest = limits.velocity_range(self.q)
        if (self.dq < lowest - _ROUNDING[0]).any() or (self.dq > highest + _ROUNDING[0]).any():
            return Error.JOINT_MOTION_GENERATOR_VELOCITY_LIMITS_VIOLATION
        steep = np.abs(self.ddq).max() > limits.acceleration_rad_s2 + _ROUNDING[1]
        if steep and self._position:
            return Error.JOINT_MOTION_GENERATOR_VELOCITY_DISCONTINUITY
        if steep or np.abs(jerk).max() > limits.jerk_rad_s3 + _ROUNDING[2]:
            return Error.JOINT_MOTION_GENERATOR_ACCELERATION_DISCONTINUITY
        return None


class CartesianGenerator:
    """Poses or twists of the end effector, with inverse kinematics.

    Args:
        q: where the motion starts, (7,), rad.
        limits: of the box.
        kinematics: of the arm.
        position: True for poses, False for twists.
        tool: pose of the end effector in the nominal one, (4, 4).
    """

    def __init__(
        self,
        q: Float,
        limits: BoxLimits,
        kinematics: Kinematics,
        *,
        position: bool,
        tool: Float,
    ) -> None:
        self.q: Float = q.astype(np.float32).astype(np.float64)
        self.dq: Float = np.zeros_like(self.q)
        self.ddq: Float = np.zeros_like(self.q)
        self.limits, self._position, self._begun = limits, position, False
        self._kinematics, self._tool = kinematics, tool
        self.pose: Float = self._pose_of(self.q).astype(np.float32).astype(np.float64)
        self.twist: Float = np.zeros(6)
        self.change: Float = np.zeros(6)
        self.elbow: Float = np.array([self.q[2], np.sign(self.q[3])])
        self._elbow_rate = self._elbow_change = 0.0

    def _pose_of(self, q: Float) -> Float:
        pose = np.eye(4)
        pose[:3, 3], pose[:3, :3] = self._kinematics.end_effector(q)
        return pose @ self._tool

    def advance(self, command: Any) -> Error | None:
        """See :class:`MotionGenerator`."""
        if command is None:
            self.twist = self.twist + PERIOD_S * self.change
            self.pose = _moved(self.pose, self.twist)
            return self._solve(None)
        first, self._begun = not self._begun, True
        if self._position:
            target = np.array(command["O_T_EE"]).reshape(4, 4).T
            square = target[:3, :3].T @ target[:3, :3]
            if np.abs(square - np.eye(3)).max() > _FRAME or tuple(target[3]) != (0, 0, 0, 1):
                return Error.CARTESIAN_POSITION_MOTION_GENERATOR_INVALID_FRAME
            move = _difference(self.pose, target)
            if first and np.abs(move).max() > _START_M:
                return Error.CARTESIAN_POSITION_MOTION_GENERATOR_START_POSE_INVALID
            twist = move / PERIOD_S
        else:
            twist = np.array(command["O_dP_EE"])
            target = _moved(self.pose, twist)
        change = (twist - self.twist) / PERIOD_S
        jerk = (change - self.change) / PERIOD_S
        self.pose, self.twist, self.change = target, twist, change
        elbow = np.array(command["elbow"]) if command["has_elbow"] else None
        return self._judge(jerk) or self._judge_elbow(elbow, first) or self._solve(elbow)

    def _judge(self, jerk: Float) -> Error | None:
        def beyond(values: Float, order: int) -> bool:
            limits = (self.limits.translation[order], self.limits.rotation[order])
            parts = (values[:3], values[3:])
            return any(
                float(np.linalg.norm(part)) > limit + _ROUNDING[order]
                for part, limit in zip(parts, limits, strict=True)
            )

        if beyond(self.twist, 0):
            return Error.CARTESIAN_MOTION_GENERATOR_VELOCITY_LIMITS_VIOLATION
        steep = beyond(self.change, 1)
        if steep and self._position:
            return Error.CARTESIAN_MOTION_GENERATOR_VELOCITY_DISCONTINUITY
        if steep or beyond(jerk, 2):
            return Error.CARTESIAN_MOTION_GENERATOR_ACCELERATION_DISCONTINUITY
        return None

    def _judge_elbow(self, elbow: Float | None, first: bool) -> Error | None:
        if elbow is None:
            return None
        if first and (abs(elbow[0] - self.q[2]) > _START_RAD):
            return Error.CARTESIAN_MOTION_GENERATOR_START_ELBOW_INVALID
        if elbow[1] != np.sign(self.q[3]):
            return Error.CARTESIAN_MOTION_GENERATOR_ELBOW_SIGN_INCONSISTENT
        rate = float(elbow[0] - self.elbow[0]) / PERIOD_S
        change = (rate - self._elbow_rate) / PERIOD_S
        jerk = (change - self._elbow_change) / PERIOD_S
        self.elbow, self._elbow_rate, self._elbow_change = elbow, rate, change
        limits = zip((rate, change, jerk), self.limits.elbow, _ROUNDING, strict=True)
        if any(abs(value) > limit + rounding for value, limit, rounding in limits):
            return Error.CARTESIAN_MOTION_GENERATOR_ELBOW_LIMIT_VIOLATION
        return None

    def _solve(self, elbow: Float | None) -> Error | None:
        """Joint set-points for the pose, by one damped Newton step: a period's motion is small."""
        nominal = self.pose @ np.linalg.inv(self._tool)
        linear, angular = self._kinematics.jacobian(self.q)
        present = np.eye(4)
        present[:3, 3], present[:3, :3] = self._kinematics.end_effector(self.q)
        rows, miss = np.vstack([linear, angular]), _difference(present, nominal)
        if elbow is not None:
            rows = np.vstack([rows, np.eye(len(self.q))[2]])
            miss = np.append(miss, elbow[0] - self.q[2])
        square = rows @ rows.T + _DAMPING**2 * np.eye(len(rows))
        step = rows.T @ np.linalg.solve(square, miss)
        dq = step / PERIOD_S
        self.q = self.q + step
        self.ddq, self.dq = (dq - self.dq) / PERIOD_S, dq
        if (self.q < self.limits.lower_rad).any() or (self.q > self.limits.upper_rad).any():
            return Error.CARTESIAN_MOTION_GENERATOR_JOINT_POSITION_LIMITS_VIOLATION
        lowest, highest = self.limits.velocity_range(self.q)
        if (dq < lowest - _ROUNDING[0]).any() or (dq > highest + _ROUNDING[0]).any():
            return Error.CARTESIAN_MOTION_GENERATOR_JOINT_VELOCITY_LIMITS_VIOLATION
        return None


def _rotation_vector(rotation: Float) -> Float:
    """Axis times angle of a rotation matrix (3, 3); for small angles, as between two periods."""
    twice = np.array(
        [
            rotation[2, 1] - rotation[1, 2],
            rotation[0, 2] - rotation[2, 0],
            rotation[1, 0] - rotation[0, 1],
        ]
    )
    sine = 0.5 * float(np.linalg.norm(twice))
    angle = float(np.arctan2(sine, 0.5 * (np.trace(rotation) - 1.0)))
    return 0.5 * twice if sine < 1e-9 else 0.5 * twice * angle / sine


def _difference(old: Float, new: Float) -> Float:
    """Translation and rotation vector from one pose to another, (6,), base frame."""
    rotation = _rotation_vector(new[:3, :3] @ old[:3, :3].T)
    return np.concatenate([new[:3, 3] - old[:3, 3], rotation])


def _moved(pose: Float, twist: Float) -> Float:
    """A pose after one period under a twist."""
    moved = pose.copy()
    moved[:3, 3] += PERIOD_S * twist[:3]
    angle = float(np.linalg.norm(twist[3:])) * PERIOD_S
    if angle > 0.0:
        x, y, z = twist[3:] * PERIOD_S / angle
        cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
        turn = np.eye(3) + np.sin(angle) * cross + (1.0 - np.cos(angle)) * cross @ cross
        moved[:3, :3] = turn @ moved[:3, :3]
    return moved
