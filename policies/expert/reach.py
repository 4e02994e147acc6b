"""Scripted expert for reaching: a smooth joint-space feedback law that never hurries.

The command moves on a straight line in joint space towards the goal's joint pose, all joints
arriving together. Every saturation is a smooth one, so that a network can learn the law. What
remains between command and arm when the arm is slow or weak is partly fed back (``sag_gain``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.interface import Float, RobotSpec


@dataclass(frozen=True, kw_only=True)
class ReachExpertConfig:
    """Shape of the motion.

    Attributes:
        dt_s: step of the command, s.
        velocity_fraction, acceleration_fraction: limits as fractions of the robot's.
        gain_1_s: approach rate close to the goal, 1/s.
        settle_s: time constant with which the velocity follows, s.
        sag_gain: share of the steady offset between command and arm that is corrected.
        max_sag_rad: offset beyond which the correction saturates, rad.
        command_delay_s: mean age of a command that is held for a control tick, s.
    """

    dt_s: float = 0.02
    velocity_fraction: float = 0.45
    acceleration_fraction: float = 0.4
    gain_1_s: float = 4.0
    settle_s: float = 0.08
    sag_gain: float = 0.5
    max_sag_rad: float = 0.1
    command_delay_s: float = 0.005


class ReachExpert:
    """The law for one robot; all methods take batches (..., n).

    Args:
        robot: the robot, for limits and the nominal lag of its joint loop.
        config: shape of the motion.
    """

    def __init__(self, robot: RobotSpec, config: ReachExpertConfig | None = None) -> None:
        self.config = config or ReachExpertConfig()
        self._velocity = self.config.velocity_fraction * robot.velocity_limit_rad_s
        self._acceleration = self.config.acceleration_fraction * robot.array(
            "acceleration_limit_rad_s2"
        )
        drag = robot.kd_nm_s_rad + robot.array("damping_nm_s_rad")
        self._lag_s = drag / robot.kp_nm_rad + self.config.command_delay_s

    def sag(self, command_rad: Float, qpos_rad: Float, qvel_rad_s: Float) -> Float:
        """Offset of the arm from its command beyond the nominal lag, (..., n), rad, bounded."""
        limit = self.config.max_sag_rad
        offset = command_rad - qpos_rad - self._lag_s * qvel_rad_s
        bounded: Float = limit * np.tanh(offset / limit)
        return bounded

    def acceleration(self, error_rad: Float, command_vel_rad_s: Float) -> Float:
        """Acceleration of the command, (..., n), rad/s^2, always within the fractions.

        Args:
            error_rad: way that is left, (..., n), rad.
            command_vel_rad_s: velocity of the command, (..., n), rad/s.
        """
        cfg = self.config
        # The way left of the slowest joint in units of its acceleration, s^2: speed goes with its
        # root far away (constant deceleration) and linearly close by.
        left = _norm(error_rad / self._acceleration)
        speed = cfg.gain_1_s / np.sqrt(1.0 + cfg.gain_1_s**2 * left)
        wanted = speed * error_rad
        wanted = wanted / _soft(_norm(wanted / self._velocity))
        push = (wanted - command_vel_rad_s) / cfg.settle_s
        limited: Float = push / _soft(_norm(push / self._acceleration))
        return limited

    def plan(
        self,
        goal_rad: Float,
        command_rad: Float,
        command_vel_rad_s: Float,
        sag_rad: Float,
        steps: int,
    ) -> Float:
        """Velocities of the command over the next steps, (..., steps, n), rad/s.

        Args:
            goal_rad: joint pose of the goal, (..., n), rad.
            command_rad: command in force, (..., n), rad.
            command_vel_rad_s: its velocity, (..., n), rad/s.
            sag_rad: from :meth:`sag`, (..., n), rad; held over the plan.
            steps: length of the plan.
        """
        cfg = self.config
        command, velocity, out = command_rad, command_vel_rad_s, []
        target = goal_rad + cfg.sag_gain * sag_rad
        for _ in range(steps):
            velocity = velocity + self.acceleration(target - command, velocity) * cfg.dt_s
            command = command + velocity * cfg.dt_s
            out.append(velocity)
        return np.stack(out, axis=-2)


def _norm(x: Float) -> Float:
    """A smooth bound on the largest magnitude along the last axis (the 4-norm), kept as axis."""
    norm: Float = np.sqrt(np.sqrt(np.sum(x**4, axis=-1, keepdims=True) + 1e-16))
    return norm


def _soft(ratio: Float) -> Float:
    """Divisor that limits ``ratio`` to 1 smoothly: about 1 below, ``ratio`` above."""
    divisor: Float = (1.0 + ratio**4) ** 0.25
    return divisor
