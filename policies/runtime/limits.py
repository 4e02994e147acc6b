"""Command limits of a robot, and the limiter that keeps a stream of commands inside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.interface import Float, RobotSpec


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a commanded position may do, arrays (n,).

    Attributes:
        lower_rad, upper_rad: range of the command.
        velocity_rad_s: largest rate of change of the command.
        acceleration_rad_s2: largest change of that rate, or None where a command is a set-point.
        jump_rad: largest distance between the first command and the measured position.
    """

    lower_rad: Float
    upper_rad: Float
    velocity_rad_s: Float
    acceleration_rad_s2: Float | None
    jump_rad: Float


_SLIDING_MARGIN_M = 0.001


def limits_of(robot: RobotSpec, *, margin_rad: float = 0.01) -> Limits:
    """Limits for commands to ``robot``.

    A *position* command keeps the joint's own range (less ``margin_rad``, or 1 mm where the joint
    slides), speed and acceleration.
    A *set-point* of a PD loop may lie outside the joint's range: policies trained in simulation
    push against a stop to get torque. Beyond the stop by effort / kp the motor is saturated
    wherever the joint is, so nothing further out can be meant: that is the range. Its rate is
    limited to twice the joint speed: a set-point leads the joint.
    """
    if robot.command == "position":
        sliding = np.array([joint.sliding for joint in robot.joints])
        margin = np.where(sliding, _SLIDING_MARGIN_M, margin_rad)
        return Limits(
            lower_rad=robot.lower_rad + margin,
            upper_rad=robot.upper_rad - margin,
            velocity_rad_s=robot.velocity_limit_rad_s,
            acceleration_rad_s2=robot.array("acceleration_limit_rad_s2"),
            jump_rad=np.full(robot.n, 0.1),
        )
    reach = robot.effort_limit_nm / robot.kp_nm_rad
    return Limits(
        lower_rad=robot.lower_rad - reach,
        upper_rad=robot.upper_rad + reach,
        velocity_rad_s=2.0 * robot.velocity_limit_rad_s,
        acceleration_rad_s2=None,
        jump_rad=np.maximum(reach, 1.0),
    )


def torque_window(robot: RobotSpec, qpos_rad: Float, qvel_rad_s: Float) -> tuple[Float, Float]:
    """Set-points, (n,) each, that ask no more torque of a joint than it has.

    The joint's loop gives ``kp (target - q) - kd qdot``; further out the motor saturates, and a
    simulator, another gain or another firmware may not.

    Args:
        robot: its gains and efforts.
        qpos_rad: measured positions, (n,), rad.
        qvel_rad_s: measured velocities, (n,), rad/s.

    Returns:
        Lowest and highest set-point inside the range of :func:`limits_of`.
    """
    centre = qpos_rad + robot.kd_nm_s_rad * qvel_rad_s / robot.kp_nm_rad
    reach = robot.effort_limit_nm / robot.kp_nm_rad
    # A joint that is measured far outside is called back to the end of its range.
    outer, inner = robot.lower_rad - reach, robot.upper_rad + reach
    return np.clip(centre - reach, outer, inner), np.clip(centre + reach, outer, inner)


class Limiter:
    """Follows a target with position commands without leaving the limits.

    The command starts at rest at a measured position. Each call moves it towards the target:
    position, velocity and acceleration stay inside the limits, and it never goes so fast that it
    could not stop before the end of the range.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.position_rad: Float = np.zeros_like(limits.lower_rad)
        self.velocity_rad_s: Float = np.zeros_like(limits.lower_rad)
        self._target: Float = self.position_rad

    def start(self, position_rad: Float) -> None:
        """Start at rest at ``position_rad``, (n,)."""
        self.position_rad = np.array(position_rad, dtype=np.float64)
        self.velocity_rad_s = np.zeros_like(self.position_rad)
        self._target = self.position_rad

    def follow(self, target_rad: Float, dt_s: float) -> tuple[Float, bool]:
        """Move towards ``target_rad`` for ``dt_s``.

        Args:
            target_rad: where to go, (n,), finite.
            dt_s: time since the last call, > 0, s.

        Returns:
            The command, (n,), and whether a limit held it back.
        """
        lim = self.limits
        assert lim.acceleration_rad_s2 is not None  # a set-point is not limited in acceleration
        target = np.minimum(np.maximum(target_rad, lim.lower_rad), lim.upper_rad)
        new = self._follow_smoothly(target, lim.acceleration_rad_s2, dt_s)
        held = bool(np.any(np.abs(new - target_rad) > 1e-4))
        self.position_rad = new
        self._target = target
        return new, held

    def _follow_smoothly(self, target: Float, acceleration: Float, dt: float) -> Float:
        lim = self.limits
        # Follow the target's own motion, and close what is left at a speed that can still stop.
        error = self._target - self.position_rad
        closing = np.minimum(np.abs(error) / dt, _braking_speed(np.abs(error), acceleration, dt))
        wanted = (target - self._target) / dt + np.sign(error) * closing
        # The speed from which braking at full deceleration ends exactly at the range's end.
        to_upper = np.maximum(lim.upper_rad - self.position_rad, 0.0)
        to_lower = np.maximum(self.position_rad - lim.lower_rad, 0.0)
        up = _braking_speed(to_upper, acceleration, dt)
        down = _braking_speed(to_lower, acceleration, dt)
        low = np.maximum(-np.minimum(lim.velocity_rad_s, down), -lim.velocity_rad_s)
        high = np.minimum(lim.velocity_rad_s, up)
        low = np.maximum(low, self.velocity_rad_s - acceleration * dt)
        high = np.minimum(high, self.velocity_rad_s + acceleration * dt)
        low = np.minimum(low, high)
        self.velocity_rad_s = np.minimum(np.maximum(wanted, low), high)
        return self.position_rad + self.velocity_rad_s * dt

    def stop(self, dt_s: float) -> Float:
        """Decelerate to rest at the acceleration limit, (n,)."""
        assert self.limits.acceleration_rad_s2 is not None
        change = self.limits.acceleration_rad_s2 * dt_s
        slower = np.maximum(np.abs(self.velocity_rad_s) - change, 0.0)
        self.velocity_rad_s = np.sign(self.velocity_rad_s) * slower
        self.position_rad = self.position_rad + self.velocity_rad_s * dt_s
        self._target = self.position_rad
        return self.position_rad


def _braking_speed(distance: Float, acceleration: Float, dt: float) -> Float:
    """Largest speed for the next step of ``dt`` from which a stop within ``distance`` is possible.

    Solves ``v dt + v^2 / (2 a) = distance`` for v.
    """
    speed: Float = acceleration * (np.sqrt(dt * dt + 2.0 * distance / acceleration) - dt)
    return speed
