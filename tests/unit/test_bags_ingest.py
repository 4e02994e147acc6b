"""Columns of random bags equal, bit for bit, what rosbags deserialises message by message."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcap.reader import make_reader
from mcap.records import Chunk as McapChunk
from mcap.records import Message as McapMessage
from mcap.stream_reader import StreamReader, breakup_chunk
from mcap.writer import CompressionType
from mcap.writer import Writer as McapWriter
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode

from policies.errors import InputError
from sim2real.bags import mcap_records, sqlite_file, walk
from sim2real.bags.columns import ColumnBuilder, Columns
from sim2real.bags.definitions import definition, typestore
from sim2real.bags.mcap_stream import McapStream
from sim2real.bags.reader import Bag, read_bag
from sim2real.bags.writer import BagWriter

STORE = typestore()
JOINTS = "sensor_msgs/msg/JointState"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
IMU = "sensor_msgs/msg/Imu"
ODOMETRY = "nav_msgs/msg/Odometry"
POSE = "geometry_msgs/msg/PoseStamped"
TYPES = {
    "/joint_states": JOINTS,
    "/joint_command": TRAJECTORY,
    "/imu": IMU,
    "/odom": ODOMETRY,
    "/goal": POSE,
    "/mode": "std_msgs/msg/Int32",
    "/note": "std_msgs/msg/String",
    "/episode": "std_msgs/msg/Header",
    "/scan": "sensor_msgs/msg/LaserScan",
}
ARM = ("shoulder", "elbow_joint", "wrist", "æ")
FINGERS = ("finger_left", "finger_right")
ODD_FLOATS = (np.nan, np.inf, -np.inf, -0.0, 5e-324, np.nextafter(1.0, 2.0))


@dataclass(frozen=True)
class Entry:
    topic: str
    log_ns: int
    raw: bytes


# ---- random messages ---------------------------------------------------------------------------


def new(msgtype: str, **fields: Any) -> Any:
    return STORE.types[msgtype](**fields)


class Random:
    """Messages of every type that has columns, with values of every kind."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def floats(self, count: int) -> np.ndarray:
        values = self.rng.normal(size=count)
        odd = self.rng.random(count) < 0.1
        values[odd] = self.rng.choice(ODD_FLOATS, odd.sum())
        return values

    def some(self, count: int) -> np.ndarray:
        return self.floats(count if self.rng.random() < 0.8 else 0)

    def text(self) -> str:
        return "".join(self.rng.choice(list("ab/_ü"), self.rng.integers(0, 7)))

    def parts(self, kind: str) -> Any:
        names = "xyzw" if kind == "Quaternion" else "xyz"
        values = self.floats(len(names)).tolist()
        return new(f"geometry_msgs/msg/{kind}", **dict(zip(names, values, strict=True)))

    def header(self) -> Any:
        stamp = new(
            "builtin_interfaces/msg/Time",
            sec=int(self.rng.integers(-(2**31), 2**31)),
            nanosec=int(self.rng.integers(0, 10**9)),
        )
        return new("std_msgs/msg/Header", stamp=stamp, frame_id=self.text())

    def pose(self) -> Any:
        position, orientation = self.parts("Point"), self.parts("Quaternion")
        return new("geometry_msgs/msg/Pose", position=position, orientation=orientation)

    def point(self, joints: int) -> Any:
        sec, nanosec = (int(i) for i in self.rng.integers(0, 10**9, 2))
        names = ("positions", "velocities", "accelerations", "effort")
        return new(
            "trajectory_msgs/msg/JointTrajectoryPoint",
            **{name: self.some(joints) for name in names},
            time_from_start=new("builtin_interfaces/msg/Duration", sec=sec, nanosec=nanosec),
        )

    def names(self) -> list[str]:
        if self.rng.random() < 0.1:
            return []
        if self.rng.random() < 0.2:
            return list(FINGERS)
        return list(ARM) if self.rng.random() < 0.6 else self.rng.permutation(ARM).tolist()

    def message(self, msgtype: str) -> Any:
        rng = self.rng
        if msgtype == JOINTS:
            names = self.names()
            fields = {k: self.some(len(names)) for k in ("position", "velocity", "effort")}
            return new(JOINTS, header=self.header(), name=names, **fields)
        if msgtype == TRAJECTORY:
            names = self.names()
            points = [self.point(len(names)) for _ in range(rng.integers(0, 5))]
            return new(TRAJECTORY, header=self.header(), joint_names=names, points=points)
        if msgtype == IMU:
            vectors = {
                k: self.parts("Vector3") for k in ("angular_velocity", "linear_acceleration")
            }
            values = {"orientation": self.parts("Quaternion"), **vectors}
            covariances = {f"{name}_covariance": self.floats(9) for name in values}
            return new(IMU, header=self.header(), **values, **covariances)
        if msgtype == ODOMETRY:
            twist = new(
                "geometry_msgs/msg/Twist",
                linear=self.parts("Vector3"),
                angular=self.parts("Vector3"),
            )
            return new(
                ODOMETRY,
                header=self.header(),
                child_frame_id=self.text(),
                pose=new(
                    "geometry_msgs/msg/PoseWithCovariance",
                    pose=self.pose(),
                    covariance=self.floats(36),
                ),
                twist=new(
                    "geometry_msgs/msg/TwistWithCovariance",
                    twist=twist,
                    covariance=self.floats(36),
                ),
            )
        if msgtype == POSE:
            return new(POSE, header=self.header(), pose=self.pose())
        if msgtype == "std_msgs/msg/Int32":
            return new(msgtype, data=int(rng.integers(-(2**31), 2**31)))
        if msgtype == "std_msgs/msg/String":
            return new(msgtype, data=self.text())
        return self.header()

    def entries(self, count: int, topics: list[str], big_endian: float) -> list[Entry]:
        """Messages in the order of their times of reception."""
        entries = []
        log_ns = int(self.rng.integers(0, 2**62))
        for _ in range(count):
            topic = str(self.rng.choice(topics))
            log_ns += int(self.rng.integers(1, 10**7))
            if TYPES[topic] == "sensor_msgs/msg/LaserScan":
                raw = b"\x00\x01\x00\x00" + self.rng.bytes(self.rng.integers(0, 90))
            else:
                message = self.message(TYPES[topic])
                little = bool(self.rng.random() >= big_endian)
                raw = bytes(STORE.serialize_cdr(message, TYPES[topic], little_endian=little))
            entries.append(Entry(topic, log_ns, raw))
        return entries


