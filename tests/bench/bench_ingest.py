"""Ingest figures: columns of JointState and Imu against rosbags deserialising the same messages.

Run by `make bench`. Both read the same bags, alternately, in one process. rosbags is timed without
what it would take to put its messages into arrays. First of all every value is compared, by bits.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.rosbag2 import Reader

from policies.robots.g1 import G1
from sim2real.bags.columns import Columns
from sim2real.bags.definitions import typestore
from sim2real.bags.reader import read_bag
from sim2real.bags.writer import BagWriter

STORE = typestore()
JOINT_STATE, IMU = "sensor_msgs/msg/JointState", "sensor_msgs/msg/Imu"
RATE_HZ = 500


def new(msgtype: str, **fields: Any) -> Any:
    """A message of rosbags."""
    return STORE.types[msgtype](**fields)


def joint_state(header: Any, i: int, rng: np.random.Generator) -> Any:
    """All joints of a G1 that moves a little."""
    count = len(G1.joint_names)
    angle = np.linspace(0, np.pi, count) + 2 * np.pi * i / RATE_HZ
    return new(
        JOINT_STATE,
        header=header,
        name=list(G1.joint_names),
        position=0.3 * np.sin(angle) + rng.normal(0, 1e-3, count),
        velocity=1.9 * np.cos(angle) + rng.normal(0, 1e-2, count),
        effort=rng.normal(0, 5, count),
    )


def imu(header: Any, i: int, rng: np.random.Generator) -> Any:
    """An IMU that turns and shakes."""
    half = 0.1 * np.sin(2 * np.pi * i / RATE_HZ)
    rates, accelerations = rng.normal(0, 0.1, 3), rng.normal([0, 0, 9.81], 0.3)
    vector, covariance = "geometry_msgs/msg/Vector3", np.zeros(9)
    return new(
        IMU,
        header=header,
        orientation=new(
            "geometry_msgs/msg/Quaternion", x=0.0, y=0.0, z=np.sin(half), w=np.cos(half)
        ),
        orientation_covariance=covariance,
        angular_velocity=new(vector, **dict(zip("xyz", rates, strict=True))),
        angular_velocity_covariance=covariance,
        linear_acceleration=new(vector, **dict(zip("xyz", accelerations, strict=True))),
        linear_acceleration_covariance=covariance,
    )


MAKERS = {"/joint_states": (JOINT_STATE, joint_state), "/imu": (IMU, imu)}


def write_bag(path: Path, topics: list[str], seconds: float) -> Path:
    """A bag of these topics at 500 Hz each, as the recorder writes it."""
    rng = np.random.default_rng(0)
    with BagWriter(path, provenance={"robot": "g1"}) as writer:
        for topic in topics:
            writer.add_topic(topic, MAKERS[topic][0])
        for i in range(int(seconds * RATE_HZ)):
            t_ns = 10**9 + i * (10**9 // RATE_HZ)
            stamp = new("builtin_interfaces/msg/Time", sec=t_ns // 10**9, nanosec=t_ns % 10**9)
            header = new("std_msgs/msg/Header", stamp=stamp, frame_id="pelvis")
            for k, topic in enumerate(topics):
                msgtype, make = MAKERS[topic]
                raw = STORE.serialize_cdr(make(header, i, rng), msgtype)
                writer.write(topic, raw, t_ns + (k + 1) * 100_000)
    return path


def seconds_of(work: Callable[[], Any]) -> tuple[float, Any]:
    """Wall time of a call, s, and what it returned."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def deserialise(reader: Reader, topics: list[str]) -> None:
    """Read and deserialise with rosbags; keeps nothing."""
    chosen = [c for c in reader.connections if c.topic in topics]
    for connection, _, raw in reader.messages(connections=chosen):
        STORE.deserialize_cdr(raw, connection.msgtype)


