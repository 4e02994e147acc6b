"""Rescue of damaged MCAP bags: every whole chunk, and nothing that does not check out."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from policies.errors import InputError
from sim2real.bags.batch import DamageError, Message
from sim2real.bags.files import natural_key, unreadable
from sim2real.bags.mcap_stream import McapStream
from sim2real.bags.writer import PROVENANCE_RECORD, BagWriter


@dataclass(frozen=True, kw_only=True)
class SalvageReport:
    """What a salvage brought back.

    Attributes:
        out: the new bag.
        messages: recovered messages.
        topics: topic -> recovered messages.
        damage: what was wrong with the source, in file order; empty for a whole bag.
    """

    out: Path
    messages: int
    topics: dict[str, int]
    damage: tuple[str, ...]


def salvage(src: Path, dst: Path) -> SalvageReport:
    """Copy every message of every whole chunk of ``src`` into a new bag.

    A chunk whose content is damaged is left out; reading goes on after it as long as the record
    structure of the file holds. The new bag says in its provenance that it is truncated.

    Args:
        src: ``.mcap`` file, or bag directory with MCAP storage; ``metadata.yaml`` is not needed.
        dst: bag directory to be made.

    Raises:
        InputError: no such bag, nothing recoverable in it, or ``dst`` exists.
    """
    src, dst = Path(src), Path(dst)
    if dst.exists():
        raise InputError(
            f"expected a new bag path, but {dst} exists; choose another or move it away"
        )
    files = _mcap_files(src)
    counts: dict[str, int] = {}
    damage = _damage(files, counts)
    if not counts:
        found = "; ".join(damage) or "it holds no messages"
        raise InputError(
            f"expected at least one whole chunk, but nothing in {src} can be recovered ({found}); "
            "record it again"
        )
    try:
        with BagWriter(dst, provenance=_provenance(files, damage)) as writer:
            for file in files:
                _copy(McapStream(path=file, skip_bad_chunks=True), writer)
    except BaseException:
        shutil.rmtree(dst, ignore_errors=True)
        raise
    return SalvageReport(
        out=dst, messages=sum(counts.values()), topics=counts, damage=tuple(damage)
    )


def _mcap_files(src: Path) -> list[Path]:
    if not src.exists():
        raise InputError(f"expected a bag, but there is no {src}; check the path")
    files = sorted(src.glob("*.mcap"), key=natural_key) if src.is_dir() else [src]
    if not files or any(file.suffix != ".mcap" for file in files):
        raise InputError(
            f"expected MCAP storage, but {src} has none; for SQLite storage use `sqlite3 .recover`"
        )
    return files


def _damage(files: list[Path], counts: dict[str, int]) -> list[str]:
    """Read all files once: what is wrong with them; recovered messages go into ``counts``."""
    damage: list[str] = []
    for file in files:
        stream = McapStream(path=file, skip_bad_chunks=True)
        try:
            for message in stream.messages():
                counts[message.topic.name] = counts.get(message.topic.name, 0) + 1
        except DamageError as error:
            damage += [f"{file.name}: {what}" for what in (*stream.skipped, str(error))]
        except OSError as error:
            raise unreadable(file, error) from None
        else:
            damage += [f"{file.name}: {what}" for what in stream.skipped]
    return damage


def _provenance(files: list[Path], damage: list[str]) -> dict[str, str]:
    provenance: dict[str, str] = {}
    for file in files:
        stream = McapStream(path=file, skip_bad_chunks=True)
        try:
            next(stream.messages(), None)  # our record comes before messages
        except DamageError:
            continue
        provenance |= stream.metadata.get(PROVENANCE_RECORD, {})
    provenance["salvaged_from"] = ", ".join(file.name for file in files)
    if damage:
        provenance |= {"truncated": "true", "damage": "; ".join(damage)}
    return provenance


def _copy(stream: McapStream, writer: BagWriter) -> None:
    try:
        for message in stream.messages():
            _write(message, writer)
    except DamageError:
        return  # already reported by the first pass


def _write(message: Message, writer: BagWriter) -> None:
    topic = message.topic
    text = topic.definition or None
    writer.add_topic(topic.name, topic.msgtype, text=text, encoding=topic.definition_format)
    writer.write(topic.name, message.data, message.log_ns, message.publish_ns)