# ---- writers -----------------------------------------------------------------------------------


def write_with_rosbags(path: Path, entries: list[Entry], storage: str, mode: str) -> Path:
    writer = Writer(path, version=9, storage_plugin=StoragePlugin[storage])
    if mode != "NONE":
        writer.set_compression(CompressionMode[mode], CompressionFormat.ZSTD)
    with writer:
        topics = {
            name: writer.add_connection(name, kind, typestore=STORE) for name, kind in TYPES.items()
        }
        for entry in entries:
            writer.write(topics[entry.topic], entry.log_ns, entry.raw)
    return path


def write_with_ours(path: Path, entries: list[Entry]) -> Path:
    with BagWriter(path, provenance={}) as writer:
        for name, kind in TYPES.items():
            writer.add_topic(name, kind)
        for entry in entries:
            writer.write(entry.topic, entry.raw, entry.log_ns)
    return path


def write_with_mcap(
    path: Path,
    entries: list[Entry],
    *,
    compression: str = "NONE",
    chunk_bytes: int | None = 2**20,
    crcs: bool = True,
) -> Path:
    """A bare .mcap file; topics are declared when they first occur, as recorders do."""
    path = path.with_suffix(".mcap")
    with path.open("wb") as stream:
        writer = McapWriter(
            stream,
            chunk_size=chunk_bytes or 0,
            use_chunking=chunk_bytes is not None,
            compression=CompressionType[compression],
            enable_crcs=crcs,
            enable_data_crcs=crcs,
        )
        writer.start(profile="ros2", library="test")
        channels: dict[str, int] = {}
        for entry in entries:
            if entry.topic not in channels:
                kind = TYPES[entry.topic]
                schema = writer.register_schema(kind, "ros2msg", definition(kind).encode())
                channels[entry.topic] = writer.register_channel(entry.topic, "cdr", schema)
            writer.add_message(
                channels[entry.topic], entry.log_ns, entry.raw, publish_time=entry.log_ns
            )
        writer.finish()
    return path


