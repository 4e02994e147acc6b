"""The device's end of an emulated serial port: a pseudo terminal with the speed of a real wire."""

from __future__ import annotations

import contextlib
import heapq
import os
import select
import time
import tty
from pathlib import Path

from policies.errors import InputError

BITS_PER_BYTE = 10
NS = 1_000_000_000


class PtyPort:
    """A port with a name of its own; what is sent arrives when a wire would have carried it.

    Args:
        link: path under which others find it.
        baud: speed of the wire, bit/s; 0 for none to wait for.
    """

    def __init__(self, link: Path, baud: int) -> None:
        self.byte_ns = BITS_PER_BYTE * NS / baud if baud else 0.0
        self.bytes_in = self.bytes_out = 0
        self._end, self._other = os.openpty()  # the other end stays open between two clients
        tty.setraw(self._other)
        os.set_blocking(self._end, False)
        self._link = link
        self._free_ns = 0
        self._ends = [self._end, self._other]
        self._waiting: list[tuple[int, int, bytes]] = []
        self._plugged = False

    def plug(self) -> None:
        """Let others find the port, now that somebody answers.

        Raises:
            InputError: the path is taken.
        """
        try:
            self._link.symlink_to(os.ttyname(self._other))
        except OSError as error:
            raise InputError(f"{self._link}: {error.strerror}; choose another path") from None
        self._plugged = True

    def close(self) -> None:
        """Unplug: clients see the port go away."""
        if self._plugged:
            self._link.unlink(missing_ok=True)
            self._plugged = False
        while self._ends:
            os.close(self._ends.pop())

    def receive(self, until_ns: int) -> tuple[bytes, int]:
        """Wait for bytes until ``until_ns`` (steady time), and deliver what is due meanwhile.

        Returns:
            The bytes, none where none came; and when the last of them was on the wire, ns.
        """
        while True:
            self._deliver()
            now = time.monotonic_ns()
            next_ns = min(until_ns, self._waiting[0][0]) if self._waiting else until_ns
            ready, _, _ = select.select([self._end], [], [], max(next_ns - now, 0) / NS)
            if ready:
                with contextlib.suppress(BlockingIOError):
                    data = os.read(self._end, 4096)
                    self.bytes_in += len(data)
                    start = max(time.monotonic_ns(), self._free_ns)
                    self._free_ns = start + round(len(data) * self.byte_ns)
                    return data, self._free_ns
            if time.monotonic_ns() >= until_ns:
                self._deliver()
                return b"", until_ns

    def send(self, data: bytes, *, after_ns: int = 0) -> None:
        """Put bytes on the wire, when it is free and not before ``after_ns``."""
        start = max(self._free_ns, after_ns, time.monotonic_ns())
        self._free_ns = start + round(len(data) * self.byte_ns)
        heapq.heappush(self._waiting, (self._free_ns, self.bytes_out, data))
        self.bytes_out += len(data)

    def pause(self, nbytes: int) -> None:
        """Leave the wire idle for as long as ``nbytes`` would take: a reply that got lost."""
        self._free_ns = max(self._free_ns, time.monotonic_ns()) + round(nbytes * self.byte_ns)

    def _deliver(self) -> None:
        now = time.monotonic_ns()
        while self._waiting and self._waiting[0][0] <= now:
            data = heapq.heappop(self._waiting)[2]
            with contextlib.suppress(BlockingIOError):  # nobody reads: as on a wire, it is gone
                os.write(self._end, data)
