"""Message definitions and type hashes, without ROS."""

from __future__ import annotations

from functools import lru_cache

from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from policies.errors import InputError


@lru_cache(maxsize=1)
def typestore() -> Typestore:
    """Every message type of a stock ROS 2 Kilted."""
    return get_typestore(Stores.ROS2_KILTED)


def is_known(msgtype: str) -> bool:
    """True for a type of a stock ROS 2."""
    return msgtype in typestore().fielddefs


@lru_cache(maxsize=256)
def starts_with_header(msgtype: str) -> bool:
    """True if the first field is a ``std_msgs/Header``, so that CDR bytes 4..12 are its stamp."""
    if msgtype == "std_msgs/msg/Header":
        return True
    if not is_known(msgtype):
        return False
    fields = typestore().fielddefs[msgtype][1]
    return bool(fields) and fields[0][1][1] == "std_msgs/msg/Header"


def definition(msgtype: str) -> str:
    """``ros2msg`` text of a type with all types that it uses.

    Raises:
        InputError: the type is not one of a stock ROS 2.
    """
    if not is_known(msgtype):
        raise InputError(
            f"message type: expected one of a stock ROS 2, got {msgtype!r}; "
            "pass its definition along with the topic"
        )
    return typestore().generate_msgdef(msgtype, ros_version=2)[0]


def type_hash(msgtype: str) -> str:
    """RIHS01 hash of a type, or an empty string for one that is not stock."""
    return typestore().hash_rihs01(msgtype) if is_known(msgtype) else ""
