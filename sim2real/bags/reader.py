"""rosbag2 bags (MCAP or SQLite storage) without ROS: what is in them, and columns as NumPy."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from policies.errors import InputError
from sim2real.bags import cdr
from sim2real.bags.batch import NS, Batch, DamageError, Index, Int
from sim2real.bags.columns import ColumnBuilder, Columns
from sim2real.bags.files import BagFiles, find_files, unreadable
from sim2real.bags.images import (
    IMAGE_TYPES,
    ImageIndexer,
    ImageMessage,
    ImageTopic,
    MessageReader,
    parse_image,
)
from sim2real.bags.manifest import check_manifest, digest
from sim2real.bags.mcap_stream import McapStream
from sim2real.bags.scan import Scan, TopicInfo
from sim2real.bags.writer import PROVENANCE_RECORD


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


@dataclass(frozen=True, kw_only=True)
class Bag:
    """An opened bag; messages stay on disk until columns are asked for."""

    info: BagInfo
    _files: BagFiles
    _states: tuple[tuple[int, int, int], ...]

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
            info = self._topic(name)
            cdr.require_known(name, info.type)
            builders[name] = ColumnBuilder(
                topic=name, msgtype=info.type, count=info.count, names=joints
            )
        for _, batch, name, rows, sequence in self._walk(builders):
            builders[name].add(batch, rows, sequence)
        return {name: builder.finish() for name, builder in builders.items()}

    def images_of(self, topics: Iterable[str]) -> dict[str, ImageTopic]:
        """Where the images of several topics are, in one pass over the bag that decodes none.

        Args:
            topics: topics of ``sensor_msgs/Image`` or ``CompressedImage``.

        Raises:
            InputError: a topic is not in the bag or has no images.
        """
        reader = MessageReader(files=self._files, require_unchanged=self._require_unchanged)
        indexers: dict[str, ImageIndexer] = {}
        for name in topics:
            info = self._topic(name)
            if info.type not in IMAGE_TYPES:
                raise InputError(
                    f"topic {name}: expected {' or '.join(IMAGE_TYPES)}, got {info.type}; name a "
                    "topic of a camera"
                )
            indexers[name] = ImageIndexer(topic=name, msgtype=info.type, reader=reader)
        for file, batch, name, rows, sequence in self._walk(indexers):
            indexers[name].add(batch, rows, sequence, file)
        return {name: indexer.finish() for name, indexer in indexers.items()}

    def first_images(self) -> dict[str, ImageMessage]:
        """The first image of each topic of images that has any; reads no further than to these.

        Raises:
            InputError: one cannot be read as what it says it is.
        """
        wanted = {t.name: t.type for t in self.info.topics if t.count and t.type in IMAGE_TYPES}
        found: dict[str, ImageMessage] = {}
        for _, batch, name, rows, _ in self._walk(wanted) if wanted else ():
            if name not in found:
                start, length = int(batch.start[rows[0]]), int(batch.length[rows[0]])
                cdr = batch.data[start : start + length].tobytes()
                found[name] = parse_image(cdr, wanted[name], f"topic {name}, first image")
            if len(found) == len(wanted):
                break
        return found

    def _topic(self, name: str) -> TopicInfo:
        info = self.info.topic(name)
        if info is None:
            have = ", ".join(t.name for t in self.info.topics) or "no topics at all"
            raise InputError(
                f"bag {self.info.path}: expected topic {name}, but it has {have}; "
                "name one of these or record it"
            )
        return info

    def _walk(self, wanted: Container[str]) -> Iterator[tuple[int, Batch, str, Index, Int]]:
        """Number of the file, batch, topic, its rows in the batch and their places in the bag."""
        self._require_unchanged()
        sequence = 0
        for file, path in enumerate(self._files.paths):
            # checksums were compared when the bag was opened; damage must be found once more
            source = self._files.open(path, check=bool(self.info.damage))
            try:
                for batch in source.batches():
                    for name, rows in batch.rows_by_topic().items():
                        if name in wanted:
                            yield file, batch, name, rows, rows + sequence
                    sequence += len(batch)
            except DamageError as damage:
                if not self.info.damage:
                    raise _damaged(self.info.path, f"{path.name}: {damage}") from None
        self._require_unchanged()

    def _require_unchanged(self) -> None:
        if self._files.states() != self._states:
            raise InputError(
                f"bag {self.info.path}: expected it as it was when it was opened, but its files "
                "have changed; open it again when nothing writes to it"
            )


def read_bag(path: Path, *, allow_damage: bool = False) -> Bag:
    """Open a bag: every byte is read once, checksums are compared, statistics are taken.

    Args:
        path: rosbag2 directory, or one ``.mcap`` or ``.db3`` file.
        allow_damage: return what lies before the damage, with ``info.damage`` saying what it is.

    Raises:
        InputError: no such bag, or it is damaged and ``allow_damage`` is not set.
    """
    path = Path(path)
    files = find_files(path)
    states = files.states()
    scan = Scan()
    damage: list[str] = []
    notes = list(files.notes)
    provenance = dict(files.provenance)
    sha256: dict[str, str] = {}
    with ThreadPoolExecutor(max_workers=1) as pool:
        for file in files.paths:
            hashed = pool.submit(digest, file)  # hashing holds no interpreter lock
            source = files.open(file)
            try:
                for batch in source.batches():
                    scan.add(batch)
            except DamageError as error:
                damage.append(f"{file.name}: {error}")
            except OSError as error:
                raise unreadable(file, error) from None
            if damage and not allow_damage:
                raise _damaged(path, damage[0])
            for topic in source.topics.values():
                scan.declare(topic)
            if isinstance(source, McapStream):
                provenance |= source.metadata.get(PROVENANCE_RECORD, {})
                if source.unchecked_chunks:
                    notes.append(f"{file.name} has no checksums: changed bytes cannot be noticed")
            sha256[file.name] = hashed.result()
    changed = check_manifest(path, sha256)
    if changed and not (damage or allow_damage):
        raise _damaged(path, changed[0])
    damage += changed
    if files.expected_count not in (None, scan.count) and not damage:
        notes.append(f"metadata.yaml counts {files.expected_count} messages, got {scan.count}")
    if provenance.get("truncated") == "true":
        notes.append("salvaged from a damaged bag")
    info = BagInfo(
        path=path,
        storage=files.storage,
        topics=scan.topics(),
        message_count=scan.count,
        start_ns=scan.first_ns,
        duration_s=(scan.last_ns - scan.first_ns) / NS,
        size_bytes=sum(size for _, size, _ in states),
        provenance=provenance,
        sha256=sha256,
        damage=tuple(damage),
        notes=tuple(notes),
    )
    return Bag(info=info, _files=files, _states=states)


def _damaged(path: Path, what: str) -> InputError:
    return InputError(
        f"expected a whole bag, but {path} is damaged ({what}); "
        f"rescue what is left of it with `realign bag salvage {path} OUT`"
    )
