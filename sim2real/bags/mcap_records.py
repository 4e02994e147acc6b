"""Records of an MCAP file from front to back, chunks uncompressed. Nothing in it is trusted.

Format: https://mcap.dev/spec.
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias, TypeVar

import numpy as np
from mcap.opcode import Opcode

from sim2real.bags.batch import BATCH_BYTES, Bytes, DamageError, Int
from sim2real.bags.compression import decompress_into
from sim2real.bags.walk import FRAME, MessageWalk

MAGIC = b"\x89MCAP0\r\n"
MAX_CHUNK_BYTES = 256 * 2**20
_CHUNK = struct.Struct("<QQQII")
_FOOTER = struct.Struct("<QQI")
_RECORDS = {
    Opcode.HEADER,
    Opcode.SCHEMA,
    Opcode.CHANNEL,
    Opcode.METADATA,
    Opcode.STATISTICS,
    Opcode.DATA_END,
}
_ARENAS = 3
_PART_BYTES = 256  # what a part without a body takes in memory, about
_T = TypeVar("_T")


class Chunk(NamedTuple):
    """The chunk at byte ``offset`` of the file: its records are ``data[start:stop]``."""

    offset: int
    data: Bytes
    start: int
    stop: int
    has_checksum: bool


class BadChunk(NamedTuple):
    """A chunk whose content is damaged."""

    offset: int
    damage: str


class Messages(NamedTuple):
    """Message records between chunks: where each begins in ``data``, which is at ``offset``."""

    data: Bytes
    found: Int
    offset: int


class Record(NamedTuple):
    """Another record, and for DATA_END the checksum of what lies before it."""

    offset: int
    opcode: int
    body: bytes
    crc: int | None


Part: TypeAlias = Chunk | BadChunk | Messages | Record


def read_parts(path: Path, *, check: bool, max_bytes: int) -> Iterator[list[Part]]:
    """Read a file once; while one group of parts is looked at, the next is uncompressed.

    Args:
        path: MCAP file.
        check: compare checksums.
        max_bytes: longest record and largest uncompressed chunk that is accepted.

    Yields:
        Parts in file order. What has ``data`` in one group has the same, which is used again
        after the next group was taken.

    Raises:
        DamageError: the file ends early or its framing is altered; the parts before were yielded.
    """
    with path.open("rb") as stream:
        file = _File(stream=stream, check=check, max_bytes=max_bytes)
        yield from _ahead(_grouped(file.parts()))


def read_chunk(stream: BinaryIO, offset: int, *, max_bytes: int = MAX_CHUNK_BYTES) -> bytes:
    """Records of one chunk, uncompressed.

    Args:
        stream: MCAP file.
        offset: where the chunk record begins.
        max_bytes: longest record and largest uncompressed chunk that is accepted.

    Raises:
        DamageError: there is no whole chunk.
    """
    stream.seek(offset)
    head = stream.read(FRAME.size)
    opcode, length = FRAME.unpack(head) if len(head) == FRAME.size else (0, 0)
    if opcode != Opcode.CHUNK or length > max_bytes:
        raise DamageError(f"there is no chunk at byte {offset}")
    size, crc, compression, _, packed = _chunk_head(memoryview(stream.read(length)), max_bytes)
    content = bytearray(packed if compression == "" else size)
    if compression:
        decompress_into(memoryview(content), packed, compression)
    if crc and zlib.crc32(content) != crc:
        raise DamageError(f"the checksum of the chunk at byte {offset} does not match")
    return bytes(content)


def _chunk_head(body: memoryview, max_bytes: int) -> tuple[int, int, str, int, memoryview]:
    """Of a chunk record: size, checksum, compression, where its records begin, and those."""
    try:
        _, _, size, crc, name_length = _CHUNK.unpack_from(body)
        records = _CHUNK.size + name_length + 8
        compression = bytes(body[_CHUNK.size : records - 8]).decode()
        (stored,) = struct.unpack_from("<Q", body, records - 8)
    except (struct.error, UnicodeDecodeError):
        raise DamageError("its header cannot be read") from None
    packed = body[records : records + stored]
    if len(packed) != stored:
        raise DamageError("its length fields contradict each other")
    if size > max_bytes:
        raise DamageError(
            f"it would take {size} bytes uncompressed, more than the {max_bytes} that are accepted"
        )
    if compression == "" and stored != size:
        raise DamageError(f"expected {size} bytes uncompressed, got {stored}")
    return size, crc, compression, records, packed


def _grouped(parts: Iterator[Part]) -> Iterator[list[Part]]:
    group: list[Part] = []
    data: Bytes | None = None
    held_bytes = 0
    try:
        for part in parts:
            moved = isinstance(part, Chunk | Messages) and part.data is not data
            if (moved and data is not None) or held_bytes > BATCH_BYTES:
                yield group
                group, held_bytes = [], 0
            if isinstance(part, Chunk | Messages):
                data = part.data
            group.append(part)
            held_bytes += len(part.body) if isinstance(part, Record) else _PART_BYTES
    except DamageError:
        yield group
        raise
    yield group


def _ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The same items, each made by another thread while the one before is in use."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        coming = pool.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = pool.submit(next, items, None)
            yield item


def _make_arenas() -> Iterator[Bytes]:
    """Room for chunks, to be used in turn: fresh memory costs more than what is done with it.

    Three are in use: of the group that is looked at, of the next one, and of the chunk that ends
    the next one.
    """
    return itertools.cycle(list(np.empty((_ARENAS, BATCH_BYTES), np.uint8)))


@dataclass(kw_only=True)
class _File:
    """A file that is read a window at a time.

    Attributes:
        stream: the file.
        check: compare checksums.
        max_bytes: longest record and largest uncompressed chunk that is accepted.
        window: a stretch of the file, in ``room``.
        lent: parts lie in the window, so its room must not be used again.
        position: of the next record in the window.
        offset: of the window in the file.
        crc: checksum of what lies before the window.
        arena: one of ``arenas``, room for chunks, used up to ``arena_used``.
        walk: of messages between chunks.
    """

    stream: io.BufferedReader
    check: bool
    max_bytes: int
    room: Bytes = field(default_factory=lambda: np.zeros(0, np.uint8))
    window: Bytes = field(default_factory=lambda: np.zeros(0, np.uint8))
    lent: bool = False
    position: int = 0
    offset: int = len(MAGIC)
    crc: int = zlib.crc32(MAGIC)
    arenas: Iterator[Bytes] = field(default_factory=_make_arenas)
    arena: Bytes = field(default_factory=lambda: np.zeros(0, np.uint8))
    arena_used: int = BATCH_BYTES
    walk: MessageWalk = field(default_factory=MessageWalk)

    def parts(self) -> Iterator[Part]:
        """Everything up to the footer; what follows the footer is checked."""
        if self.stream.read(len(MAGIC)) != MAGIC:
            raise DamageError("it does not start with the MCAP magic bytes")
        while True:
            window = self.window
            found, self.position = self.walk.run(window, self.position, len(window))
            if len(found):
                self.lent = True
                yield Messages(window, found, self.offset)
            record = self._next_record()
            if record is None:
                self._read_on()
                continue
            opcode, start, stop = record
            if opcode == Opcode.CHUNK:
                yield self._chunk(start, stop)
            elif opcode == Opcode.FOOTER:
                self._check_footer(start, stop)
                return
            elif opcode in _RECORDS:
                crc = self._crc_before() if self.check and opcode == Opcode.DATA_END else None
                offset = self.offset + self.position
                yield Record(offset, opcode, window[start:stop].tobytes(), crc)
            self.position = stop

    def _next_record(self) -> tuple[int, int, int] | None:
        """Opcode of the next record and where its body lies; None if the window ends before."""
        start = self.position + FRAME.size
        if start > len(self.window):
            return None
        opcode, length = FRAME.unpack_from(self.window.data, self.position)
        if length > self.max_bytes:
            raise DamageError(
                f"the record at byte {self.offset + self.position} claims {length} bytes, more "
                f"than the {self.max_bytes} that are accepted"
            )
        return None if start + length > len(self.window) else (opcode, start, start + length)

    def _read_on(self) -> None:
        """Drop what was taken and read further, at least to the end of the next record."""
        rest = self.window[self.position :]
        missing = 0
        if len(rest) >= FRAME.size:
            missing = FRAME.size + FRAME.unpack_from(rest.data)[1] - len(rest)
        self.crc = self._crc_before()
        size = len(rest) + max(missing, BATCH_BYTES)
        if self.lent or size > len(self.room):  # parts may still lie in the old one
            self.room, self.lent = np.empty(max(size, 2 * BATCH_BYTES), np.uint8), False
        self.room[: len(rest)] = rest
        got = self.stream.readinto(self.room.data[len(rest) : size])
        self.window = self.room[: len(rest) + got]
        self.offset += self.position
        self.position = 0
        end = self.offset + len(self.window)
        if got < missing:
            raise DamageError(
                f"it ends at byte {end}, inside the record that starts at byte {self.offset}"
            )
        if not got:
            raise DamageError(f"it ends at byte {end} without a footer")

    def _crc_before(self) -> int:
        return zlib.crc32(self.window.data[: self.position], self.crc) if self.check else 0

    def _chunk(self, start: int, stop: int) -> Chunk | BadChunk:
        """Content of the chunk record whose body is ``window[start:stop]``."""
        offset = self.offset + self.position
        try:
            return self._content(offset, self.window.data[start:stop], start)
        except DamageError as damage:
            return BadChunk(offset, str(damage))

    def _content(self, offset: int, body: memoryview, start: int) -> Chunk:
        size, crc, compression, records, packed = _chunk_head(body, self.max_bytes)
        if compression == "":
            data, first, self.lent = self.window, start + records, True
        else:
            if self.arena_used + size > BATCH_BYTES:
                large = size > BATCH_BYTES
                self.arena = np.empty(size, np.uint8) if large else next(self.arenas)
                self.arena_used = 0
            data, first = self.arena, self.arena_used
            decompress_into(data.data[first : first + size], packed, compression)
        if self.check and crc and zlib.crc32(data.data[first : first + size]) != crc:
            raise DamageError("its checksum does not match")
        if data is self.arena:
            self.arena_used += size
        return Chunk(offset, data, first, first + size, bool(crc))

    def _check_footer(self, start: int, stop: int) -> None:
        if self.window[stop:].tobytes() + self.stream.read(len(MAGIC) + 1) != MAGIC:
            raise DamageError("it does not end with the MCAP magic bytes")
        if stop - start != _FOOTER.size:
            raise DamageError("its footer has the wrong length")
        summary_start, _, crc = _FOOTER.unpack_from(self.window.data, start)
        offset = self.offset + self.position
        if self.check and crc and summary_start <= offset:
            self.stream.seek(summary_start)
            # all of the summary, and the footer but for the checksum itself
            summary = self.stream.read(offset - summary_start + FRAME.size + _FOOTER.size - 4)
            if zlib.crc32(summary) != crc:
                raise DamageError("the checksum of its summary does not match")
