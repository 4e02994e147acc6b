"""``realign bag info`` and ``realign bag salvage``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from policies.errors import InputError
from sim2real.bags.image_recorder import CAMERA_FACTS
from sim2real.bags.reader import Bag, BagInfo, read_bag
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
    opened = read_bag(bag, allow_damage=True)
    info, sizes = opened.info, image_sizes(opened)
    print(format_info(info, sizes))
    if json is not None:
        write_json(json, {**asdict(info), "path": str(info.path), "images": sizes})


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


def image_sizes(bag: Bag) -> dict[str, str]:
    """Topic of images -> what its first one is, such as ``64 x 48 jpeg``, or what is wrong."""
    sizes = {}
    try:
        for topic, image in bag.first_images().items():
            sizes[topic] = image.describe()
    except InputError as error:
        sizes["damage"] = str(error)
    return sizes


def format_info(info: BagInfo, images: Mapping[str, str]) -> str:
    """The table of :func:`bag_info`.

    Args:
        info: what a bag holds.
        images: see :func:`image_sizes`.
    """
    lines = [
        f"{info.path}: {info.storage}, {info.size_bytes / 1e6:.1f} MB, "
        f"{info.message_count} messages, {info.duration_s:.3f} s",
        "",
    ]
    rows = [("topic", "type", "count", "MB", "rate Hz", "max gap s", "stamps")]
    rows += [
        (
            topic.name,
            topic.type,
            str(topic.count),
            f"{topic.size_bytes / 1e6:.1f}",
            "-" if topic.rate_hz is None else f"{topic.rate_hz:.1f}",
            "-" if topic.max_gap_s is None else f"{topic.max_gap_s:.4f}",
            topic.stamps + (f", {topic.backward_steps} backward" if topic.backward_steps else ""),
        )
        for topic in info.topics
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines += ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    lines += ["", *(f"sha256 {digest}  {name}" for name, digest in info.sha256.items())]
    facts = sorted(info.provenance.items())
    lines += [f"{key}: {value}" for key, value in facts if not key.startswith(CAMERA_FACTS)]
    lines += [f"images on {topic}: {size}" for topic, size in images.items()]
    lines += _camera_lines(info.provenance)
    lines += [f"note: {note}" for note in info.notes]
    lines += [f"DAMAGE: {what}" for what in info.damage]
    if info.damage:
        lines.append(f"rescue what is left of it with `realign bag salvage {info.path} OUT`")
    return "\n".join(lines)


def _camera_lines(provenance: Mapping[str, str]) -> list[str]:
    """What became of the images of each camera, as the recorder counted."""
    counts: dict[str, list[str]] = {}
    for key, value in provenance.items():
        if key.startswith(CAMERA_FACTS):
            camera, _, what = key.removeprefix(CAMERA_FACTS).rpartition(".")
            counts.setdefault(camera, []).append(f"{value} {what}")
    return [f"camera {camera}: {', '.join(found)}" for camera, found in sorted(counts.items())]
