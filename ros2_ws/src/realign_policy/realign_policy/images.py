"""Camera messages to RGB arrays: checked, decoded when somebody looks, without needless copies.

``rgb8`` is a view of the message. Other encodings and compressed images are converted by OpenCV
into buffers that are used again. Messages are read by their attributes, so nothing here needs ROS.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.diffusion.interface import CameraSpec
from policies.errors import InputError
from policies.images import CONVERSIONS, ENCODINGS, decode, inspect, opencv
from policies.messages import stamp_to_ns

TRANSPORTS = {"raw": "image_raw", "compressed": "image_raw/compressed"}
"""How images come -> topic below the camera's name."""
_HEADER_BYTES = 65_536  # what a file format may add to an image that does not get smaller


def topic_of(camera: str, transport: str) -> str:
    """Topic of a camera's images, such as ``front/image_raw``.

    Raises:
        InputError: no such transport.
    """
    if transport not in TRANSPORTS:
        raise InputError(
            f"image_transport: expected one out of {list(TRANSPORTS)}, got {transport!r}"
        )
    return f"{camera}/{TRANSPORTS[transport]}"


class CameraStream:
    """The newest image of one camera.

    Args:
        camera: name and size that are expected.
        keep: decoded images that must stay as they are while newer ones are decoded.

    Attributes:
        received: messages so far.
    """

    def __init__(self, camera: CameraSpec, *, keep: int) -> None:
        self.camera = camera
        self.received = 0
        self._buffers: list[NDArray[np.uint8] | None] = [None] * (keep + 1)
        self._next = 0
        self._message: Any = None
        self._decoded: NDArray[np.uint8] | None = None

    def take(self, message: Any) -> None:
        """Remember an ``Image`` or ``CompressedImage``; it is decoded when it is asked for."""
        self._message, self._decoded = message, None
        self.received += 1

    @property
    def stamp_ns(self) -> int | None:
        """Stamp of the newest image, ns, or None before the first."""
        return None if self._message is None else stamp_to_ns(self._message.header.stamp)

    def rgb(self) -> NDArray[np.uint8]:
        """The newest image, (height, width, 3), RGB.

        Raises:
            InputError: there is none yet, or it is of another size or an unknown encoding.
        """
        if self._decoded is None:
            message, camera = self._message, self.camera
            if message is None:
                raise InputError(f"camera {camera.name!r}: expected an image, but none has come")
            if hasattr(message, "format"):
                self._decoded = decode_compressed(message.data, message.format, camera)
            elif message.encoding == "rgb8":
                self._decoded = raw_pixels(message, camera)
            else:
                self._decoded = convert(message, camera, self._buffer())
        return self._decoded

    def _buffer(self) -> NDArray[np.uint8]:
        """A buffer that no kept image lives in."""
        self._next = (self._next + 1) % len(self._buffers)
        buffer = self._buffers[self._next]
        if buffer is None:
            buffer = np.empty((self.camera.height, self.camera.width, 3), dtype=np.uint8)
            self._buffers[self._next] = buffer
        return buffer


def raw_pixels(message: Any, camera: CameraSpec) -> NDArray[np.uint8]:
    """View of a ``sensor_msgs/Image``, (height, width, channels).

    Args:
        message: the image.
        camera: name and size that are expected.

    Raises:
        InputError: another size, an unknown encoding, or not as many bytes as it says.
    """
    encoding, height, width = message.encoding, message.height, message.width
    if encoding not in ENCODINGS:
        raise InputError(
            f"camera {camera.name!r}: expected an encoding out of {list(ENCODINGS)}, got "
            f"{encoding!r}; let the camera's driver convert its images"
        )
    _check_size(camera, height, width)
    channels = ENCODINGS[encoding]
    data = np.frombuffer(message.data, dtype=np.uint8)
    if message.step < width * channels or len(data) != message.step * height:
        raise InputError(
            f"camera {camera.name!r}: expected rows of at least {width * channels} bytes and "
            f"{height} of them, got {len(data)} bytes in rows of {message.step}; mend the "
            "publisher"
        )
    rows = data.reshape(height, message.step)[:, : width * channels]
    return rows.reshape(height, width, channels)


def convert(message: Any, camera: CameraSpec, out: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """RGB pixels of a ``sensor_msgs/Image`` of another encoding.

    Args:
        message: the image.
        camera: name and size that are expected.
        out: where they go, (height, width, 3).

    Raises:
        InputError: as :func:`raw_pixels`.
    """
    pixels = raw_pixels(message, camera)
    cv2 = opencv(f"camera {camera.name!r}, encoding {message.encoding}")
    cv2.cvtColor(pixels, getattr(cv2, CONVERSIONS[message.encoding]), dst=out)
    return out


def decode_compressed(data: Any, kind: str, camera: CameraSpec) -> NDArray[np.uint8]:
    """RGB pixels of a ``sensor_msgs/CompressedImage``, (height, width, 3).

    Args:
        data: its bytes.
        kind: its ``format``, for error texts.
        camera: name and size that are expected.

    Raises:
        InputError: another size, or nothing that OpenCV can decode.
    """
    limit = 3 * camera.height * camera.width + _HEADER_BYTES
    if not 0 < len(data) <= limit:
        raise InputError(
            f"camera {camera.name!r}: expected a compressed image of 1 to {limit} bytes, got "
            f"{len(data)}; check its size and format ({kind!r})"
        )
    packed, what = memoryview(data), f"camera {camera.name!r}"
    found = inspect(packed, what)
    _check_size(camera, found.height, found.width)
    return decode(packed, what)


def _check_size(camera: CameraSpec, height: int, width: int) -> None:
    if (height, width) != (camera.height, camera.width):
        raise InputError(
            f"camera {camera.name!r}: expected images of {camera.width} x {camera.height} pixels, "
            f"got {width} x {height}; set the camera to that size"
        )
