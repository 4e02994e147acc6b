"""The device's side of Modbus RTU: requests out of a stream of bytes, and replies."""

from __future__ import annotations

import struct
from dataclasses import dataclass

READ_HOLDING, READ_INPUT, WRITE_ONE, WRITE_MANY = 3, 4, 6, 16
ILLEGAL_FUNCTION, ILLEGAL_ADDRESS = 1, 2


def crc16(data: bytes) -> bytes:
    """Checksum of a frame, as it follows it on the wire."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return struct.pack("<H", crc)


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request: device, function, first register, and how many of them or what to write."""

    device: int
    function: int
    address: int
    count: int = 0
    values: tuple[int, ...] = ()

    def reply(self, values: tuple[int, ...] = ()) -> bytes:
        """The frame that answers it."""
        if self.function in (READ_HOLDING, READ_INPUT):
            body = struct.pack(
                f">BBB{len(values)}H", self.device, self.function, 2 * len(values), *values
            )
        else:
            last = self.values[0] if self.function == WRITE_ONE else len(self.values)
            body = struct.pack(">BBHH", self.device, self.function, self.address, last)
        return body + crc16(body)

    def refusal(self, code: int) -> bytes:
        """The frame that refuses it."""
        body = bytes([self.device, self.function | 0x80, code])
        return body + crc16(body)


class RequestParser:
    """Finds requests in a stream of bytes, and goes on after noise."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Request]:
        """Take bytes; return the requests that are whole now."""
        self._buffer += data
        requests = []
        while (length := self._length()) is not None and len(self._buffer) >= length:
            frame = bytes(self._buffer[:length])
            if length and crc16(frame[:-2]) == frame[-2:]:
                requests.append(_parse(frame))
                del self._buffer[:length]
            else:
                del self._buffer[0]
        return requests

    def _length(self) -> int | None:
        """Length of the frame that begins here; 0 for none, None while it cannot be told."""
        if len(self._buffer) < 2:
            return None
        function = self._buffer[1]
        if function in (READ_HOLDING, READ_INPUT, WRITE_ONE):
            return 8
        if function == WRITE_MANY:
            return 9 + self._buffer[6] if len(self._buffer) > 6 else None
        return 0


def _parse(frame: bytes) -> Request:
    device, function, address, number = struct.unpack_from(">BBHH", frame)
    if function == WRITE_ONE:
        return Request(device=device, function=function, address=address, values=(number,))
    if function == WRITE_MANY:
        values = struct.unpack_from(f">{frame[6] // 2}H", frame, 7)
        return Request(device=device, function=function, address=address, values=values)
    return Request(device=device, function=function, address=address, count=number)
