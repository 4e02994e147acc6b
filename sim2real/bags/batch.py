"""Messages as they lie in a storage file: one buffer, and where in it each of them is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

NS = 1_000_000_000
# NumPy's cost per call is small against a batch of this size, and a processor's cache holds it
BATCH_BYTES = 2**21
Bytes = NDArray[np.uint8]
Index = NDArray[np.intp]
Int = NDArray[np.int64]


class DamageError(Exception):
    """A storage file is not whole; the message says where and how."""


class Topic(NamedTuple):
    """One topic of a storage file: its type, how it is encoded, and the type's definition."""

    name: str
    msgtype: str
    encoding: str
    definition: str
    definition_format: str


class Message(NamedTuple):
    """One message; times are ns, ``data`` is CDR with its 4-byte header."""

    topic: Topic
    log_ns: int
    publish_ns: int
    data: bytes


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Messages that follow one another in a storage file.

    Attributes:
        data: the bytes that they lie in, (B,); they change when the next batch is taken.
        topics: channel -> topic, for every channel that occurs.
        channel: of each message, (N,).
        start: where its CDR begins in ``data``, (N,).
        length: of its CDR, bytes, (N,).
        log_ns, publish_ns: times of reception and of sending, (N,), ns.
        origins: where stretches of messages come from, (K, 3): number of the first message, the
            chunk (byte in the file, -1 for messages between chunks; row id of a database), and
            what is to be subtracted from ``start`` for the place in it.
    """

    data: Bytes
    topics: Mapping[int, Topic]
    channel: Int
    start: Int
    length: Int
    log_ns: Int
    publish_ns: Int
    origins: Int = field(default_factory=lambda: np.zeros((0, 3), np.int64))

    def __len__(self) -> int:
        return len(self.channel)

    def places(self, rows: Index) -> Int:
        """Where in the file messages can be found again, (N, 2): chunk and byte in it."""
        origin = self.origins[np.searchsorted(self.origins[:, 0], rows, side="right") - 1]
        return np.stack([origin[:, 1], self.start[rows] - origin[:, 2]], axis=1)

    def rows_by_topic(self) -> dict[str, Index]:
        """Topic name -> its messages in file order."""
        rows: dict[str, Index] = {}
        for channel in np.unique(self.channel).tolist():
            name = self.topics[channel].name
            found = np.flatnonzero(self.channel == channel)
            rows[name] = np.union1d(rows[name], found) if name in rows else found
        return rows

    def messages(self) -> Iterator[Message]:
        """The messages one by one."""
        view = self.data.data
        columns = (self.channel, self.log_ns, self.publish_ns, self.start, self.length)
        for channel, log, publish, start, n in zip(*(c.tolist() for c in columns), strict=True):
            yield Message(self.topics[channel], log, publish, bytes(view[start : start + n]))


def gather(data: Bytes, start: Int, size: int) -> Bytes:
    """Stretches of ``size`` bytes that begin at ``start``, (N,), as rows (N, size).

    The rows are a view of ``data`` where ``start`` ascends in equal steps, else a copy.
    """
    if not len(start) or not size:
        return np.zeros((len(start), size), np.uint8)
    steps = start[1:] - start[:-1]
    if len(steps) and steps[0] > 0 and (steps == steps[0]).all():
        return np.ndarray((len(start), size), np.uint8, data, int(start[0]), (int(steps[0]), 1))
    # items of this size at every byte: one indexing operation copies all stretches
    items = np.ndarray((len(data) - size + 1,), f"V{size}", data, 0, (1,))
    return items[start].view(np.uint8).reshape(len(start), size)
