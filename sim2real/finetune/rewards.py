"""How well B robots track a motion, as errors and as a reward."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.interface import Float, RobotSpec
from policies.rotation import rotate_inverse, rotation_vector
from sim2real.finetune.reference import Reference
from sim2real.sim.stepper import SimState


@dataclass(frozen=True, kw_only=True)
class Term:
    """One part of the tracking reward, ``weight * exp(-(error / scale)^2)``.

    Attributes:
        weight: its share; the weights of all parts are scaled to a sum of 1.
        scale: error at which it has fallen to 37 %, in the unit of the error.
    """

    weight: float
    scale: float


@dataclass(frozen=True, kw_only=True)
class RewardConfig:
    """Weights of the reward.

    Tracking errors are root mean squares: over bodies of their positions relative to the root
    (``bodies``) and in the world (``world``), m; over the policy's joints (``joints``, rad, and
    ``speeds``, rad/s); of the base's orientation (``turn``, rad), velocity (``base_speed``, m/s)
    and angular velocity (``base_turning``, rad/s).

    Penalties are weights on sums of squares per tick: change of the raw action, torque wanted
    beyond 90 % of the limit (as a share of the limit), joint position beyond 98 % of the range
    (rad), speed of a foot on the floor (m/s). ``fall`` is charged once.
    """

    bodies: Term = Term(weight=1.0, scale=0.08)
    world: Term = Term(weight=0.5, scale=0.25)
    joints: Term = Term(weight=0.5, scale=0.2)
    speeds: Term = Term(weight=0.25, scale=2.0)
    turn: Term = Term(weight=0.5, scale=0.3)
    base_speed: Term = Term(weight=0.25, scale=0.5)
    base_turning: Term = Term(weight=0.25, scale=2.0)
    action_rate: float = 0.01
    torque: float = 0.05
    range: float = 1.0
    slip: float = 0.05
    fall: float = 20.0


TERMS = ("bodies", "world", "joints", "speeds", "turn", "base_speed", "base_turning")


class Tracking:
    """Compares robots with a reference motion.

    Args:
        robot: the robot.
        reference: the motion.
        joints: indices of the joints that the policy commands.
    """

    def __init__(self, robot: RobotSpec, reference: Reference, joints: NDArray[np.intp]) -> None:
        self.reference, self._joints = reference, joints
        self._rate_hz = robot.control_rate_hz
        middle = (robot.lower_rad + robot.upper_rad) / 2.0
        half = 0.98 * (robot.upper_rad - robot.lower_rad) / 2.0
        self._low, self._high = (middle - half)[joints], (middle + half)[joints]
        self._kp, self._kd = robot.kp_nm_rad[joints], robot.kd_nm_s_rad[joints]
        self._limit_nm = robot.effort_limit_nm[joints]
        height = reference.body_pos_m[..., 2]
        # What the robot stands on: bodies that are the lowest, within 5 mm, in some of the frames.
        near = (height < height.min(axis=1, keepdims=True) + 0.005).mean(axis=0) > 0.05
        self.feet = np.flatnonzero(near) if robot.floating_base else np.array([], dtype=np.intp)
        self._floor_m = float(np.median(height.min(axis=1))) + 0.02

    def errors(
        self, tick: NDArray[np.intp], state: SimState, body_pos_m: Float
    ) -> dict[str, Float]:
        """Root-mean-square errors of each of :data:`TERMS` that the robot has, (B,) each."""
        want = self.reference.state.map(lambda x: x[tick])
        apart = body_pos_m - self.reference.body_pos_m[tick]
        relative = apart - apart[:, self.reference.root, None]
        joints = self._joints
        out = {
            "bodies": _rms(np.linalg.norm(relative, axis=-1)),
            "world": _rms(np.linalg.norm(apart, axis=-1)),
            "joints": _rms((state.qpos_rad - want.qpos_rad)[:, joints]),
            "speeds": _rms((state.qvel_rad_s - want.qvel_rad_s)[:, joints]),
        }
        base = self.base(tick, state)
        if base is not None:
            turn, speed, turning = base
            out["turn"] = np.linalg.norm(turn, axis=-1)
            out["base_speed"] = np.linalg.norm(speed, axis=-1)
            out["base_turning"] = np.linalg.norm(turning, axis=-1)
        return out

    def base(self, tick: NDArray[np.intp], state: SimState) -> tuple[Float, Float, Float] | None:
        """Rotation from the base to the reference, and velocity differences in the base frame.

        Returns:
            Rotation vector, rad, linear velocity, m/s, angular velocity, rad/s, (B, 3) each; None
            for a fixed base.
        """
        want = self.reference.state.map(lambda x: x[tick])
        quat, linear, angular = (
            state.base_quat_wxyz,
            state.base_lin_vel_m_s,
            state.base_ang_vel_rad_s,
        )
        there, fast, spin = want.base_quat_wxyz, want.base_lin_vel_m_s, want.base_ang_vel_rad_s
        if quat is None or linear is None or angular is None:
            return None
        if there is None or fast is None or spin is None:
            return None
        return rotation_vector(quat, there), rotate_inverse(quat, fast - linear), spin - angular

    def penalties(
        self, state: SimState, target_rad: Float, change: Float, foot_m: Float, step_m: Float
    ) -> dict[str, Float]:
        """Sums of squares that the penalties weigh, (B,) each.

        Args:
            state: states after the tick.
            target_rad: set-points at the motors, (B, n), rad.
            change: of the raw action since the last tick, (B, outputs).
            foot_m: positions of :attr:`feet`, (B, feet, 3), m.
            step_m: how far they moved in the tick, (B, feet, 3), m.
        """
        joints = self._joints
        qpos, qvel = state.qpos_rad[:, joints], state.qvel_rad_s[:, joints]
        torque = self._kp * (target_rad[:, joints] - qpos) - self._kd * qvel
        beyond = np.maximum(np.abs(torque) / self._limit_nm - 0.9, 0.0)
        outside = np.maximum(self._low - qpos, 0.0) + np.maximum(qpos - self._high, 0.0)
        slip = np.linalg.norm(step_m[..., :2], axis=-1) * self._rate_hz
        down = foot_m[..., 2] < self._floor_m
        return {
            "action_rate": (change**2).sum(axis=1),
            "torque": (np.minimum(beyond, 2.0) ** 2).sum(axis=1),
            "range": (outside**2).sum(axis=1),
            "slip": (np.minimum(slip * down, 2.0) ** 2).sum(axis=1),
        }


def tracking_reward(config: RewardConfig, errors: dict[str, Float]) -> Float:
    """Weighted mean of the tracking terms, (B,), between 0 and 1."""
    terms: dict[str, Term] = {name: getattr(config, name) for name in errors}
    total = sum(term.weight for term in terms.values())
    out: Float = sum(
        (
            term.weight / total * np.exp(-((errors[name] / term.scale) ** 2))
            for name, term in terms.items()
        ),
        start=np.zeros(len(errors["joints"])),
    )
    return out


def penalty(config: RewardConfig, penalties: dict[str, Float]) -> Float:
    """Weighted sum of the penalties, (B,), to be subtracted."""
    out: Float = sum(
        (getattr(config, name) * value for name, value in penalties.items()),
        start=np.zeros(len(penalties["action_rate"])),
    )
    return out


def _rms(values: Float) -> Float:
    out: Float = np.sqrt((values**2).mean(axis=-1))
    return out
