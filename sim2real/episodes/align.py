"""Alignment by header stamps: even grids, interpolation, zero-order hold, latency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.lag import lag_s
from policies.interface import Float
from sim2real.episodes.episode import Episode

NS = 1_000_000_000
_MIN_MOTION_RAD_S = 1e-3
SLACK_NS = 1_000  # stamps this close are the same instant
Int = NDArray[np.int64]


def even_grid(start_ns: int, end_ns: int, rate_hz: float) -> Int:
    """Grid times from ``start_ns`` to at most ``end_ns`` (+1 us), each rounded to a ns, (T,).

    Rounding is per sample, so that the grid does not drift.
    """
    count = int((end_ns + SLACK_NS - start_ns) * rate_hz / NS) + 1
    steps = np.round(np.arange(count) * (NS / rate_hz)).astype(np.int64)
    grid: Int = start_ns + steps
    return grid[grid <= end_ns + SLACK_NS]


def interpolate(stamp_ns: Int, values: Float, grid_ns: Int) -> Float:
    """Linear interpolation in time; a sample within 1 us of a grid time is taken as it is.

    Args:
        stamp_ns: strictly increasing stamps, (N,).
        values: samples, (N, ...).
        grid_ns: times, inside the range of the stamps (+-1 us), (T,).

    Returns:
        Values at the grid times, (T, ...).
    """
    left, weight = _bracket(stamp_ns, grid_ns)
    right = np.minimum(left + 1, len(stamp_ns) - 1)
    w = weight.reshape(-1, *(1,) * (values.ndim - 1))
    mixed = values[left] * (1.0 - w) + values[right] * w
    return _keep_exact(stamp_ns, values, grid_ns, mixed)


def slerp(stamp_ns: Int, quat: Float, grid_ns: Int) -> Float:
    """Spherical interpolation of unit quaternions along the shorter way.

    Args:
        stamp_ns: strictly increasing stamps, (N,).
        quat: orientations, (N, 4); any component order.
        grid_ns: times, (T,).

    Returns:
        Unit quaternions, (T, 4); a sample within 1 us of a grid time is taken as it is.
    """
    left, w = _bracket(stamp_ns, grid_ns)
    a, b = quat[left], quat[np.minimum(left + 1, len(stamp_ns) - 1)]
    dot = np.sum(a * b, axis=1)
    b = np.where(dot[:, None] < 0.0, -b, b)
    angle = np.arccos(np.clip(np.abs(dot), 0.0, 1.0))
    sine = np.sin(angle)
    small = sine < 1e-9  # there the chord is the arc
    safe = np.where(small, 1.0, sine)
    wa = np.where(small, 1.0 - w, np.sin((1.0 - w) * angle) / safe)
    wb = np.where(small, w, np.sin(w * angle) / safe)
    mixed = a * wa[:, None] + b * wb[:, None]
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    return _keep_exact(stamp_ns, quat, grid_ns, mixed)


def hold_index(stamp_ns: Int, grid_ns: Int) -> NDArray[np.intp]:
    """Index of the last sample with stamp <= grid time (+1 us), -1 where there is none, (T,)."""
    index: NDArray[np.intp] = np.searchsorted(stamp_ns, grid_ns + SLACK_NS, side="right") - 1
    return index


def estimate_latency_s(episodes: Sequence[Episode]) -> float | None:
    """Median delay from commanded to measured motion over joints and episodes, s.

    Velocities are compared: the measured one with the commanded one, or with the derivative of the
    commanded position where no velocity is commanded. (The derivative of the measured position
    would not do: jitter of the stamps shows in both derivatives at lag zero.) It is the delay of
    the whole chain, the reaction of the joint's own controller included; a position that is held
    for a period appears half a period late. Resolution is a fraction of the sample time.

    Returns:
        The delay, or None where no joint moves enough.
    """
    lags: list[float] = []
    for episode in episodes:
        dt_s = 1.0 / episode.rate_hz
        for joint in range(episode.qpos_rad.shape[1]):
            command, motion = _velocities(episode, joint)
            if min(np.std(command), np.std(motion)) < _MIN_MOTION_RAD_S:
                continue
            lag = lag_s(command, motion, dt_s)
            if lag is not None:
                lags.append(lag)
    return float(np.median(lags)) if lags else None


def _velocities(episode: Episode, joint: int) -> tuple[Float, Float]:
    """Commanded and measured velocity of one joint at the same times."""
    motion = episode.qvel_rad_s[:, joint]
    if episode.action_vel_rad_s is not None:
        command = episode.action_vel_rad_s[:, joint]
        if np.std(command) >= _MIN_MOTION_RAD_S:
            return command, motion
    # a difference belongs to the middle of its step: so must the velocity that it is compared with
    derivative = np.diff(episode.action_rad[:, joint]) * episode.rate_hz
    return derivative, 0.5 * (motion[:-1] + motion[1:])


def _bracket(stamp_ns: Int, grid_ns: Int) -> tuple[NDArray[np.intp], Float]:
    """Sample left of each grid time and the weight of the one to its right."""
    left = np.clip(np.searchsorted(stamp_ns, grid_ns, side="right") - 1, 0, len(stamp_ns) - 1)
    right = np.minimum(left + 1, len(stamp_ns) - 1)
    span = np.maximum(stamp_ns[right] - stamp_ns[left], 1)
    weight = np.clip((grid_ns - stamp_ns[left]) / span, 0.0, 1.0)
    return left, weight


def _keep_exact(stamp_ns: Int, values: Any, grid_ns: Int, mixed: Float) -> Float:
    right = np.clip(np.searchsorted(stamp_ns, grid_ns), 0, len(stamp_ns) - 1)
    left = np.maximum(right - 1, 0)
    nearer_left = np.abs(grid_ns - stamp_ns[left]) < np.abs(stamp_ns[right] - grid_ns)
    nearest = np.where(nearer_left, left, right)
    exact = np.abs(stamp_ns[nearest] - grid_ns) <= SLACK_NS
    mixed[exact] = values[nearest[exact]]
    return mixed
