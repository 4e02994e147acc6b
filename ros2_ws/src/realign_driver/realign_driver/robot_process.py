"""A process that talks to the robot: both sides of the way between it and its node."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from policies.runtime.packets import Closed, channel_pair, receive, send


class RobotProcess:
    """A process of a driver node, which it outlives where the robot needs that.

    Args:
        module: what it runs, as in ``python -m``.
        config: frozen dataclass with a ``channel_fd``; JSON on its command line.
        hangs_s: time without a packet after which it counts as hanging, s.
    """

    def __init__(self, module: str, config: Any, *, hangs_s: float = float("inf")) -> None:
        self._hangs_s, self._heard_ns = hangs_s, 0
        self._end, theirs = channel_pair()
        arguments = dataclasses.asdict(config) | {"channel_fd": theirs.fileno()}
        self.popen = subprocess.Popen(
            [sys.executable, "-m", module, json.dumps(arguments)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # what kills this node must not kill it
        )
        theirs.close()

    def send(self, record: Any) -> bool:
        """Send a NumPy record; False where the process is gone, which :meth:`newest` raises."""
        with contextlib.suppress(Closed):
            send(self._end, record)
            return True
        return False

    def newest(self, dtype: np.dtype[Any], *, wait_s: float = 0.0) -> Any:
        """Newest record of ``dtype``, or None where none comes within ``wait_s``.

        Raises:
            Closed: the process is gone, or hangs, which is as bad, and was killed: it must not
                come back to life beside what takes its place.
        """
        newest = receive(self._end, dtype, wait_s=wait_s)
        now = time.monotonic_ns()
        if newest is None:
            if self._heard_ns and (now - self._heard_ns) / 1e9 > self._hangs_s:
                self.popen.kill()
                raise Closed
            return None
        self._heard_ns = now
        with contextlib.suppress(Closed):  # raised next time: its last packet may say why
            while (newer := receive(self._end, dtype)) is not None:
                newest = newer
        return newest

    def wait(self, seconds: float) -> None:
        """Give it time to end by itself."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(seconds)

    def close(self) -> None:
        """Talk to it no more; it takes that for the end of this node."""
        self._end.close()


class NodeEnd:
    """The process's side; without a node, or after its death, nothing is heard or sent.

    Args:
        end: socket to the driver node; None where there is none.
        on_death: called once, when the node is gone.
    """

    def __init__(self, end: socket.socket | None, on_death: Callable[[], None]) -> None:
        self._end, self._on_death = end, on_death

    @property
    def alive(self) -> bool:
        """True while there is a node."""
        return self._end is not None

    def commands(self, dtype: np.dtype[Any]) -> Iterator[Any]:
        """The records of ``dtype`` that have come since the last call."""
        try:
            while self._end is not None and (record := receive(self._end, dtype)) is not None:
                yield record
        except Closed:
            self._lose()

    def send(self, record: Any) -> None:
        """Send a NumPy record."""
        try:
            if self._end is not None:
                send(self._end, record)
        except Closed:
            self._lose()

    def _lose(self) -> None:
        assert self._end is not None  # or nothing could have been closed
        self._end.close()
        self._end = None
        self._on_death()
