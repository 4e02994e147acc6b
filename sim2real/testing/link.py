"""A connection that loses, repeats, delays and reorders what is sent over it; seeded, pure."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from policies.errors import InputError

_NS = 1_000_000_000
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class LinkFaults:
    """What a connection does to messages.

    Attributes:
        drop: share of messages that get lost, 0 to 1.
        duplicate: share of messages that arrive twice, 0 to 1.
        delay_s: time on the way, s.
        jitter_s: further time on the way, uniform from 0 to this, s; more than the time between two
            messages reorders them.
        outages: (start, duration) of times in which nothing gets through, s since the start.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0
    outages: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        for name in ("drop", "duplicate"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"{name}: expected a share from 0 to 1, got {getattr(self, name)}")
        for name in ("delay_s", "jitter_s"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise InputError(f"{name}: expected a time >= 0 s, got {getattr(self, name)}")


class FaultyLink(Generic[T]):
    """A connection with :class:`LinkFaults`; the clock is passed in.

    Args:
        faults: what it does.
        seed: the same seed and the same messages give the same faults.
    """

    def __init__(self, faults: LinkFaults | None = None, *, seed: int = 0) -> None:
        self.faults = faults or LinkFaults()
        self.sent = self.lost = 0
        self._rng = np.random.default_rng(seed)
        self._under_way: list[tuple[int, int, T]] = []
        self._start_ns: int | None = None

    def send(self, item: T, now_ns: int) -> None:
        """Put a message on its way."""
        if self._start_ns is None:
            self._start_ns = now_ns
        self.sent += 1
        faults = self.faults
        # Drawn whether needed or not: one message's fate does not change the next one's.
        lost, twice, *jitter = self._rng.random(4)
        t_s = (now_ns - self._start_ns) / _NS
        out = any(start <= t_s < start + duration for start, duration in faults.outages)
        if lost < faults.drop or out:
            self.lost += 1
            return
        for copy in range(1 + (twice < faults.duplicate)):
            delay_s = faults.delay_s + jitter[copy] * faults.jitter_s
            due = now_ns + round(delay_s * _NS)
            heapq.heappush(self._under_way, (due, 2 * self.sent + copy, item))

    def receive(self, now_ns: int) -> list[T]:
        """Messages that have arrived by now, in the order of arrival."""
        arrived = []
        while self._under_way and self._under_way[0][0] <= now_ns:
            arrived.append(heapq.heappop(self._under_way)[2])
        return arrived

    @property
    def next_ns(self) -> int | None:
        """When the next message arrives, ns; None if none is under way."""
        return self._under_way[0][0] if self._under_way else None
