"""``realign bag info`` and ``realign bag salvage``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from sim2real.bags.reader import BagInfo, read_bag
from sim2real.bags.salvage import salvage
from sim2real.results import check_new, write_json


def bag_info(bag: Path, *, json: Path | None = None, overwrite: bool = False) -> None:
    """Print topics, counts, rates, gaps, provenance and damage of a bag.

    Args:
        bag: rosbag2 directory, or one .mcap or .db3 file.
        json: write the same as JSON to this file.
        overwrite: replace the JSON file.

    Raises:
        InputError: no such bag, or ``json`` exists.
    """
    check_new(json, overwrite=overwrite)
    info = read_bag(bag, allow_damage=True).info
    print(format_info(info))
    if json is not None:
        write_json(json, {**asdict(info), "path": str(info.path)})


def bag_salvage(bag: Path, out: Path) -> None:
    """Rescue every whole chunk of a damaged MCAP bag into a new one.

    Args:
        bag: bag directory or .mcap file.
        out: bag directory to be made.

    Raises:
        InputError: nothing can be recovered, or ``out`` exists.
    """
    report = salvage(bag, out)
    for what in report.damage:
        print(f"damage: {what}")
    print(f"{report.messages} messages of {len(report.topics)} topics recovered into {report.out}")
    for topic, count in sorted(report.topics.items()):
        print(f"  {topic}  {count}")


def format_info(info: BagInfo) -> str:
    """The table of :func:`bag_info`."""
    lines = [
        f"{info.path}: {info.storage}, {info.size_bytes / 1e6:.1f} MB, "
        f"{info.message_count} messages, {info.duration_s:.3f} s",
        "",
    ]
    rows = [("topic", "type", "count", "rate Hz", "max gap s", "stamps")]
    rows += [
        (
            topic.name,
            topic.type,
            str(topic.count),
            "-" if topic.rate_hz is None else f"{topic.rate_hz:.1f}",
            "-" if topic.max_gap_s is None else f"{topic.max_gap_s:.4f}",
            topic.stamps + (f", {topic.backward_steps} backward" if topic.backward_steps else ""),
        )
        for topic in info.topics
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines += ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    lines += ["", *(f"sha256 {digest}  {name}" for name, digest in info.sha256.items())]
    lines += [f"{key}: {value}" for key, value in sorted(info.provenance.items())]
    lines += [f"note: {note}" for note in info.notes]
    lines += [f"DAMAGE: {what}" for what in info.damage]
    if info.damage:
        lines.append(f"rescue what is left of it with `realign bag salvage {info.path} OUT`")
    return "\n".join(lines)
