"""Packets between the driver node and its wire process."""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.interface import Float, RobotSpec
from policies.runtime.packets import Closed as Closed
from policies.runtime.packets import channel_pair as channel_pair
from policies.runtime.packets import receive as receive
from policies.runtime.packets import send as send

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
