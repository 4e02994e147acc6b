"""An emulated 2F-85: registers, fingers that take their time, and perhaps an object."""

from __future__ import annotations

from realign_serial_driver import modbus_frames
from realign_serial_driver.modbus_frames import Request
from realign_serial_driver.robotiq import (
    CLOSED_COUNT,
    DEVICE,
    INPUT,
    MAX_WIDTH_M,
    OPEN_COUNT,
    OUTPUT,
    REGISTERS,
    SPEED_M_S,
    Object,
    width_to_count,
)

NS = 1_000_000_000
_ACTIVATION_S = 1.0
_SILENCE_S = 1.0
_COUNTS_PER_M = (CLOSED_COUNT - OPEN_COUNT) / MAX_WIDTH_M
NOT_ACTIVATED, NO_COMMUNICATION = 0x07, 0x09


class GripperModel:
    """A gripper's state; the caller passes the clock.

    Args:
        object_m: width of what lies between the fingers, m; None for nothing.
    """

    def __init__(self, object_m: float | None = None) -> None:
        self.stop_count = CLOSED_COUNT if object_m is None else width_to_count(object_m)
        self.has_object = object_m is not None
        self.position = float(OPEN_COUNT)
        self.fault = 0
        self.output = [0] * REGISTERS
        self._active_ns: int | None = None
        self._met = Object.AT_REQUEST
        self._time_ns = self._heard_ns = 0

    def obey(self, request: Request, now_ns: int) -> bytes | None:
        """Carry out a request; its reply, or None where it is for another device."""
        if request.device != DEVICE:
            return None
        self.advance(now_ns)
        self._heard_ns = now_ns
        if request.function in (modbus_frames.WRITE_ONE, modbus_frames.WRITE_MANY):
            first = request.address - OUTPUT
            if not 0 <= first <= first + len(request.values) <= REGISTERS:
                return request.refusal(modbus_frames.ILLEGAL_ADDRESS)
            self._write(first, request.values, now_ns)
            return request.reply()
        if request.function in (modbus_frames.READ_HOLDING, modbus_frames.READ_INPUT):
            first = request.address - INPUT
            if not 0 <= first <= first + request.count <= REGISTERS:
                return request.refusal(modbus_frames.ILLEGAL_ADDRESS)
            return request.reply(self._input()[first : first + request.count])
        return request.refusal(modbus_frames.ILLEGAL_FUNCTION)

    def _write(self, first: int, values: tuple[int, ...], now_ns: int) -> None:
        self.output[first : first + len(values)] = values
        action = self.output[0] >> 8
        if not action & 1:
            self._active_ns, self.fault = None, 0
        elif self._active_ns is None:
            self._active_ns = now_ns
        if action & 8:
            self.fault = 0 if self._ready else NOT_ACTIVATED
            self._met = Object.MOVING if self._ready else Object.AT_REQUEST

    @property
    def _ready(self) -> bool:
        return self._active_ns is not None and (
            (self._time_ns - self._active_ns) / NS > _ACTIVATION_S
        )

    def advance(self, now_ns: int) -> None:
        """Let time pass: the fingers go to the request, or to what is in their way."""
        dt_s = (now_ns - self._time_ns) / NS if self._time_ns else 0.0
        self._time_ns = now_ns
        if self._heard_ns and (now_ns - self._heard_ns) / NS > _SILENCE_S and self._ready:
            self.fault = NO_COMMUNICATION
        if not (self.output[0] >> 8 & 8 and self._ready):
            return
        share = (self.output[2] >> 8) / 255.0
        step = (SPEED_M_S[0] + share * (SPEED_M_S[1] - SPEED_M_S[0])) * _COUNTS_PER_M * dt_s
        request = min(max(self.output[1] & 0xFF, OPEN_COUNT), CLOSED_COUNT)
        goal = min(request, self.stop_count) if request > self.position else request
        way = goal - self.position
        self.position += min(max(way, -step), step)
        if abs(goal - self.position) > 0.5:
            self._met = Object.MOVING
        elif self.has_object and request > self.stop_count:
            self._met = Object.GRASPED
        else:
            self._met = Object.AT_REQUEST

    def _input(self) -> tuple[int, ...]:
        action = self.output[0] >> 8
        active = self._active_ns is not None
        state = 3 if self._ready else int(active)
        status = int(active) | action & 8 | state << 4 | self._met.value << 6
        current = 30 if self._met is Object.MOVING else 5 * (self._met is Object.GRASPED)
        return (
            status << 8,
            self.fault << 8 | self.output[1] & 0xFF,
            round(self.position) << 8 | current,
        )
