"""The line protocol of the serial e-stop button, and what its silence means.

The button sends a line every 50 ms, ASCII, ``$STATE,NUMBER*XX``: ``RUN`` or ``STOP``, a number that
grows by one from line to line (0 to 9999, then 0 again), and the exclusive or of everything
between ``$`` and ``*`` in hexadecimal digits. Only lines that say RUN, are whole and carry another
number than the one before keep a robot running.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

BAUD = 115200
PERIOD_S = 0.05
NUMBERS = 10_000
NS = 1_000_000_000
_LONGEST = 64


class Pressed(Enum):
    """Whether, and why, the button counts as pressed; the text is for people."""

    NO = ""
    NEVER_HEARD = "the e-stop button was not heard yet"
    YES = "the e-stop button is pressed"
    SILENT = "the e-stop button fell silent"


@dataclass(frozen=True, kw_only=True)
class ButtonConfig:
    """Times of the button.

    Attributes:
        silence_s: time without a good line that counts as pressed, s (five lines).
    """

    silence_s: float = 0.25


def line_of(pressed: bool, number: int) -> bytes:
    """A line as the button sends it."""
    body = f"{'STOP' if pressed else 'RUN'},{number % NUMBERS}".encode()
    return b"$%s*%02X\n" % (body, _exclusive_or(body))


def parse_line(line: bytes) -> tuple[bool, int] | None:
    """State and number of a line without its end; None for anything else."""
    body, star, check = line.strip().partition(b"*")
    state, comma, number = body[1:].partition(b",")
    if body[:1] != b"$" or not (star and comma) or state not in (b"RUN", b"STOP"):
        return None
    if check.upper() != b"%02X" % _exclusive_or(body[1:]) or not number.isdigit():
        return None
    return state == b"STOP", int(number)


def _exclusive_or(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte
    return value


class ButtonMonitor:
    """Bytes from the button in, pressed or not out; the caller passes the clock.

    Args:
        config: times.

    Attributes:
        bad_lines: lines that were not whole.
    """

    def __init__(self, config: ButtonConfig | None = None) -> None:
        self.config = config or ButtonConfig()
        self.bad_lines = 0
        self._buffer = bytearray()
        self._number: int | None = None
        self._good_ns: int | None = None
        self._stop = False

    def feed(self, data: bytes, now_ns: int) -> None:
        """Take bytes."""
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest[-_LONGEST:])
        for line in lines:
            parsed = parse_line(bytes(line))
            if parsed is None:
                self.bad_lines += 1
                continue
            stop, number = parsed
            if stop:  # a button that repeats itself may still say stop
                self._stop, self._good_ns = True, now_ns
            elif number != self._number:
                self._stop, self._good_ns = False, now_ns
            self._number = number

    def pressed(self, now_ns: int) -> Pressed:
        """Whether the button counts as pressed."""
        if self._good_ns is None:
            return Pressed.NEVER_HEARD
        if (now_ns - self._good_ns) / NS > self.config.silence_s:
            return Pressed.SILENT
        return Pressed.YES if self._stop else Pressed.NO
