"""Clocks of a topic: when messages came against the stamps that they carry; NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.signals import Float

_PARTS = 20
_FEWEST = 40


@dataclass(frozen=True, kw_only=True)
class Clock:
    """A topic's clock against the recorder's.

    Attributes:
        offset_s, offset_std_s: least time between stamp and reception, at the middle of the log:
            transport, plus the difference of the two clocks.
        drift_ppm, drift_std_ppm: how much faster the recorder's clock runs, millionths.
        jitter_s: standard deviation of the time of reception about that line.
        late_p99_s: 99 % are received at most this much after the line.
        interval_s: median time between stamps.
        interval_jitter_s: standard deviation of the times between stamps.
        gaps: stamps that follow later than 2.5 intervals.
        received: False where the bag holds no times of reception beside the stamps.
    """

    offset_s: float
    offset_std_s: float
    drift_ppm: float
    drift_std_ppm: float
    jitter_s: float
    late_p99_s: float
    interval_s: float
    interval_jitter_s: float
    gaps: int
    received: bool


def measure_clock(stamp_ns: NDArray[np.int64], log_ns: NDArray[np.int64]) -> Clock | None:
    """Compare stamps with times of reception.

    Messages are late at random, never early: the line through the earliest of each twentieth of
    the log is the clocks' difference, what lies above it is transport.

    Args:
        stamp_ns: header stamps, (N,), ns.
        log_ns: times of reception, (N,), ns.

    Returns:
        What was found; None for fewer than 40 messages or stamps that do not advance.
    """
    order = np.argsort(stamp_ns, kind="stable")
    stamp = (stamp_ns[order] - stamp_ns[order[0]]) / 1e9 if len(order) else np.zeros(0)
    if len(stamp) < _FEWEST or stamp[-1] <= 0.0:
        return None
    late = (log_ns[order] - stamp_ns[order]) / 1e9
    middle = stamp[-1] / 2.0
    part = np.minimum((_PARTS * stamp / stamp[-1]).astype(int), _PARTS - 1)
    first = [_earliest(np.flatnonzero(part == k), late) for k in range(_PARTS)]
    chosen = np.array([i for i in first if i is not None])
    line, covariance = _line(stamp[chosen] - middle, late[chosen])
    rest = late - line[0] - line[1] * (stamp - middle)
    steps = np.diff(stamp)
    steps = steps[steps > 0.0]
    interval = float(np.median(steps))
    usual = steps[steps <= 2.5 * interval]
    return Clock(
        offset_s=float(line[0]),
        offset_std_s=float(np.sqrt(covariance[0, 0])),
        drift_ppm=float(line[1] * 1e6),
        drift_std_ppm=float(np.sqrt(covariance[1, 1]) * 1e6),
        jitter_s=float(np.std(rest)),
        late_p99_s=float(np.quantile(rest, 0.99)),
        interval_s=interval,
        interval_jitter_s=float(np.std(usual)),
        gaps=len(steps) - len(usual),
        received=bool(np.any(late != 0.0)),
    )


def _earliest(rows: NDArray[np.intp], late: Float) -> int | None:
    return int(rows[np.argmin(late[rows])]) if len(rows) else None


def _line(x: Float, y: Float) -> tuple[Float, Float]:
    """Level at 0 and slope by least squares, (2,), and their covariance, (2, 2)."""
    columns = np.stack([np.ones_like(x), x], axis=1)
    solution = np.asarray(np.linalg.lstsq(columns, y, rcond=None)[0], float)
    residual = y - columns @ solution
    variance = float(residual @ residual) / max(len(x) - 2, 1)
    return solution, variance * np.linalg.inv(columns.T @ columns)
