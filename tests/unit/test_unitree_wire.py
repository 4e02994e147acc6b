"""Unitree's wire format: C layouts, checksum, and bytes against CycloneDDS's own serialiser."""

import struct

import numpy as np
import pytest
from realign_unitree_driver import layout
from realign_unitree_driver.layout import GO_LOW_CMD, GO_LOW_STATE, HG_LOW_CMD, HG_LOW_STATE

from policies.errors import InputError

TYPES = {
    "HgLowCmd": HG_LOW_CMD,
    "HgLowState": HG_LOW_STATE,
    "GoLowCmd": GO_LOW_CMD,
    "GoLowState": GO_LOW_STATE,
}
# The C structs as Python's struct formats, written from Unitree's published headers.
FORMATS = {
    "HgLowCmd": "<2B2x" + "B3x5fI" * 35 + "5I",
    "HgLowState": "<2I2B2xI" + "13fh2x" + "B3x4f2hf7I" * 35 + "40B5I",
    "GoLowCmd": "<4B4IH2x" + "B3x5f3I" * 20 + "4B" + "55Bx2I",
    "GoLowState": "<4B4IH2x13fb3x" + "B3x7fb3x3I" * 20 + "4BiH4b15H" + "8hI41B3xf2b2x2f4h2I",
}
each_type = pytest.mark.parametrize("name", TYPES)


def fill(record, rng) -> None:
    """Random values in every scalar of a record."""
    for name in record.dtype.names:
        part = record[name]
        if part.dtype.names and part.shape:
            for element in part:
                fill(element, rng)
        elif part.dtype.names:
            fill(part, rng)
        elif part.dtype.kind == "f":
            record[name] = rng.normal(size=part.shape)
        else:
            record[name] = rng.integers(0, 100, size=part.shape)


def random_message(name: str, seed: int = 0):
    message = TYPES[name].new()
    fill(message.data, np.random.default_rng(seed))
    return message


def bitwise_crc(data: bytes) -> int:
    """CRC-32/MPEG-2 as its definition says, one bit at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        for bit in range(7, -1, -1):
            top = (crc >> 31) ^ (byte >> bit & 1)
            crc = (crc << 1 & 0xFFFFFFFF) ^ (0x04C11DB7 if top else 0)
    return crc


def swap_words(data: bytes) -> bytes:
    """Every little-endian word with its most significant byte first."""
    return np.frombuffer(data, "<u4").byteswap().tobytes()


def test_checksum_is_crc32_mpeg2_of_words():
    assert bitwise_crc(b"123456789") == 0x0376E6E7  # the catalogue's check value
    assert layout.checksum(swap_words(b"12345678")) == bitwise_crc(b"12345678")


@each_type
def test_layout_is_that_of_the_c_struct(name):
    message = random_message(name)
    values = struct.unpack(FORMATS[name], message.buffer[:-1].tobytes())
    assert struct.pack(FORMATS[name], *values) == message.buffer[:-1].tobytes()
    assert TYPES[name].dtype.itemsize == struct.calcsize(FORMATS[name])
    assert values[-1] == message.data["crc"]


@each_type
def test_seal_gives_the_bitwise_checksum_and_notices_every_flipped_byte(name):
    message = random_message(name, 1)
    assert not message.is_intact
    message.seal()
    assert message.data["crc"] == bitwise_crc(swap_words(message.buffer[:-5].tobytes()))
    assert message.is_intact
    for place in range(0, len(message.buffer) - 5, 37):
        message.buffer[place] ^= 0x10
        assert not message.is_intact
        message.buffer[place] ^= 0x10


@each_type
def test_encoding_round_trips(name):
    message = random_message(name, 2)
    again = TYPES[name].decode(message.encode())
    assert again.buffer.tobytes() == message.buffer.tobytes()


@each_type
def test_foreign_bytes_are_refused(name):
    sample = random_message(name).encode()
    for bad in (sample[:-8], b"", b"\0\0" + sample[2:], sample[:1] + b"\3" + sample[2:]):
        with pytest.raises(InputError, match="little-endian CDR"):
            TYPES[name].decode(bad)


def to_idl(idl, kind, record):
    """A record as an object of CycloneDDS's IDL type."""
    values = []
    for name, hint in kind.__annotations__.items():
        part = record[name]
        if part.dtype.names:
            element = getattr(hint, "__metadata__", [None])[0]
            if element is not None:
                values.append([to_idl(idl, element.subtype, row) for row in part])
            else:
                values.append(to_idl(idl, hint, part))
        else:
            values.append(part.tolist())
    return kind(*values)


@each_type
def test_bytes_equal_those_of_cyclonedds(name):
    pytest.importorskip("cyclonedds", reason="needs CycloneDDS: pip install cyclonedds==11.0.1")
    from realign_unitree_driver import idl

    message = random_message(name, 3)
    kind = getattr(idl, name)
    theirs = to_idl(idl, kind, message.data).serialize(use_version_2=False)
    ours = message.encode()
    assert ours == theirs[: len(ours)]
    assert not any(theirs[len(ours) :])
    assert TYPES[name].decode(theirs).buffer.tobytes() == message.buffer.tobytes()
    assert TYPES[name].name == kind.__idl_typename__
