"""The program that plays a robot: its command line, its start pose, what it leaves behind."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from policies.checkpoint import load_policy
from policies.interface import Float, RobotSpec
from policies.runtime.scheduling import prefer_realtime
from realign_driver.process import on_stop, refusing


class Emulator(Protocol):
    """A robot or device that runs until it is told to stop."""

    def run(self) -> None:
        """Go on until :meth:`stop`."""

    def stop(self, *_: Any) -> None:
        """End the loop; also a signal handler."""

    def summary(self) -> dict[str, Any]:
        """What it saw, JSON-ready."""

    def columns(self) -> dict[str, Any]:
        """What each moment brought, arrays of one length, where a trace was asked for."""


E = TypeVar("E", bound=Emulator)


class Pace:
    """Periods of an emulated robot, on an absolute grid.

    A robot has no backlog to work off: time that the host did not give is lost to it.

    Args:
        period_ns: length of a period, ns.
        patience: periods of delay that are caught up with.

    Attributes:
        lost_s: time that was lost, s.
    """

    def __init__(self, period_ns: int, patience: int) -> None:
        self.lost_s = 0.0
        self._period_ns, self._patience_ns = period_ns, patience * period_ns
        self._deadline_ns = 0

    def start(self) -> None:
        """The first period begins."""
        self._deadline_ns = time.monotonic_ns()

    def wait(self, now_ns: int) -> None:
        """Wait for the next period.

        Args:
            now_ns: when it was seen how late this one is, steady clock, ns.
        """
        late_ns = now_ns - self._deadline_ns
        if late_ns > self._patience_ns:
            self.lost_s += late_ns / 1e9
            self._deadline_ns = now_ns
        self._deadline_ns += self._period_ns
        delay_ns = self._deadline_ns - time.monotonic_ns()
        if delay_ns > 0:
            time.sleep(delay_ns / 1e9)


def add_process_options(parser: argparse.ArgumentParser) -> None:
    """Options of every emulator."""
    add = parser.add_argument
    add("--realtime-priority", type=int, default=0, help="SCHED_FIFO priority")
    add("--summary", type=Path, default=None, help="JSON file to write at the end")


def add_robot_options(parser: argparse.ArgumentParser, *, faults: str) -> None:
    """Options of an emulator that has the physics of a robot.

    Args:
        parser: gets them.
        faults: an example of faults.
    """
    add_process_options(parser)
    add = parser.add_argument
    add("--policy", type=Path, default=None, help="checkpoint whose start pose to take")
    add("--gap", default="none", help="dynamics gap")
    add("--seed", type=int, default=0, help="of the start pose, and of what is left to chance")
    add("--faults", default="", help=f"e.g. {faults}")
    add("--trace", type=Path, default=None, help="npz file with what each moment brought")


def start_pose_rad(policy: Path | None, robot: RobotSpec) -> Float | None:
    """Where a policy begins, (n,), rad; None without one.

    Raises:
        InputError: it is not for this robot.
    """
    return np.array(load_policy(policy, robot).spec.start_pose_rad) if policy else None


def play(make: Callable[[], E], given: argparse.Namespace) -> E:
    """Run an emulator until SIGINT or SIGTERM, then write what was asked for.

    Exit code 2 where it cannot be made of what was given.

    Args:
        make: the emulator.
        given: the options above.
    """
    try:
        with refusing():
            emulator = make()
            on_stop(emulator.stop)
            prefer_realtime(given.realtime_priority)
            emulator.run()
    except KeyboardInterrupt:  # while it was still being built
        raise SystemExit(130) from None
    if given.summary is not None:
        given.summary.write_text(json.dumps(emulator.summary()))
    if getattr(given, "trace", None) is not None:
        np.savez(given.trace, **emulator.columns())
    return emulator
