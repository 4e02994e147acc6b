"""Stamps from the robot's own clock: even spacing, without the jitter of the way to us."""

from __future__ import annotations

_MS = 1_000_000
_WRAP = 1 << 32
_WINDOW_NS = 2_000_000_000
_DEADBAND_NS = _MS
_JUMP_NS = 50 * _MS
_JUMP_MESSAGES = 10


class TickClock:
    """Maps LowState ticks (ms, 32 bits, wrapping) to the host's steady clock.

    A message is never early, so the least delay seen over two seconds is the best estimate of the
    offset. The offset stays as it is while it is within a millisecond of that, because stamps that
    are spaced evenly are worth more to a policy than stamps that are right to the microsecond.
    """

    def __init__(self) -> None:
        self._tick: int | None = None
        self._robot_ns = 0
        self._offset_ns = 0
        self._least_ns = 0
        self._since_ns = 0
        self._odd = 0

    def stamp_ns(self, tick_ms: int, received_ns: int) -> int:
        """Host time at which the robot measured, ns.

        Args:
            tick_ms: ``tick`` of the message.
            received_ns: steady time of receipt, ns.
        """
        if self._tick is None:
            self._restart(tick_ms, received_ns)
        ahead = (tick_ms - (self._tick or 0)) % _WRAP
        self._robot_ns += (ahead if ahead < _WRAP // 2 else ahead - _WRAP) * _MS
        self._tick = tick_ms
        delay = received_ns - self._robot_ns - self._offset_ns
        self._odd = self._odd + 1 if abs(delay) > _JUMP_NS else 0
        if self._odd >= _JUMP_MESSAGES:  # not one late message: the robot started again
            self._restart(tick_ms, received_ns)
            return received_ns
        if self._odd:
            return self._robot_ns + self._offset_ns
        self._least_ns = min(self._least_ns, delay)
        if received_ns - self._since_ns > _WINDOW_NS:
            if abs(self._least_ns) > _DEADBAND_NS:
                self._offset_ns += self._least_ns
            self._least_ns, self._since_ns = _JUMP_NS, received_ns
        elif delay < -_DEADBAND_NS:
            self._offset_ns += delay
            self._least_ns = 0
        return self._robot_ns + self._offset_ns

    def _restart(self, tick_ms: int, received_ns: int) -> None:
        self._tick = tick_ms
        self._robot_ns, self._offset_ns = 0, received_ns
        self._least_ns, self._since_ns = 0, received_ns
        self._odd = 0
