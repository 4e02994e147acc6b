"""JPEG and PNG images, read and written by OpenCV; nothing in a file is trusted.

What an image claims to be (format, size, channels) is read from its header, and that it is whole
from its framing, before a decoder sees it: a few bytes that claim a billion pixels cost nothing.
"""

from __future__ import annotations

import struct
import zlib
from types import ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError

Format = Literal["jpeg", "png"]
Rgb = NDArray[np.uint8]
MAX_PIXELS = 2**24
"""Largest image that is decoded: 4096 x 4096."""
QUALITY = 95
ENCODINGS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
"""Encodings of ``sensor_msgs/Image`` that are understood, and their bytes a pixel."""
CONVERSIONS = {
    "bgr8": "COLOR_BGR2RGB",
    "rgba8": "COLOR_RGBA2RGB",
    "bgra8": "COLOR_BGRA2RGB",
    "mono8": "COLOR_GRAY2RGB",
}
"""Encoding -> name of OpenCV's conversion to RGB."""
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}  # colour type -> channels; 3 is a palette
# Start-of-frame markers of every coding that there is; C4, C8 and CC are other tables.
_FRAME_MARKERS = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_JPEG_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length


class Packed(NamedTuple):
    """What a compressed image says of itself.

    Attributes:
        format: how it is compressed.
        height, width: pixels.
        plain: three channels of 8 bits: any reader makes the same RGB of it.
    """

    format: Format
    height: int
    width: int
    plain: bool


def inspect(data: bytes | memoryview, what: str) -> Packed:
    """Read the header of a JPEG or PNG image and check that it is whole.

    Args:
        data: the file's bytes.
        what: whose image it is, for the error text.

    Raises:
        InputError: it is neither, is cut off or damaged, or larger than :data:`MAX_PIXELS`.
    """
    data = bytes(data)
    try:
        found = _png(data) if data.startswith(_PNG_MAGIC) else _jpeg(data)
    except (ValueError, struct.error, IndexError) as error:
        reason = str(error) if isinstance(error, ValueError) else "it ends inside its header"
        raise InputError(
            f"{what}: expected a whole JPEG or PNG image, got {len(data)} bytes that are none "
            f"({reason}); check the publisher, or leave the camera out"
        ) from None
    if not 0 < found.height * found.width <= MAX_PIXELS:
        raise InputError(
            f"{what}: expected an image of 1 to {MAX_PIXELS} pixels, got one that claims "
            f"{found.width} x {found.height}; set the camera to a smaller size"
        )
    return found


def decode(data: bytes | memoryview, what: str) -> Rgb:
    """RGB pixels of a JPEG or PNG image, (H, W, 3), as stored: an orientation tag is not applied.

    Args:
        data: the file's bytes.
        what: whose image it is, for the error text.

    Raises:
        InputError: as :func:`inspect`, or its content cannot be decoded, or OpenCV is missing.
    """
    claimed = inspect(data, what)
    cv2 = opencv(what)
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    if pixels is None or pixels.shape != (claimed.height, claimed.width, 3):
        raise InputError(
            f"{what}: expected an image that OpenCV can decode, got {len(data)} bytes of damaged "
            f"{claimed.format}; check the publisher, or leave the camera out"
        )
    cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
    rgb: Rgb = pixels
    return rgb


