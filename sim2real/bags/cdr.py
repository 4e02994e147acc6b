"""CDR messages to NumPy columns: whole batches of equal layout at once, the rest one by one.

A layout is found by walking one message. It holds for every message of the same length whose
encapsulation, sequence lengths and joint names are the same bytes; those are decoded together,
viewed as one NumPy structured array. CDR: OMG DDS-XTypes 1.3, plain CDR version 1.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from sim2real.bags.batch import Bytes
from sim2real.bags.definitions import typestore

Array = NDArray[Any]
Step = tuple[str, str, int]

# rclpy's serializer over-allocates messages that end in an empty float64[] by up to 8 bytes
MAX_TRAILING_BYTES = 8

_HEADER: tuple[Step, ...] = (("i4", "sec", 1), ("u4", "nanosec", 1), ("text", "frame_id", 0))
_POSE: tuple[Step, ...] = (("f8", "position", 3), ("f8", "orientation", 4))
_JOINTS: tuple[Step, ...] = tuple(
    ("sequence", name, 0) for name in ("position", "velocity", "effort")
)
_POINT: tuple[Step, ...] = (
    *(("sequence", n, 0) for n in ("positions", "velocities", "accelerations", "effort")),
    ("i4", "from_start_sec", 1),
    ("u4", "from_start_nanosec", 1),
)
# a step without a name is passed over: covariances have no columns
STEPS: dict[str, tuple[Step, ...]] = {
    "sensor_msgs/msg/JointState": (*_HEADER, ("names", "name", 0), *_JOINTS),
    "trajectory_msgs/msg/JointTrajectory": (
        *_HEADER,
        ("names", "joint_names", 0),
        ("points", "points", 0),
    ),
    "sensor_msgs/msg/Imu": (
        *_HEADER,
        ("f8", "orientation", 4),
        ("f8", "", 9),
        ("f8", "angular_velocity", 3),
        ("f8", "", 9),
        ("f8", "linear_acceleration", 3),
        ("f8", "", 9),
    ),
    "nav_msgs/msg/Odometry": (
        *_HEADER,
        ("text", "child_frame_id", 0),
        *_POSE,
        ("f8", "", 36),
        ("f8", "linear_velocity", 3),
        ("f8", "angular_velocity", 3),
        ("f8", "", 36),
    ),
    "geometry_msgs/msg/PoseStamped": (*_HEADER, *_POSE),
    "std_msgs/msg/Header": _HEADER,
    "std_msgs/msg/Int32": (("i4", "data", 1),),
    "std_msgs/msg/String": (("text", "data", 0),),
}
# where the text is the message; elsewhere (frame ids) it may change without a new layout
TEXT_TYPES = ("std_msgs/msg/Header", "std_msgs/msg/String")
# fixed bytes closer than this are compared together with what lies between, mostly padding
_SPAN_GAP_BYTES = 8
_SIZES = {"i4": 4, "u4": 4, "f8": 8}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the fields of one kind of message lie.

    Attributes:
        dtype: structured dtype over the whole message.
        sample: the message that it was found in, (length,).
        fixed: which of its bytes must be as in the sample, (length,).
        spans: stretches that hold all of the fixed bytes and few others.
        names: joint names, () for types without.
        n_points: number of trajectory points, 0 for other types.
        text: text field -> its value in the sample.
    """

    dtype: np.dtype[Any]
    sample: Bytes
    fixed: NDArray[np.bool_]
    spans: tuple[tuple[int, int], ...]
    names: tuple[str, ...]
    n_points: int
    text: dict[str, str]


@dataclass(kw_only=True)
class Block:
    """Messages of one layout, decoded: field -> (messages, count)."""

    names: tuple[str, ...]
    n_points: int
    fields: dict[str, Array]
    text: dict[str, list[str]]


