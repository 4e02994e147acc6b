"""Can these sensors be those of this robot? Units, frames and signs, before anything moves.

A publisher that sends degrees, swaps the quaternion's order or reports acceleration in units of g
sends well-formed messages. What gives it away is the body: joints stay in their ranges, and a
robot at rest feels 9.81 m/s^2 upwards in the frame of its own attitude.
"""

from __future__ import annotations

import numpy as np

from policies.interface import Float, RobotSpec
from policies.rotation import rotate_inverse

GRAVITY_M_S2 = 9.81
_RANGE_SLACK = 0.1
_NORM_SLACK = 0.01
_GRAVITY_SLACK_M_S2 = 1.5
_GRAVITY_ANGLE_RAD = 0.5
_REST_RAD_S = 0.2


def implausible_joints(robot: RobotSpec, qpos_rad: Float) -> str | None:
    """What cannot be about joint positions (n,), rad, in one sentence; None if all can.

    Args:
        robot: the robot.
        qpos_rad: measured positions in canonical order, (n,), finite.
    """
    slack = _RANGE_SLACK * (robot.upper_rad - robot.lower_rad)
    outside = (qpos_rad < robot.lower_rad - slack) | (qpos_rad > robot.upper_rad + slack)
    if not outside.any():
        return None
    k = int(np.argmax(outside))
    return (
        f"joint states: expected {robot.joint_names[k]} between {robot.lower_rad[k]:.2f} and "
        f"{robot.upper_rad[k]:.2f} rad, got {qpos_rad[k]:.2f}; check units, sign and joint order"
    )


def implausible_imu(
    quat_wxyz: Float, gyro_rad_s: Float, accel_m_s2: Float | None, qvel_rad_s: Float
) -> str | None:
    """What cannot be about an IMU, in one sentence; None if all can.

    Args:
        quat_wxyz: attitude, (4,), finite.
        gyro_rad_s: angular velocity in the base frame, (3,), finite.
        accel_m_s2: specific force in the base frame, (3,), or None where it is not measured; judged
            at rest only.
        qvel_rad_s: joint velocities, (n,): whether the robot is at rest.
    """
    norm = float(np.linalg.norm(quat_wxyz))
    if abs(norm - 1.0) > _NORM_SLACK:
        return f"imu: expected a unit quaternion, got one of norm {norm:.3f}; check its publisher"
    moving = max(float(np.abs(gyro_rad_s).max()), float(np.abs(qvel_rad_s).max())) > _REST_RAD_S
    if accel_m_s2 is None or moving:
        return None
    force = float(np.linalg.norm(accel_m_s2))
    if abs(force - GRAVITY_M_S2) > _GRAVITY_SLACK_M_S2:
        return (
            f"imu: expected {GRAVITY_M_S2} m/s^2 at rest, got {force:.2f}; "
            "check that it publishes m/s^2, with gravity"
        )
    up = rotate_inverse(quat_wxyz / norm, np.array([0.0, 0.0, 1.0]))
    angle = float(np.arccos(np.clip(up @ accel_m_s2 / force, -1.0, 1.0)))
    if angle > _GRAVITY_ANGLE_RAD:
        return (
            f"imu: attitude and gravity differ by {angle:.2f} rad; check the quaternion's order "
            "(ROS: x y z w), the frame of the IMU and the sign of its acceleration"
        )
    return None
