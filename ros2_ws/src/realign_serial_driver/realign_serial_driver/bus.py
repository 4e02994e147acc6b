"""A bus of STS servos: one request at a time, replies within the time that the wire needs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import serial

from policies.runtime.latency import Percentiles
from realign_serial_driver import sts
from realign_serial_driver.port import read_some, write_all
from realign_serial_driver.sts import Packet, Parser, Register

BITS_PER_BYTE = 10


@dataclass
class Statistics:
    """What a bus has seen.

    Attributes:
        requests, replies: packets sent and received.
        missing: replies that did not come.
        stale_bytes: bytes that came too late, or from nowhere.
        cycle_ms: time of a request with all its replies.
    """

    requests: int = 0
    replies: int = 0
    missing: int = 0
    stale_bytes: int = 0
    cycle_ms: Percentiles = field(default_factory=lambda: Percentiles(16384))


class NoReply(Exception):
    """A servo did not answer, or refused."""


class Bus:
    """Servos on a port.

    Args:
        port: an open port.
        slack_s: time beyond that of the wire within which a reply must come: servo, USB, scheduler.
    """

    def __init__(self, port: serial.Serial, *, slack_s: float = 0.004) -> None:
        self.port = port
        self.slack_s = slack_s
        self.statistics = Statistics()
        self.errors: dict[int, int] = {}
        self._byte_s = BITS_PER_BYTE / port.baudrate
        self._parser = Parser()

    @property
    def bad_checksums(self) -> int:
        """Replies that came damaged."""
        return self._parser.bad_checksums

    def close(self) -> None:
        """Give the port back."""
        self.port.close()

    # ---- one servo ----------------------------------------------------------------------------

    def ping(self, servo: int, *, patience_s: float = 0.0) -> bool:
        """True if a servo answers, within ``patience_s`` more than others get."""
        return servo in self._ask(Packet(id=servo, code=sts.PING), [servo], 0, patience_s)

    def read(self, servo: int, register: Register) -> int:
        """A number from a servo's memory.

        Raises:
            NoReply: it does not answer.
        """
        data = self.read_block(servo, register.address, register.size)
        return register.decode(data)

    def read_block(self, servo: int, address: int, size: int) -> bytes:
        """Bytes of a servo's memory.

        Raises:
            NoReply: it does not answer.
        """
        request = Packet(id=servo, code=sts.READ, parameters=bytes([address, size]))
        replies = self._ask(request, [servo], size)
        if servo not in replies:
            raise NoReply(f"servo {servo} does not answer")
        return replies[servo]

    def write(self, servo: int, register: Register, value: int) -> None:
        """Write to a servo's working memory.

        Raises:
            NoReply: it does not answer.
            ValueError: a register that survives power-off; see :meth:`write_eeprom`.
        """
        if register.eeprom:
            raise ValueError(f"register {register.address} survives power-off")
        self._write(servo, register, value)

    def write_eeprom(self, servo: int, register: Register, value: int) -> None:
        """Write what survives power-off, read it back, and lock the memory again.

        Raises:
            NoReply: the servo does not answer, or did not take the value.
        """
        self._write(servo, sts.LOCK, 0)
        try:
            self._write(servo, register, value)
        finally:
            self._write(servo, sts.LOCK, 1)
        if self.read(servo, register) != value:
            raise NoReply(f"servo {servo} did not take {value} at register {register.address}")

    def _write(self, servo: int, register: Register, value: int) -> None:
        parameters = bytes([register.address]) + register.encode(value)
        request = Packet(id=servo, code=sts.WRITE, parameters=parameters)
        if servo not in self._ask(request, [servo], 0):
            raise NoReply(f"servo {servo} does not answer")

    # ---- several servos -----------------------------------------------------------------------

    def sync_read(self, servos: Sequence[int], address: int, size: int) -> dict[int, bytes]:
        """The same bytes of several servos; those that do not answer are left out."""
        parameters = bytes([address, size, *servos])
        request = Packet(id=sts.BROADCAST, code=sts.SYNC_READ, parameters=parameters)
        return self._ask(request, servos, size)

    def sync_write(self, register: Register, values: Mapping[int, int]) -> None:
        """Write to several servos at once; none of them answers."""
        parameters = bytes([register.address, register.size])
        for servo, value in values.items():
            parameters += bytes([servo]) + register.encode(value)
        packet = Packet(id=sts.BROADCAST, code=sts.SYNC_WRITE, parameters=parameters)
        self.statistics.requests += 1
        write_all(self.port, packet.encode())

    def _ask(
        self, request: Packet, servos: Sequence[int], size: int, patience_s: float = 0.0
    ) -> dict[int, bytes]:
        """Send a request; replies of ``size`` bytes by servo, as far as they come in time."""
        statistics, replies = self.statistics, dict[int, bytes]()
        self._parser.clear()
        while stale := read_some(self.port, 0.0):
            statistics.stale_bytes += len(stale)
        statistics.requests += 1
        packet = request.encode()
        start = time.monotonic()
        write_all(self.port, packet)
        wire = len(packet) + len(servos) * (sts.OVERHEAD + size)
        deadline = start + wire * self._byte_s + self.slack_s + patience_s
        while len(replies) < len(servos):
            left_s = deadline - time.monotonic()
            data = read_some(self.port, left_s)
            for reply in self._parser.feed(data):
                if reply.id in servos and len(reply.parameters) == size:
                    replies[reply.id] = reply.parameters
                    self.errors[reply.id] = reply.code
            if left_s <= 0.0:
                break
        statistics.replies += len(replies)
        statistics.missing += len(servos) - len(replies)
        statistics.cycle_ms.add((time.monotonic() - start) * 1e3)
        return replies
