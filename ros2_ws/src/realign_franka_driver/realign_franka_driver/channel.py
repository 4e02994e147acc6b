"""Packets between the driver node and its processes, over pairs of Unix sockets.

Fixed-size records on ``SOCK_SEQPACKET``: whole packets or none, and the death of one side is an end
of file on the other within microseconds, however it died.
"""

from __future__ import annotations

import select
import socket
from typing import Any

import numpy as np

from policies.interface import Float

JOINTS = 7
TRACK, STAND, FINISH, RESET, RECOVER = range(5)  # kinds of a packet to the control process
MOVE_HAND, HOME_HAND = range(2)  # kinds of a packet to the hand's process

COMMAND = np.dtype([("kind", "<i8"), ("q", "<f8", JOINTS)])
STATE = np.dtype(
    [
        ("stamp_ns", "<i8"),  # steady clock of the host
        ("mode", "<i8"),
        ("stop", "S240"),
        ("answer", "S120"),  # to the last RESET or RECOVER, empty where it was done
        ("answers", "<i8"),  # how many of them have been answered
        ("q", "<f8", JOINTS),
        ("dq", "<f8", JOINTS),
        ("tau", "<f8", JOINTS),
        ("tau_external", "<f8", JOINTS),
        ("success_rate", "<f8"),
        ("skipped", "<i8"),  # periods of which no state was seen
        ("cycle_us", "<f8", 3),  # from a state to its answer: p50, p99, max
    ]
)
HAND_COMMAND = np.dtype([("kind", "<i8"), ("width_m", "<f8")])
HAND_STATE = np.dtype(
    [("width_m", "<f8"), ("max_width_m", "<f8"), ("is_grasped", "?"), ("error", "S120")]
)
_QUEUE_BYTES = 16384
_LARGEST = 4096


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends: the node's and the other process's."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:  # a reader that is late must not find a long queue of old packets
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _QUEUE_BYTES)
    return ends


class Closed(Exception):
    """The other side is gone."""


def send(end: socket.socket, record: Any) -> None:
    """Send a record; one that does not fit into a full queue is dropped, the next is newer.

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


def command(kind: int, positions_rad: Float | None = None) -> Any:
    """A packet to the control process; positions (7,) rad for ``TRACK``."""
    record = np.zeros((), dtype=COMMAND)
    record["kind"] = kind
    if positions_rad is not None:
        record["q"] = positions_rad
    return record


def hand_command(kind: int, width_m: float = 0.0) -> Any:
    """A packet to the hand's process; an opening for ``MOVE_HAND``."""
    record = np.zeros((), dtype=HAND_COMMAND)
    record["kind"], record["width_m"] = kind, width_m
    return record
