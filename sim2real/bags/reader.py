"""rosbag2 bags (MCAP or SQLite storage) without ROS: what is in them, and columns as NumPy."""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from policies.errors import InputError
from sim2real.bags import cdr
from sim2real.bags.columns import NS, ColumnBuilder, Columns
from sim2real.bags.definitions import starts_with_header
from sim2real.bags.mcap_stream import DamageError, McapStream, Message, Topic
from sim2real.bags.sqlite_file import SqliteFile
from sim2real.bags.writer import PROVENANCE_RECORD

_MAX_METADATA_BYTES = 2**20
_SUFFIXES = {".mcap": "mcap", ".db3": "sqlite3"}


@dataclass(frozen=True, kw_only=True)
class TopicInfo:
    """One topic of a bag.

    Attributes:
        name, type: topic and message type.
        count: number of messages.
        rate_hz: one over the median step between stamps, or None for fewer than two messages.
        max_gap_s: longest step between stamps, s, or None.
        backward_steps: how often a stamp is earlier than the one before it.
        stamps: ``header`` where the message has a stamp of its own, else ``log``.
    """

    name: str
    type: str
    count: int
    rate_hz: float | None
    max_gap_s: float | None
    backward_steps: int
    stamps: Literal["header", "log"]


@dataclass(frozen=True, kw_only=True)
class BagInfo:
    """What a bag holds, from reading all of it.

    Attributes:
        path: the bag as it was named.
        storage: ``mcap`` or ``sqlite3``.
        topics: sorted by name.
        message_count: number of messages.
        start_ns: time of the first message (reception), ns.
        duration_s: from the first to the last message, s.
        size_bytes: size of the data files.
        provenance: robot, policy, seed, ... as the recorder wrote them.
        sha256: data file name -> SHA-256.
        damage: what is broken; empty for a whole bag.
        notes: what is odd but does not keep the bag from being used.
    """

    path: Path
    storage: str
    topics: tuple[TopicInfo, ...]
    message_count: int
    start_ns: int
    duration_s: float
    size_bytes: int
    provenance: dict[str, str]
    sha256: dict[str, str]
    damage: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def topic(self, name: str) -> TopicInfo | None:
        """The topic called ``name``, or None."""
        return next((t for t in self.topics if t.name == name), None)


@dataclass(kw_only=True)
class _Layout:
    """Files and metadata of a bag, before its data is read."""

    storage: str
    files: list[Path]
    provenance: dict[str, str] = field(default_factory=dict)
    compressed_messages: bool = False
    expected_count: int | None = None
    notes: list[str] = field(default_factory=list)

    def open(self, path: Path) -> McapStream | SqliteFile:
        """One of the files, ready to be read."""
        if self.storage == "mcap":
            return McapStream(path=path)
        return SqliteFile(path=path, compressed=self.compressed_messages)


@dataclass(frozen=True, kw_only=True)
class Bag:
    """An opened bag; messages stay on disk until columns are asked for."""

    info: BagInfo
    _layout: _Layout

    def columns(self, topic: str, names: tuple[str, ...] | None = None) -> Columns:
        """Decode one topic; see :meth:`columns_of`."""
        return self.columns_of({topic: names})[topic]

    def columns_of(self, topics: Mapping[str, tuple[str, ...] | None]) -> dict[str, Columns]:
        """Decode several topics in one pass over the bag.

        Args:
            topics: topic -> joint names in the order wanted, or None for the order of the first
                message. With names given, messages with none of these joints are left out.

        Raises:
            InputError: a topic is not in the bag, has a type without columns, or its messages
                cannot be decoded.
        """
        builders: dict[str, ColumnBuilder] = {}
        for name, joints in topics.items():
            info = self.info.topic(name)
            if info is None:
                have = ", ".join(t.name for t in self.info.topics) or "no topics at all"
                raise InputError(
                    f"bag {self.info.path}: expected topic {name}, but it has {have}; "
                    "name one of these or record it"
                )
            cdr.require_known(name, info.type)
            builders[name] = ColumnBuilder(topic=name, msgtype=info.type, names=joints)
        sequence = 0
        for path in self._layout.files:
            try:
                for message in self._layout.open(path).messages():
                    builder = builders.get(message.topic.name)
                    if builder is not None:
                        builder.add(sequence, message)
                    sequence += 1
            except DamageError as damage:
                if not self.info.damage:
                    raise _damaged(self.info.path, f"{path.name}: {damage}") from None
        return {name: builder.finish() for name, builder in builders.items()}


