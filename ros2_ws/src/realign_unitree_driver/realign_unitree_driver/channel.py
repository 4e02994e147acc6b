"""Packets between the driver node and its wire process, over a pair of Unix sockets.

Fixed-size records on ``SOCK_SEQPACKET``: whole packets or none, and the death of one side is an end
of file on the other within microseconds, however it died.
"""

from __future__ import annotations

import select
import socket
from typing import Any

import numpy as np

from policies.interface import Float, RobotSpec

MAX_JOINTS = 35
TRACK, DAMP, FINISH, RESET = range(4)  # kinds of a command packet

COMMAND = np.dtype([("kind", "<i8"), ("q", "<f8", MAX_JOINTS)])
STATE = np.dtype(
    [
        ("stamp_ns", "<i8"),  # steady clock of the host
        ("mode", "<i8"),
        ("stop", "S64"),
        ("keys", "S64"),
        ("q", "<f8", MAX_JOINTS),
        ("dq", "<f8", MAX_JOINTS),
        ("tau", "<f8", MAX_JOINTS),
        ("quat_wxyz", "<f8", 4),
        ("gyro_rad_s", "<f8", 3),
        ("accel_m_s2", "<f8", 3),
        ("case_c", "<f8"),
        ("winding_c", "<f8"),
        ("damaged", "<i8"),
        ("missed_writes", "<i8"),
        ("gap_ms", "<f8", 3),  # between two commands: p50, p99, max
    ]
)
_QUEUE_BYTES = 16384
_LARGEST = max(COMMAND.itemsize, STATE.itemsize)


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends: the node's and the wire process's."""
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
    """A command packet; positions (n,) rad for ``TRACK``."""
    record = np.zeros((), dtype=COMMAND)
    record["kind"] = kind
    if positions_rad is not None:
        record["q"][: len(positions_rad)] = positions_rad
    return record


def joints(robot: RobotSpec, record: Any, name: str) -> Float:
    """One joint array of a state packet, (n,)."""
    values: Float = record[name][: robot.n]
    return values
