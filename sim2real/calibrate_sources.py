"""Images for calibration: from a folder, a video, or a topic of a bag."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rosbags.serde import SerdeError

from calibration.detection import Frame
from policies.errors import InputError
from policies.images import inspect
from sim2real.bags.batch import NS, DamageError, Message
from sim2real.bags.definitions import typestore
from sim2real.bags.files import find_files, natural_key
from sim2real.bags.reader import read_bag

_IMAGE, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
_INSPECTED = (b"\x89PNG", b"\xff\xd8")
_HEADER_BYTES = 12  # of a message, up to the end of its stamp
# encoding -> type of a channel, channels, conversion to gray
_ENCODINGS: dict[str, tuple[str, int, int | None]] = {
    "mono8": ("u1", 1, None),
    "8UC1": ("u1", 1, None),
    "mono16": ("u2", 1, None),
    "16UC1": ("u2", 1, None),
    "bgr8": ("u1", 3, cv2.COLOR_BGR2GRAY),
    "8UC3": ("u1", 3, cv2.COLOR_BGR2GRAY),
    "rgb8": ("u1", 3, cv2.COLOR_RGB2GRAY),
    "bgra8": ("u1", 4, cv2.COLOR_BGRA2GRAY),
    "rgba8": ("u1", 4, cv2.COLOR_RGBA2GRAY),
}


def open_source(path: Path, topic: str | None, rate_hz: float) -> tuple[Iterator[Frame], int]:
    """Images of a folder, a video or a bag.

    Args:
        path: folder of images, video file, or bag.
        topic: image topic of a bag; None for the only one.
        rate_hz: at most so many images a second, of a video or bag.

    Returns:
        The images, and how many they are at most.

    Raises:
        InputError: there are no images there.
    """
    if not math.isfinite(rate_hz) or rate_hz <= 0:
        raise InputError(f"expected a rate above 0 Hz, got {rate_hz:g}; choose for example 2")
    if not path.exists():
        raise InputError(
            f"expected a folder of images, a video or a bag, but there is no {path}; check the path"
        )
    if is_bag(path):
        return bag_frames(path, topic, rate_hz)
    if topic is not None:
        raise InputError(f"expected a bag for topic {topic}, but {path} is none; leave it out")
    if path.is_dir():
        files = sorted(
            (f for f in path.iterdir() if f.suffix.lower() in _SUFFIXES), key=natural_key
        )
        if not files:
            raise InputError(
                f"expected images ({', '.join(_SUFFIXES)}) or a bag in {path}, got neither; "
                "check the path"
            )
        return (_from_file(file) for file in files), len(files)
    return _video_frames(path, rate_hz)


def is_bag(path: Path) -> bool:
    """True for a rosbag2 directory or one of its files."""
    if path.is_file():
        return path.suffix in (".mcap", ".db3")
    inside = (path.glob(pattern) for pattern in ("metadata.yaml", "*.mcap", "*.db3"))
    return any(file for files in inside for file in files)


def bag_frames(path: Path, topic: str | None, rate_hz: float) -> tuple[Iterator[Frame], int]:
    """Images of a topic, by header stamps; see :func:`open_source`.

    Raises:
        InputError: no such bag or topic, or the topic has no images.
    """
    info = read_bag(path).info
    topics = [t for t in info.topics if t.type in (_IMAGE, _COMPRESSED) and t.count]
    have = ", ".join(t.name for t in topics) or "none"
    chosen = [t for t in topics if topic is None or t.name == topic]
    if len(chosen) != 1:
        wanted = "one image topic" if topic is None else f"image topic {topic}"
        raise InputError(
            f"bag {path}: expected {wanted}, but its image topics are: {have}; name one of these "
            "or record it"
        )
    return _bag_images(path, chosen[0].name, rate_hz), chosen[0].count


def _bag_images(path: Path, topic: str, rate_hz: float) -> Iterator[Frame]:
    files = find_files(path)
    last_ns: int | None = None
    for file in files.paths:
        try:
            for batch in files.open(file, check=False).batches():
                if topic not in {t.name for t in batch.topics.values()}:
                    continue
                for message in batch.messages():
                    if message.topic.name != topic:
                        continue
                    if len(message.data) < _HEADER_BYTES:
                        raise _no_image(topic, message.log_ns)
                    stamp_ns = _stamp_ns(message)
                    # a stamp that jumps back starts anew
                    if last_ns is not None and 0 <= stamp_ns - last_ns < NS / rate_hz:
                        continue
                    last_ns = stamp_ns
                    yield _from_message(message, stamp_ns)
        except DamageError as damage:
            raise InputError(
                f"expected a whole bag, but {file} is damaged ({damage}); "
                f"rescue what is left of it with `realign bag salvage {path} OUT`"
            ) from None


def _stamp_ns(message: Message) -> int:
    """Header stamp, from the first bytes."""
    order = "<" if message.data[1] & 1 else ">"
    seconds, nanoseconds = np.frombuffer(message.data[4:12], f"{order}u4").tolist()
    return int(seconds) * NS + int(nanoseconds)


def _from_message(message: Message, stamp_ns: int) -> Frame:
    name = f"{message.topic.name} at {stamp_ns / NS:.3f} s"
    try:
        decoded: Any = typestore().deserialize_cdr(message.data, message.topic.msgtype)
        if message.topic.msgtype == _COMPRESSED:
            image = _decode(bytes(decoded.data))
        else:
            image = _gray(decoded)
    except (SerdeError, ValueError, IndexError, AssertionError, cv2.error):
        image = None
    except KeyError as error:
        raise InputError(
            f"topic {message.topic.name}: expected an encoding out of {', '.join(_ENCODINGS)}, got "
            f"{error.args[0]!r}; record compressed images or another encoding"
        ) from None
    if image is None:
        raise _no_image(message.topic.name, stamp_ns)
    return Frame(name=name, image=np.asarray(image, np.uint8), stamp_ns=stamp_ns)


def _no_image(topic: str, at_ns: int) -> InputError:
    return InputError(
        f"topic {topic}: expected an image, but that at {at_ns / NS:.3f} s cannot be decoded; "
        "record it again"
    )


def _decode(data: bytes) -> Any | None:
    """Gray values of an image file; None if it is damaged or claims to be too large."""
    try:
        if data.startswith(_INSPECTED):
            inspect(data, "image")  # before memory is taken for what it claims
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    except (cv2.error, InputError):
        return None


def _gray(message: Any) -> Any:
    kind, channels, conversion = _ENCODINGS[message.encoding]
    if not 0 < message.height * message.width * channels * int(kind[1]) <= message.data.nbytes:
        raise ValueError("a size that its bytes do not have")
    data = np.asarray(message.data, np.uint8).reshape(message.height, message.step)
    data = np.ascontiguousarray(data[:, : message.width * channels * int(kind[1])])
    pixels = data.view(f"{'>' if message.is_bigendian else '<'}{kind}")
    if kind == "u2":
        return (pixels >> 8).astype(np.uint8)
    if conversion is None:
        return pixels
    return cv2.cvtColor(pixels.reshape(message.height, message.width, channels), conversion)


def _from_file(file: Path) -> Frame:
    try:
        image = _decode(file.read_bytes())
    except OSError:
        image = None
    if image is None:
        raise InputError(f"expected an image, but {file} cannot be decoded; remove or replace it")
    return Frame(name=file.name, image=np.asarray(image, np.uint8))


def _video_frames(path: Path, rate_hz: float) -> tuple[Iterator[Frame], int]:
    capture = cv2.VideoCapture(str(path))
    if not capture.isOpened():
        raise InputError(
            f"expected a folder of images, a video or a bag, but {path} cannot be opened as a "
            "video; convert it to MP4 or to images"
        )
    rate = capture.get(cv2.CAP_PROP_FPS)
    stride = max(1, round(rate / rate_hz)) if math.isfinite(rate) and rate > 0 else 1

    def frames() -> Iterator[Frame]:
        number = 0
        while capture.grab():
            if number % stride == 0:
                good, image = capture.retrieve()
                if good:
                    gray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
                    yield Frame(name=f"frame {number}", image=np.asarray(gray, np.uint8))
            number += 1
        capture.release()

    return frames(), max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) // stride
