"""Sequential MCAP reader that trusts nothing: every length is bounded, every checksum compared.

The file is read once from front to back, so a truncated file gives each whole chunk before the
damage is reported, and memory stays within one chunk. Format: https://mcap.dev/spec.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Header, Metadata, Schema, Statistics

MAGIC = b"\x89MCAP0\r\n"
MAX_CHUNK_BYTES = 256 * 2**20
_FRAME = struct.Struct("<BQ")
_MESSAGE = struct.Struct("<HIQQ")
_CHUNK = struct.Struct("<QQQII")
_MAX_TIME_NS = 2**63


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
    """One message as it lies in the file; times are ns, ``data`` is CDR with its 4-byte header."""

    topic: Topic
    log_ns: int
    publish_ns: int
    data: memoryview


@dataclass(kw_only=True)
class McapStream:
    """What has been seen of one MCAP file so far.

    Attributes:
        path: the file.
        max_chunk_bytes: largest record and largest uncompressed chunk that is accepted.
        topics: channel id -> topic.
        metadata: metadata records by name.
        skipped: with ``skip_bad_chunks``, what was wrong with each chunk that was left out.
        unchecked_chunks: chunks without a checksum: flipped bytes in them cannot be noticed.
    """

    path: Path
    max_chunk_bytes: int = MAX_CHUNK_BYTES
    topics: dict[int, Topic] = field(default_factory=dict)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    unchecked_chunks: int = 0
    _schemas: dict[int, Schema] = field(default_factory=dict)
    _crc: int = 0
    _seen: int = 0
    _statistics: Statistics | None = None

    def messages(self, *, skip_bad_chunks: bool = False) -> Iterator[Message]:
        """Yield every message in file order.

        Args:
            skip_bad_chunks: leave out a chunk whose content is damaged and go on after it.

        Raises:
            DamageError: the file is truncated or altered; everything before was yielded.
        """
        with self.path.open("rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                raise DamageError("it does not start with the MCAP magic bytes")
            self._crc = zlib.crc32(MAGIC)
            yield from self._records(stream, skip_bad_chunks)
        counted = self._statistics.message_count if self._statistics else self._seen
        if not self.skipped and counted != self._seen:
            raise DamageError(f"its summary counts {counted} messages, but it holds {self._seen}")

    def _records(self, stream: BinaryIO, skip_bad_chunks: bool) -> Iterator[Message]:
        data_section = True
        while True:
            offset = stream.tell()
            opcode, body = self._frame(stream, offset)
            if opcode == Opcode.CHUNK:
                try:
                    content = self._chunk(body)
                    found = list(self._inner(content))
                except DamageError as damage:
                    if not skip_bad_chunks:
                        raise DamageError(f"chunk at byte {offset}: {damage}") from None
                    self.skipped.append(f"chunk at byte {offset}: {damage}")
                    found = []
                yield from found
            elif opcode == Opcode.MESSAGE:
                yield self._message(memoryview(body))
            elif opcode == Opcode.DATA_END:
                stored = struct.unpack("<I", body)[0] if len(body) == 4 else -1
                if stored not in (0, self._crc) and not self.skipped:
                    raise DamageError("the checksum of its data section does not match")
                data_section = False
            elif opcode == Opcode.FOOTER:
                self._footer(stream, offset, body)
                return
            else:
                self._small_record(opcode, body, offset)
            if data_section:
                self._crc = zlib.crc32(body, zlib.crc32(_FRAME.pack(opcode, len(body)), self._crc))

    def _frame(self, stream: BinaryIO, offset: int) -> tuple[int, bytes]:
        head = stream.read(_FRAME.size)
        if len(head) < _FRAME.size:
            raise DamageError(f"it ends at byte {offset + len(head)} without a footer")
        opcode, length = _FRAME.unpack(head)
        if length > self.max_chunk_bytes:
            raise DamageError(
                f"the record at byte {offset} claims {length} bytes, more than the "
                f"{self.max_chunk_bytes} that are accepted"
            )
        body = stream.read(length)
        if len(body) < length:
            raise DamageError(
                f"it ends at byte {offset + len(head) + len(body)}, inside the record "
                f"that starts at byte {offset}"
            )
        return opcode, body

    def _footer(self, stream: BinaryIO, offset: int, body: bytes) -> None:
        if stream.read(len(MAGIC) + 1) != MAGIC:
            raise DamageError("it does not end with the MCAP magic bytes")
        if len(body) != 20:
            raise DamageError("its footer has the wrong length")
        summary_start, _, crc = struct.unpack("<QQI", body)
        if crc and summary_start <= offset:
            stream.seek(summary_start)
            summary = stream.read(offset - summary_start + _FRAME.size + 16)
            if zlib.crc32(summary) != crc:
                raise DamageError("the checksum of its summary does not match")

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
        self.topics[channel.id] = Topic(
            channel.topic,
            schema.name,
            channel.message_encoding,
            schema.data.decode("utf-8", "replace"),
            schema.encoding,
        )

    def _chunk(self, body: bytes) -> memoryview:
        """Uncompressed, checked content of one chunk record."""
        try:
            _, _, size, crc, name_length = _CHUNK.unpack_from(body)
            start = _CHUNK.size + name_length
            compression = body[_CHUNK.size : start].decode()
            (stored,) = struct.unpack_from("<Q", body, start)
        except (struct.error, UnicodeDecodeError):
            raise DamageError("its header cannot be read") from None
        data = memoryview(body)[start + 8 : start + 8 + stored]
        if len(data) != stored:
            raise DamageError("its length fields contradict each other")
        if size > self.max_chunk_bytes:
            raise DamageError(
                f"it would take {size} bytes uncompressed, more than the "
                f"{self.max_chunk_bytes} that are accepted"
            )
        content = decompress(data, compression, size)
        if len(content) != size:
            raise DamageError(f"expected {size} bytes uncompressed, got {len(content)}")
        if crc and zlib.crc32(content) != crc:
            raise DamageError("its checksum does not match")
        self.unchecked_chunks += not crc
        return memoryview(content)

    def _inner(self, content: memoryview) -> Iterator[Message]:
        position = 0
        while position < len(content):
            if position + _FRAME.size > len(content):
                raise DamageError("it ends inside a record")
            opcode, length = _FRAME.unpack_from(content, position)
            start = position + _FRAME.size
            position = start + length
            if position > len(content):
                raise DamageError("it ends inside a record")
            body = content[start:position]
            if opcode == Opcode.MESSAGE:
                yield self._message(body)
            else:
                self._small_record(opcode, bytes(body), start)

    def _message(self, body: memoryview) -> Message:
        if len(body) < _MESSAGE.size:
            raise DamageError("a message record is too short")
        channel, _, log_ns, publish_ns = _MESSAGE.unpack_from(body)
        topic = self.topics.get(channel)
        if topic is None:
            raise DamageError(f"a message belongs to channel {channel}, which is not declared")
        if max(log_ns, publish_ns) >= _MAX_TIME_NS:
            raise DamageError("a message has an impossible time stamp")
        self._seen += 1
        return Message(topic, log_ns, publish_ns, body[_MESSAGE.size :])


def decompress(data: memoryview | bytes, compression: str, max_bytes: int) -> bytes | memoryview:
    """Uncompress at most ``max_bytes + 1`` bytes, whatever the data claims of itself.

    Args:
        data: compressed bytes.
        compression: ``""`` (stored), ``zstd`` or ``lz4``.
        max_bytes: the size that is expected; one byte more shows that the data is longer.

    Raises:
        DamageError: unknown compression or data that is not of this compression.
    """
    try:
        if compression == "":
            return data
        if compression == "zstd":
            reader = zstandard.ZstdDecompressor().stream_reader(data, read_across_frames=True)
            return bytes(reader.read(max_bytes + 1))
        if compression == "lz4":
            return bytes(
                lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=max_bytes + 1)
            )
    except (zstandard.ZstdError, RuntimeError, EOFError) as error:
        raise DamageError(f"its {compression} data cannot be uncompressed ({error})") from None
    raise DamageError(f"its compression {compression!r} is neither zstd nor lz4")
