"""Images into a bag, in a thread of its own: whoever receives them never waits.

What waits to be compressed and written is bounded in bytes. An image that comes when there is no
room is left out, and counted; so is one that got lost on the way or cannot be read.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Literal

from policies.errors import InputError
from policies.images import Format, opencv
from policies.runtime.scheduling import leave_realtime
from sim2real.bags.images import COMPRESSED, RAW, camera_of, compressed_cdr, parse_image
from sim2real.bags.writer import BagWriter

Recorded = Literal["raw", "compressed", "lossless"]
FORMATS: dict[str, Format] = {"compressed": "jpeg", "lossless": "png"}
"""How images are recorded -> how pixels are compressed."""
CAMERA_FACTS = "camera."
"""Begin of the keys under which a bag's provenance tells what became of the images."""
BUFFER_BYTES = 128 * 2**20


@dataclass(kw_only=True)
class ImageCounts:
    """What became of the images of a camera.

    Attributes:
        received: that came.
        written: that are in the bag.
        dropped: left out since the buffer was full.
        lost: that were sent and never came, by the publisher's own numbers.
        refused: that cannot be read, or compressed.
    """

    received: int = 0
    written: int = 0
    dropped: int = 0
    lost: int = 0
    refused: int = 0


@dataclass(kw_only=True)
class _Camera:
    topic: str
    msgtype: str
    out: str
    encode: Format | None
    counts: ImageCounts = field(default_factory=ImageCounts)
    last: tuple[bytes, int] | None = None


class ImageRecorder:
    """Writes images of several cameras to a bag.

    Args:
        writer: the bag.
        record: pixels as they come, or compressed as JPEG or PNG; files stay what they are.
        on_error: called with an OSError when the bag cannot be written; from then on nothing is.
        warn: called with one sentence for the first image of a camera that is left out.
        buffer_bytes: what may wait, bytes.

    Raises:
        InputError: there is no such way to record.
    """

    def __init__(
        self,
        writer: BagWriter,
        record: str,
        *,
        on_error: Callable[[OSError], None],
        warn: Callable[[str], None],
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        if record != "raw" and record not in FORMATS:
            raise InputError(
                f"images: expected one out of {['raw', *FORMATS]}, got {record!r}; use one of these"
            )
        self._writer, self._format = writer, FORMATS.get(record)
        self._on_error, self._warn = on_error, warn
        self._room = buffer_bytes
        self._room_lock = threading.Lock()
        self._cameras: dict[str, _Camera] = {}
        self._waiting: queue.SimpleQueue[tuple[_Camera, bytes, int, int | None] | None]
        self._waiting = queue.SimpleQueue()
        self._broken = False
        self._thread: threading.Thread | None = None

    def add(self, topic: str, msgtype: str) -> None:
        """Declare a camera's topic.

        Args:
            topic: full name, such as ``/front/image_raw``.
            msgtype: type of its messages; ``CompressedImage`` is written as it comes.

        Raises:
            InputError: images are to be compressed, but OpenCV is not installed.
        """
        encode = self._format if msgtype == RAW else None
        if encode is not None:
            opencv(f"topic {topic}")
        out = f"{topic}/compressed" if encode else topic
        self._writer.add_topic(out, COMPRESSED if encode else msgtype)
        self._cameras[topic] = _Camera(topic=topic, msgtype=msgtype, out=out, encode=encode)

    def take(
        self,
        topic: str,
        cdr: bytes,
        log_ns: int,
        publish_ns: int | None = None,
        sent: tuple[bytes, int] | None = None,
    ) -> None:
        """Take one image; it is written later, or left out and counted.

        Args:
            topic: a topic declared with :meth:`add`.
            cdr: the serialised message.
            log_ns: time of reception, ns.
            publish_ns: time of sending, ns.
            sent: its publisher and that one's number for it, by which losses are noticed.
        """
        camera = self._cameras[topic]
        counts = camera.counts
        counts.received += 1
        if sent is not None:
            if camera.last is not None and camera.last[0] == sent[0]:
                counts.lost += max(sent[1] - camera.last[1] - 1, 0)
            camera.last = sent
        if self._thread is None:  # not sooner, lest it be given the priority of who takes
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        with self._room_lock:
            fits = len(cdr) <= self._room and not self._broken
            self._room -= len(cdr) if fits else 0
        if fits:
            self._waiting.put((camera, cdr, log_ns, publish_ns))
        else:
            counts.dropped += 1
            if counts.dropped == 1 and not self._broken:
                self._warn(
                    f"topic {topic}: expected images no faster than they can be compressed and "
                    "written, but the buffer is full; images are left out, and counted"
                )

    def close(self) -> None:
        """Write what waits, and tell the bag what became of the images; what comes is dropped."""
        self._waiting.put(None)
        if self._thread is not None:
            self._thread.join()
        self._broken = True
        for name, counts in self.counts().items():
            facts = {f"{CAMERA_FACTS}{name}.{key}": str(value) for key, value in counts.items()}
            self._writer.note(facts)

    def counts(self) -> dict[str, dict[str, int]]:
        """Camera -> what became of its images (:class:`ImageCounts`)."""
        return {camera_of(topic): asdict(c.counts) for topic, c in self._cameras.items()}

    def _work(self) -> None:
        leave_realtime()
        while (item := self._waiting.get()) is not None:
            camera, cdr, log_ns, publish_ns = item
            if not self._broken:
                self._write(camera, cdr, log_ns, publish_ns)
            with self._room_lock:
                self._room += len(cdr)

    def _write(self, camera: _Camera, cdr: bytes, log_ns: int, publish_ns: int | None) -> None:
        try:
            if camera.encode is not None:
                image = parse_image(cdr, camera.msgtype, f"topic {camera.topic}")
                cdr = compressed_cdr(image, camera.encode)
            self._writer.write(camera.out, cdr, log_ns, publish_ns)
            camera.counts.written += 1
        except InputError as error:
            camera.counts.refused += 1
            if camera.counts.refused == 1:
                self._warn(f"not recorded: {error}")
        except OSError as error:
            self._broken = True
            self._on_error(error)
