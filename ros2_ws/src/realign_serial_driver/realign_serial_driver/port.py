"""Opening a serial port, and saying what to do where that fails."""

from __future__ import annotations

import errno
import os
import select
import time

import serial
from serial.tools import list_ports

from policies.errors import InputError


class PortLost(Exception):
    """The port went away: unplugged, or its device died."""


def open_port(path: str, baud: int, *, wait_s: float = 0.0) -> serial.Serial:
    """Open a serial port for this process alone.

    Args:
        path: its path, e.g. ``/dev/ttyACM0``.
        baud: speed, bit/s.
        wait_s: how long to wait for the path to appear, s (an emulator that is starting).

    Raises:
        InputError: no such port, no permission, or somebody else has it.
    """
    deadline = time.monotonic() + wait_s
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.01)
    try:
        return serial.Serial(path, baud, timeout=0.0, write_timeout=1.0, exclusive=True)
    except (serial.SerialException, OSError, ValueError) as error:
        raise InputError(_advice(path, baud, error)) from None


def _advice(path: str, baud: int, error: Exception) -> str:
    number = getattr(error, "errno", None)
    if number == errno.ENOENT or not os.path.exists(path):
        there = sorted(port.device for port in list_ports.comports())
        return (
            f"expected a serial port {path}, but there is none (there are: "
            f"{', '.join(there) or 'none at all'}); check the cable and the power, "
            "`ls /dev/serial/by-id` names what is plugged in"
        )
    if number in (errno.EACCES, errno.EPERM):
        return (
            f"expected to be allowed to open {path}, but permission is denied; run "
            "`sudo usermod -aG dialout $USER` and log in again"
        )
    if number in (errno.EBUSY, errno.EAGAIN) or "lock" in str(error):
        return (
            f"expected {path} to be free, but another program uses it; "
            f"`fuser -v {path}` says which: stop it first"
        )
    return f"expected a serial port at {path} with {baud} baud, got: {error}; use another port"


def write_all(port: serial.Serial, data: bytes) -> None:
    """Write all bytes.

    Raises:
        PortLost: the port went away, or takes nothing any more.
    """
    try:
        port.write(data)
    except (serial.SerialException, OSError):
        raise PortLost(port.port) from None


def read_some(port: serial.Serial, wait_s: float) -> bytes:
    """Bytes that are there within ``wait_s``; empty where none come.

    Raises:
        PortLost: the port went away.
    """
    try:
        ready, _, _ = select.select([port.fileno()], [], [], max(wait_s, 0.0))
        if not ready:
            return b""
        data = os.read(port.fileno(), 4096)
    except BlockingIOError:
        return b""
    except (serial.SerialException, OSError, ValueError):
        raise PortLost(port.port) from None
    if not data:  # readable, and nothing to read: unplugged
        raise PortLost(port.port)
    return data
