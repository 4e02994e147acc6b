"""The serial protocol of Feetech's STS servos: packets and registers, without a port.

``FF FF id length instruction parameters checksum``; a reply has an error byte in the place of the
instruction. Numbers are little-endian, negative ones carry a sign bit.
"""

from __future__ import annotations

from dataclasses import dataclass

PING, READ, WRITE, SYNC_READ, SYNC_WRITE = 1, 2, 3, 0x82, 0x83
BROADCAST = 0xFE
STEPS_PER_TURN = 4096
MIDDLE_STEPS = 2048
STS3215 = 777  # model number
OVERHEAD = 6  # bytes of a packet without parameters
_HEADER = b"\xff\xff"
_MAX_LENGTH = 250

ERRORS = {1: "voltage", 2: "angle", 4: "overheated", 8: "overcurrent", 32: "overload"}
OVERHEAT_BIT = 4


@dataclass(frozen=True, kw_only=True)
class Register:
    """Where a number lies in a servo's memory.

    Attributes:
        address, size: first byte and number of bytes.
        sign_bit: bit that says that the rest is negative; None where there are no negatives.
        eeprom: survives power-off; written only while ``Lock`` is 0.
    """

    address: int
    size: int
    sign_bit: int | None = None
    eeprom: bool = False

    def decode(self, data: bytes) -> int:
        """Bytes of the register -> number."""
        raw = int.from_bytes(data, "little")
        if self.sign_bit is None or not raw >> self.sign_bit & 1:
            return raw
        return -(raw & ((1 << self.sign_bit) - 1))

    def encode(self, value: int) -> bytes:
        """Number -> bytes of the register; one that does not fit is cut to what does."""
        bits = 8 * self.size if self.sign_bit is None else self.sign_bit
        magnitude = min(abs(value), (1 << bits) - 1)
        if value < 0:
            magnitude = 0 if self.sign_bit is None else magnitude | 1 << self.sign_bit
        return magnitude.to_bytes(self.size, "little")


def _eeprom(address: int, size: int, sign_bit: int | None = None) -> Register:
    return Register(address=address, size=size, sign_bit=sign_bit, eeprom=True)


MODEL = _eeprom(3, 2)
ID = _eeprom(5, 1)
BAUD_RATE = _eeprom(6, 1)
RETURN_DELAY = _eeprom(7, 1)  # 2 us each
LOWER_LIMIT, UPPER_LIMIT = _eeprom(9, 2), _eeprom(11, 2)
P_GAIN = _eeprom(21, 1)
HOMING_OFFSET = _eeprom(31, 2, 11)
OPERATING_MODE = _eeprom(33, 1)
TORQUE_ENABLE = Register(address=40, size=1)
ACCELERATION = Register(address=41, size=1)  # 100 steps/s^2 each
GOAL_POSITION = Register(address=42, size=2, sign_bit=15)
GOAL_VELOCITY = Register(address=46, size=2, sign_bit=15)
TORQUE_LIMIT = Register(address=48, size=2)  # per mille
LOCK = Register(address=55, size=1)
POSITION = Register(address=56, size=2, sign_bit=15)
VELOCITY = Register(address=58, size=2, sign_bit=15)
LOAD = Register(address=60, size=2, sign_bit=10)  # per mille
VOLTAGE = Register(address=62, size=1)  # 0.1 V
TEMPERATURE = Register(address=63, size=1)  # Celsius
CURRENT = Register(address=69, size=2, sign_bit=15)  # 6.5 mA
EEPROM_END = 40
MEMORY = 72  # bytes


@dataclass(frozen=True, kw_only=True)
class Packet:
    """An instruction (``code`` says which) or a reply (``code`` holds its error bits)."""

    id: int
    code: int
    parameters: bytes = b""

    def encode(self) -> bytes:
        """The bytes on the wire."""
        body = bytes([self.id, len(self.parameters) + 2, self.code]) + self.parameters
        return _HEADER + body + bytes([~sum(body) & 0xFF])


class Parser:
    """Finds packets in a stream of bytes, and goes on after noise.

    Attributes:
        bad_checksums: packets that came damaged.
    """

    def __init__(self) -> None:
        self.bad_checksums = 0
        self._buffer = bytearray()

    def clear(self) -> None:
        """Forget what is not a whole packet yet."""
        self._buffer.clear()

    def feed(self, data: bytes) -> list[Packet]:
        """Take bytes; return the packets that are whole now."""
        buffer = self._buffer
        buffer += data
        packets: list[Packet] = []
        while True:
            start = buffer.find(_HEADER)
            if start < 0:
                del buffer[: len(buffer) - (buffer[-1:] == b"\xff")]
                return packets
            del buffer[:start]
            while buffer[2:3] == b"\xff":  # a third one is noise: the header is the last two
                del buffer[0]
            if len(buffer) < OVERHEAD:
                return packets
            length = buffer[3]
            if not 2 <= length <= _MAX_LENGTH:
                del buffer[0]
                continue
            if len(buffer) < length + 4:
                return packets
            body = buffer[2 : length + 3]
            if ~sum(body) & 0xFF != buffer[length + 3]:
                self.bad_checksums += 1
                del buffer[0]
                continue
            packets.append(Packet(id=body[0], code=body[2], parameters=bytes(body[3:])))
            del buffer[: length + 4]


def error_names(bits: int) -> list[str]:
    """What the error bits of a reply mean."""
    return [name for bit, name in ERRORS.items() if bits & bit]
