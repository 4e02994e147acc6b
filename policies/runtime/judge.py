"""Whether an action chunk may be followed at all: taken whole, or refused whole."""

from __future__ import annotations

import numpy as np

from policies.interface import ActionChunk
from policies.runtime.fault import Reason
from policies.runtime.guard_config import NS, GuardConfig
from policies.runtime.limits import Limits


def judge(
    chunk: ActionChunk,
    *,
    limits: Limits,
    config: GuardConfig,
    stamp_ns: int,
    previous_ns: int | None,
) -> Reason | None:
    """Why a chunk is refused, or None.

    Args:
        chunk: the chunk, of any shape and content.
        limits: of the robot.
        config: thresholds.
        stamp_ns: robot time now, ns.
        previous_ns: stamp of the chunk that is being followed, ns, or None.
    """
    rows = chunk.positions_rad
    joints = len(limits.lower_rad)
    if rows.ndim != 2 or rows.shape[1] != joints or not 0 < len(rows) <= config.max_steps:
        return Reason.BAD_SHAPE
    if not np.isfinite(chunk.dt_s) or chunk.dt_s < 0.0:
        return Reason.BAD_SHAPE
    if not np.isfinite(rows).all():
        return Reason.NON_FINITE
    center = 0.5 * (limits.lower_rad + limits.upper_rad)
    half = 0.5 * (limits.upper_rad - limits.lower_rad)
    if bool(np.any(np.abs(rows - center) > config.gross_factor * half)):
        return Reason.OUT_OF_LIMITS
    age_s = (stamp_ns - chunk.stamp_ns) / NS
    if age_s > config.chunk_max_age_s:
        return Reason.STALE_CHUNK
    if age_s < -config.state_max_age_s:
        return Reason.FUTURE_CHUNK
    if previous_ns is not None and chunk.stamp_ns < previous_ns:
        return Reason.OLD_CHUNK
    return None
