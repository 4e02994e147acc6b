"""Memory layouts of Unitree's low-level messages, their checksum, and their bytes on the wire.

A message is one NumPy record in the layout of the robot's C structs: vectorised access by field
name, and the checksum runs over exactly these bytes. On the wire (CDR) the same scalars lie at
other offsets, since CDR pads before a scalar and C pads after a struct; the difference is a fixed
permutation of bytes, found once for each type and applied with one ``take``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError

Bytes = NDArray[np.uint8]
_HEADER = np.array([0, 1, 0, 0], dtype=np.uint8)  # XCDR1, little endian
_ENCODINGS = (1, 7)  # plain CDR and CDR2, little endian: one body, for want of 8-byte scalars
_REVERSED = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


def checksum(words: bytes) -> int:
    """CRC-32/MPEG-2 over little-endian 32-bit words, each fed most significant bit first.

    zlib's CRC has the same polynomial with bits reversed on both sides, so reversing them before
    and after gives this one at the speed of C.
    """
    swapped = np.frombuffer(words, dtype="<u4").byteswap().tobytes().translate(_REVERSED)
    return int(f"{zlib.crc32(swapped) ^ 0xFFFFFFFF:032b}"[::-1], 2)


def _scalars(dtype: np.dtype[Any], start: int = 0) -> Iterator[tuple[int, int]]:
    """(offset, size) of every scalar of a record in the C layout, in order of declaration."""
    if dtype.subdtype is not None:
        element, shape = dtype.subdtype
        for i in range(int(np.prod(shape))):
            yield from _scalars(element, start + i * element.itemsize)
    elif dtype.fields is not None:
        for name in dtype.names or ():
            member, offset = dtype.fields[name][:2]
            yield from _scalars(member, start + offset)
    else:
        yield start, dtype.itemsize


@dataclass(frozen=True)
class MessageType:
    """One message type: its DDS name and C layout.

    Attributes:
        name: DDS type name.
        dtype: aligned NumPy dtype, the layout of the C struct; its last field is ``crc``.
    """

    name: str
    dtype: np.dtype[Any]

    @cached_property
    def _encode_index(self) -> NDArray[np.intp]:
        """For each byte of the CDR body its place in the C struct; padding points past the end."""
        index: list[int] = []
        for offset, size in _scalars(self.dtype):
            index += [self.dtype.itemsize] * (-len(index) % size)
            index += range(offset, offset + size)
        return np.array(index, dtype=np.intp)

    @cached_property
    def _decode_index(self) -> NDArray[np.intp]:
        """For each byte of the C struct its place in the sample; padding points to its first 0."""
        index = np.zeros(self.dtype.itemsize, dtype=np.intp)
        places = self._encode_index
        inside = places < self.dtype.itemsize
        index[places[inside]] = np.flatnonzero(inside) + len(_HEADER)
        return index

    def new(self) -> Message:
        """A message of zeros."""
        return Message(self, np.zeros(self.dtype.itemsize + 1, dtype=np.uint8))

    def decode(self, sample: bytes) -> Message:
        """Message from a serialised sample, header included.

        Raises:
            InputError: another encoding or length.
        """
        size = len(_HEADER) + len(self._encode_index)
        if len(sample) < size or sample[0] != 0 or sample[1] not in _ENCODINGS:
            raise InputError(
                f"expected {size} bytes of little-endian CDR for {self.name}, got {len(sample)} "
                f"bytes with header {sample[:4].hex()}; the robot's firmware has another message"
            )
        buffer = np.zeros(self.dtype.itemsize + 1, dtype=np.uint8)
        np.take(
            np.frombuffer(sample, dtype=np.uint8),
            self._decode_index,
            out=buffer[:-1],
            mode="clip",
        )
        return Message(self, buffer)


@dataclass(slots=True)
class Message:
    """One message in the C layout.

    Attributes:
        type: its type.
        buffer: the bytes of the C struct, and one zero that padding on the wire is taken from.
        data: the same bytes as a record; fields are read and set by name.
    """

    type: MessageType
    buffer: Bytes
    data: Any = field(init=False)

    def __post_init__(self) -> None:
        self.data = self.buffer[:-1].view(self.type.dtype)[0]

    def expected_crc(self) -> int:
        """Checksum over the struct without its last word."""
        return checksum(self.buffer[:-5].tobytes())

    @property
    def is_intact(self) -> bool:
        """True if the message carries the checksum of its content."""
        return int(self.data["crc"]) == self.expected_crc()

    def seal(self) -> None:
        """Set the checksum."""
        self.data["crc"] = self.expected_crc()

    def encode(self) -> bytes:
        """Serialised sample, header included."""
        index = self.type._encode_index
        out = np.empty(len(_HEADER) + len(index), dtype=np.uint8)
        out[: len(_HEADER)] = _HEADER
        np.take(self.buffer, index, out=out[len(_HEADER) :], mode="clip")
        return out.tobytes()


def _struct(*fields: tuple[Any, ...]) -> np.dtype[Any]:
    return np.dtype(list(fields), align=True)


def _imu(temperature: str) -> np.dtype[Any]:
    return _struct(
        ("quaternion", "<f4", 4),  # wxyz
        ("gyroscope", "<f4", 3),
        ("accelerometer", "<f4", 3),
        ("rpy", "<f4", 3),
        ("temperature", temperature),
    )


_SETPOINT = [(name, "<f4") for name in ("q", "dq", "tau", "kp", "kd")]
_MEASURED = [(name, "<f4") for name in ("q", "dq", "ddq", "tau_est")]

_HG_MOTOR_CMD = _struct(("mode", "u1"), *_SETPOINT, ("reserve", "<u4"))
_HG_MOTOR_STATE = _struct(
    ("mode", "u1"),
    *_MEASURED,
    ("temperature", "<i2", 2),
    ("vol", "<f4"),
    ("sensor", "<u4", 2),
    ("motorstate", "<u4"),
    ("reserve", "<u4", 4),
)
HG_LOW_CMD = MessageType(
    "unitree_hg.msg.dds_.LowCmd_",
    _struct(
        ("mode_pr", "u1"),
        ("mode_machine", "u1"),
        ("motor_cmd", _HG_MOTOR_CMD, 35),
        ("reserve", "<u4", 4),
        ("crc", "<u4"),
    ),
)
HG_LOW_STATE = MessageType(
    "unitree_hg.msg.dds_.LowState_",
    _struct(
        ("version", "<u4", 2),
        ("mode_pr", "u1"),
        ("mode_machine", "u1"),
        ("tick", "<u4"),
        ("imu_state", _imu("<i2")),
        ("motor_state", _HG_MOTOR_STATE, 35),
        ("wireless_remote", "u1", 40),
        ("reserve", "<u4", 4),
        ("crc", "<u4"),
    ),
)

_GO_MOTOR_CMD = _struct(("mode", "u1"), *_SETPOINT, ("reserve", "<u4", 3))
_GO_MOTOR_STATE = _struct(
    ("mode", "u1"),
    *_MEASURED,
    ("q_raw", "<f4"),
    ("dq_raw", "<f4"),
    ("ddq_raw", "<f4"),
    ("temperature", "u1"),
    ("lost", "<u4"),
    ("reserve", "<u4", 2),
)
_GO_BMS_CMD = _struct(("off", "u1"), ("reserve", "u1", 3))
_GO_BMS_STATE = _struct(
    ("version_high", "u1"),
    ("version_low", "u1"),
    ("status", "u1"),
    ("soc", "u1"),
    ("current", "<i4"),
    ("cycle", "<u2"),
    ("bq_ntc", "u1", 2),
    ("mcu_ntc", "u1", 2),
    ("cell_vol", "<u2", 15),
)
_GO_PREFIX = [
    ("head", "u1", 2),
    ("level_flag", "u1"),
    ("frame_reserve", "u1"),
    ("sn", "<u4", 2),
    ("version", "<u4", 2),
    ("bandwidth", "<u2"),
]
GO_LOW_CMD = MessageType(
    "unitree_go.msg.dds_.LowCmd_",
    _struct(
        *_GO_PREFIX,
        ("motor_cmd", _GO_MOTOR_CMD, 20),
        ("bms_cmd", _GO_BMS_CMD),
        ("wireless_remote", "u1", 40),
        ("led", "u1", 12),
        ("fan", "u1", 2),
        ("gpio", "u1"),
        ("reserve", "<u4"),
        ("crc", "<u4"),
    ),
)
GO_LOW_STATE = MessageType(
    "unitree_go.msg.dds_.LowState_",
    _struct(
        *_GO_PREFIX,
        ("imu_state", _imu("u1")),
        ("motor_state", _GO_MOTOR_STATE, 20),
        ("bms_state", _GO_BMS_STATE),
        ("foot_force", "<i2", 4),
        ("foot_force_est", "<i2", 4),
        ("tick", "<u4"),
        ("wireless_remote", "u1", 40),
        ("bit_flag", "u1"),
        ("adc_reel", "<f4"),
        ("temperature_ntc1", "u1"),
        ("temperature_ntc2", "u1"),
        ("power_v", "<f4"),
        ("power_a", "<f4"),
        ("fan_frequency", "<u2", 4),
        ("reserve", "<u4"),
        ("crc", "<u4"),
    ),
)
