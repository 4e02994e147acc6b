"""Small watches that the guard keeps on time: missed periods, rates, lasting conditions."""

from __future__ import annotations

import zlib
from array import array

import numpy as np

from policies.interface import Float

_NS = 1_000_000_000
_FROZEN_TRAVEL_RAD = 0.01
_BLIND_TRAVEL_RAD = 0.2
_BLIND_S = 0.5


class OverrunWatch:
    """Counts periods of a loop that were missed in a row.

    Args:
        period_s: the loop's period, s; 0 watches nothing.
    """

    def __init__(self, period_s: float) -> None:
        self._period_ns = round(period_s * _NS)
        self._last_ns: int | None = None
        self.in_a_row = 0
        self.total = 0

    def tick(self, now_ns: int) -> int:
        """Take note of a tick; returns the periods missed in a row."""
        last, self._last_ns = self._last_ns, now_ns
        if not self._period_ns or last is None:
            return 0
        missed = max((now_ns - last + self._period_ns // 2) // self._period_ns - 1, 0)
        self.in_a_row = self.in_a_row + missed if missed else 0
        self.total += missed
        return self.in_a_row


class FrozenWatch:
    """For how long joints have read the same, to the last bit, since the command moved on.

    A joint at rest reads the same for seconds where its encoder is coarse, and needs a moment to
    follow: the time counts from where the command went away.
    """

    def __init__(self) -> None:
        self._since_ns = 0
        self._command: Float | None = None

    def moved(self, now_ns: int) -> None:
        """A joint reads something else than before."""
        self._since_ns, self._command = now_ns, None

    def for_s(self, command_rad: Float | None, now_ns: int) -> float:
        """Time under a command, (n,), that has moved on while nothing else did, s."""
        if command_rad is None:
            return 0.0
        if self._command is None:
            self._command = command_rad
        if not np.any(np.abs(command_rad - self._command) > _FROZEN_TRAVEL_RAD):
            self._since_ns = now_ns
        return (now_ns - self._since_ns) / _NS


class PictureWatch:
    """Whether a camera shows what is there: its pictures are recent, and not always the same.

    Noise makes each picture of a camera another one; in front of a simulated camera the robot does.
    """

    def __init__(self) -> None:
        self._stamp_ns: int | None = None
        self._digest: int | None = None
        self._since_ns = 0
        self._pose: Float | None = None
        self._moved = False

    def take(
        self, stamp_ns: int, data: bytes | bytearray | memoryview | array[int] | None = None
    ) -> None:
        """Take note of a picture.

        Args:
            stamp_ns: its stamp, ns.
            data: its bytes as they came; None where nobody asks whether it is frozen.
        """
        self._stamp_ns = stamp_ns
        if data is None:
            return
        digest = zlib.crc32(data)
        if digest != self._digest:
            self._digest, self._since_ns = digest, stamp_ns
            self._pose, self._moved = None, False

    def is_silent(self, stamp_ns: int, max_age_s: float) -> bool:
        """True if the newest picture is further than ``max_age_s`` from a stamp, or none came."""
        return self._stamp_ns is None or abs(stamp_ns - self._stamp_ns) > round(max_age_s * _NS)

    def is_frozen(self, stamp_ns: int, positions: Float) -> bool:
        """True if the robot has moved under one picture, until there is another one.

        Args:
            stamp_ns: of the joint state, ns.
            positions: of the joints, in any order that stays, rad.
        """
        if self._pose is None or self._pose.shape != positions.shape:
            self._pose = positions
        self._moved |= bool(np.any(np.abs(positions - self._pose) > _BLIND_TRAVEL_RAD))
        return self._moved and (stamp_ns - self._since_ns) / _NS > _BLIND_S


class RateWatch:
    """Compares the pace of stamps with that of the clock: recorded slow, stamped fast.

    Args:
        tolerance: relative difference that is too much.
        window_s: length of a comparison, s.

    Attributes:
        error: relative difference over the last whole window; 0 before.
    """

    def __init__(self, tolerance: float, window_s: float = 1.0) -> None:
        self._tolerance = tolerance
        self._window_ns = round(window_s * _NS)
        self._first: tuple[int, int] | None = None
        self._newest_ns = -1
        self.error = 0.0

    def reset(self) -> None:
        """Start a new window (a clock jumped)."""
        self._first = None

    def add(self, stamp_ns: int, now_ns: int) -> bool:
        """Take a stamp and the time of its receipt; True when a window has just turned out bad."""
        paused, self._newest_ns = stamp_ns == self._newest_ns, stamp_ns
        if self._first is None or paused:  # a clock that stands still is a pause, not a slow one
            self._first = stamp_ns, now_ns
            return False
        elapsed = now_ns - self._first[1]
        if elapsed < self._window_ns:
            return False
        self.error = (stamp_ns - self._first[0]) / elapsed - 1.0
        self._first = stamp_ns, now_ns
        return abs(self.error) > self._tolerance


class Streak:
    """How long a condition has lasted without a break."""

    def __init__(self) -> None:
        self._since_ns: int | None = None
        self._told = False

    def lasts(self, condition: bool, now_ns: int, limit_s: float) -> bool:
        """True once, when ``condition`` has held for ``limit_s``."""
        if not condition:
            self._since_ns, self._told = None, False
            return False
        if self._since_ns is None:
            self._since_ns = now_ns
        if self._told or now_ns - self._since_ns < limit_s * _NS:
            return False
        self._told = True
        return True
