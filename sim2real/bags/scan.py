"""What is on the topics of a bag: counts, rates, gaps, from stamps alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from policies.errors import InputError
from sim2real.bags.batch import NS, Batch, Index, Int, Topic, gather
from sim2real.bags.definitions import starts_with_header

_CDR_STAMP = np.dtype(
    [
        ("representation", "u1"),
        ("byte_order", "u1"),
        ("options", "u2"),
        ("sec", "<i4"),
        ("nanosec", "<u4"),
    ]
)


@dataclass(frozen=True, kw_only=True)
class TopicInfo:
    """One topic of a bag.

    Attributes:
        name, type: topic and message type.
        count: number of messages.
        rate_hz: one over the median step between stamps, or None for fewer than two messages.
        max_gap_s: longest step between stamps, s, or None.
        backward_steps: how often a stamp is earlier than the one before it.
        size_bytes: of all its messages, uncompressed.
        stamps: ``header`` where the message has a stamp of its own, else ``log``.
    """

    name: str
    type: str
    count: int
    rate_hz: float | None
    max_gap_s: float | None
    backward_steps: int
    size_bytes: int
    stamps: Literal["header", "log"]


class Scan:
    """Counts and stamps of all topics.

    Attributes:
        count: messages so far.
        first_ns, last_ns: earliest and latest time of reception, ns; 0 before any message.
    """

    def __init__(self) -> None:
        self._stamps: dict[str, list[Int]] = {}
        self._log: dict[str, list[Int]] = {}
        self._topics: dict[str, Topic] = {}
        self._bytes: dict[str, int] = {}
        self.count = 0
        self.first_ns = 0
        self.last_ns = 0

    def declare(self, topic: Topic) -> None:
        """List a topic, with or without messages.

        Raises:
            InputError: it has another type already.
        """
        if topic.name not in self._topics:
            self._topics[topic.name] = topic
            self._stamps[topic.name], self._log[topic.name] = [], []
            self._bytes[topic.name] = 0
        elif self._topics[topic.name].msgtype != topic.msgtype:
            raise InputError(
                f"topic {topic.name}: expected one type, got {self._topics[topic.name].msgtype} "
                f"and {topic.msgtype}; split the bag so that each has one"
            )

    def add(self, batch: Batch) -> None:
        """Take the next messages of the bag.

        Raises:
            InputError: a topic has two types.
        """
        if not len(batch):
            return
        for topic in batch.topics.values():
            self.declare(topic)
        first, last = int(batch.log_ns.min()), int(batch.log_ns.max())
        self.first_ns = min(self.first_ns, first) if self.count else first
        self.last_ns = max(self.last_ns, last) if self.count else last
        self.count += len(batch)
        for name, rows in batch.rows_by_topic().items():
            topic = self._topics[name]
            self._log[name].append(batch.log_ns[rows])
            self._bytes[name] += int(batch.length[rows].sum())
            if topic.encoding == "cdr" and starts_with_header(topic.msgtype):
                self._stamps[name].append(header_stamps(batch, rows))

    def topics(self) -> tuple[TopicInfo, ...]:
        """What was found, sorted by name."""
        return tuple(self._info(name) for name in sorted(self._topics))

    def _info(self, name: str) -> TopicInfo:
        stamps, log = _joined(self._stamps[name]), _joined(self._log[name])
        headed = len(stamps) == len(log) and bool(stamps.any())
        steps = np.diff(stamps if headed else log) / NS
        median = float(np.median(steps)) if len(steps) else 0.0
        return TopicInfo(
            name=name,
            type=self._topics[name].msgtype,
            count=len(log),
            rate_hz=1.0 / median if median > 0 else None,
            max_gap_s=float(steps.max()) if len(steps) else None,
            backward_steps=int((steps < 0).sum()),
            size_bytes=self._bytes[name],
            stamps="header" if headed else "log",
        )


def header_stamps(batch: Batch, rows: Index) -> Int:
    """Stamps of messages that begin with a header, ns; messages too short for one are left out.

    Args:
        batch: messages of any topics.
        rows: which of them, (N,).
    """
    rows = rows[batch.length[rows] > _CDR_STAMP.itemsize]
    heads = gather(batch.data, batch.start[rows], _CDR_STAMP.itemsize).view(_CDR_STAMP)[:, 0]
    seconds, nanoseconds = heads["sec"].astype(np.int64), heads["nanosec"].astype(np.int64)
    big = np.flatnonzero(heads["byte_order"] != 1)
    if len(big):
        seconds[big] = heads["sec"][big].byteswap()
        nanoseconds[big] = heads["nanosec"][big].byteswap()
    return seconds * NS + nanoseconds


def _joined(parts: list[Int]) -> Int:
    return np.concatenate([np.zeros(0, np.int64), *parts])
