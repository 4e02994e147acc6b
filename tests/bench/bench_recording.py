"""What recording camera images costs: lateness and round trips of a control loop beside it.

Two cameras, 640 x 480, 30 Hz, a control loop of 200 Hz with real-time priority, which the robot's
side answers from a process of its own, and the recorder. The same cameras run while the recorder
takes no images, and while it takes them in each of its ways; all in one run, in turns. Run by
`make bench`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rclpy
from bench_images import CAMERAS, picture
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from realign_mujoco_driver.cameras import image_message
from sensor_msgs.msg import Image, JointState

from policies.messages import set_stamp
from policies.robots import PANDA
from policies.runtime.scheduling import prefer_realtime
from sim2real.bags.reader import read_bag
from sim2real.graph import Graph, private_domain_id, ros_environment

WAYS = ("none", "compressed", "lossless", "raw")
CONTROL_HZ, CAMERA_HZ = 200.0, 30.0
QOS = QoSProfile(depth=100)


def cameras(seconds: float) -> None:
    """Send images of both cameras, once a recorder listens if one does; each frame has noise."""
    rclpy.init()
    node = rclpy.create_node("bench_cameras")
    publishers = [node.create_publisher(Image, f"{c.name}/image_raw", 10) for c in CAMERAS]
    clean, rng = picture(), np.random.default_rng(1)
    prefer_realtime(20)  # as the driver of `realign run`, which publishes them there
    frames = [np.roll(clean, int(shift), axis=1) for shift in rng.integers(0, 640, 8)]
    patience = time.monotonic() + 1.0
    while time.monotonic() < patience and not all(p.get_subscription_count() for p in publishers):
        time.sleep(0.01)
    time.sleep(0.5)  # the other way round it takes a moment, too
    deadline = time.monotonic()
    for number in range(round(seconds * CAMERA_HZ)):
        for publisher in publishers:
            message = image_message(frames[number % 8], "", time.monotonic_ns())
            publisher.publish(message)
        deadline += 1.0 / CAMERA_HZ
        time.sleep(max(deadline - time.monotonic(), 0.0))
    time.sleep(0.5)
    node.destroy_node()
    rclpy.shutdown()


def robot(seconds: float) -> None:
    """Answer each state with a command of the same stamp."""
    rclpy.init()
    node = rclpy.create_node("bench_robot")
    answer = node.create_publisher(JointState, "answer", QOS)
    node.create_subscription(JointState, "joint_states", answer.publish, QOS)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    prefer_realtime(20)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()


def control(seconds: float) -> None:
    """The loop that must not be late; prints lateness and round trips, ms, as JSON."""
    rclpy.init()
    node = rclpy.create_node("bench_control")
    publisher = node.create_publisher(JointState, "joint_states", QOS)
    trips: list[float] = []

    def on_answer(msg: JointState) -> None:
        sent = msg.header.stamp.sec * 10**9 + msg.header.stamp.nanosec
        trips.append((time.monotonic_ns() - sent) / 1e6)

    node.create_subscription(JointState, "answer", on_answer, QOS)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    zeros = [0.0] * PANDA.n
    message = JointState(name=list(PANDA.joint_names), position=zeros, velocity=zeros)
    prefer_realtime(20)
    late: list[float] = []
    deadline = time.monotonic()
    for _ in range(round(seconds * CONTROL_HZ)):
        deadline += 1.0 / CONTROL_HZ
        while (left := deadline - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=left)
        late.append(1e3 * (time.monotonic() - deadline))
        set_stamp(message.header.stamp, time.monotonic_ns())
        publisher.publish(message)
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    print(json.dumps({"late": late[50:], "trips": trips[50:], "sent": len(late)}))


def measure(way: str, seconds: float, folder: Path) -> dict[str, float]:
    """One turn: figures of the control loop, and what became of the images."""
    domain = private_domain_id()
    names = [camera.name for camera in CAMERAS] if way != "none" else []
    bag = folder / way
    parameters = {
        "out": str(bag),
        "topics": ["joint_states"],
        "cameras": ",".join(names),
        "images": way if names else "raw",
        "summary_path": str(folder / "recorder.json"),
        "realtime_priority": 10,  # as `realign run` has it
    }
    words = [sys.executable, __file__, "--seconds", str(seconds), "--role"]
    environment = ros_environment(domain)
    with Graph(folder, domain) as graph:
        recorder = graph.start("recorder", "realign_recorder.recorder_node", parameters)
        time.sleep(1.5)
        beside = [
            subprocess.Popen([*words, role], env=environment) for role in ("robot", "cameras")
        ]
        done = subprocess.run(
            [*words, "control"], env=environment, stdout=subprocess.PIPE, check=True
        )
        for process in beside:
            process.wait()
        status = Path(f"/proc/{recorder.popen.pid}/status").read_text()
        ticks = Path(f"/proc/{recorder.popen.pid}/stat").read_text().rpartition(")")[2].split()
    found = json.loads(done.stdout.splitlines()[-1])
    counts = json.loads((folder / "recorder.json").read_text())["cameras"].values()
    row = {
        "late p50, ms": float(np.percentile(found["late"], 50)),
        "late p99, ms": float(np.percentile(found["late"], 99)),
        "trip p50, ms": float(np.percentile(found["trips"], 50)),
        "trip p99, ms": float(np.percentile(found["trips"], 99)),
        "answered": len(found["trips"]) / (found["sent"] - 50),
        "recorder, % of a core": (int(ticks[11]) + int(ticks[12])) / seconds,
        "recorder, MB": int(status.split("VmHWM:")[1].split()[0]) / 1e3,
        "sent": 2.0 * round(seconds * CAMERA_HZ) if names else 0.0,
        "in the bag": float(sum(c["written"] for c in counts)),
        "dropped": float(sum(c["dropped"] for c in counts)),
        "lost": float(sum(c["lost"] for c in counts)),
        "bag, MB/s": read_bag(bag).info.size_bytes / 1e6 / seconds,
    }
    for file in sorted(bag.iterdir()):
        file.unlink()
    bag.rmdir()
    return row


def main() -> None:
    """Print the table: medians over the turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a turn")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, help="besides none")
    parser.add_argument("--role", choices=("cameras", "robot", "control"))
    args, _ = parser.parse_known_args()
    if args.role is not None:
        length = {"cameras": 0.0, "robot": 4.0, "control": 2.0}[args.role] + args.seconds
        {"cameras": cameras, "robot": robot, "control": control}[args.role](length)
        return
    ways = list(dict.fromkeys(["none", *args.ways]))
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.turns):
            for way in ways:
                rows[way].append(measure(way, args.seconds, Path(folder)))
                print(f"{way}: {rows[way][-1]}", file=sys.stderr, flush=True)
    keys = list(rows["none"][0])
    print(f"two cameras, 640 x 480, {CAMERA_HZ:g} Hz; control loop of {CONTROL_HZ:g} Hz")
    print(f"| images | {' | '.join(keys)} |\n|{'---|' * (len(keys) + 1)}")
    middle = {
        w: {k: float(np.median([r[k] for r in found])) for k in keys} for w, found in rows.items()
    }
    for way, row in middle.items():
        print(f"| {way} | {' | '.join(f'{row[key]:.3g}' for key in keys)} |")
    for way in ways[1:]:
        ratios = {k: middle[way][k] / middle["none"][k] for k in keys[:4]}
        print(
            f"{way} / none: " + ", ".join(f"{k.split(',')[0]} {v:.2f}" for k, v in ratios.items())
        )


if __name__ == "__main__":
    main()
