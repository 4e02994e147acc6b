"""The delay between a set-point as sent and as the motors of a simulated robot see it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.interface import Float, RobotSpec
from sim2real.sim.gaps import Gap


@dataclass(frozen=True, kw_only=True)
class ActuatorDelay:
    """A delay of whole physics steps on set-points that are held over control ticks.

    Attributes:
        steps: physics steps between a set-point and its arrival.
        decimation: physics steps in a control tick.
    """

    steps: int
    decimation: int

    @property
    def ticks(self) -> int:
        """Set-points before the present one that can still be on their way."""
        return -(-self.steps // self.decimation)

    def at_physics_rate(self, targets_rad: Float, previous_rad: Float) -> Float:
        """Set-points as they arrive, one for each physics step.

        Args:
            targets_rad: set-points as sent, (B, ticks, n).
            previous_rad: those of the ticks before, newest last, (B, k, n), k at least 1 if
                there is a delay; the oldest is repeated where more would be needed.

        Returns:
            (B, ticks * decimation, n), rad.
        """
        have = np.arange(-self.ticks, 0)
        before = previous_rad[:, np.maximum(have, -previous_rad.shape[1])]
        steps = np.repeat(np.concatenate([before, targets_rad], axis=1), self.decimation, axis=1)
        start = len(have) * self.decimation - self.steps
        return steps[:, start : start + targets_rad.shape[1] * self.decimation]

    def at_motor(self, targets_rad: Float, previous_rad: Float) -> Float:
        """The same as the mean over each tick, (B, ticks, n); ``targets_rad`` without a delay."""
        if not self.steps:
            return targets_rad
        batch, ticks, n = targets_rad.shape
        steps = self.at_physics_rate(targets_rad, previous_rad)
        mean: Float = steps.reshape(batch, ticks, self.decimation, n).mean(axis=2)
        return mean

    def applied(
        self,
        targets_rad: Float,
        previous_rad: Float | None,
        delta_rad: Float | None,
        qpos_rad: Float,
    ) -> Float:
        """What the motors follow: delayed set-points, and a delta that acts behind the delay.

        Args:
            targets_rad: set-points as sent, (B, ticks, n).
            previous_rad: those of the ticks before, (B, k, n); None or k = 0 for ``qpos_rad``.
            delta_rad: added at the motors, (B, ticks, n), or None.
            qpos_rad: joint positions at the start, (B, n).

        Returns:
            Without a delay (B, ticks, n), to be held over a tick; else one for each physics step,
            (B, ticks * decimation, n).
        """
        if not self.steps:
            return targets_rad if delta_rad is None else targets_rad + delta_rad
        if previous_rad is None or previous_rad.shape[1] == 0:
            previous_rad = qpos_rad[:, None]
        delayed = self.at_physics_rate(targets_rad, previous_rad)
        if delta_rad is None:
            return delayed
        return delayed + np.repeat(delta_rad, self.decimation, axis=1)


def actuator_delay(robot: RobotSpec, gap: Gap | None, decimation: int) -> ActuatorDelay:
    """The delay of ``gap`` (none without one) in a simulator of ``robot``."""
    steps = round(gap.delay_s / robot.physics_dt_s) if gap else 0
    return ActuatorDelay(steps=steps, decimation=decimation)