@dataclass
class _Walk:
    """Cursor over one little-endian CDR message; alignment counts from byte 4."""

    data: memoryview | bytes
    with_text: bool
    position: int = 4
    layout: list[tuple[str, str, int, int]] = field(default_factory=list)
    fixed: list[tuple[int, int]] = field(default_factory=lambda: [(0, 2)])
    names: tuple[str, ...] = ()
    n_points: int = 0
    text: dict[str, str] = field(default_factory=dict)

    def take(self, size: int, align: int) -> int:
        """Pass over ``size`` bytes; returns where they begin, after alignment."""
        start = self.position + (4 - self.position) % align
        self.position = start + size
        if self.position > len(self.data):
            raise ValueError("it is shorter than its length fields say")
        return start

    def count(self) -> int:
        """Read a length field, which is a part of the layout."""
        start = self.take(4, 4)
        self.fixed.append((start, start + 4))
        value: int = struct.unpack_from("<I", self.data, start)[0]
        return value

    def string(self, *, constant: bool) -> str:
        """Read a string, whose bytes become a part of the layout, or pass over it ("")."""
        size = self.count()
        start = self.take(size, 1)
        if not constant:
            return ""
        self.fixed.append((start, start + size))
        return bytes(self.data[start : start + max(size - 1, 0)]).decode()

    def array(self, name: str, kind: str, count: int) -> None:
        """Pass over ``count`` numbers, which are a field if they have a name."""
        if count:
            size = _SIZES[kind]
            start = self.take(count * size, size)
            if name:
                self.layout.append((name, kind, count, start))

    def steps(self, steps: tuple[Step, ...], prefix: str = "") -> None:
        """Pass over the fields of a message or of a part of it."""
        for kind, name, count in steps:
            if kind == "text":
                value = self.string(constant=self.with_text)
                if self.with_text:
                    self.text[name] = value
            elif kind == "names":
                total = self.count()
                if total > len(self.data):
                    raise ValueError("it is shorter than its length fields say")
                self.names = tuple(self.string(constant=True) for _ in range(total))
            elif kind == "sequence":
                self.array(prefix + name, "f8", self.count())
            elif kind == "points":
                self.n_points = self.count()
                for point in range(self.n_points):
                    self.steps(_POINT, f"{point}.")
            else:
                self.array(prefix + name, kind, count)


def find_layout(data: memoryview | bytes, msgtype: str) -> Layout:
    """Walk one message.

    Args:
        data: little-endian CDR with its 4-byte header.
        msgtype: one of :data:`STEPS`.

    Raises:
        ValueError: the bytes are not a message of this type.
    """
    if len(data) < 4 or bytes(data[:2]) != b"\x00\x01":
        raise ValueError("its encapsulation is not little-endian CDR")
    walk = _Walk(data, with_text=msgtype in TEXT_TYPES)
    walk.steps(STEPS[msgtype])
    if len(data) - walk.position > MAX_TRAILING_BYTES:
        raise ValueError(f"{len(data) - walk.position} bytes are left over at its end")
    dtype = np.dtype(
        {
            "names": [name for name, _, _, _ in walk.layout],
            "formats": [(f"<{kind}", (count,)) for _, kind, count, _ in walk.layout],
            "offsets": [offset for _, _, _, offset in walk.layout],
            "itemsize": len(data),
        }
    )
    fixed = np.zeros(len(data), bool)
    spans: list[tuple[int, int]] = []
    for start, stop in walk.fixed:
        fixed[start:stop] = True
        if spans and start - spans[-1][1] <= _SPAN_GAP_BYTES:
            start = spans.pop()[0]
        spans.append((start, stop))
    return Layout(
        dtype=dtype,
        sample=np.frombuffer(bytes(data), np.uint8),
        fixed=fixed,
        spans=tuple(spans),
        names=walk.names,
        n_points=walk.n_points,
        text=walk.text,
    )


def matches(layout: Layout, stacked: Bytes) -> NDArray[np.bool_]:
    """Which of the messages, bytes (N, length), have this layout: (N,)."""
    same = np.ones(len(stacked), bool)
    for start, stop in layout.spans:
        equal = stacked[:, start:stop] == layout.sample[start:stop]
        if not equal.all():
            same &= equal.all(axis=1)
    if not same.all():  # what lies between fixed bytes, such as padding, may differ
        rest = np.flatnonzero(~same)
        same[rest] = ((stacked[rest] == layout.sample) | ~layout.fixed).all(axis=1)
    return same


def decode_batch(layout: Layout, stacked: Bytes) -> Block:
    """Decode messages of one layout, bytes (N, length), all at once; fields are views of them."""
    rows = stacked.view(layout.dtype)[:, 0]
    return Block(
        names=layout.names,
        n_points=layout.n_points,
        fields={name: rows[name] for name in layout.dtype.names or ()},
        text={name: [value] * len(rows) for name, value in layout.text.items()},
    )


