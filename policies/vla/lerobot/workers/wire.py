"""How a model in another interpreter talks to realign; both ends use this file.

One inherited stream socket connects the two processes, so that no other process can join in. A
message is the sizes of header and body, a header of JSON, and the arrays that the header lists, one
after the other. The worker speaks first::

    worker                                            client
    {"protocol", "engine", "version", "python"}  ->
                                                 <-   {"op": "load", ...}
    {what was loaded}                            ->
                                                 <-   {"op": "reset", "seed"}
    {}                                           ->
                                                 <-   {"op": "sample", ...} + arrays
    {"seconds"} + {"actions": (B, T, A)}         ->

An answer ``{"refused": sentence}`` is bad input, ``{"failed": traceback}`` anything else. Only
numbers cross, never objects.
"""

from __future__ import annotations

import json
import math
import os
import platform
import socket
import struct
import sys
import threading
import time
import traceback
from typing import Any, Protocol

import numpy as np

PROTOCOL = 1
MAX_HEADER_BYTES = 1_000_000
MAX_BODY_BYTES = 1_000_000_000
DTYPES = ("uint8", "float32", "float64")
_SIZES = struct.Struct("<IQ")
_PARENT_CHECK_S = 1.0
_PIECE = 4_000_000  # bytes

Arrays = dict[str, Any]


class Refused(ValueError):
    """Bad input; the text is one sentence for the user."""


class BrokenMessageError(ValueError):
    """What came is not a message of this protocol."""


class Channel:
    """Messages over a stream socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def send(self, header: dict[str, Any], arrays: Arrays | None = None) -> None:
        """Send one message.

        Args:
            header: JSON-ready.
            arrays: name -> array of one of :data:`DTYPES`.
        """
        parts = {name: np.ascontiguousarray(x) for name, x in (arrays or {}).items()}
        listed = [[name, str(x.dtype), list(x.shape)] for name, x in parts.items()]
        text = json.dumps({**header, "arrays": listed}).encode()
        size = sum(x.nbytes for x in parts.values())
        self.connection.sendall(_SIZES.pack(len(text), size) + text)
        for x in parts.values():
            self.connection.sendall(x.reshape(-1).view(np.uint8).data)

    def receive(self, limit_s: float | None = None) -> tuple[dict[str, Any], Arrays] | None:
        """Wait for one message; None when the other side has gone.

        Args:
            limit_s: time after which ``TimeoutError`` is raised, s; None for ever.

        Raises:
            BrokenMessageError: what came is not a message.
        """
        deadline = None if limit_s is None else time.monotonic() + limit_s
        sizes = self._read(_SIZES.size, deadline)
        if sizes is None:
            return None
        length, size = _SIZES.unpack(sizes)
        if length > MAX_HEADER_BYTES or size > MAX_BODY_BYTES:
            raise BrokenMessageError(f"a message of {length} + {size} bytes is too large")
        text = self._read(length, deadline)
        body = None if text is None else self._read(size, deadline)
        if text is None or body is None:
            return None
        try:
            header = json.loads(text.decode())
            if not isinstance(header, dict):
                raise ValueError("its header is no object of JSON")
            arrays = _unpack(header.pop("arrays"), body)
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError) as error:
            raise BrokenMessageError(f"not a message: {error}") from error
        return header, arrays

    def _read(self, size: int, deadline: float | None) -> bytearray | None:
        data = bytearray(min(size, _PIECE))
        have = 0
        while have < size:
            if have == len(data):  # memory grows with what has come, not with what was announced
                data.extend(bytes(min(have, size - have)))
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0.0:
                raise TimeoutError
            self.connection.settimeout(left)
            with memoryview(data) as view:
                count = self.connection.recv_into(view[have:])
            if not count:
                return None
            have += count
        return data


def _unpack(listed: Any, body: bytearray) -> Arrays:
    arrays: Arrays = {}
    offset = 0
    for name, dtype, shape in listed:
        if dtype not in DTYPES or min(shape, default=0) < 0:
            raise ValueError(f"array {name!r} of {dtype} and shape {shape}")
        count = math.prod(shape)
        arrays[name] = np.frombuffer(body, dtype, count, offset).reshape(shape)
        offset += arrays[name].nbytes
    if offset != len(body):
        raise ValueError(f"arrays of {offset} bytes in a body of {len(body)}")
    return arrays


class Model(Protocol):
    """What a worker implements around its package.

    Attributes:
        engine: name of the package.
        version: of the package and what it stands on.
    """

    engine: str
    version: str

    def answer(self, header: dict[str, Any], arrays: Arrays) -> tuple[dict[str, Any], Arrays]:
        """Answer one message."""


def forget_own_folder() -> None:
    """Keep the folder that a worker is started from from hiding modules of its package."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[:] = [path for path in sys.path if path and os.path.abspath(path) != here]


def serve(make: type[Model]) -> None:
    """Run a worker until the client closes the connection or ends.

    Args:
        make: the model; the command line holds the file descriptor of the connection.
    """
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    model = make()
    hello = {"protocol": PROTOCOL, "engine": model.engine, "version": model.version}
    channel.send({**hello, "python": platform.python_version()})
    while True:
        message = channel.receive()
        if message is None:
            return
        out: Arrays = {}
        try:
            header, out = model.answer(*message)
        except Refused as error:
            header = {"refused": str(error)}
        except Exception:
            header = {"failed": traceback.format_exc()[-20_000:]}
        channel.send(header, out)


def _end_with_parent(parent: int) -> None:
    """End this process when the client has ended, even in the middle of a long call."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os._exit(1)
