"""A Robotiq 2F-85 gripper over Modbus RTU: width in m, force in N, what it says of itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from pymodbus.client import ModbusSerialClient
from pymodbus.exceptions import ModbusException
from pymodbus.pdu import ModbusPDU

from policies.errors import InputError
from realign_serial_driver.port import open_port

DEVICE, BAUD = 9, 115200
MAX_WIDTH_M = 0.085
# Of the maker's data sheet: 20 to 235 N, 20 to 150 mm/s, over the whole range of the register.
FORCE_N = (20.0, 235.0)
SPEED_M_S = (0.02, 0.15)
OUTPUT, INPUT, REGISTERS = 0x03E8, 0x07D0, 3
# Positions between which the fingers move: fully open and fully closed on nothing.
OPEN_COUNT, CLOSED_COUNT = 3, 230
_TRIES = 3

FAULTS = {
    0x05: "not activated yet",
    0x07: "must be activated before it moves",
    0x08: "too hot",
    0x09: "no communication for a second",
    0x0A: "supply voltage too low",
    0x0B: "released by the emergency release",
    0x0C: "internal fault",
    0x0D: "activation failed",
    0x0E: "overcurrent",
    0x0F: "emergency release is done; activate again",
}


class Object(Enum):
    """What the fingers met."""

    MOVING = 0
    GRASPED_OUTSIDE = 1  # while opening
    GRASPED = 2  # while closing
    AT_REQUEST = 3


class GripperLost(Exception):
    """The gripper does not answer."""


@dataclass(frozen=True, kw_only=True)
class GripperState:
    """What a gripper reports.

    Attributes:
        activated: ready to move.
        met: what the fingers met.
        fault: code, 0 for none.
        width_m: opening between the fingers, m.
        requested_m: opening that it was told, m.
        current_a: motor current, A.
    """

    activated: bool
    met: Object
    fault: int
    width_m: float
    requested_m: float
    current_a: float

    @property
    def fault_text(self) -> str:
        """What the fault means; empty for none."""
        return FAULTS.get(self.fault, f"fault {self.fault:#x}") if self.fault else ""

    @property
    def holds(self) -> bool:
        """True while something is between the fingers."""
        return self.met in (Object.GRASPED, Object.GRASPED_OUTSIDE)


def width_to_count(width_m: float) -> int:
    """Opening, m -> position register; clipped to the range."""
    closed = 1.0 - min(max(width_m / MAX_WIDTH_M, 0.0), 1.0)
    return round(OPEN_COUNT + closed * (CLOSED_COUNT - OPEN_COUNT))


def count_to_width(count: int) -> float:
    """Position register -> opening, m."""
    closed = (count - OPEN_COUNT) / (CLOSED_COUNT - OPEN_COUNT)
    return MAX_WIDTH_M * (1.0 - min(max(closed, 0.0), 1.0))


def share_to_count(value: float, ends: tuple[float, float]) -> int:
    """A value between two ends -> register 0 to 255; clipped."""
    low, high = ends
    return round(255 * min(max((value - low) / (high - low), 0.0), 1.0))


class Robotiq:
    """A gripper on a port of its own.

    Args:
        path: port, e.g. ``/dev/ttyUSB0``.
        wait_s: how long to wait for the port to appear, s.

    Raises:
        InputError: no port, or no gripper that answers there.
    """

    def __init__(self, path: str, *, wait_s: float = 0.0) -> None:
        open_port(path, BAUD, wait_s=wait_s).close()  # for the sentence that says what is wrong
        self._client = ModbusSerialClient(path, baudrate=BAUD, timeout=0.1, retries=0)
        self._client.connect()
        self.lost = 0
        try:
            self.read()
        except GripperLost:
            self.close()
            raise InputError(
                f"expected a Robotiq gripper on {path} (Modbus device {DEVICE}, {BAUD} baud), but "
                "none answers; check its 24 V supply, the A and B wires, and the port"
            ) from None

    def close(self) -> None:
        """Give the port back; the gripper keeps what it holds."""
        self._client.close()

    def read(self) -> GripperState:
        """Ask for the present state.

        Raises:
            GripperLost: it does not answer.
        """
        first, second, third = self._try(
            lambda: self._client.read_input_registers(INPUT, count=REGISTERS, device_id=DEVICE)
        ).registers
        status = first >> 8
        return GripperState(
            activated=status & 1 == 1 and status >> 4 & 3 == 3,
            met=Object(status >> 6),
            fault=second >> 8,
            width_m=count_to_width(third >> 8),
            requested_m=count_to_width(second & 0xFF),
            current_a=0.01 * (third & 0xFF),
        )

    def activate(self, timeout_s: float = 10.0) -> None:
        """Reset and activate: **the fingers move through their whole range**.

        Raises:
            GripperLost: it does not answer.
            InputError: it does not become ready.
        """
        self._write(0, 0, 0)
        self._write(0x0100, 0, 0)
        deadline = time.monotonic() + timeout_s
        while not (state := self.read()).activated:
            if time.monotonic() > deadline:
                raise InputError(
                    f"expected the gripper to activate within {timeout_s:g} s, but it reports: "
                    f"{state.fault_text or 'nothing'}; free the fingers and switch it off and on"
                )
            time.sleep(0.02)

    def move(self, width_m: float, *, speed_m_s: float = 0.1, force_n: float = 40.0) -> None:
        """Go to an opening, and stop at what is in the way.

        Raises:
            GripperLost: it does not answer.
        """
        speed = share_to_count(speed_m_s, SPEED_M_S)
        self._write(0x0900, width_to_count(width_m), speed << 8 | share_to_count(force_n, FORCE_N))

    def stop(self) -> None:
        """Stay where it is, with the force that it has.

        Raises:
            GripperLost: it does not answer.
        """
        self._write(0x0100, 0, 0)

    def _write(self, *values: int) -> None:
        self._try(lambda: self._client.write_registers(OUTPUT, list(values), device_id=DEVICE))

    def _try(self, call: Callable[[], ModbusPDU]) -> ModbusPDU:
        for _ in range(_TRIES):
            try:
                answer = call()
            except ModbusException:
                self.lost += 1
                continue
            if not answer.isError():
                return answer
            self.lost += 1
        raise GripperLost
