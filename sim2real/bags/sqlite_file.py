"""rosbag2 ``.db3`` storage, read with the standard library."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import numpy as np

from sim2real.bags.batch import BATCH_BYTES, Batch, DamageError, Topic
from sim2real.bags.compression import decompress
from sim2real.bags.mcap_records import MAX_CHUNK_BYTES


@dataclass(kw_only=True)
class SqliteFile:
    """One ``.db3`` file, opened read-only.

    Attributes:
        path: the file.
        compressed: each message is a zstd frame (rosbag2 compression mode ``message``).
        topics: topic id -> topic.
    """

    path: Path
    compressed: bool = False
    topics: dict[int, Topic] = field(default_factory=dict)

    def batches(self) -> Iterator[Batch]:
        """Yield all messages in the order in which they were written, many at a time.

        Raises:
            DamageError: the database is malformed; whatever could be read before was yielded.
        """
        journal = self.path.with_name(self.path.name + "-wal")
        if journal.exists() and journal.stat().st_size:
            raise DamageError(f"the recorder was stopped before it merged {journal.name}")
        try:
            with closing(self._connect()) as database:
                self._read_topics(database)
                yield from self._read(database)
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
            raise DamageError(f"SQLite says: {error}") from None

    def message(self, row: int) -> bytes:
        """CDR of the message of a row id.

        Raises:
            DamageError: there is no such row, or it cannot be read.
        """
        try:
            with closing(self._connect()) as database:
                found = database.execute("SELECT data FROM messages WHERE id = ?", (row,))
                (data,) = found.fetchone() or (None,)
        except sqlite3.Error as error:
            raise DamageError(f"SQLite says: {error}") from None
        return self._content(data)

    def _connect(self) -> sqlite3.Connection:
        uri = f"file:{quote(str(self.path.absolute()))}?mode=ro&immutable=1"
        return sqlite3.connect(uri, uri=True)

    def _read_topics(self, database: sqlite3.Connection) -> None:
        tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
        if not {"messages", "topics"} <= tables:
            raise DamageError("it has no rosbag2 tables")
        definitions: dict[str, tuple[str, str]] = {}
        if "message_definitions" in tables:
            query = (
                "SELECT topic_type, encoded_message_definition, encoding FROM message_definitions"
            )
            definitions = {row[0]: (row[1], row[2]) for row in database.execute(query)}
        for key, name, kind, encoding in database.execute(
            "SELECT id, name, type, serialization_format FROM topics"
        ):
            self.topics[key] = Topic(name, kind, encoding, *definitions.get(kind, ("", "")))

    def _read(self, database: sqlite3.Connection) -> Iterator[Batch]:
        rows: list[tuple[int, int, int, bytes]] = []
        size = 0
        query = "SELECT id, topic_id, timestamp, data FROM messages ORDER BY id"
        try:
            for row in database.execute(query):
                rows.append(self._checked(*row))
                size += len(rows[-1][3])
                if size >= BATCH_BYTES:
                    yield self._batch(rows)
                    rows, size = [], 0
        except (DamageError, sqlite3.Error):
            yield self._batch(rows)
            raise
        yield self._batch(rows)

    def _checked(
        self, row: object, key: object, stamp_ns: object, data: object
    ) -> tuple[int, int, int, bytes]:
        if not (isinstance(row, int) and isinstance(key, int) and isinstance(stamp_ns, int)):
            raise DamageError("a message row cannot be read")
        if key not in self.topics:
            raise DamageError("a message row cannot be read")
        return row, key, stamp_ns, self._content(data)

    def _content(self, data: object) -> bytes:
        if not isinstance(data, bytes):
            raise DamageError("a message row cannot be read")
        if self.compressed:
            data = decompress(data, "zstd", MAX_CHUNK_BYTES)
            if len(data) > MAX_CHUNK_BYTES:
                raise DamageError(f"a message would take more than {MAX_CHUNK_BYTES} bytes")
        return data

    def _batch(self, rows: list[tuple[int, int, int, bytes]]) -> Batch:
        length = np.array([len(data) for _, _, _, data in rows], np.int64)
        start = np.cumsum(length) - length
        log_ns = np.array([stamp_ns for _, _, stamp_ns, _ in rows], np.int64)
        ids = np.array([row for row, _, _, _ in rows], np.int64)
        return Batch(
            data=np.frombuffer(b"".join(data for _, _, _, data in rows), np.uint8),
            topics=self.topics,
            channel=np.array([key for _, key, _, _ in rows], np.int64),
            start=start,
            length=length,
            log_ns=log_ns,
            publish_ns=log_ns,
            origins=np.stack([np.arange(len(rows)), ids, start], axis=1),
        )
