"""Packets between a driver node and the processes that it starts, over pairs of Unix sockets.

Fixed-size records on ``SOCK_SEQPACKET``: whole packets or none, and the death of one side is an end
of file on the other within microseconds, however it died.
"""

from __future__ import annotations

import select
import socket
from typing import Any

import numpy as np

_QUEUE_BYTES = 16384
_LARGEST = 16384


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends: the node's and the other process's."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:  # a reader that is late must not find a long queue of old packets
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _QUEUE_BYTES)
    return ends


class Closed(Exception):
    """The other side is gone."""


def send(end: socket.socket, record: Any) -> None:
    """Send a NumPy record; one that does not fit into a full queue is dropped, the next is newer.

    Raises:
        Closed: the other side is gone.
    """
    try:
        end.send(record.tobytes(), socket.MSG_DONTWAIT)
    except BlockingIOError:
        return
    except OSError:
        raise Closed from None


def receive(end: socket.socket, dtype: np.dtype[Any], *, wait_s: float = 0.0) -> Any:
    """Next record of ``dtype``, or None where none comes within ``wait_s``.

    Raises:
        Closed: the other side is gone.
    """
    try:
        if wait_s:
            select.select([end], [], [], wait_s)
        packet = end.recv(_LARGEST, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        raise Closed from None
    if len(packet) != dtype.itemsize:
        raise Closed
    return np.frombuffer(packet, dtype=dtype)[0]
