"""The part of a delta that has a physical name: a few terms for each joint, linear in parameters.

With kp and kd of the joint loop, set-point u, position q and velocity v, the delta of a joint is

    kp delta = strength (kp (u - q) - kd v) - damping v - friction tanh(v / v0)
               - spring (q - default) + bias - inertia dv/dt - kp lag (u - u_before) / dt

so that ``strength`` -0.2 says that the motor has 0.8 of its nominal strength, and ``friction`` 0.5
that it loses 0.5 Nm more to dry friction. A few parameters learned from one motion hold for another
where a network's features do not; and they tell what is the matter with the robot.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.interface import Float, RobotSpec
from sim2real.replay.open_loop import History
from sim2real.sim.stepper import SimState

_FRICTION_KNEE_RAD_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Term:
    """One physical term.

    Attributes:
        name: what it stands for.
        unit: unit of its parameter.
    """

    name: str
    unit: str


TERMS = (
    Term(name="strength", unit=""),
    Term(name="damping", unit="Nm s/rad"),
    Term(name="friction", unit="Nm"),
    Term(name="lag", unit="ms"),
    Term(name="inertia", unit="kg m^2"),
    Term(name="bias", unit="Nm"),
    Term(name="spring", unit="Nm/rad"),
)
SUBSETS = (
    ("strength", "damping", "friction"),
    ("strength", "damping", "friction", "lag", "inertia"),
    ("strength", "damping", "friction", "bias", "spring"),
    tuple(term.name for term in TERMS),
)
"""Sets of terms that training chooses from: one that the robot has no use for only adds noise."""


def scales(robot: RobotSpec, joints: list[int]) -> Float:
    """Typical size of each parameter, (m, terms): units of the regularisation."""
    kp, kd = robot.kp_nm_rad[joints], robot.kd_nm_s_rad[joints]
    limit = robot.effort_limit_nm[joints]
    armature = np.maximum(robot.array("armature_kg_m2")[joints], 0.01)
    one = np.ones(len(joints))
    return np.stack(
        [0.3 * one, kd, 0.02 * limit + 0.5, 10.0 * one, 2.0 * armature, 0.02 * limit, 0.05 * kp],
        axis=1,
    )


def term_values(
    robot: RobotSpec, state: SimState, setpoint_rad: Float, history: History, rate_hz: float
) -> Float:
    """Delta that a unit of each parameter gives, (B, n, terms), rad."""
    kp, kd = robot.kp_nm_rad, robot.kd_nm_s_rad
    q, v = state.qpos_rad, state.qvel_rad_s
    before = history.setpoint_rad[:, -1]
    return np.stack(
        [
            (setpoint_rad - q) - kd / kp * v,
            -v / kp,
            -np.tanh(v / _FRICTION_KNEE_RAD_S) / kp,
            -(setpoint_rad - before) * (1e-3 * rate_hz),
            -(v - history.qvel_rad_s[:, -1]) * rate_hz / kp,
            np.broadcast_to(1.0 / kp, q.shape),
            -(q - robot.default_rad) / kp,
        ],
        axis=-1,
    )


def feedback(robot: RobotSpec, state: SimState, parameters: Float) -> tuple[Float, Float]:
    """Derivatives of each joint's delta by its own position and velocity, each (B, n).

    Args:
        robot: the robot.
        state: states, arrays (B, ...).
        parameters: of all joints, (n, terms).
    """
    kp, kd = robot.kp_nm_rad, robot.kd_nm_s_rad
    strength, damping, friction, _, _, _, spring = parameters.T
    knee = np.tanh(state.qvel_rad_s / _FRICTION_KNEE_RAD_S)
    by_position = np.broadcast_to(-strength - spring / kp, state.qpos_rad.shape)
    by_velocity = (
        -strength * kd - damping - friction * (1.0 - knee**2) / _FRICTION_KNEE_RAD_S
    ) / kp
    return by_position, by_velocity
