"""rosbag2 ``.db3`` storage, read with the standard library."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from sim2real.bags.mcap_stream import MAX_CHUNK_BYTES, DamageError, Message, Topic, decompress


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

    def messages(self) -> Iterator[Message]:
        """Yield every message in the order in which it was written.

        Raises:
            DamageError: the database is malformed; whatever could be read before was yielded.
        """
        journal = self.path.with_name(self.path.name + "-wal")
        if journal.exists() and journal.stat().st_size:
            raise DamageError(f"the recorder was stopped before it merged {journal.name}")
        try:
            uri = f"file:{quote(str(self.path.absolute()))}?mode=ro&immutable=1"
            with closing(sqlite3.connect(uri, uri=True)) as database:
                yield from self._read(database)
        except (sqlite3.Error, UnicodeDecodeError, OverflowError) as error:
            raise DamageError(f"SQLite says: {error}") from None

    def _read(self, database: sqlite3.Connection) -> Iterator[Message]:
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
        query = "SELECT topic_id, timestamp, data FROM messages ORDER BY id"
        for key, stamp_ns, data in database.execute(query):
            topic = self.topics.get(key)
            if topic is None or not isinstance(stamp_ns, int) or not isinstance(data, bytes):
                raise DamageError("a message row cannot be read")
            if self.compressed:
                data = decompress(data, "zstd", MAX_CHUNK_BYTES)
                if len(data) > MAX_CHUNK_BYTES:
                    raise DamageError(f"a message would take more than {MAX_CHUNK_BYTES} bytes")
            yield Message(topic, stamp_ns, stamp_ns, memoryview(data))
