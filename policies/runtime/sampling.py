"""An action chunk at an instant: by time, never by index."""

from __future__ import annotations

from policies.interface import ActionChunk, Float

_NS = 1_000_000_000


def sample(chunk: ActionChunk, stamp_ns: int, *, hold: bool) -> Float:
    """The chunk's command at ``stamp_ns``, (n,): linear between steps, or held (``hold``).

    Steps in the past are skipped by time, not by index; after the last step it is kept.
    """
    rows: Float = chunk.positions_rad
    if len(rows) == 1 or chunk.dt_s <= 0.0:
        first: Float = rows[0]
        return first
    place = max((stamp_ns - chunk.stamp_ns) / _NS / chunk.dt_s, 0.0)
    # Stamps are integer ns: a place a hair below a step is that step.
    k = int(min(place + 1e-6, len(rows) - 1))
    share = place - k
    if hold or k == len(rows) - 1 or share <= 0.0:
        kept: Float = rows[k]
        return kept
    between: Float = rows[k] + share * (rows[k + 1] - rows[k])
    return between
