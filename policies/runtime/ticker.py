"""When a policy is asked: by the stamps of the data, not by a timer.

A policy at 50 Hz on joint states at 200 Hz is asked at every fourth one. Driven by stamps, the
same policy ticks identically in lockstep, in real time and from a bag, and never sees a phase
that drifts against its data.
"""

from __future__ import annotations

_TOLERANCE_NS = 1_000


class Ticker:
    """Says at which stamps a policy at ``rate_hz`` is due."""

    def __init__(self, rate_hz: float) -> None:
        self.period_ns = round(1e9 / rate_hz)
        self._next_ns: int | None = None
        self._last_ns: int | None = None

    def reset(self) -> None:
        """The next stamp is due, whatever it is."""
        self._next_ns = self._last_ns = None

    def due(self, stamp_ns: int) -> bool:
        """True if the policy must answer the observation with this stamp.

        A stamp that goes backwards (a restarted simulator, a looped bag) starts a new grid. A pause
        longer than a period skips the missed ticks: a policy never has to catch up.
        """
        if self._last_ns is not None and stamp_ns < self._last_ns:
            self.reset()
        elif self._last_ns is not None and stamp_ns == self._last_ns:
            return False
        self._last_ns = stamp_ns
        if self._next_ns is None:
            self._next_ns = stamp_ns + self.period_ns
            return True
        if stamp_ns < self._next_ns - _TOLERANCE_NS:
            return False
        missed = (stamp_ns - self._next_ns + _TOLERANCE_NS) // self.period_ns
        self._next_ns += (missed + 1) * self.period_ns
        return True
