"""Messages of an MCAP file, many at a time; nothing in it is trusted.

The file is read once from front to back: every length is bounded and every checksum compared. A
truncated file gives each whole chunk before the damage is reported, and memory stays within a few
MB or a few chunks, whichever is more.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Header, Metadata, Schema, Statistics

from sim2real.bags.batch import Batch, Bytes, DamageError, Int, Message, Topic, gather
from sim2real.bags.mcap_records import (
    MAX_CHUNK_BYTES,
    BadChunk,
    Chunk,
    Messages,
    Part,
    Record,
    read_parts,
)
from sim2real.bags.walk import FRAME, MessageWalk

_HEAD = np.dtype(
    [
        ("opcode", "u1"),
        ("length", "<u8"),
        ("channel", "<u2"),
        ("sequence", "<u4"),
        ("log_ns", "<u8"),
        ("publish_ns", "<u8"),
    ]
)
_FIELDS_BYTES = _HEAD.itemsize - FRAME.size
_MAX_TIME_NS = 2**63


class _Run(NamedTuple):
    """Message records of the chunk at byte ``chunk`` of the file, or between chunks (None).

    The chunk, or without one the file, begins at ``data[base]``.
    """

    data: Bytes
    found: Int
    chunk: int | None
    base: int


@dataclass(kw_only=True)
class McapStream:
    """What has been seen of one MCAP file so far.

    Attributes:
        path: the file.
        check: compare checksums; to be left out only for bytes that were checked before.
        skip_bad_chunks: leave out a chunk whose content is damaged and go on after it.
        max_chunk_bytes: largest record and largest uncompressed chunk that is accepted.
        topics: channel id -> topic.
        metadata: metadata records by name.
        skipped: with ``skip_bad_chunks``, what was wrong with each chunk that was left out.
        unchecked_chunks: chunks without a checksum: flipped bytes in them cannot be noticed.
    """

    path: Path
    check: bool = True
    skip_bad_chunks: bool = False
    max_chunk_bytes: int = MAX_CHUNK_BYTES
    topics: dict[int, Topic] = field(default_factory=dict)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    unchecked_chunks: int = 0
    _schemas: dict[int, Schema] = field(default_factory=dict)
    _walk: MessageWalk = field(default_factory=MessageWalk)
    _seen: int = 0
    _data_ended: bool = False
    _statistics: Statistics | None = None

    def messages(self) -> Iterator[Message]:
        """Yield every message in file order; see :meth:`batches`."""
        for batch in self.batches():
            yield from batch.messages()

    def batches(self) -> Iterator[Batch]:
        """Yield all messages in file order, many at a time.

        Raises:
            DamageError: the file is truncated or altered; everything before was yielded.
        """
        for parts in read_parts(self.path, check=self.check, max_bytes=self.max_chunk_bytes):
            runs: list[_Run] = []
            try:
                for part in parts:
                    if isinstance(part, Record) and part.opcode == Opcode.DATA_END:
                        # before its checksum means anything, chunks to leave out must be known
                        whole, runs = runs, []
                        yield from self._batches(whole)
                    self._take(part, runs)
            except DamageError:
                yield from self._batches(runs)
                raise
            yield from self._batches(runs)
        counted = self._statistics.message_count if self._statistics else self._seen
        if not self.skipped and counted != self._seen:
            raise DamageError(f"its summary counts {counted} messages, but it holds {self._seen}")

    def _take(self, part: Part, runs: list[_Run]) -> None:
        if isinstance(part, Messages):
            runs.append(_Run(part.data, part.found, None, -part.offset))
        elif isinstance(part, BadChunk):
            self._leave_out(part.offset, part.damage)
        elif isinstance(part, Chunk):
            self.unchecked_chunks += not part.has_checksum
            try:
                runs.append(_Run(part.data, self._find(part), part.offset, part.start))
            except DamageError as damage:
                self._leave_out(part.offset, str(damage))
        elif part.opcode == Opcode.DATA_END:
            self._data_ended = True
            stored = struct.unpack("<I", part.body)[0] if len(part.body) == 4 else -1
            if part.crc is not None and stored not in (0, part.crc) and not self.skipped:
                raise DamageError("the checksum of its data section does not match")
        else:
            self._small_record(part.opcode, part.body, part.offset)

    def _leave_out(self, chunk: int, what: str) -> None:
        if not self.skip_bad_chunks:
            raise DamageError(f"chunk at byte {chunk}: {what}")
        self.skipped.append(f"chunk at byte {chunk}: {what}")

    def _find(self, chunk: Chunk) -> Int:
        """Where the messages of a chunk begin; its other records are taken."""
        found, position = self._walk.run(chunk.data, chunk.start, chunk.stop)
        while position < chunk.stop:
            position = self._take_from(chunk, position)
            more, position = self._walk.run(chunk.data, position, chunk.stop)
            found = np.concatenate([found, more])
        return found

    def _take_from(self, chunk: Chunk, position: int) -> int:
        """Take a record that is no message; returns where the next one begins."""
        start = stop = position + FRAME.size
        opcode = 0
        if start <= chunk.stop:
            opcode, length = FRAME.unpack_from(chunk.data.data, position)
            stop += length
        if stop > chunk.stop:
            raise DamageError("it ends inside a record")
        self._small_record(opcode, chunk.data[start:stop].tobytes(), position - chunk.start)
        return stop

    def _batches(self, runs: list[_Run]) -> Iterator[Batch]:
        """All runs, which lie in one buffer, as one batch; one by one if a message is bad."""
        if not runs:
            return
        found = np.concatenate([run.found for run in runs])
        batch, wrong = message_batch(runs[0].data, found, self.topics, _origins(runs))
        if wrong is None:
            self._seen += len(batch)
            yield batch
            return
        for run in runs:
            batch, wrong = message_batch(run.data, run.found, self.topics, _origins([run]))
            if wrong is None or run.chunk is None:
                self._seen += len(batch)
                yield batch
            if wrong is not None:
                if run.chunk is None:
                    raise DamageError(wrong)
                self._leave_out(run.chunk, wrong)

    def _small_record(self, opcode: int, body: bytes, offset: int) -> None:
        stream = ReadDataStream(io.BytesIO(body))
        try:
            if opcode == Opcode.SCHEMA:
                schema = Schema.read(stream)
                self._schemas[schema.id] = schema
            elif opcode == Opcode.CHANNEL:
                self._add_channel(Channel.read(stream))
            elif opcode == Opcode.METADATA:
                record = Metadata.read(stream)
                self.metadata[record.name] = dict(record.metadata)
            elif opcode == Opcode.STATISTICS:
                self._statistics = Statistics.read(stream)
            elif opcode == Opcode.HEADER:
                Header.read(stream)
        except (McapError, struct.error, ValueError, OverflowError) as error:
            raise DamageError(f"the record at byte {offset} cannot be read ({error})") from None

    def _add_channel(self, channel: Channel) -> None:
        schema = self._schemas.get(channel.schema_id)
        if schema is None:
            raise DamageError(f"topic {channel.topic!r} refers to a message type that is not there")
        topic = Topic(
            channel.topic,
            schema.name,
            channel.message_encoding,
            schema.data.decode("utf-8", "replace"),
            schema.encoding,
        )
        # the summary repeats them, and has a checksum of its own
        if self.topics.setdefault(channel.id, topic) != topic and not self._data_ended:
            raise DamageError(f"channel {channel.id} is declared twice, and not alike")


def _origins(runs: list[_Run]) -> Int:
    """See :attr:`sim2real.bags.batch.Batch.origins`."""
    rows, first = [], 0
    for run in runs:
        rows.append((first, -1 if run.chunk is None else run.chunk, run.base))
        first += len(run.found)
    return np.array(rows, np.int64)


def message_batch(
    data: Bytes, start: Int, topics: Mapping[int, Topic], origins: Int
) -> tuple[Batch, str | None]:
    """Read the heads of message records and check them.

    Args:
        data: records.
        start: where each message record begins, (N,); all of them lie within ``data``.
        topics: channel -> topic.
        origins: see :class:`sim2real.bags.batch.Batch`.

    Returns:
        The messages before the first bad one, and what is wrong with that one, if there is one.
    """
    wrong: str | None = None
    lengths = gather(data, start + 1, 8).view("<u8")[:, 0]
    short = np.flatnonzero(lengths < _FIELDS_BYTES)
    if len(short):
        start = start[: short[0]]
        wrong = "a message record is too short"
    heads = gather(data, start, _HEAD.itemsize).view(_HEAD)[:, 0]
    declared = np.zeros(2**16, bool)
    declared[list(topics)] = True
    known = declared[heads["channel"]]
    timely = np.maximum(heads["log_ns"], heads["publish_ns"]) < _MAX_TIME_NS
    bad = np.flatnonzero(~(known & timely))
    if len(bad):
        channel = heads["channel"][bad[0]]
        wrong = f"a message belongs to channel {channel}, which is not declared"
        if known[bad[0]]:
            wrong = "a message has an impossible time stamp"
        start, heads = start[: bad[0]], heads[: bad[0]]
    batch = Batch(
        data=data,
        topics=topics,
        channel=heads["channel"].astype(np.int64),
        start=start + _HEAD.itemsize,
        length=heads["length"].astype(np.int64) - _FIELDS_BYTES,
        log_ns=heads["log_ns"].astype(np.int64),
        publish_ns=heads["publish_ns"].astype(np.int64),
        origins=origins,
    )
    return batch, wrong
