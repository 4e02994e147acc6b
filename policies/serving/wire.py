"""Messages with arrays <-> bytes: msgpack with NumPy, in the form that openpi's client speaks.

An array is a map of its bytes, dtype and shape. Numbers and booleans only: there is no dtype
through which code or references could come in. A message is counted before anything of it is
built, and an array is a view of the message's own bytes, so that the memory it takes is bounded by
its length.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

import msgpack  # type: ignore[import-untyped]
import numpy as np

from policies.errors import InputError

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
MAX_ITEMS = 10_000
_MAX_AXES = 8
_DTYPES = {
    *(f"{order}f{size}" for order in "<>" for size in (2, 4, 8)),
    *(f"{order}{kind}{size}" for order in "<>" for kind in "iu" for size in (2, 4, 8)),
    *("|i1", "|u1", "|b1"),
}
# First byte of an item -> bytes of its length field, and children for each unit of that length.
_SIZED = {
    **{0xC4 + k: (1 << k, 0) for k in range(3)},  # bin
    **{0xD9 + k: (1 << k, 0) for k in range(3)},  # str
    **{0xDC + k: (2 << k, 1) for k in range(2)},  # array
    **{0xDE + k: (2 << k, 2) for k in range(2)},  # map
}
_FIXED = {
    **dict.fromkeys((0xC0, 0xC2, 0xC3), 0),  # nil, false, true
    **dict(zip((0xCA, 0xCB), (4, 8), strict=True)),  # float
    **{first + k: 1 << k for first in (0xCC, 0xD0) for k in range(4)},  # uint, int
}


def pack(message: Mapping[str, Any]) -> bytes:
    """Bytes of a message.

    Args:
        message: text, numbers, booleans, None, bytes, lists, maps and arrays of numbers.

    Raises:
        InputError: it holds something else.
    """
    try:
        return cast(bytes, msgpack.packb(message, default=_pack_array))
    except (TypeError, OverflowError) as error:
        raise InputError(
            f"message: expected numbers, text and arrays of numbers: {error}"
        ) from error


def _pack_array(value: Any) -> Any:
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"got a {type(value).__name__}")
    if value.dtype.str not in _DTYPES:
        raise TypeError(f"got an array of {value.dtype}")
    if isinstance(value, np.generic):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    return {
        b"__ndarray__": True,
        b"data": value.tobytes(),
        b"dtype": value.dtype.str,
        b"shape": value.shape,
    }


def unpack(data: bytes, *, max_bytes: int = MAX_MESSAGE_BYTES) -> dict[str, Any]:
    """The message in ``data``; its arrays are read-only.

    Args:
        data: as it came.
        max_bytes: largest length that is looked at.

    Raises:
        InputError: the bytes are not a message, or one that is too large.
    """
    if len(data) > max_bytes:
        raise InputError(f"message: expected at most {max_bytes} bytes, got {len(data)}")
    _count(data)
    try:
        message = msgpack.unpackb(data, object_hook=_unpack_array, ext_hook=_refuse, raw=False)
    except InputError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        words = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"message: expected a message in msgpack, got other bytes: {words}"
        ) from None
    if not isinstance(message, dict) or not all(isinstance(key, str) for key in message):
        raise InputError("message: expected a map from names to values, got something else")
    return message


def _count(data: bytes) -> None:
    """Walk through the items without building them; refuse too many, and a message cut short."""
    place, left, count = 0, 1, 0
    while left:
        if place >= len(data):
            raise InputError(f"message: expected more than {len(data)} bytes, it was cut short")
        first = data[place]
        place, left, count = place + 1, left - 1, count + 1
        if count + left > MAX_ITEMS:
            raise InputError(f"message: expected at most {MAX_ITEMS} items, got more")
        if first < 0x80 or first >= 0xE0:  # a small number
            continue
        if first < 0x90:
            left += 2 * (first & 0x0F)
        elif first < 0xA0:
            left += first & 0x0F
        elif first < 0xC0:
            place += first & 0x1F
        elif first in _FIXED:
            place += _FIXED[first]
        elif first in _SIZED:
            width, children = _SIZED[first]
            length = int.from_bytes(data[place : place + width], "big")
            place += width + (0 if children else length)
            left += children * length
        else:
            raise InputError(f"message: expected plain msgpack, got an item of type 0x{first:02x}")
    if place != len(data):
        raise InputError(f"message: expected {place} bytes, got {len(data)}")


def _refuse(code: int, _: bytes) -> Any:
    raise InputError(f"message: expected plain msgpack, got an extension of type {code}")


def _unpack_array(item: dict[Any, Any]) -> Any:
    if b"__ndarray__" in item:
        return _array(item.get(b"data"), item.get(b"dtype"), item.get(b"shape"))
    if b"__npgeneric__" in item:
        value = item.get(b"data")
        if not isinstance(value, int | float):
            raise InputError(f"message: expected a number, got a {type(value).__name__}")
        return value
    return item


def _array(data: Any, dtype: Any, shape: Any) -> Any:
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise InputError(f"message: expected an array of numbers, got one of {str(dtype)[:20]!r}")
    sizes = list(shape) if isinstance(shape, list) else [-1]
    if len(sizes) > _MAX_AXES or not all(type(n) is int and n >= 0 for n in sizes):
        raise InputError(f"message: expected the shape of an array, got {str(shape)[:40]}")
    wanted = math.prod(sizes) * np.dtype(dtype).itemsize
    if not isinstance(data, bytes) or len(data) != wanted:
        got = len(data) if isinstance(data, bytes) else type(data).__name__
        raise InputError(f"message: expected {wanted} bytes for an array {sizes}, got {got}")
    return np.frombuffer(data, dtype=dtype).reshape(sizes)
