"""Bags written here and by rosbags are read back; columns equal what was serialised."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.rosbag2.enums import CompressionFormat, CompressionMode

from policies.errors import InputError
from sim2real.bags import cdr
from sim2real.bags.batch import Batch, Topic
from sim2real.bags.cli import bag_info
from sim2real.bags.columns import ColumnBuilder
from sim2real.bags.definitions import typestore
from sim2real.bags.reader import read_bag
from sim2real.bags.writer import BagWriter

STORE = typestore()
JOINTS = "sensor_msgs/msg/JointState"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
NAMES = ("a", "b_joint", "c")
MS = 1_000_000


def new(msgtype: str, **fields: Any) -> Any:
    return STORE.types[msgtype](**fields)


def header(stamp_ns: int, frame: str = "") -> Any:
    time = new("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return new("std_msgs/msg/Header", stamp=time, frame_id=frame)


def joint_state(
    stamp_ns: int, position: Any, *, names: Any = NAMES, velocity: Any = None, effort: Any = ()
) -> bytes:
    position = np.asarray(position, np.float64)
    velocity = np.asarray(position * 2 if velocity is None else velocity, np.float64)
    message = new(
        JOINTS,
        header=header(stamp_ns, "base"),
        name=list(names),
        position=position,
        velocity=velocity,
        effort=np.asarray(effort, np.float64),
    )
    return bytes(STORE.serialize_cdr(message, JOINTS))


def trajectory(stamp_ns: int, points: list[Any], names: Any = NAMES) -> bytes:
    empty = np.zeros(0)
    message = new(
        TRAJECTORY,
        header=header(stamp_ns),
        joint_names=list(names),
        points=[
            new(
                "trajectory_msgs/msg/JointTrajectoryPoint",
                positions=np.asarray(p, np.float64),
                velocities=empty,
                accelerations=empty,
                effort=empty,
                time_from_start=new("builtin_interfaces/msg/Duration", sec=0, nanosec=k * MS),
            )
            for k, p in enumerate(points)
        ],
    )
    return bytes(STORE.serialize_cdr(message, TRAJECTORY))


def write_ours(path: Path, count: int = 100, **provenance: str) -> Path:
    with BagWriter(path, provenance=provenance) as writer:
        writer.add_topic("/joint_states", JOINTS)
        writer.add_topic("/note", "std_msgs/msg/String")
        for i in range(count):
            writer.write("/joint_states", joint_state(i * MS, [i, i + 0.5, -i]), i * MS + 7, i * MS)
        note = new("std_msgs/msg/String", data="grün")
        writer.write("/note", STORE.serialize_cdr(note, "std_msgs/msg/String"), count * MS)
    return path


def test_a_written_bag_is_read_by_us_and_by_rosbags(tmp_path: Path) -> None:
    path = write_ours(tmp_path / "bag", robot="panda", seed="3")
    bag = read_bag(path)
    assert bag.info.provenance == {"robot": "panda", "seed": "3"}
    assert (bag.info.message_count, bag.info.damage, bag.info.notes) == (101, (), ())
    info = bag.info.topic("/joint_states")
    assert info is not None
    assert (info.count, info.stamps, info.backward_steps) == (100, "header", 0)
    assert info.rate_hz == pytest.approx(1000.0)
    columns = bag.columns("/joint_states")
    assert columns.names == NAMES
    np.testing.assert_array_equal(columns.stamp_ns, np.arange(100) * MS)
    np.testing.assert_array_equal(columns.log_ns, np.arange(100) * MS + 7)
    np.testing.assert_array_equal(columns.arrays["position"][:, 2], -np.arange(100.0))
    assert not columns.arrays["has_effort"].any()
    assert np.isnan(columns.arrays["effort"]).all()
    assert bag.columns("/note").text == ("grün",)
    with Reader(path) as reader:
        assert reader.message_count == 101
        assert reader.storage.metadata.custom == {"robot": "panda", "seed": "3"}
        raws = [bytes(raw) for c, _, raw in reader.messages() if c.topic == "/joint_states"]
    assert raws[3] == joint_state(3 * MS, [3, 3.5, -3])


@pytest.mark.parametrize(
    ("plugin", "mode"),
    [
        (StoragePlugin.SQLITE3, CompressionMode.NONE),
        (StoragePlugin.SQLITE3, CompressionMode.MESSAGE),
        (StoragePlugin.MCAP, CompressionMode.NONE),
        (StoragePlugin.MCAP, CompressionMode.STORAGE),
    ],
)
def test_bags_of_rosbags_give_the_same_columns(
    tmp_path: Path, plugin: StoragePlugin, mode: CompressionMode
) -> None:
    writer = Writer(tmp_path / "bag", version=9, storage_plugin=plugin)
    if mode is not CompressionMode.NONE:
        writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        state = writer.add_connection("/joint_states", JOINTS, typestore=STORE)
        for i in range(50):
            writer.write(state, i * MS, joint_state(i * MS, [i, 0, 1]))
    bag = read_bag(tmp_path / "bag")
    assert bag.info.storage == ("mcap" if plugin is StoragePlugin.MCAP else "sqlite3")
    columns = bag.columns("/joint_states")
    np.testing.assert_array_equal(columns.arrays["position"][:, 0], np.arange(50.0))
    (data_file,) = (p for p in (tmp_path / "bag").iterdir() if p.suffix in (".mcap", ".db3"))
    if mode is not CompressionMode.MESSAGE:  # only metadata.yaml tells of that mode
        assert len(read_bag(data_file).columns("/joint_states")) == 50
        (tmp_path / "bag" / "metadata.yaml").unlink()
        assert read_bag(tmp_path / "bag").info.notes[0] == "metadata.yaml is missing"


def test_every_type_decodes_alike_on_both_paths() -> None:
    rng = np.random.default_rng(0)
    quaternion = new("geometry_msgs/msg/Quaternion", x=0.1, y=0.2, z=0.3, w=0.9)
    point = new("geometry_msgs/msg/Point", x=1.0, y=2.0, z=3.0)
    a, b = (new("geometry_msgs/msg/Vector3", x=k, y=k + 1, z=k + 2) for k in (4.0, 8.0))
    pose = new("geometry_msgs/msg/Pose", position=point, orientation=quaternion)
    twist = new("geometry_msgs/msg/Twist", linear=a, angular=b)
    messages = {
        "sensor_msgs/msg/Imu": {
            "header": header(5, "imu"),
            "orientation": quaternion,
            "orientation_covariance": rng.normal(size=9),
            "angular_velocity": a,
            "angular_velocity_covariance": rng.normal(size=9),
            "linear_acceleration": b,
            "linear_acceleration_covariance": rng.normal(size=9),
        },
        "nav_msgs/msg/Odometry": {
            "header": header(6, "odd"),
            "child_frame_id": "pelvis",
            "pose": new(
                "geometry_msgs/msg/PoseWithCovariance", pose=pose, covariance=rng.normal(size=36)
            ),
            "twist": new(
                "geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=rng.normal(size=36)
            ),
        },
        "geometry_msgs/msg/PoseStamped": {"header": header(7, "w"), "pose": pose},
        "std_msgs/msg/Header": {"stamp": header(8).stamp, "frame_id": "1 pick"},
        "std_msgs/msg/Int32": {"data": -5},
        "std_msgs/msg/String": {"data": "hej"},
    }
    raws = {kind: STORE.serialize_cdr(new(kind, **f), kind) for kind, f in messages.items()}
    raws[JOINTS] = joint_state(9, [1, 2, 3], effort=[4, 5, 6])
    raws[TRAJECTORY] = trajectory(10, [[1, 2, 3], [4, 5, 6], []])
    assert set(raws) == set(cdr.STEPS)
    for kind, raw in raws.items():
        assert_paths_equal(bytes(raw), kind)


def assert_paths_equal(raw: bytes, kind: str) -> None:
    fast = cdr.decode_batch(cdr.find_layout(raw, kind), np.frombuffer(raw, np.uint8)[None])
    slow = cdr.decode_one(raw, kind)
    assert (fast.names, fast.n_points, fast.text) == (slow.names, slow.n_points, slow.text)
    assert fast.fields.keys() == slow.fields.keys()
    for name, values in fast.fields.items():
        np.testing.assert_array_equal(values, slow.fields[name])


@settings(max_examples=60)
@given(data=st.data())
def test_fast_path_equals_general_path(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.text("abcæ_0", min_size=0, max_size=9), max_size=5))
    floats = st.floats(width=64, allow_nan=False)
    row = st.one_of(st.just([]), st.lists(floats, min_size=len(names), max_size=len(names)))
    stamp = data.draw(st.integers(0, 2**31 * 10**9 - 1))
    state = joint_state(
        stamp, data.draw(row), names=names, velocity=data.draw(row), effort=data.draw(row)
    )
    assert_paths_equal(state, JOINTS)
    assert_paths_equal(trajectory(stamp, data.draw(st.lists(row, max_size=4)), names), TRAJECTORY)


def columns_of(raws: list[bytes], kind: str = JOINTS, names: Any = None) -> Any:
    builder = ColumnBuilder(topic="/t", msgtype=kind, count=len(raws), names=names)
    for first in range(0, len(raws), 1000):
        part = raws[first : first + 1000]
        length = np.array([len(raw) for raw in part], np.int64)
        place = np.arange(first, first + len(part))
        batch = Batch(
            data=np.frombuffer(b"".join(part), np.uint8),
            topics={0: Topic("/t", kind, "cdr", "", "")},
            channel=np.zeros(len(part), np.int64),
            start=np.cumsum(length) - length,
            length=length,
            log_ns=place,
            publish_ns=place,
        )
        builder.add(batch, np.arange(len(part)), place)
    return builder.finish()


def test_order_of_messages_and_names_survives_mixed_layouts() -> None:
    raws = [
        joint_state(i, [1, 2, 3], names=("a", "b_joint", "c"))
        if i % 3
        else joint_state(i, [3, 1, 2], names=("c", "a", "b_joint"), effort=[i] * 3)
        for i in range(5000)
    ]
    columns = columns_of(raws, names=NAMES)
    np.testing.assert_array_equal(columns.stamp_ns, np.arange(5000))
    np.testing.assert_array_equal(columns.arrays["position"], np.tile([1.0, 2.0, 3.0], (5000, 1)))
    np.testing.assert_array_equal(columns.arrays["has_effort"], np.arange(5000) % 3 == 0)


def test_more_layouts_than_the_fast_path_keeps_are_still_decoded() -> None:
    raws = [trajectory(i, [[i, 0]] * (i % 40), ("x", "y")) for i in range(200)]
    columns = columns_of(raws, TRAJECTORY)
    np.testing.assert_array_equal(columns.arrays["n_points"], np.arange(200) % 40)
    assert columns.arrays["position"].shape == (200, 39, 2)
    assert columns.arrays["position"][39, 38, 0] == 39
    assert np.isnan(columns.arrays["position"][41, 1, 0])


def test_trailing_bytes_of_rclpy_and_big_endian_are_accepted() -> None:
    little = joint_state(5, [1, 2, 3])
    message = STORE.deserialize_cdr(little, JOINTS)
    big = bytes(STORE.serialize_cdr(message, JOINTS, little_endian=False))
    columns = columns_of([little, little + b"\xff" * 8, big])
    np.testing.assert_array_equal(columns.arrays["position"], np.tile([1.0, 2.0, 3.0], (3, 1)))
    with pytest.raises(InputError, match="9 bytes are left over"):
        columns_of([little + b"\xff" * 9])


def test_other_joints_on_the_topic_are_left_out_but_a_part_of_ours_is_not() -> None:
    ours, fingers = joint_state(1, [1, 2, 3]), joint_state(2, [0.1, 0.2], names=("f1", "f2"))
    assert len(columns_of([fingers, ours, fingers], names=NAMES)) == 1
    with pytest.raises(InputError, match="missing"):
        columns_of([joint_state(1, [1, 2], names=("a", "c"))], names=NAMES)
    with pytest.raises(InputError, match="twice"):
        columns_of([joint_state(1, [1, 2, 3, 4], names=(*NAMES, "a"))], names=NAMES)
    with pytest.raises(InputError, match="one for each"):
        columns_of([joint_state(1, [1, 2], names=NAMES)], names=NAMES)


@settings(max_examples=150)
@given(data=st.data())
def test_random_bytes_never_raise_anything_but_our_error(data: st.DataObject) -> None:
    raw = bytearray(trajectory(3, [[1, 2, 3], [4, 5, 6]]))
    kind = data.draw(st.sampled_from(sorted(cdr.STEPS)))
    for _ in range(data.draw(st.integers(0, 6))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)))
    with contextlib.suppress(InputError):
        columns_of([bytes(raw[:cut])], kind)


def test_declared_topics_without_messages_are_listed(tmp_path: Path) -> None:
    with BagWriter(tmp_path / "bag", provenance={}) as writer:
        writer.add_topic("/joint_states", JOINTS)
        writer.add_topic("/imu", "sensor_msgs/msg/Imu")
        writer.write("/joint_states", joint_state(1, [1, 2, 3]), 1)
    info = read_bag(tmp_path / "bag").info
    assert [(t.name, t.count) for t in info.topics] == [("/imu", 0), ("/joint_states", 1)]


def test_writer_refuses_existing_paths_unknown_types_and_undeclared_topics(tmp_path: Path) -> None:
    path = write_ours(tmp_path / "bag")
    with pytest.raises(InputError, match="exists"):
        BagWriter(path, provenance={})
    with BagWriter(tmp_path / "new", provenance={}) as writer:
        with pytest.raises(InputError, match="stock ROS 2"):
            writer.add_topic("/x", "nobody_msgs/msg/Nothing")
        with pytest.raises(InputError, match="declared"):
            writer.write("/x", b"", 0)
        writer.add_topic("/x", "std_msgs/msg/Int32")
        with pytest.raises(InputError, match="one type"):
            writer.add_topic("/x", "std_msgs/msg/String")


def test_reader_names_what_is_wrong(tmp_path: Path) -> None:
    path = write_ours(tmp_path / "bag")
    with pytest.raises(InputError, match="there is no"):
        read_bag(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"expected topic /odom, but it has /joint_states, /note"):
        read_bag(path).columns("/odom")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="neither metadata"):
        read_bag(tmp_path / "empty")
    (tmp_path / "text.txt").write_text("x")
    with pytest.raises(InputError, match=r"\.mcap or \.db3"):
        read_bag(tmp_path / "text.txt")
    with BagWriter(tmp_path / "scan", provenance={}) as writer:
        writer.add_topic("/scan", "sensor_msgs/msg/LaserScan")
        writer.write("/scan", b"\x00\x01\x00\x00" + bytes(60), 1)
    with pytest.raises(InputError, match="one of the types"):
        read_bag(tmp_path / "scan").columns("/scan")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: [", "cannot be parsed"),
        ("[]", "rosbag2_bagfile_information"),
        ("rosbag2_bagfile_information: {version: 9}", "lacks or breaks"),
        ("x" * (2**20 + 1), "at most"),
        ("[" * 5000, "cannot be parsed"),
    ],
)
def test_bad_metadata_is_one_sentence(tmp_path: Path, text: str, match: str) -> None:
    path = write_ours(tmp_path / "bag")
    (path / "metadata.yaml").write_text(text)
    with pytest.raises(InputError, match=match) as raised:
        read_bag(path)
    assert "\n" not in str(raised.value)


def test_metadata_cannot_point_outside_and_must_name_files_that_exist(tmp_path: Path) -> None:
    path = write_ours(tmp_path / "bag")
    meta = path / "metadata.yaml"
    meta.write_text(meta.read_text().replace("- bag_0.mcap", "- ../elsewhere.mcap"))
    write_ours(tmp_path / "other")
    (tmp_path / "other" / "other_0.mcap").rename(tmp_path / "elsewhere.mcap")
    with pytest.raises(InputError, match=r"elsewhere\.mcap"):
        read_bag(path)


def test_malformed_sqlite_is_reported(tmp_path: Path) -> None:
    bad = tmp_path / "bad.db3"
    bad.write_bytes(b"SQLite format 3\0" + bytes(500))
    with pytest.raises(InputError, match="damaged"):
        read_bag(bad)
    sqlite3.connect(tmp_path / "foreign.db3").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(InputError, match="no rosbag2 tables"):
        read_bag(tmp_path / "foreign.db3")


def test_bag_info_prints_and_writes_json_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_ours(tmp_path / "bag", robot="panda")
    bag_info(path, json=tmp_path / "info.json")
    printed = capsys.readouterr().out
    assert "/joint_states" in printed
    assert "1000.0" in printed
    assert '"robot": "panda"' in (tmp_path / "info.json").read_text()
    with pytest.raises(InputError, match="exists"):
        bag_info(path, json=tmp_path / "info.json")


def test_the_real_panda_bag(shared_data: Path) -> None:
    bag = read_bag(shared_data / "panda_real" / "exciting_0_14s")
    assert [(t.name, t.count) for t in bag.info.topics] == [
        ("/joint_commands", 13778),
        ("/joint_states", 13778),
    ]
    columns = bag.columns("/joint_states")
    assert columns.names == tuple(f"panda_joint{i}" for i in range(1, 8))
    assert np.isfinite(columns.arrays["effort"]).all()
