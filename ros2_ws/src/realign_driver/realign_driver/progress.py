"""How far a run is: on standard output, for `realign run`."""

from __future__ import annotations

import time

_EVERY_NS = 100_000_000


def print_progress(elapsed_s: float, duration_s: float) -> None:
    """Say how far a run is, in seconds."""
    print(f"progress {elapsed_s:.2f} {duration_s:.2f}", flush=True)


class Progress:
    """The time of a run, which begins with the first command that moves the robot.

    Args:
        duration_s: how long it is to last, s; 0 for no end.
        aloud: print it.

    Attributes:
        stamp_ns: time of the robot's newest state, ns.
    """

    def __init__(self, duration_s: float, *, aloud: bool) -> None:
        self.duration_s, self.stamp_ns = duration_s, 0
        self._aloud = aloud
        self._first_ns = self._told_ns = 0

    def begin(self) -> None:
        """The robot moves, from this state on; or it did so before."""
        self._first_ns = self._first_ns or self.stamp_ns

    @property
    def elapsed_s(self) -> float:
        """Time since the first command that moves, s."""
        return (self.stamp_ns - self._first_ns) / 1e9 if self._first_ns else 0.0

    @property
    def done(self) -> bool:
        """True when the run has lasted its duration (0: it has none)."""
        return bool(self.duration_s) and self.elapsed_s >= self.duration_s

    def tell(self) -> None:
        """Print how far it is, ten times a second."""
        now = time.monotonic_ns()
        if self._aloud and now - self._told_ns > _EVERY_NS:
            self._told_ns = now
            print_progress(self.elapsed_s, self.duration_s)

    def fault(self, text: str) -> None:
        """Say that the run cannot go on, and why."""
        if self._aloud:
            print(f"fault {text}", flush=True)
