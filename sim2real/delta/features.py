"""What a delta-action model sees: the one function that training and replay both use."""

from __future__ import annotations

import numpy as np

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from policies.rotation import rotate_inverse
from sim2real.replay.open_loop import History
from sim2real.sim.stepper import SimState


def feature_count(robot: RobotSpec, history: int) -> int:
    """Length of a feature vector."""
    return robot.n * (3 + 3 * history) + (10 if robot.floating_base else 0)


def features(robot: RobotSpec, state: SimState, setpoint_rad: Float, history: History) -> Float:
    """Features of B states, each invariant to where the robot stands and which way it faces.

    In order: joint position minus default, joint velocity, set-point minus position; for each past
    tick, oldest first, its set-point and position minus the present position, and its velocity;
    for a legged robot base height, and gravity direction, linear and angular velocity in the base
    frame.

    Args:
        robot: the robot.
        state: states, arrays (B, ...).
        setpoint_rad: commanded set-points without delta, (B, n), rad.
        history: ticks before, (B, H, n).

    Returns:
        Features, (B, :func:`feature_count`), SI units; the model scales them.

    Raises:
        InputError: a legged robot without base state.
    """
    here = state.qpos_rad
    batch = len(here)
    past = [
        history.setpoint_rad - here[:, None],
        history.qpos_rad - here[:, None],
        history.qvel_rad_s,
    ]
    parts = [here - robot.default_rad, state.qvel_rad_s, setpoint_rad - here]
    parts.append(np.concatenate(past, axis=2).reshape(batch, -1))
    if robot.floating_base:
        position, turn = state.base_pos_m, state.base_quat_wxyz
        linear, angular = state.base_lin_vel_m_s, state.base_ang_vel_rad_s
        if position is None or turn is None or linear is None or angular is None:
            raise InputError(
                f"expected base pose and velocity in the states of {robot.name}, got none; "
                "record odom and imu together with joint_states"
            )
        down = np.broadcast_to(np.array([0.0, 0.0, -1.0]), (batch, 3))
        parts += [
            position[:, 2:],
            rotate_inverse(turn, down),
            rotate_inverse(turn, linear),
            angular,
        ]
    return np.concatenate(parts, axis=1)