def encode(rgb: Rgb, kind: Format, what: str) -> bytes:
    """Compress an image: JPEG of quality 95 with colours at full resolution, or PNG (exact).

    Args:
        rgb: RGB, (H, W, 3).
        kind: which of the two.
        what: whose image it is, for the error text.

    Raises:
        InputError: OpenCV is missing or refuses the image.
    """
    cv2 = opencv(what)
    options = []
    if kind == "jpeg":
        full = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
        options = [cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, full]
    suffix = ".jpg" if kind == "jpeg" else ".png"
    done, packed = cv2.imencode(suffix, cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise InputError(f"{what}: expected an image that OpenCV can write as {kind}, got none")
    return bytes(packed)


def shrink(rgb: Rgb, width: int, what: str) -> Rgb:
    """An image no wider than ``width``, in its proportions; smaller ones stay as they are.

    Args:
        rgb: RGB, (H, W, 3).
        width: pixels.
        what: whose image it is, for the error text.
    """
    if rgb.shape[1] <= width:
        return rgb
    height = max(1, round(rgb.shape[0] * width / rgb.shape[1]))
    cv2 = opencv(what)
    small: Rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
    return small


def from_raw(
    data: bytes | memoryview, *, height: int, width: int, step: int, encoding: str, what: str
) -> Rgb:
    """RGB pixels of an image as ``sensor_msgs/Image`` has it, (H, W, 3); a view where it can be.

    Args:
        data: rows of ``step`` bytes.
        height: rows.
        width: pixels of a row.
        step: bytes of a row, padding included.
        encoding: a key of :data:`ENCODINGS`.
        what: whose image it is, for the error text.

    Raises:
        InputError: an unknown encoding, a size that the bytes do not have, or OpenCV is missing.
    """
    if encoding not in ENCODINGS:
        raise InputError(
            f"{what}: expected an encoding out of {list(ENCODINGS)}, got {encoding!r}; let the "
            "camera's driver convert its images"
        )
    channels = ENCODINGS[encoding]
    if not 0 < height * width <= MAX_PIXELS:
        raise InputError(
            f"{what}: expected an image of 1 to {MAX_PIXELS} pixels, got one that claims "
            f"{width} x {height}; set the camera to a smaller size"
        )
    if step < width * channels or len(data) != step * height:
        raise InputError(
            f"{what}: expected rows of at least {width * channels} bytes and {height} of them, "
            f"got {len(data)} bytes in rows of {step}; mend the publisher"
        )
    rows = np.frombuffer(data, np.uint8).reshape(height, step)[:, : width * channels]
    pixels: Rgb = rows.reshape(height, width, channels)
    if encoding == "rgb8":
        return pixels
    cv2 = opencv(what)
    converted: Rgb = cv2.cvtColor(pixels, getattr(cv2, CONVERSIONS[encoding]))
    return converted


def opencv(what: str) -> ModuleType:
    """OpenCV.

    Args:
        what: what it is needed for, for the error text.

    Raises:
        InputError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise InputError(
            f"{what}: expected OpenCV for compressed images, but it is not installed; run: "
            "pip install 'realign[vision]'"
        ) from error
    module: Any = cv2
    return module


def _png(data: bytes) -> Packed:
    """Walk the chunks, each with a length and a checksum, from IHDR to IEND."""
    position, header = len(_PNG_MAGIC), b""
    while True:
        length, kind = struct.unpack_from(">I4s", data, position)
        stop = position + 8 + length
        (checksum,) = struct.unpack_from(">I", data, stop)
        if zlib.crc32(data[position + 4 : stop]) != checksum:
            raise ValueError("the checksum of a chunk does not match")
        if not header:
            if kind != b"IHDR" or length != 13:
                raise ValueError("it does not begin with its size")
            header = data[position + 8 : stop]
        if kind == b"IEND":
            break
        position = stop + 4
    width, height, bits, colour = struct.unpack_from(">IIBB", header)
    if colour not in _PNG_CHANNELS:
        raise ValueError(f"its colour type {colour} does not exist")
    return Packed("png", height, width, colour == 2 and bits == 8)


def _jpeg(data: bytes) -> Packed:
    """Walk the segments up to the frame header; the file has to end with its end marker."""
    if data[:2] != b"\xff\xd8":
        raise ValueError("it begins with the bytes of neither")
    if not data.rstrip(b"\x00").endswith(b"\xff\xd9"):
        raise ValueError("it is cut off")
    position = 2
    while True:
        if data[position] != 0xFF:
            raise ValueError("its segments do not follow one another")
        marker = data[position + 1]
        if marker == 0xFF or marker in _JPEG_ALONE:
            position += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, position + 2)
        if marker in _FRAME_MARKERS:
            bits, height, width, channels = struct.unpack_from(">BHHB", data, position + 4)
            return Packed("jpeg", height, width, channels == 3 and bits == 8)
        if marker == 0xDA or length < 2:
            raise ValueError("it has no size")
        position += 2 + length
