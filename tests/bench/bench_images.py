"""What camera images cost on their way from another process into a tensor.

Two cameras, 640 x 480, 30 Hz, published by a process of its own and read with the subscriptions and
the decoding of policy_node. A stamp is the publisher's steady clock at the moment of publishing, so
that an age is that of the tensor. Run by `make bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from realign_mujoco_driver.cameras import compressed_message, image_message
from realign_policy.images import CameraStream, topic_of
from realign_policy.sensing import IMAGE_QOS
from sensor_msgs.msg import CompressedImage, Image

from policies.diffusion.interface import CameraSpec
from policies.messages import set_stamp
from policies.robots import PANDA
from policies.runtime.scheduling import prefer_realtime
from sim2real.graph import private_domain_id, ros_environment
from sim2real.tasks.camera_scene import CameraScene

CAMERAS = [CameraSpec(name=name, height=480, width=640) for name in ("front", "wrist")]
RATE_HZ = 30.0
WARM_UP = 10
KINDS = ("rgb8", "bgr8", "jpeg")


def picture() -> np.ndarray:
    """What a camera in front of a Panda sees, with the noise of a sensor, (480, 640, 3)."""
    scene = CameraScene(PANDA, [CAMERAS[0]], seed=0)
    clean = scene.images(PANDA.default_rad)["front"]
    noise = np.random.default_rng(0).normal(0.0, 4.0, clean.shape)
    return np.clip(clean + noise, 0, 255).astype(np.uint8)


def publish(kind: str, frames: int) -> None:
    """The cameras: wait for listeners, then send ``frames`` images each."""
    rclpy.init()
    node = rclpy.create_node("bench_cameras")
    message_type = CompressedImage if kind == "jpeg" else Image
    transport = "compressed" if kind == "jpeg" else "raw"
    publishers = [
        node.create_publisher(message_type, topic_of(c.name, transport), QoSProfile(depth=10))
        for c in CAMERAS
    ]
    image = picture()
    while not all(publisher.get_subscription_count() for publisher in publishers):
        time.sleep(0.05)
    time.sleep(0.5)
    packed = compressed_message(image, "", 0) if kind == "jpeg" else None
    prefer_realtime(20)
    deadline = time.monotonic()
    for _ in range(frames + WARM_UP):
        for publisher in publishers:
            stamp = time.monotonic_ns()
            if packed is not None:
                set_stamp(packed.header.stamp, stamp)
                publisher.publish(packed)
                continue
            message = image_message(image, "", stamp)
            message.encoding = kind
            publisher.publish(message)
        deadline += 1.0 / RATE_HZ
        time.sleep(max(deadline - time.monotonic(), 0.0))
    time.sleep(1.0)
    node.destroy_node()
    rclpy.shutdown()


def receive(kind: str, frames: int) -> None:
    """The policy's side: decode each image as it comes; prints ages, ms, as JSON."""
    rclpy.init()
    node = rclpy.create_node("bench_policy")
    message_type = CompressedImage if kind == "jpeg" else Image
    transport = "compressed" if kind == "jpeg" else "raw"
    streams = [CameraStream(camera, keep=2) for camera in CAMERAS]
    tensor = np.zeros((len(CAMERAS), 480, 640, 3), dtype=np.uint8)
    ages: list[float] = []
    decoding: list[float] = []

    def listener(index: int):
        def on_image(message: object) -> None:
            streams[index].take(message)
            start = time.monotonic_ns()
            tensor[index] = streams[index].rgb()
            end = time.monotonic_ns()
            ages.append((end - streams[index].stamp_ns) / 1e6)
            decoding.append((end - start) / 1e6)

        return on_image

    for index, camera in enumerate(CAMERAS):
        topic = topic_of(camera.name, transport)
        node.create_subscription(message_type, topic, listener(index), IMAGE_QOS)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    prefer_realtime(20)  # as policy_node
    wanted = len(CAMERAS) * (frames + WARM_UP)
    deadline = time.monotonic() + 30.0 + frames / RATE_HZ
    last = time.monotonic()
    while len(ages) < wanted and time.monotonic() < deadline:
        before = len(ages)
        executor.spin_once(timeout_sec=0.1)
        last = time.monotonic() if len(ages) > before else last
        if ages and time.monotonic() - last > 2.0:
            break
    executor.shutdown()
    node.destroy_node()
    rclpy.shutdown()
    skip = len(CAMERAS) * WARM_UP
    lost = wanted - len(ages)
    print(json.dumps({"ages": ages[skip:], "decoding": decoding[skip:], "lost": lost}))


def measure(kind: str, frames: int) -> str:
    """One row: age of a tensor, part of it that is decoding, loss."""
    environment = ros_environment(private_domain_id()) | {"OMP_NUM_THREADS": "1"}
    words = [sys.executable, __file__, "--kind", kind, "--frames", str(frames), "--role"]
    cameras = subprocess.Popen([*words, "cameras"], env=environment)
    try:
        done = subprocess.run(
            [*words, "policy"], env=environment, stdout=subprocess.PIPE, check=True
        )
    finally:
        cameras.terminate()
        cameras.wait()
    found = json.loads(done.stdout.splitlines()[-1])
    p50, p99 = np.percentile(found["ages"], [50, 99])
    decoding = np.median(found["decoding"])
    count = len(found["ages"]) + found["lost"]
    return f"| {kind} | {p50:.2f} | {p99:.2f} | {decoding:.2f} | {found['lost']} of {count} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=300, help="images of each camera")
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--role", choices=("cameras", "policy"))
    args, _ = parser.parse_known_args()
    if args.role == "cameras":
        publish(args.kind, args.frames)
    elif args.role == "policy":
        receive(args.kind, args.frames)
    else:
        profile = os.environ.get("FASTDDS_DEFAULT_PROFILES_FILE", "ours")
        print(
            f"two cameras, 640 x 480, {RATE_HZ:g} Hz, {args.frames} images each; profile {profile}"
        )
        print("| encoding | publish to tensor p50, ms | p99 | decoding p50 | lost |")
        print("|---|---|---|---|---|")
        for kind in KINDS if args.kind is None else (args.kind,):
            print(measure(kind, args.frames), flush=True)


if __name__ == "__main__":
    main()