WRITERS = st.one_of(
    st.sampled_from(
        [("MCAP", "NONE"), ("MCAP", "STORAGE"), ("SQLITE3", "NONE"), ("SQLITE3", "MESSAGE")]
    ).map(lambda how: lambda path, entries: write_with_rosbags(path, entries, *how)),
    st.just(write_with_ours),
    st.builds(
        lambda **how: lambda path, entries: write_with_mcap(path, entries, **how),
        compression=st.sampled_from(["NONE", "LZ4", "ZSTD"]),
        chunk_bytes=st.sampled_from([None, 1, 700, 5000, 2**20]),
        crcs=st.booleans(),
    ),
)


# ---- what rosbags makes of them ----------------------------------------------------------------


def read_with_rosbags(path: Path) -> Iterator[tuple[int, str, int, Any]]:
    """(Place in the bag, topic, time of reception, message) of every message."""
    with Reader(path) as reader:
        for sequence, (connection, log_ns, raw) in enumerate(reader.messages()):
            known = connection.msgtype != "sensor_msgs/msg/LaserScan"
            message = STORE.deserialize_cdr(raw, connection.msgtype) if known else None
            yield sequence, connection.topic, log_ns, message


def stamp_ns(stamp: Any) -> int:
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


def flat(value: Any) -> list[float]:
    """Components of a vector, point or quaternion; the latter with w first."""
    return [getattr(value, axis) for axis in "wxyz" if hasattr(value, axis)]


def in_order(names: list[str], values: np.ndarray, wanted: tuple[str, ...]) -> list[float]:
    """Values by joint name, NaN where the message has none."""
    return [values[names.index(n)] if len(values) else np.nan for n in wanted]


def row_of(kind: str, message: Any, wanted: tuple[str, ...]) -> dict[str, Any]:
    """What one message adds to each column."""
    if kind == JOINTS:
        fields = {k: getattr(message, k) for k in ("position", "velocity", "effort")}
        row = {k: in_order(message.name, v, wanted) for k, v in fields.items()}
        return row | {f"has_{k}": len(v) > 0 for k, v in fields.items()}
    if kind == IMU:
        return {
            "orientation_wxyz": flat(message.orientation),
            "angular_velocity": flat(message.angular_velocity),
            "linear_acceleration": flat(message.linear_acceleration),
        }
    if kind == ODOMETRY:
        pose, twist = message.pose.pose, message.twist.twist
        return {
            "position": flat(pose.position),
            "orientation_wxyz": flat(pose.orientation),
            "linear_velocity": flat(twist.linear),
            "angular_velocity": flat(twist.angular),
        }
    if kind == POSE:
        pose = message.pose
        return {"position": flat(pose.position), "orientation_wxyz": flat(pose.orientation)}
    return {"data": message.data} if kind == "std_msgs/msg/Int32" else {}


