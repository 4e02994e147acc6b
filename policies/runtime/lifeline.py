"""No process of a graph outlives the one that started it.

Whoever starts a graph holds the writing end of a pipe and never writes; every process of the graph
reads from the other end. However the launcher ends, kill -9 included, the kernel closes its end,
and the read returns at once. What happens then is a matter of order: the guard stops the robot in
the same moment (:func:`on_loss`), and the processes end one after the other, those first that make
the robot move and those last that make it stand still and write down how.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import weakref
from collections.abc import Callable

END_S = 10.0
_lost: list[Callable[[], None]] = []


class Lifeline:
    """The launcher's end: exists as long as this object or the process.

    Attributes:
        fd: file descriptor that the processes of the graph inherit.
    """

    def __init__(self) -> None:
        self.fd, writing = os.pipe()
        self._close = weakref.finalize(self, _close, self.fd, writing)

    def cut(self) -> None:
        """What the end of this process does."""
        self._close()


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def on_loss(action: Callable[[], None]) -> None:
    """Have this process do something at once when its launcher is gone, in a thread of its own.

    Args:
        action: what to do; without a launcher that watches over this process it is never done.
    """
    _lost.append(action)


def hold_on(fd: int, seconds: float, *, end_s: float = END_S) -> threading.Thread:
    """End this process after its launcher: by SIGINT, then by SIGKILL.

    Args:
        fd: :attr:`Lifeline.fd`, inherited.
        seconds: time from the launcher's end to SIGINT, s.
        end_s: time from SIGINT to SIGKILL, s.

    Returns:
        The thread that watches.
    """

    def watch() -> None:
        os.read(fd, 1)  # nothing is ever written: it returns when nobody is left who could
        try:
            for action in _lost:
                action()
        finally:
            time.sleep(seconds)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(end_s)
            os.kill(os.getpid(), signal.SIGKILL)

    thread = threading.Thread(target=watch, name="lifeline", daemon=True)
    thread.start()
    return thread
