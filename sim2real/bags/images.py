"""Camera images of a bag: an index by time; each is fetched and decoded when it is asked for."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from policies import images
from policies.errors import InputError
from policies.images import Packed, Rgb
from sim2real.bags.batch import NS, Batch, DamageError, Index, Int
from sim2real.bags.definitions import typestore
from sim2real.bags.files import BagFiles, unreadable
from sim2real.bags.mcap_records import read_chunk
from sim2real.bags.scan import header_stamps
from sim2real.bags.sqlite_file import SqliteFile

RAW = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
IMAGE_TYPES = (RAW, COMPRESSED)
_SUFFIXES = ("/compressed", "/image_raw", "/image_rect_color", "/image_rect", "/image_color")


def camera_of(topic: str) -> str:
    """Name of the camera of an image topic: ``/front/image_raw/compressed`` is of ``front``."""
    name = topic
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name.strip("/").replace("/", "_") or "camera"


@dataclass(frozen=True, kw_only=True)
class ImageMessage:
    """An ``Image`` or ``CompressedImage``; the pixels are as they came.

    Attributes:
        what: where it comes from, for error texts.
        stamp_ns: header stamp, ns.
        frame_id: of its header.
        data: pixels, or a JPEG or PNG file.
        raw: height, width, step and encoding of pixels; None for a file.
    """

    what: str
    stamp_ns: int
    frame_id: str
    data: memoryview
    raw: tuple[int, int, int, str] | None

    def size(self) -> tuple[int, int]:
        """Height and width, pixels, as its header has them.

        Raises:
            InputError: it is a file that is damaged, or too large.
        """
        if self.raw is not None:
            return self.raw[:2]
        found = images.inspect(self.data, self.what)
        return found.height, found.width

    def describe(self) -> str:
        """Such as ``64 x 48 jpeg``.

        Raises:
            InputError: as :meth:`size`.
        """
        height, width = self.size()
        kind = images.inspect(self.data, self.what).format if self.raw is None else self.raw[3]
        return f"{width} x {height} {kind}"

    def rgb(self) -> Rgb:
        """RGB, (H, W, 3).

        Raises:
            InputError: it is damaged, too large or of an unknown encoding.
        """
        if self.raw is None:
            return images.decode(self.data, self.what)
        height, width, step, encoding = self.raw
        return images.from_raw(
            self.data, height=height, width=width, step=step, encoding=encoding, what=self.what
        )

    def packed(self) -> tuple[bytes, Packed]:
        """A JPEG or PNG file of three channels, and what it is: the one that came if it is such.

        Raises:
            InputError: as :meth:`rgb`.
        """
        if self.raw is None:
            found = images.inspect(self.data, self.what)
            if found.plain:
                return bytes(self.data), found
        file = images.encode(self.rgb(), "png", self.what)
        return file, images.inspect(file, self.what)


def parse_image(cdr: bytes | memoryview, msgtype: str, what: str) -> ImageMessage:
    """Read a serialised message without copying its pixels.

    Args:
        cdr: plain CDR with its 4-byte header.
        msgtype: one of :data:`IMAGE_TYPES`.
        what: where it comes from, for error texts.

    Raises:
        InputError: the bytes are not such a message.
    """
    try:
        cursor = _Cursor(memoryview(cdr))
        seconds, nanoseconds = cursor.number("i"), cursor.number("I")
        frame = cursor.text()
        raw = None
        if msgtype == RAW:
            height, width, encoding = cursor.number("I"), cursor.number("I"), cursor.text()
            cursor.number("B")
            raw = height, width, cursor.number("I"), encoding
        else:
            cursor.text()
        data = cursor.take(cursor.number("I"))
    except (struct.error, UnicodeDecodeError, ValueError) as error:
        raise InputError(
            f"{what}: expected a {msgtype}, got {len(cdr)} bytes that are none ({error}); record "
            "it again or leave the camera out"
        ) from None
    return ImageMessage(
        what=what, stamp_ns=seconds * NS + nanoseconds, frame_id=frame, data=data, raw=raw
    )


def compressed_cdr(image: ImageMessage, kind: images.Format) -> bytes:
    """An image as a serialised ``CompressedImage`` of the same header.

    Args:
        image: any image.
        kind: how its pixels are compressed.

    Raises:
        InputError: as :meth:`ImageMessage.rgb`.
    """
    data = images.encode(image.rgb(), kind, image.what)
    types = typestore().types
    second, nanosecond = divmod(image.stamp_ns, NS)
    stamp = types["builtin_interfaces/msg/Time"](sec=second, nanosec=nanosecond)
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id=image.frame_id)
    message = types[COMPRESSED](header=header, format=kind, data=np.frombuffer(data, np.uint8))
    return bytes(typestore().serialize_cdr(message, COMPRESSED))


class _Cursor:
    """Reads one CDR message; alignment counts from byte 4."""

    def __init__(self, data: memoryview) -> None:
        if len(data) < 4 or data[0] or data[1] > 1:
            raise ValueError("its encapsulation is not plain CDR")
        self._data, self._order, self._position = data, "><"[data[1]], 4

    def number(self, kind: str) -> int:
        size = struct.calcsize("<" + kind)
        self._position += (4 - self._position) % size
        value: int = struct.unpack_from(self._order + kind, self._data, self._position)[0]
        self._position += size
        return value

    def text(self) -> str:
        return bytes(self.take(self.number("I"))).rstrip(b"\0").decode()

    def take(self, size: int) -> memoryview:
        start = self._position
        self._position += size
        if self._position > len(self._data):
            raise ValueError("it is shorter than its length fields say")
        return self._data[start : self._position]


@dataclass(kw_only=True)
class MessageReader:
    """Fetches single messages of a bag; the chunk that was read last is kept.

    Attributes:
        files: of the bag.
        require_unchanged: raises where they are not what they were when the bag was opened.
    """

    files: BagFiles
    require_unchanged: Callable[[], None]
    _chunk: tuple[int, int, bytes] = field(default=(-1, -1, b""), init=False)

    def fetch(self, file: int, chunk: int, start: int, length: int) -> bytes:
        """CDR of a message: number of its file, its place there, and its length, bytes.

        Raises:
            InputError: the files have changed or cannot be read.
        """
        path = self.files.paths[file]
        try:
            if self._chunk[:2] != (file, chunk) or chunk < 0:
                self.require_unchanged()
                self._chunk = file, chunk, self._read(path, chunk, start, length)
            content = self._chunk[2]
            if chunk < 0 or self.files.storage != "mcap":
                return content
            return content[start : start + length]
        except OSError as error:
            raise unreadable(path, error) from None
        except DamageError as damage:
            raise InputError(f"expected a whole bag, but {path} is damaged ({damage})") from None

    def _read(self, path: Path, chunk: int, start: int, length: int) -> bytes:
        """A whole chunk, or the message where there are none."""
        if self.files.storage != "mcap":
            source = self.files.open(path)
            assert isinstance(source, SqliteFile)
            return source.message(chunk)
        with path.open("rb") as stream:
            if chunk >= 0:
                return read_chunk(stream, chunk)
            stream.seek(start)
            return stream.read(length)


@dataclass(frozen=True, kw_only=True)
class ImageTopic:
    """Images of one topic in the order of the bag; none of them is in memory.

    Attributes:
        topic, msgtype: where they come from.
        stamp_ns: header stamps, (N,), ns.
        log_ns: times of reception, (N,), ns.
        sequence: place of each among all messages of the bag, (N,).
        places: number of the file, chunk, byte in it, length, (N, 4).
        reader: who fetches them.
    """

    topic: str
    msgtype: str
    stamp_ns: Int
    log_ns: Int
    sequence: Int
    places: Int
    reader: MessageReader

    def __len__(self) -> int:
        return len(self.stamp_ns)

    @property
    def camera(self) -> str:
        """Name of the camera."""
        return camera_of(self.topic)

    def __getitem__(self, number: int) -> ImageMessage:
        """Fetch one image.

        Raises:
            InputError: its message is damaged, or the bag has changed.
        """
        cdr = self.reader.fetch(*self.places[number].tolist())
        what = f"topic {self.topic}, image {number} of {len(self)}"
        return parse_image(cdr, self.msgtype, what)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Height and width of the first image, pixels."""
        return self[0].size()


