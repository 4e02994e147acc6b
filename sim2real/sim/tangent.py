"""States as vectors: small changes of a state, and differences between two."""

from __future__ import annotations

import numpy as np

from policies.interface import Float, RobotSpec
from policies.rotation import multiply, rotation_vector, to_quat
from sim2real.sim.stepper import SimState


def tangent_size(robot: RobotSpec) -> int:
    """Length of a state difference: twice the degrees of freedom."""
    return 2 * (robot.n + 6 * robot.floating_base)


def joint_slices(robot: RobotSpec) -> tuple[slice, slice]:
    """Where joint positions and joint velocities lie in a state difference."""
    base, half = 6 * robot.floating_base, tangent_size(robot) // 2
    return slice(base, half), slice(half + base, 2 * half)


def displaced(state: SimState, change: Float) -> SimState:
    """States (B, ...) moved by ``change`` (B, x).

    In order, base parts for a legged robot only: base position (world), rotation vector (base
    frame), joint positions; base velocity (world), angular velocity (base frame), joint velocities.
    """
    n = state.qpos_rad.shape[-1]
    position, turn = state.base_pos_m, state.base_quat_wxyz
    linear, angular = state.base_lin_vel_m_s, state.base_ang_vel_rad_s
    if position is None or turn is None or linear is None or angular is None:
        return SimState(
            qpos_rad=state.qpos_rad + change[..., :n], qvel_rad_s=state.qvel_rad_s + change[..., n:]
        )
    rates = change[..., 6 + n :]
    return SimState(
        qpos_rad=state.qpos_rad + change[..., 6 : 6 + n],
        qvel_rad_s=state.qvel_rad_s + rates[..., 6:],
        base_pos_m=position + change[..., :3],
        base_quat_wxyz=multiply(turn, to_quat(change[..., 3:6])),
        base_lin_vel_m_s=linear + rates[..., :3],
        base_ang_vel_rad_s=angular + rates[..., 3:6],
    )


def difference(state: SimState, origin: SimState) -> Float:
    """The change that leads from ``origin`` to ``state``, see :func:`displaced`, (..., x)."""
    joints = state.qpos_rad - origin.qpos_rad
    rates = state.qvel_rad_s - origin.qvel_rad_s
    if state.base_pos_m is None:
        return np.concatenate([joints, rates], axis=-1)
    a, b = vars(state), vars(origin)
    return np.concatenate(
        [
            a["base_pos_m"] - b["base_pos_m"],
            rotation_vector(b["base_quat_wxyz"], a["base_quat_wxyz"]),
            joints,
            a["base_lin_vel_m_s"] - b["base_lin_vel_m_s"],
            a["base_ang_vel_rad_s"] - b["base_ang_vel_rad_s"],
            rates,
        ],
        axis=-1,
    )
