"""Episodes of one robot laid end to end, so that many windows are cut and played at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from sim2real.episodes.episode import Episode
from sim2real.sim.stepper import SimState

Rows = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Log:
    """N samples of several episodes at one rate, in canonical joint order.

    Attributes:
        rate_hz: sampling rate, Hz.
        state: logged states, arrays (N, ...).
        setpoint_rad: set-points in force from each sample to the next, (N, n), rad.
        first, last: first and last row of the episode that a row belongs to, (N,).
    """

    rate_hz: float
    state: SimState
    setpoint_rad: Float
    first: Rows
    last: Rows

    @classmethod
    def of(cls, episodes: Sequence[Episode], robot: RobotSpec) -> Log:
        """Join ``episodes``.

        Raises:
            InputError: no episode, another robot, different rates, values that are not finite, or
                a base pose missing for a legged robot.
        """
        if not episodes:
            raise InputError("expected at least one episode, got none; record or build some first")
        for episode in episodes:
            _check(episode, robot, episodes[0].rate_hz)
        lengths = [len(e) for e in episodes]
        ends = np.cumsum(lengths)
        arrays: dict[str, Any] = {}
        for field in fields(SimState):
            if robot.floating_base or not field.name.startswith("base_"):
                arrays[field.name] = np.concatenate([getattr(e, field.name) for e in episodes])
        return cls(
            rate_hz=episodes[0].rate_hz,
            state=SimState(**arrays),
            setpoint_rad=np.concatenate(
                [e.setpoint_rad(robot.kp_nm_rad, robot.kd_nm_s_rad) for e in episodes]
            ),
            first=np.repeat(ends - lengths, lengths),
            last=np.repeat(ends - 1, lengths),
        )

    def ahead(self, rows: Rows, ticks: int) -> Rows:
        """Rows ``row + 0 ... row + ticks``, held at the end of the episode, (B, ticks + 1)."""
        return np.minimum(rows[:, None] + np.arange(ticks + 1), self.last[rows][:, None])

    def before(self, rows: Rows, ticks: int) -> Rows:
        """Rows ``row - ticks ... row - 1``, held at the start of the episode, (B, ticks)."""
        return np.maximum(rows[:, None] + np.arange(-ticks, 0), self.first[rows][:, None])

    def steps(self, ticks: int = 1) -> Rows:
        """Rows that are followed by at least ``ticks`` more of the same episode."""
        return np.flatnonzero(np.arange(len(self.first)) + ticks <= self.last)

    def windows(self, every: int, shortest: int) -> Rows:
        """Starts of windows every ``every`` rows in each episode with ``shortest`` rows ahead."""
        rows = self.steps(shortest)
        return rows[(rows - self.first[rows]) % every == 0]

    def left(self, rows: Rows) -> Rows:
        """Samples after each row in its episode, (B,)."""
        return self.last[rows] - rows


def _check(episode: Episode, robot: RobotSpec, rate_hz: float) -> None:
    if episode.robot != robot.name or episode.robot_fingerprint != robot.fingerprint:
        raise InputError(
            f"expected episodes of {robot.name} ({robot.fingerprint}), got {episode.robot} "
            f"({episode.robot_fingerprint}); use the robot that they were recorded with"
        )
    if episode.rate_hz != rate_hz:
        raise InputError(
            f"expected episodes of one rate, got {rate_hz:g} and {episode.rate_hz:g} Hz; "
            "build them again at one rate"
        )
    count = len(episode)
    if count < 2:
        raise InputError(f"expected episodes of at least 2 samples, got one of {count}; drop it")
    widths = {"qpos_rad": robot.n, "qvel_rad_s": robot.n, "action_rad": robot.n}
    if robot.floating_base:
        widths |= dict(base_pos_m=3, base_quat_wxyz=4, base_lin_vel_m_s=3, base_ang_vel_rad_s=3)
    if episode.action_vel_rad_s is not None:
        widths["action_vel_rad_s"] = robot.n
    for name, width in widths.items():
        values = getattr(episode, name)
        if values is None:
            raise InputError(
                f"expected {name} in the episodes of the legged robot {robot.name}, got none; "
                "record odom and imu together with joint_states"
            )
        if values.shape != (count, width):
            raise InputError(
                f"expected {name} of shape {(count, width)} in an episode of {robot.name}, "
                f"got {values.shape}; build the episodes again"
            )
        if not np.isfinite(values).all():
            raise InputError(
                f"expected finite values of {name}, got NaN or infinity in "
                f"{int((~np.isfinite(values)).any(axis=1).sum())} of {count} samples; "
                "cut these out of the log"
            )