@dataclass(kw_only=True)
class ImageIndexer:
    """Notes where the images of one topic are.

    Attributes:
        topic, msgtype: what is indexed.
        reader: who fetches them later.
    """

    topic: str
    msgtype: str
    reader: MessageReader
    _parts: list[tuple[Int, Int, Int, Int]] = field(default_factory=list)

    def add(self, batch: Batch, rows: Index, sequence: Int, file: int) -> None:
        """Note some messages of a batch.

        Args:
            batch: messages of any topics.
            rows: which of them are of this topic, ascending, (N,).
            sequence: their places in the bag, (N,).
            file: number of the file.

        Raises:
            InputError: a message is too short to have a stamp.
        """
        stamps = header_stamps(batch, rows)
        if len(stamps) != len(rows):
            raise InputError(
                f"topic {self.topic}: expected images with a header, got a message of "
                f"{batch.length[rows].min()} bytes; record it again or leave the camera out"
            )
        places = np.empty((len(rows), 4), np.int64)
        places[:, 0] = file
        places[:, 1:3] = batch.places(rows)
        places[:, 3] = batch.length[rows]
        self._parts.append((stamps, batch.log_ns[rows], sequence.copy(), places))

    def finish(self) -> ImageTopic:
        """The index."""
        empty = np.zeros(0, np.int64)
        parts = [(empty, empty, empty, np.zeros((0, 4), np.int64)), *self._parts]
        stamps, log_ns, sequence, places = (np.concatenate(p) for p in zip(*parts, strict=True))
        return ImageTopic(
            topic=self.topic,
            msgtype=self.msgtype,
            stamp_ns=stamps,
            log_ns=log_ns,
            sequence=sequence,
            places=places,
            reader=self.reader,
        )
