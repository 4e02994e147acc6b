"""Packets between the driver node and the processes of arm and hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.interface import Float
from policies.runtime.packets import Closed as Closed
from policies.runtime.packets import channel_pair as channel_pair
from policies.runtime.packets import receive as receive
from policies.runtime.packets import send as send

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
