"""Image topics into the bag: subscriptions, for :mod:`sim2real.bags.image_recorder`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from policies.errors import InputError
from sim2real.bags.image_recorder import BUFFER_BYTES, ImageRecorder
from sim2real.bags.images import COMPRESSED, RAW
from sim2real.bags.writer import BagWriter

_DEPTH = 30  # a second of a camera, while the thread that takes them is busy
_KINDS = {
    "raw": (Image, RAW, "image_raw"),
    "compressed": (CompressedImage, COMPRESSED, "image_raw/compressed"),
}


@dataclass(frozen=True, kw_only=True)
class CameraConfig:
    """Which cameras are recorded, and how.

    Attributes:
        cameras: their names; none for none.
        record: ``raw``, ``compressed`` or ``lossless``.
        transport: how images come, ``raw`` or ``compressed``.
        buffer_bytes: images that may wait to be written, bytes.
        lockstep: each image is waited for.
    """

    cameras: tuple[str, ...] = ()
    record: str = "compressed"
    transport: str = "raw"
    buffer_bytes: int = BUFFER_BYTES
    lockstep: bool = False


class CameraTopics:
    """Subscriptions to the cameras that are recorded.

    Args:
        node: the recorder.
        writer: its bag.
        config: which and how.
        on_error: called with an OSError when the bag cannot be written.

    Raises:
        InputError: an unknown transport or way to record, or OpenCV is missing.

    Attributes:
        subscriptions: topic as it was asked for -> subscription.
    """

    def __init__(
        self,
        node: Node,
        writer: BagWriter,
        config: CameraConfig,
        *,
        on_error: Callable[[OSError], None],
    ) -> None:
        self.subscriptions: dict[str, Any] = {}
        self._recorder: ImageRecorder | None = None
        if not config.cameras:
            return
        if config.transport not in _KINDS:
            raise InputError(
                f"image_transport: expected one out of {list(_KINDS)}, got {config.transport!r}"
            )
        kind, msgtype, below = _KINDS[config.transport]
        # Whatever the publisher offers matches best effort; in lockstep each image counts.
        policies = ReliabilityPolicy
        reliability = policies.RELIABLE if config.lockstep else policies.BEST_EFFORT
        qos = QoSProfile(depth=_DEPTH, reliability=reliability)
        self._recorder = ImageRecorder(
            writer,
            config.record,
            on_error=on_error,
            warn=node.get_logger().error,
            buffer_bytes=config.buffer_bytes,
        )
        for camera in config.cameras:
            topic = f"{camera}/{below}"
            name = node.resolve_topic_name(topic)
            self._recorder.add(name, msgtype)
            self.subscriptions[topic] = node.create_subscription(
                kind, topic, self._taker(self._recorder, name), qos, raw=True
            )

    def _taker(self, recorder: ImageRecorder, name: str) -> Any:
        def take(data: bytes, info: dict[str, Any]) -> None:
            number, publisher = info.get("publication_sequence_number"), info.get("publisher_gid")
            sent = (bytes(publisher["data"]), number) if publisher and number else None
            recorder.take(name, data, info["received_timestamp"], info["source_timestamp"], sent)

        return take

    @property
    def received(self) -> int:
        """Images so far."""
        return sum(counts["received"] for counts in self.counts().values())

    def counts(self) -> dict[str, dict[str, int]]:
        """Camera -> what became of its images, see :mod:`sim2real.bags.image_recorder`."""
        return self._recorder.counts() if self._recorder is not None else {}

    def close(self) -> None:
        """Write what waits; before the bag is closed."""
        if self._recorder is not None:
            self._recorder.close()
