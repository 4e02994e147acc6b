"""One emulated STS3215: its memory, and what instructions do to it."""

from __future__ import annotations

from realign_serial_driver import sts
from realign_serial_driver.sts import Packet, Register

_FACTORY_RETURN_DELAY = 250
_AMBIENT_C = 31
_SUPPLY = 74  # 0.1 V
_READ_ONLY_FROM = sts.POSITION.address
PARAMETER_ERROR = 2  # the "angle" bit: a value out of range


class Servo:
    """A servo's memory.

    Args:
        id: its id.
        homing_offset: as it is stored, steps.
        return_delay: in units of 2 us.

    Attributes:
        errors: error bits of its replies.
        locked_writes: writes that the lock refused.
    """

    def __init__(self, id: int, *, homing_offset: int = 0, return_delay: int = 0) -> None:
        self.memory = bytearray(sts.MEMORY)
        self.errors = 0
        self.locked_writes = 0
        for register, value in (
            (sts.MODEL, sts.STS3215),
            (sts.ID, id),
            (sts.RETURN_DELAY, return_delay),
            (sts.UPPER_LIMIT, sts.STEPS_PER_TURN - 1),
            (sts.P_GAIN, 32),
            (sts.HOMING_OFFSET, homing_offset),
            (sts.TORQUE_LIMIT, 1000),
            (sts.LOCK, 1),
            (sts.VOLTAGE, _SUPPLY),
            (sts.TEMPERATURE, _AMBIENT_C),
        ):
            self.set(register, value)

    @property
    def id(self) -> int:
        """The id that it answers to."""
        return self.get(sts.ID)

    @property
    def return_delay_ns(self) -> int:
        """Pause before a reply, ns."""
        return 2000 * self.get(sts.RETURN_DELAY)

    def get(self, register: Register) -> int:
        """A number in memory."""
        at = register.address
        return register.decode(bytes(self.memory[at : at + register.size]))

    def set(self, register: Register, value: int) -> None:
        """Change memory from inside."""
        at = register.address
        self.memory[at : at + register.size] = register.encode(value)

    def read(self, address: int, size: int) -> bytes:
        """Bytes of memory; what lies beyond it is zero."""
        return bytes(self.memory[address : address + size]).ljust(size, b"\0")

    def write(self, address: int, data: bytes) -> None:
        """Change memory as an instruction does: sensors and locked EEPROM stay as they are."""
        for at, byte in enumerate(data, address):
            if at < sts.EEPROM_END and self.get(sts.LOCK):
                self.locked_writes += 1
            elif at < _READ_ONLY_FROM:
                self.memory[at] = byte

    def set_position(self, encoder_steps: int, speed_steps_s: int, load: int) -> None:
        """What its sensors measure.

        Args:
            encoder_steps: position of the encoder, 0 to 4095.
            speed_steps_s: speed.
            load: duty cycle, per mille.
        """
        self.set(sts.POSITION, encoder_steps - self.get(sts.HOMING_OFFSET))
        self.set(sts.VELOCITY, speed_steps_s)
        self.set(sts.LOAD, load)
        self.set(sts.CURRENT, abs(load) // 5)

    def obey(self, packet: Packet) -> Packet | None:
        """Carry out an instruction that is addressed to this servo; its reply, or None."""
        if packet.code == sts.PING:
            return self.reply()
        if packet.code == sts.READ and len(packet.parameters) == 2:
            return self.reply(self.read(*packet.parameters))
        if packet.code == sts.WRITE and len(packet.parameters) >= 2:
            old_id = self.id  # a new id is used from the next instruction on
            self.write(packet.parameters[0], packet.parameters[1:])
            return Packet(id=old_id, code=self.errors)
        return None

    def reply(self, data: bytes = b"") -> Packet:
        """A reply with data."""
        return Packet(id=self.id, code=self.errors, parameters=data)
