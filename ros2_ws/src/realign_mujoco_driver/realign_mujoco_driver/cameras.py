"""Cameras of the virtual robot, as ``sensor_msgs/Image`` or ``CompressedImage``.

An image has the stamp of the joint state that it shows. In lockstep it is sent with that state; in
real time it is rendered in a thread and comes later, as from a camera.
"""

from __future__ import annotations

import queue
import threading
import time
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import QoSProfile
from sensor_msgs.msg import CompressedImage, Image

from policies import messages as wire
from policies.diffusion.interface import CameraSpec
from policies.errors import InputError
from policies.interface import Float, RobotSpec
from policies.runtime.ticker import Ticker
from sim2real.tasks.camera_scene import CameraScene

QOS = QoSProfile(depth=10)
TOPICS = {"raw": (Image, "image_raw"), "compressed": (CompressedImage, "image_raw/compressed")}


class Cameras:
    """Publishes what the cameras see.

    Args:
        node: the driver.
        robot: the robot.
        wanted: cameras that a policy looks through.
        rate_hz: images of each a second, Hz.
        seed: where the things are.
        transport: ``raw`` or ``compressed``.
        threaded: render beside the caller; an image that is due while another is rendered is
            left out.

    Raises:
        InputError: the virtual robot has no such camera, or there is no such transport.
    """

    def __init__(
        self,
        node: Node,
        robot: RobotSpec,
        wanted: Sequence[CameraSpec],
        *,
        rate_hz: float,
        seed: int,
        transport: str,
        threaded: bool,
    ) -> None:
        if transport not in TOPICS:
            raise InputError(
                f"image_transport: expected one out of {list(TOPICS)}, got {transport!r}"
            )
        self._scene = CameraScene(robot, wanted, seed)
        kind, topic = TOPICS[transport]
        self._publishers = {
            camera.name: node.create_publisher(kind, f"{camera.name}/{topic}", QOS)
            for camera in wanted
        }
        self._fill = compressed_message if transport == "compressed" else image_message
        self._ticker = Ticker(rate_hz)
        self._sent: tuple[int, dict[str, Any]] = (-1, {})
        self._again_s, self._sent_s = (1.0 / rate_hz if threaded else 0.0), 0.0
        self._due: queue.Queue[tuple[int, Float, Float | None] | None] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._render_all, daemon=True) if threaded else None
        if self._thread is not None:
            self._thread.start()

    def publish(self, stamp_ns: int, qpos_rad: Float, objects: Float | None = None) -> None:
        """Show a state, if images are due; those of a robot that stands still are sent again.

        Args:
            stamp_ns: stamp of the state, ns.
            qpos_rad: joint positions, (n,), rad.
            objects: poses of things that can be moved, (things, 7).
        """
        if stamp_ns == self._sent[0]:
            if time.monotonic() - self._sent_s >= self._again_s:
                self._send(self._sent[1])
        elif self._ticker.due(stamp_ns):
            if self._thread is None:
                self._render(stamp_ns, qpos_rad, objects)
            elif not self._due.full():
                self._due.put((stamp_ns, qpos_rad.copy(), objects))

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._due.put(None)
            self._thread.join()

    def _render_all(self) -> None:
        while (due := self._due.get()) is not None:
            self._render(*due)

    def _render(self, stamp_ns: int, qpos_rad: Float, objects: Float | None) -> None:
        messages = {
            name: self._fill(image, name, stamp_ns)
            for name, image in self._scene.images(qpos_rad, objects).items()
        }
        self._sent = stamp_ns, messages
        self._send(messages)

    def _send(self, messages: dict[str, Any]) -> None:
        self._sent_s = time.monotonic()
        for name, message in messages.items():
            self._publishers[name].publish(message)


def image_message(image: NDArray[np.uint8], frame: str, stamp_ns: int) -> Image:
    """A ``sensor_msgs/Image`` of encoding ``rgb8``.

    Args:
        image: RGB, (H, W, 3).
        frame: name of the camera.
        stamp_ns: stamp, ns.
    """
    height, width, channels = image.shape
    message = Image(height=height, width=width, encoding="rgb8", step=width * channels)
    message.header.frame_id = frame
    wire.set_stamp(message.header.stamp, stamp_ns)
    message.data = _bytes(image)
    return message


def compressed_message(image: NDArray[np.uint8], frame: str, stamp_ns: int) -> CompressedImage:
    """A ``sensor_msgs/CompressedImage`` of format JPEG; arguments as :func:`image_message`."""
    import cv2

    _, packed = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    message = CompressedImage(format="jpeg", data=_bytes(packed))
    message.header.frame_id = frame
    wire.set_stamp(message.header.stamp, stamp_ns)
    return message


def _bytes(values: NDArray[np.uint8]) -> array[int]:
    """What rclpy takes over without a copy of each number."""
    out = array("B")
    out.frombytes(np.ascontiguousarray(values).reshape(-1).data)
    return out