def measure(path: Path, topics: list[str], repeats: int) -> str:
    """Ratios of medians, of opened bags and from the path on."""
    times: dict[str, list[float]] = {"rosbags open": [], "rosbags": [], "open": [], "ours": []}
    for _ in range(repeats):
        reader = Reader(path)
        times["rosbags open"].append(seconds_of(reader.open)[0])
        times["rosbags"].append(seconds_of(lambda r=reader: deserialise(r, topics))[0])
        reader.close()
        opening, bag = seconds_of(lambda: read_bag(path))
        times["open"].append(opening)
        times["ours"].append(seconds_of(lambda b=bag: b.columns_of(dict.fromkeys(topics)))[0])
    median = {name: 1e3 * float(np.median(values)) for name, values in times.items()}
    whole = (median["rosbags"] + median["rosbags open"]) / (median["ours"] + median["open"])
    return (
        f"{median['rosbags'] / median['ours']:.1f} x rosbags deserialising (target >= 10), "
        f"{median['ours']:.0f} ms against {median['rosbags']:.0f} ms; with opening, in which we "
        f"compare all checksums and hash the file, {whole:.1f} x, {median['open']:.0f} ms against "
        f"{median['rosbags open']:.0f} ms more"
    )


def arrays_of(path: Path, topics: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """The columns, message by message through rosbags."""
    rows: dict[str, list[dict[str, Any]]] = {topic: [] for topic in topics}
    with Reader(path) as reader:
        for place, (connection, log_ns, raw) in enumerate(reader.messages()):
            if connection.topic not in rows:
                continue
            message = STORE.deserialize_cdr(raw, connection.msgtype)
            stamp = message.header.stamp
            row = {
                "stamp_ns": stamp.sec * 10**9 + stamp.nanosec,
                "log_ns": log_ns,
                "sequence": place,
            }
            if connection.msgtype == JOINT_STATE:
                row |= {k: getattr(message, k) for k in ("position", "velocity", "effort")}
            else:
                q = message.orientation
                row["orientation_wxyz"] = [q.w, q.x, q.y, q.z]
                for name in ("angular_velocity", "linear_acceleration"):
                    value = getattr(message, name)
                    row[name] = [value.x, value.y, value.z]
            rows[connection.topic].append(row)
    return {t: {k: np.array([r[k] for r in found]) for k in found[0]} for t, found in rows.items()}


def differences(columns: Columns, expected: dict[str, np.ndarray]) -> list[str]:
    """Names of the columns that are not the same bits."""
    got = {name: getattr(columns, name) for name in ("stamp_ns", "log_ns", "sequence")}
    got |= columns.arrays
    absent = {name for name, values in expected.items() if not values.size}
    return [
        name
        for name, values in expected.items()
        if (got[f"has_{name}"].any() if name in absent else got[name].tobytes() != values.tobytes())
    ]


def bench(path: Path, repeats: int) -> str:
    """Compare every column of a bag with rosbags, then measure; ends the process if one differs."""
    bag = read_bag(path)
    topics = [t.name for t in bag.info.topics if t.count and t.type in (JOINT_STATE, IMU)]
    expected = arrays_of(path, topics)
    columns = bag.columns_of(dict.fromkeys(topics))
    wrong = {t: differences(columns[t], expected[t]) for t in topics}
    if any(wrong.values()):
        print(f"ingest of {', '.join(topics)}: columns differ from what rosbags reads: {wrong}")
        sys.exit(1)
    return (
        f"ingest of {', '.join(topics)} ({bag.info.message_count} messages, "
        f"{bag.info.size_bytes / 1e6:.0f} MB, same bits): {measure(path, topics, repeats)}"
    )


def main() -> None:
    """Print one line a bag; ends with status 1 if a value differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bag", type=Path, help="a bag of your own in place of the made ones")
    parser.add_argument("--bag-seconds", type=float, default=60.0, help="length of the made ones")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each reader")
    args, _ = parser.parse_known_args()
    if args.bag is not None:
        print(bench(args.bag, args.repeats))
        return
    with tempfile.TemporaryDirectory() as folder:
        for i, topics in enumerate((["/joint_states"], ["/imu"], ["/joint_states", "/imu"])):
            path = write_bag(Path(folder) / f"bag{i}", topics, args.bag_seconds)
            print(bench(path, args.repeats), flush=True)


if __name__ == "__main__":
    main()
