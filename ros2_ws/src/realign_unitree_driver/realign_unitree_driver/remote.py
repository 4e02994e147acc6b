"""The wireless remote, as it appears in LowState: 16 keys and two sticks in 40 bytes."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Any

from policies.errors import InputError

KEYS = (
    *("R1", "L1", "start", "select", "R2", "L2", "F1", "F2"),
    *("A", "B", "X", "Y", "up", "right", "down", "left"),
)
STOP_KEYS = (frozenset({"L2", "B"}), frozenset({"select"}))
ARM_KEYS = frozenset({"A"})
_BITS = struct.Struct("<H")
_KEYS_AT = 2


def pressed(wireless_remote: Any) -> frozenset[str]:
    """Names of the keys that are down; ``wireless_remote`` is the (40,) field of LowState."""
    (bits,) = _BITS.unpack_from(bytes(wireless_remote[:4]), _KEYS_AT)
    return frozenset(key for i, key in enumerate(KEYS) if bits >> i & 1)


def remote_bytes(keys: Iterable[str]) -> bytes:
    """The field of a remote with ``keys`` down and its sticks at rest, 40 bytes.

    Raises:
        InputError: no such key.
    """
    bits = 0
    for key in keys:
        if key not in KEYS:
            raise InputError(f"expected a key out of {list(KEYS)}, got {key!r}")
        bits |= 1 << KEYS.index(key)
    return b"\x55\x51" + _BITS.pack(bits) + bytes(36)


def wants_stop(keys: frozenset[str]) -> bool:
    """True for a combination that stops the robot: L2 with B, or select."""
    return any(combination <= keys for combination in STOP_KEYS)


def wants_arm(keys: frozenset[str]) -> bool:
    """True for A alone: the operator arms the guard."""
    return keys == ARM_KEYS
