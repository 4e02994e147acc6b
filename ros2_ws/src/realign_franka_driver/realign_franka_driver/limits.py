"""What the control box demands of commands and of the arm, with Franka's figures for the FR3."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.interface import Float, RobotSpec

# Near its stops a joint may only be as fast as it can brake: offset, rad/s, and deceleration,
# rad/s^2, of each joint.
_OFFSET_RAD_S = (0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35)
_DECELERATION_RAD_S2 = (6.0, 2.585, 3.5, 4.0, 17.0, 5.5, 17.0)


@dataclass(frozen=True, kw_only=True)
class BoxLimits:
    """Limits whose violation ends a motion, arrays (7,).

    Attributes:
        lower_rad, upper_rad: joint range.
        velocity_rad_s: largest joint speed, far from the stops.
        offset_rad_s, deceleration_rad_s2: shape of that limit near the stops.
        effort_nm: largest torque.
        acceleration_rad_s2, jerk_rad_s3: of commanded joint motions.
        torque_rate_nm_s: of commanded torques.
        translation, rotation: largest speed, acceleration and jerk of Cartesian motions, m and rad.
        elbow: the same of the elbow, rad.
    """

    lower_rad: Float
    upper_rad: Float
    velocity_rad_s: Float
    offset_rad_s: Float
    deceleration_rad_s2: Float
    effort_nm: Float
    acceleration_rad_s2: float = 10.0
    jerk_rad_s3: float = 5000.0
    torque_rate_nm_s: float = 1000.0
    translation: tuple[float, float, float] = (3.0, 9.0, 4500.0)
    rotation: tuple[float, float, float] = (2.5, 17.0, 8500.0)
    elbow: tuple[float, float, float] = (1.5, 10.0, 5000.0)

    @classmethod
    def of(cls, robot: RobotSpec) -> BoxLimits:
        """Limits of a control box around ``robot``: its own ranges, the FR3's rates."""
        return cls(
            lower_rad=robot.lower_rad,
            upper_rad=robot.upper_rad,
            velocity_rad_s=robot.velocity_limit_rad_s,
            offset_rad_s=np.array(_OFFSET_RAD_S),
            deceleration_rad_s2=np.array(_DECELERATION_RAD_S2),
            effort_nm=robot.effort_limit_nm,
        )

    def velocity_range(self, qpos_rad: Float) -> tuple[Float, Float]:
        """Lowest and highest joint speed at ``qpos_rad``, (7,) each, rad/s."""
        up = np.sqrt(np.maximum(2.0 * self.deceleration_rad_s2 * (self.upper_rad - qpos_rad), 0.0))
        down = np.sqrt(
            np.maximum(2.0 * self.deceleration_rad_s2 * (qpos_rad - self.lower_rad), 0.0)
        )
        highest = np.clip(up - self.offset_rad_s, 0.0, self.velocity_rad_s)
        lowest = -np.clip(down - self.offset_rad_s, 0.0, self.velocity_rad_s)
        return lowest, highest
