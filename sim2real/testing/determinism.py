"""What two bags of the same run must have in common: every byte but those of the wall clock."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from mcap.records import Channel, Header, Message, Metadata, Schema
from mcap.stream_reader import StreamReader

from sim2real.bags.cdr import plain

MASKED = {
    "log_time, publish_time": "of each message: when it was received and sent, wall clock",
    "order": "of messages of different topics, and their division into chunks: order of arrival",
    "chunks, indexes, statistics": "times, offsets, counts and checksums that follow from these",
    "metadata.yaml": "starting_time, duration and message_count, which follow from these too",
    "padding": "bytes between the fields of a message, which ROS leaves as memory was",
    "manifest.json": "hash of the file that all this is in",
    "/diagnostics": "latencies, and states at times of the wall clock",
    "repetitions": "a message that equals the one before it on its topic: in lockstep the driver "
    "asks again where a second of wall time passes without an answer",
}
"""What is not compared, and why."""
_CLOCKED = {"starting_time", "duration", "message_count"}
_MASKED_TOPICS = ("/diagnostics",)


def bag_content(path: Path, *, until_ns: Mapping[str, int] | None = None) -> dict[str, bytes]:
    """Everything in a bag but what :data:`MASKED` lists.

    Args:
        path: bag directory of the recorder.
        until_ns: topic -> stamp (of a message that begins with a header), ns, from which on its
            messages are masked, too: in lockstep nobody waits for a policy whose robot is held.

    Returns:
        Name of a part -> its bytes. The messages of a topic are one part: as they were serialised
        (padding aside), in their order, each after its length.
    """
    parts: dict[str, bytes] = {}
    names: dict[int, str] = {}
    types: dict[int, str] = {}
    last: dict[str, bytes] = {}
    schemas: dict[int, str] = {}
    with (path / f"{path.name}_0.mcap").open("rb") as stream:
        for record in StreamReader(stream, validate_crcs=True).records:
            if isinstance(record, Header):
                parts["header"] = f"{record.profile} {record.library}".encode()
            elif isinstance(record, Metadata):
                parts[f"metadata {record.name}"] = _plain(record.metadata)
            elif isinstance(record, Schema):
                schemas[record.id] = record.name
                parts[f"schema {record.name}"] = record.encoding.encode() + b" " + record.data
            elif isinstance(record, Channel):
                names[record.id] = record.topic
                types[record.id] = schemas[record.schema_id]
                kind = [schemas[record.schema_id], record.message_encoding, record.metadata]
                parts[f"channel {record.topic}"] = _plain(kind)
                parts.setdefault(f"messages {record.topic}", b"")
            elif isinstance(record, Message):
                topic = names[record.channel_id]
                end = (until_ns or {}).get(topic)
                late = end is not None and _stamp_ns(record.data) >= end
                if late or topic in _MASKED_TOPICS:
                    continue
                data = plain(record.data, types[record.channel_id])
                if last.get(topic) == data:
                    continue
                last[topic] = data
                parts[f"messages {topic}"] += len(data).to_bytes(4, "little") + data
    parts["metadata.yaml"] = _plain(
        _unclocked(yaml.safe_load((path / "metadata.yaml").read_text()))
    )
    return parts


def differences(first: Mapping[str, bytes], second: Mapping[str, bytes]) -> list[str]:
    """Names of the parts that differ, with the place of the first byte that does."""
    out = []
    for name in sorted(first.keys() | second.keys()):
        one, two = first.get(name), second.get(name)
        if one is None or two is None:
            out.append(f"{name}: only in one of the two")
        elif one != two:
            same = zip(one, two, strict=False)
            place = next((k for k, (a, b) in enumerate(same) if a != b), min(len(one), len(two)))
            out.append(f"{name}: byte {place} of {len(one)} and {len(two)}")
    return out


def _plain(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _stamp_ns(cdr: bytes) -> int:
    """Stamp of a serialised message whose first field is a ``std_msgs/Header``."""
    seconds, rest = cdr[4:8], cdr[8:12]
    return int.from_bytes(seconds, "little", signed=True) * 10**9 + int.from_bytes(rest, "little")


def _unclocked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unclocked(item) for key, item in value.items() if key not in _CLOCKED}
    return [_unclocked(item) for item in value] if isinstance(value, list) else value
