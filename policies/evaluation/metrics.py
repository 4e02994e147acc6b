"""Figures of a closed-loop evaluation, and their intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from policies.interface import Float

_Z95 = 1.959963984540054


def wilson(successes: int, runs: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    share, z2 = successes / runs, _Z95**2
    middle = (share + z2 / (2 * runs)) / (1 + z2 / runs)
    half = _Z95 * math.sqrt(share * (1 - share) / runs + z2 / (4 * runs**2)) / (1 + z2 / runs)
    # Exactly 0 or 1 where rounding would miss them.
    return (
        0.0 if successes == 0 else middle - half,
        1.0 if successes == runs else middle + half,
    )


def largest_jump(actions: Float) -> float:
    """Largest change of an entry from one step to the next, in units of the action.

    Args:
        actions: what was sent, (T, A).
    """
    return float(np.abs(np.diff(actions, axis=0)).max()) if len(actions) > 1 else 0.0


def jerk(actions: Float) -> float:
    """Root mean square of the third difference of the actions, in units of the action per step^3.

    It compares ways to execute one policy; between tasks it says nothing.

    Args:
        actions: what was sent, (T, A).
    """
    if len(actions) < 4:
        return 0.0
    return float(np.sqrt(np.mean(np.diff(actions, n=3, axis=0) ** 2)))


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and mean of some values."""
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {"p50": float(p50), "p95": float(p95), "p99": float(p99), "mean": float(np.mean(values))}