def decode_one(data: memoryview | bytes, msgtype: str) -> Block:
    """Decode any one message through rosbags, either byte order.

    Raises:
        ValueError: the bytes are not a message of this type.
    """
    if len(data) < 4 or bytes(data[:2]) not in (b"\x00\x00", b"\x00\x01"):
        raise ValueError("its encapsulation is not plain CDR")
    store = typestore()
    kind = store.get_msgdef(msgtype)
    read = kind.deserialize_cdr_le if data[1] else kind.deserialize_cdr_be
    try:
        message, end = read(bytes(data[4:]), 0, kind.cls, store)
    except Exception as error:  # generated code: any exception means bytes of another shape
        raise ValueError(f"it cannot be deserialised ({error})") from None
    if len(data) - 4 - end > MAX_TRAILING_BYTES:
        raise ValueError(f"{len(data) - 4 - end} bytes are left over at its end")
    return _from_object(message, msgtype)


def plain(data: memoryview | bytes, msgtype: str) -> bytes:
    """The same message with zeros for padding, where a serialiser leaves what memory held before.

    Args:
        data: little-endian CDR with its 4-byte header.
        msgtype: any type that :func:`sim2real.bags.definitions.is_known`.
    """
    store = typestore()
    kind = store.get_msgdef(msgtype)
    message, _ = kind.deserialize_cdr_le(bytes(data[4:]), 0, kind.cls, store)
    return bytes(store.serialize_cdr(message, msgtype)).ljust(len(data), b"\0")


def joint_names(data: memoryview | bytes, msgtype: str) -> tuple[str, ...]:
    """Joint names of one message, either byte order; () where it has none or is broken."""
    for read in (find_layout, decode_one):
        try:
            return read(data, msgtype).names
        except ValueError:
            continue
    return ()


def _from_object(message: Any, msgtype: str) -> Block:
    fields: dict[str, Array] = {}
    text: dict[str, list[str]] = {}
    names: tuple[str, ...] = ()
    n_points = 0
    header = message if msgtype == "std_msgs/msg/Header" else getattr(message, "header", None)
    if header is not None:
        _put(fields, sec=header.stamp.sec, nanosec=header.stamp.nanosec)
        text["frame_id"] = [header.frame_id]
    if msgtype == "sensor_msgs/msg/JointState":
        names = tuple(message.name)
        _put(fields, position=message.position, velocity=message.velocity, effort=message.effort)
    elif msgtype == "trajectory_msgs/msg/JointTrajectory":
        names, n_points = tuple(message.joint_names), len(message.points)
        for i, point in enumerate(message.points):
            for name in ("positions", "velocities", "accelerations", "effort"):
                _put(fields, **{f"{i}.{name}": getattr(point, name)})
            since = point.time_from_start
            _put(fields, **{f"{i}.from_start_sec": since.sec})
            _put(fields, **{f"{i}.from_start_nanosec": since.nanosec})
    elif msgtype == "sensor_msgs/msg/Imu":
        for name in ("orientation", "angular_velocity", "linear_acceleration"):
            _put(fields, **{name: _flat(getattr(message, name))})
    elif msgtype == "nav_msgs/msg/Odometry":
        pose, twist = message.pose, message.twist
        _put(fields, position=_flat(pose.pose.position), orientation=_flat(pose.pose.orientation))
        _put(fields, linear_velocity=_flat(twist.twist.linear))
        _put(fields, angular_velocity=_flat(twist.twist.angular))
    elif msgtype == "geometry_msgs/msg/PoseStamped":
        pose = message.pose
        _put(fields, position=_flat(pose.position), orientation=_flat(pose.orientation))
    elif msgtype == "std_msgs/msg/Int32":
        _put(fields, data=message.data)
    elif msgtype == "std_msgs/msg/String":
        text["data"] = [message.data]
    if msgtype not in TEXT_TYPES:
        text = {}
    return Block(names=names, n_points=n_points, fields=fields, text=text)


def _flat(value: Any) -> list[float]:
    """Vector, point or quaternion -> its components in the order of the message."""
    return [getattr(value, axis) for axis in "xyzw" if hasattr(value, axis)]


def _put(fields: dict[str, Array], **values: Any) -> None:
    for name, value in values.items():
        row = np.atleast_1d(np.array(value))[None]
        if row.size:
            fields[name] = row


def require_known(topic: str, msgtype: str) -> None:
    """Refuse a type that has no columns.

    Raises:
        InputError: the type is not in :data:`STEPS`.
    """
    if msgtype not in STEPS:
        raise InputError(
            f"topic {topic}: expected one of the types {sorted(STEPS)}, got {msgtype}; "
            "name a topic of one of them"
        )