def trajectory_columns(messages: list[Any], wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Padded columns of trajectories of different length."""
    most = max((len(message.points) for message in messages), default=0)
    shape = (len(messages), most)
    out: dict[str, np.ndarray] = {"n_points": np.array([len(m.points) for m in messages])}
    out["time_from_start_ns"] = np.zeros(shape, np.int64)
    plurals = ("positions", "velocities", "accelerations", "effort")
    for plural, name in zip(
        plurals, ("position", "velocity", "acceleration", "effort"), strict=True
    ):
        out[name] = np.full((*shape, len(wanted)), np.nan)
        out[f"has_{name}"] = np.zeros(shape, bool)
        for i, message in enumerate(messages):
            for j, point in enumerate(message.points):
                values = getattr(point, plural)
                out[name][i, j] = in_order(message.joint_names, values, wanted)
                out[f"has_{name}"][i, j] = len(values) > 0
                out["time_from_start_ns"][i, j] = stamp_ns(point.time_from_start)
    return out


def assert_same_bits(got: np.ndarray, expected: np.ndarray, what: str) -> None:
    assert got.shape == expected.shape, what
    if expected.dtype == np.float64:
        assert got.dtype == np.float64, what
        got, expected = np.ascontiguousarray(got).view(np.int64), expected.view(np.int64)
    np.testing.assert_array_equal(got, expected, err_msg=what)


def assert_columns_equal(
    columns: Columns, found: list[tuple[int, str, int, Any]], wanted: tuple[str, ...] | None
) -> None:
    """Compare with messages of this topic, (place, topic, time, message) each."""
    kind = columns.msgtype
    if kind in (JOINTS, TRAJECTORY):
        joints = [m.name if kind == JOINTS else m.joint_names for *_, m in found]
        if wanted is None:
            wanted = tuple(next((names for names in joints if len(names)), ()))
        keep = [not set(names).isdisjoint(wanted) for names in joints]
        found = [entry for entry, kept in zip(found, keep, strict=True) if kept]
        assert columns.names == (wanted or ())
    messages = [message for *_, message in found]
    assert_same_bits(columns.sequence, np.array([f[0] for f in found], np.int64), "sequence")
    assert_same_bits(columns.log_ns, np.array([f[2] for f in found], np.int64), "log_ns")
    stamped = kind not in ("std_msgs/msg/Int32", "std_msgs/msg/String")
    stamps = columns.log_ns
    if stamped:
        stamps = np.array([stamp_ns(getattr(m, "header", m).stamp) for m in messages], np.int64)
    assert_same_bits(columns.stamp_ns, stamps, "stamp_ns")
    if kind in ("std_msgs/msg/String", "std_msgs/msg/Header"):
        texts = [m.data if kind == "std_msgs/msg/String" else m.frame_id for m in messages]
        assert columns.text == tuple(texts)
    if not messages:
        return
    if kind == TRAJECTORY:
        expected = trajectory_columns(messages, wanted or ())
    else:
        rows = [row_of(kind, message, wanted or ()) for message in messages]
        expected = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    assert columns.arrays.keys() == expected.keys()
    for name, values in expected.items():
        assert_same_bits(columns.arrays[name], values, f"{columns.topic} {name}")


def assert_bag_equals(
    bag: Bag, found: list[tuple[int, str, int, Any]], wanted: tuple[str, ...] | None
) -> None:
    """Compare every topic that has columns."""
    assert bag.info.message_count == len(found)
    topics = [t for t in bag.info.topics if t.type != "sensor_msgs/msg/LaserScan"]
    ordered = {t.name: wanted if t.type in (JOINTS, TRAJECTORY) else None for t in topics}
    for name, columns in bag.columns_of(ordered).items():
        assert_columns_equal(columns, [f for f in found if f[1] == name], wanted)


# ---- tests -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Fresh paths for the many bags of one property."""
    return map(tmp_path_factory.getbasetemp().joinpath, (f"random{i}" for i in count()))


@contextlib.contextmanager
def batches_of(size: int) -> Iterator[None]:
    """Shrink windows, batches and what the walk learns from, so that small bags have many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mcap_records, "BATCH_BYTES", size)
        patch.setattr(sqlite_file, "BATCH_BYTES", size)
        patch.setattr(walk, "_LEAST_SAMPLE", 4)
        yield


@settings(max_examples=60)
@given(data=st.data())
def test_random_bags_give_what_rosbags_deserialises(folder: Iterator[Path], data: Any) -> None:
    topics = data.draw(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, unique=True))
    entries = Random(data.draw(st.integers(0, 2**32))).entries(
        data.draw(st.integers(1, 120)), topics, data.draw(st.sampled_from([0.0, 0.3]))
    )
    path = data.draw(WRITERS)(next(folder), entries)
    wanted = data.draw(st.sampled_from([None, ARM, ARM[::-1], FINGERS]))
    with batches_of(data.draw(st.sampled_from([1, 500, 4000, 2**21]))):
        assert_bag_equals(read_bag(path), list(read_with_rosbags(path)), wanted)


def chunks_of(path: Path) -> list[tuple[int, int]]:
    """(Byte at which it ends, number of messages) of every chunk, by the reference reader."""
    with path.open("rb") as stream:
        summary = make_reader(stream).get_summary()
    assert summary is not None
    ends = [c.chunk_start_offset + c.chunk_length for c in summary.chunk_indexes]
    with path.open("rb") as stream:
        records = StreamReader(stream, emit_chunks=True).records
        chunks = [breakup_chunk(record) for record in records if isinstance(record, McapChunk)]
    counts = [sum(isinstance(record, McapMessage) for record in chunk) for chunk in chunks]
    return list(zip(ends, counts, strict=True))


@settings(max_examples=25)
@given(data=st.data())
def test_a_cut_bag_gives_the_columns_of_its_whole_chunks(folder: Iterator[Path], data: Any) -> None:
    entries = Random(data.draw(st.integers(0, 2**32))).entries(60, sorted(TYPES), 0.0)
    how = data.draw(st.sampled_from(["NONE", "LZ4", "ZSTD"]))
    path = write_with_mcap(next(folder), entries, compression=how, chunk_bytes=2000)
    found, chunks = list(read_with_rosbags(path)), chunks_of(path)
    cut = data.draw(st.integers(chunks[0][0], chunks[-1][0] - 1))
    path.write_bytes(path.read_bytes()[:cut])
    whole = sum(count for end, count in chunks if end <= cut)
    with batches_of(data.draw(st.sampled_from([500, 2**21]))):
        bag = read_bag(path, allow_damage=True)
        assert bag.info.damage
        assert_bag_equals(bag, found[:whole], ARM)


def test_a_cut_bag_without_chunks_gives_every_whole_message(folder: Iterator[Path]) -> None:
    entries = Random(1).entries(40, ["/joint_states", "/imu"], 0.0)
    path = write_with_mcap(next(folder), entries, chunk_bytes=None)
    found, whole = list(read_with_rosbags(path)), path.read_bytes()
    ends = [whole.index(entry.raw) + len(entry.raw) for entry in entries]
    for cut in (ends[7] - 1, ends[7], ends[30] + 40, ends[-1]):
        path.write_bytes(whole[:cut])
        for size in (300, 2**21):
            with batches_of(size):
                bag = read_bag(path, allow_damage=True)
                assert_bag_equals(bag, found[: sum(end <= cut for end in ends)], ARM)


def test_messages_come_in_file_order_whatever_their_times(folder: Iterator[Path]) -> None:
    entries = Random(2).entries(200, sorted(TYPES), 0.0)
    rng = np.random.default_rng(0)
    shuffled = [entries[i] for i in rng.permutation(len(entries))]
    path = write_with_mcap(next(folder), shuffled, chunk_bytes=3000)
    with path.open("rb") as stream:
        records = [r for r in StreamReader(stream).records if isinstance(r, McapMessage)]
    with batches_of(4000):
        messages = list(McapStream(path=path).messages())
        columns = read_bag(path).columns("/imu")
    assert [(m.log_ns, bytes(m.data)) for m in messages] == [(r.log_time, r.data) for r in records]
    places = [i for i, entry in enumerate(shuffled) if entry.topic == "/imu"]
    np.testing.assert_array_equal(columns.sequence, places)
    np.testing.assert_array_equal(columns.log_ns, [shuffled[i].log_ns for i in places])


def record(opcode: int, size: int) -> bytes:
    return struct.pack("<BQ", opcode, size) + bytes([5]) * size


@settings(max_examples=150)
@given(data=st.data())
def test_the_walk_finds_what_steps_find(data: Any) -> None:
    """Cycles of lengths that are broken, cut, and go on in the next buffer."""
    size = st.integers(22, 40)
    stream = b""
    for _ in range(data.draw(st.integers(1, 4))):
        cycle = data.draw(st.lists(size, min_size=1, max_size=5))
        stream += b"".join(record(5, n) for n in cycle) * data.draw(st.integers(0, 40))
        stream += data.draw(st.sampled_from([b"", record(4, 7), record(5, 30), record(5, 0)]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=3)))
    with batches_of(2**21):
        walked = walk.MessageWalk()
        for first, stop in pairwise([0, *cuts, len(stream)]):
            buffer = np.frombuffer(stream[first:], np.uint8)
            expected, position = [], 0
            while position + 9 <= stop - first and stream[first + position] == 5:
                after = position + 9 + struct.unpack_from("<Q", stream, first + position + 1)[0]
                if after > stop - first:
                    break
                expected.append(position)
                position = after
            found, end = walked.run(buffer, 0, stop - first)
            assert (found.tolist(), end) == (expected, position)


def test_a_cycle_is_learnt_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a log that repeats, only the sample is walked step by step."""
    steps: list[int] = []
    stepwise = walk._steps

    def counted(*args: Any) -> Any:
        found, end = stepwise(*args)
        steps.append(len(found))
        return found, end

    monkeypatch.setattr(walk, "_steps", counted)
    sizes = [1500, 340, 340, 700]
    buffer = np.frombuffer(b"".join(record(5, n) for n in sizes) * 1000, np.uint8)
    walked = walk.MessageWalk()
    for part in np.array_split(np.arange(4000), 7):
        stop = sum(9 + sizes[i % 4] for i in part)
        start = sum(9 + sizes[i % 4] for i in range(part[0]))
        found, end = walked.run(buffer, start, start + stop)
        assert (len(found), end) == (len(part), start + stop)
    assert sum(steps) == 64


def test_layouts_of_the_same_length_take_turns_by_batch(folder: Iterator[Path]) -> None:
    """Also batches in which only the layout found last occurs."""
    rng = Random(3)
    entries = []
    for i in range(300):
        names = list(ARM) if i // 30 % 2 else list(ARM[::-1])
        header, empty = rng.header(), np.zeros(0)
        header.frame_id = "base"
        state = new(
            JOINTS,
            header=header,
            name=names,
            position=rng.floats(4),
            velocity=rng.floats(4) if i // 60 % 2 else empty,
            effort=empty if i // 60 % 2 else rng.floats(4),
        )
        entries.append(Entry("/joint_states", i, bytes(STORE.serialize_cdr(state, JOINTS))))
    path = write_with_mcap(next(folder), entries, compression="ZSTD", chunk_bytes=1000)
    with batches_of(2000):
        assert_bag_equals(read_bag(path), list(read_with_rosbags(path)), ARM)


def test_padding_may_hold_anything(folder: Iterator[Path]) -> None:
    """DDS leaves bytes between strings unset; they must not matter, nor cost the fast path."""
    rng = Random(4)
    entries = []
    for i in range(50):
        state = new(
            JOINTS,
            header=rng.header(),
            name=["a", "bc"],
            position=rng.floats(2),
            velocity=rng.floats(2),
            effort=rng.floats(2),
        )
        state.header.frame_id = "f"
        raw = bytearray(STORE.serialize_cdr(state, JOINTS))
        for gap in (2, 3, 18, 19, 30, 31):  # options, after "f", after "a"
            assert raw[gap] == 0
            raw[gap] = rng.rng.integers(256)
        entries.append(Entry("/joint_states", i, bytes(raw)))
    path = write_with_ours(next(folder), entries)
    found = list(read_with_rosbags(path))
    assert_bag_equals(read_bag(path), found, ("bc", "a"))


def test_a_bag_that_changes_between_opening_and_reading_is_refused(folder: Iterator[Path]) -> None:
    entries = Random(5).entries(30, ["/imu"], 0.0)
    path = write_with_mcap(next(folder), entries)
    bag = read_bag(path)
    write_with_mcap(path, entries[:20])
    with pytest.raises(InputError, match="have changed"):
        bag.columns("/imu")
    path.unlink()
    with pytest.raises(InputError, match="not"):
        bag.columns("/imu")


def test_bad_message_heads_are_damage(folder: Iterator[Path]) -> None:
    """A message of no channel, too short, or in the year 2300: its chunk is left out."""
    entries = Random(6).entries(40, ["/imu"], 0.0)
    path = write_with_mcap(next(folder), entries, chunk_bytes=1, crcs=False)
    whole = path.read_bytes()
    raw = entries[20].raw
    head = whole.index(raw) - 31
    # a message of 5 bytes, then a record of an unknown kind up to where the message ended
    short = struct.pack("<BQ5xBQ", 5, 5, 0x70, 31 + len(raw) - 14 - 9)
    for at, value, match in (
        (head + 9, b"\x09\x00", "channel 9"),
        (head + 15, b"\xff" * 8, "impossible time"),
        (head, short, "too short"),
        (head + 1, b"\xff", "inside a record"),
    ):
        path.write_bytes(whole[:at] + value + whole[at + len(value) :])
        with pytest.raises(InputError, match=match):
            read_bag(path)
        stream = McapStream(path=path, skip_bad_chunks=True)
        times = [m.log_ns for m in stream.messages()]
        assert times == [e.log_ns for e in entries if e is not entries[20]]
        assert len(stream.skipped) == 1


def test_a_batch_stays_as_it_is_while_the_next_is_read(folder: Iterator[Path]) -> None:
    entries = Random(7).entries(400, sorted(TYPES), 0.0)
    for how, chunk_bytes in (("ZSTD", 700), ("NONE", 700), ("NONE", None)):
        path = write_with_mcap(next(folder), entries, compression=how, chunk_bytes=chunk_bytes)
        with batches_of(2000):
            for batch in McapStream(path=path).batches():
                before = [message.data for message in batch.messages()]
                time.sleep(0.002)  # the other thread does what it can
                assert [message.data for message in batch.messages()] == before


def test_reading_takes_no_more_memory_for_a_longer_bag(folder: Iterator[Path]) -> None:
    peaks = []
    for seconds in (20, 80):
        path = next(folder)
        with BagWriter(path, provenance={}) as writer:
            writer.add_topic("/note", "std_msgs/msg/String")
            raw = b"\x00\x01\x00\x00" + struct.pack("<I", 20_001) + b"a" * 20_000 + b"\x00"
            for i in range(50 * seconds):
                writer.write("/note", raw, i)
        tracemalloc.start()
        assert read_bag(path).info.message_count == 50 * seconds
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2**20
    assert peaks[1] < 2**24 + 2**23


def test_no_thread_is_left_when_reading_stops_early(folder: Iterator[Path]) -> None:
    entries = Random(8).entries(200, sorted(TYPES), 0.0)
    path = write_with_mcap(next(folder), entries, compression="LZ4", chunk_bytes=700)
    before = threading.active_count()
    with batches_of(2000):
        batches = McapStream(path=path).batches()
        assert len(next(batches))
        batches.close()
    assert threading.active_count() == before


def test_columns_that_cannot_fit_are_refused() -> None:
    with pytest.raises(InputError, match="fit into memory"):
        ColumnBuilder(topic="/t", msgtype=JOINTS, count=2**59)