def read_bag(path: Path, *, allow_damage: bool = False) -> Bag:
    """Open a bag: every byte is read once, checksums are compared, statistics are taken.

    Args:
        path: rosbag2 directory, or one ``.mcap`` or ``.db3`` file.
        allow_damage: return what lies before the damage, with ``info.damage`` saying what it is.

    Raises:
        InputError: no such bag, or it is damaged and ``allow_damage`` is not set.
    """
    path = Path(path)
    layout = _find_files(path)
    scan = _Scan()
    damage: list[str] = []
    notes = list(layout.notes)
    provenance = dict(layout.provenance)
    for file in layout.files:
        source = layout.open(file)
        try:
            for message in source.messages():
                scan.add(message)
        except DamageError as error:
            damage.append(f"{file.name}: {error}")
        except OSError as error:
            raise _unreadable(file, error) from None
        if damage and not allow_damage:
            raise _damaged(path, damage[0])
        for topic in source.topics.values():
            scan.declare(topic)
        if isinstance(source, McapStream):
            provenance |= source.metadata.get(PROVENANCE_RECORD, {})
            if source.unchecked_chunks:
                notes.append(f"{file.name} has no checksums: changed bytes cannot be noticed")
    if layout.expected_count not in (None, scan.count) and not damage:
        notes.append(f"metadata.yaml counts {layout.expected_count} messages, got {scan.count}")
    if provenance.get("truncated") == "true":
        notes.append("salvaged from a damaged bag")
    info = BagInfo(
        path=path,
        storage=layout.storage,
        topics=scan.topics(),
        message_count=scan.count,
        start_ns=scan.first_ns,
        duration_s=(scan.last_ns - scan.first_ns) / NS,
        size_bytes=sum(file.stat().st_size for file in layout.files),
        provenance=provenance,
        sha256={file.name: _sha256(file) for file in layout.files},
        damage=tuple(damage),
        notes=tuple(notes),
    )
    return Bag(info=info, _layout=layout)


class _Scan:
    """Counts and stamps of all topics."""

    def __init__(self) -> None:
        self._stamps: dict[str, array[int]] = {}
        self._log: dict[str, array[int]] = {}
        self._topics: dict[str, Topic] = {}
        self.count = 0
        self.first_ns = 0
        self.last_ns = 0

    def declare(self, topic: Topic) -> None:
        if topic.name not in self._topics:
            self._topics[topic.name] = topic
            self._stamps[topic.name], self._log[topic.name] = array("q"), array("q")
        elif self._topics[topic.name].msgtype != topic.msgtype:
            raise InputError(
                f"topic {topic.name}: expected one type, got {self._topics[topic.name].msgtype} "
                f"and {topic.msgtype}; split the bag so that each has one"
            )

    def add(self, message: Message) -> None:
        topic, log_ns = message.topic, message.log_ns
        name = topic.name
        self.declare(topic)
        self.first_ns = min(self.first_ns, log_ns) if self.count else log_ns
        self.last_ns = max(self.last_ns, log_ns)
        self.count += 1
        self._log[name].append(log_ns)
        if topic.encoding == "cdr" and starts_with_header(topic.msgtype) and len(message.data) > 12:
            order: Literal["little", "big"] = "little" if message.data[1] == 1 else "big"
            seconds = int.from_bytes(message.data[4:8], order, signed=True)
            self._stamps[name].append(seconds * NS + int.from_bytes(message.data[8:12], order))

    def topics(self) -> tuple[TopicInfo, ...]:
        return tuple(self._info(name) for name in sorted(self._topics))

    def _info(self, name: str) -> TopicInfo:
        stamps, log = self._stamps[name], self._log[name]
        headed = len(stamps) == len(log) and any(stamps)
        steps = np.diff(np.array(stamps if headed else log, np.int64)) / NS
        median = float(np.median(steps)) if len(steps) else 0.0
        return TopicInfo(
            name=name,
            type=self._topics[name].msgtype,
            count=len(log),
            rate_hz=1.0 / median if median > 0 else None,
            max_gap_s=float(steps.max()) if len(steps) else None,
            backward_steps=int((steps < 0).sum()),
            stamps="header" if headed else "log",
        )


