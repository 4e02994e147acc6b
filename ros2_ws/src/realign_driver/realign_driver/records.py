"""Messages of one layout as NumPy records over their bytes on the wire.

What a driver sends and receives at the rate of its robot never changes its form: the same joints,
the same frame. To convert such a message between Python objects and its serialised form costs
several times what its numbers do; here only the numbers are written, or read.
"""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
from rclpy.serialization import serialize_message

from policies.messages import NS
from sim2real.bags.cdr import Layout, find_layout, plain


class OutgoingRecord:
    """A message that is serialised once; then its fields are set in place.

    Args:
        message: the message with everything that stays, and arrays of their length.
        msgtype: its type, one of :data:`sim2real.bags.cdr.STEPS` with a header.

    Attributes:
        fields: record of its numbers, e.g. ``fields["position"]``, (n,).
    """

    def __init__(self, message: Any, msgtype: str) -> None:
        self._buffer = bytearray(plain(serialize_message(message), msgtype))
        dtype = find_layout(self._buffer, msgtype).dtype
        self.fields: Any = np.frombuffer(self._buffer, dtype)[0]
        self._stamp = np.frombuffer(self._buffer, "<u4", 2, dtype.fields["sec"][1])

    def stamped(self, stamp_ns: int) -> bytes:
        """The message with this stamp, serialised: what ``Publisher.publish`` takes as it is."""
        self._stamp[:] = divmod(stamp_ns, NS)
        return bytes(self._buffer)


class IncomingRecords:
    """Reads messages that have the same form as one that has been unpacked and checked before.

    Args:
        msgtype: type of the messages, one of :data:`sim2real.bags.cdr.STEPS`.
    """

    def __init__(self, msgtype: str) -> None:
        self._msgtype = msgtype
        self._layout: Layout | None = None
        self._length = -1
        self._fixed: list[tuple[slice, bytes]] = []

    def learn(self, data: bytes) -> None:
        """Remember the form of this message; one that cannot be is unpacked every time."""
        self._layout = None
        with contextlib.suppress(ValueError):
            self._layout = layout = find_layout(data, self._msgtype)
            self._length = len(data)
            self._fixed = [(slice(a, b), data[a:b]) for a, b in layout.spans]

    def read(self, data: bytes) -> Any:
        """Record of the message's numbers; None where its form is not the one learnt."""
        if self._layout is None or len(data) != self._length:
            return None
        if any(data[where] != what for where, what in self._fixed):
            return None
        return np.frombuffer(data, self._layout.dtype)[0]