def _find_files(path: Path) -> _Layout:
    if not path.exists():
        raise InputError(f"expected a bag, but there is no {path}; check the path")
    if path.is_file():
        if path.suffix not in _SUFFIXES:
            raise InputError(
                f"expected a rosbag2 directory or a .mcap or .db3 file, got {path}; "
                "name the directory that holds metadata.yaml"
            )
        return _Layout(storage=_SUFFIXES[path.suffix], files=[path])
    if (path / "metadata.yaml").exists():
        return _from_metadata(path)
    for suffix, storage in _SUFFIXES.items():
        files = sorted(path.glob(f"*{suffix}"), key=natural_key)
        if files:
            return _Layout(storage=storage, files=files, notes=["metadata.yaml is missing"])
    raise InputError(
        f"expected a rosbag2 bag, but {path} has neither metadata.yaml nor .mcap or .db3 files; "
        "check the path"
    )


def natural_key(path: Path) -> tuple[list[str | int], str]:
    """Sort key under which part 10 of a split bag comes after part 9."""
    return [int(s) if s.isdigit() else s for s in re.split(r"(\d+)", path.name)], path.name


def _from_metadata(path: Path) -> _Layout:
    meta = _load_yaml(path / "metadata.yaml")
    try:
        storage = meta["storage_identifier"]
        # only the file name counts: a bag refers to nothing outside its own directory
        files = [path / Path(str(name)).name for name in meta["relative_file_paths"]]
        mode = str(meta.get("compression_mode") or "").lower()
        custom = meta.get("custom_data") or {}
        layout = _Layout(
            storage=storage,
            files=files,
            provenance={str(key): str(value) for key, value in dict(custom).items()},
            compressed_messages=mode == "message",
            expected_count=int(meta["message_count"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"expected rosbag2 metadata, but {path / 'metadata.yaml'} lacks or breaks a field "
            f"({error}); move it away to read the data files without it"
        ) from None
    if storage not in _SUFFIXES.values():
        raise InputError(
            f"expected storage mcap or sqlite3, got {storage!r} in {path}; convert it with "
            "`ros2 bag convert`"
        )
    if mode == "file" or (mode == "message" and storage == "mcap"):
        raise InputError(
            f"expected a bag without rosbag2's own {mode} compression, got {path}; convert it with "
            "`ros2 bag convert` (MCAP compresses its chunks by itself)"
        )
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        raise InputError(
            f"expected the data files that metadata.yaml names, but {path} lacks "
            f"{missing or 'all of them'}; copy the whole directory"
        )
    return layout


def _load_yaml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_METADATA_BYTES:
            raise InputError(
                f"expected at most {_MAX_METADATA_BYTES} bytes of metadata, got "
                f"{path.stat().st_size} in {path}; this is no rosbag2 bag"
            )
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"expected YAML, but {path} cannot be parsed ({reason}); move it away to read the data "
            "files without it"
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    inner = document.get("rosbag2_bagfile_information") if isinstance(document, dict) else None
    if not isinstance(inner, dict):
        raise InputError(
            f"expected rosbag2_bagfile_information in {path}, but it is not there; move it away to "
            "read the data files without it"
        )
    return inner


def _damaged(path: Path, what: str) -> InputError:
    return InputError(
        f"expected a whole bag, but {path} is damaged ({what}); "
        f"rescue what is left of it with `realign bag salvage {path} OUT`"
    )


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"expected a readable file, but {path} is not ({error.strerror}); check it")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(2**20), b""):
            digest.update(block)
    return digest.hexdigest()
