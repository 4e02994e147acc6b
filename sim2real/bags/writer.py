"""rosbag2 MCAP bags from messages that are already serialised."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from mcap.writer import CompressionType, Writer

from policies.errors import InputError
from sim2real.bags.definitions import definition, type_hash
from sim2real.bags.manifest import write_manifest

PROVENANCE_RECORD = "realign"
_CHUNK_BYTES = 256 * 1024
_ROS_DISTRO = "kilted"


class BagWriter:
    """Writes ``NAME/NAME_0.mcap`` and, at the end, ``NAME/metadata.yaml`` and a manifest.

    Chunks are small (256 kB) and reach the disk as soon as they are full, so that a killed recorder
    loses at most the last one. Every checksum of the format is written. Provenance is stored
    twice: as an MCAP metadata record at the start, which survives a kill, and in ``metadata.yaml``.

    Args:
        path: bag directory; it must not exist.
        provenance: robot, policy hash, commit, seed, ...

    Raises:
        InputError: the path exists, or its parent does not.
    """

    def __init__(self, path: Path, *, provenance: Mapping[str, str]) -> None:
        self.path = Path(path)
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            raise InputError(
                f"expected a new bag path, but {self.path} exists; choose another or move it away"
            ) from None
        except OSError as error:
            raise InputError(
                f"expected a place to write a bag, but {self.path} cannot be made "
                f"({error.strerror}); choose another"
            ) from None
        self._provenance = {str(key): str(value) for key, value in provenance.items()}
        self._file = self.path / f"{self.path.name}_0.mcap"
        self._stream = self._file.open("xb")
        self._writer = Writer(
            self._stream,
            chunk_size=_CHUNK_BYTES,
            compression=CompressionType.ZSTD,
            enable_crcs=True,
            enable_data_crcs=True,
        )
        self._writer.start(profile="ros2", library="realign")
        self._writer.add_metadata(PROVENANCE_RECORD, self._provenance)
        self._stream.flush()
        self._on_disk = self._stream.tell()
        self._schemas: dict[str, int] = {}
        self._channels: dict[str, int] = {}
        self._types: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._first_ns: int | None = None
        self._last_ns = 0
        self._closed = False
        self._noted = False
        self._lock = threading.Lock()

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add_topic(
        self, name: str, msgtype: str, *, text: str | None = None, encoding: str = "ros2msg"
    ) -> None:
        """Declare a topic.

        Args:
            name: topic name, e.g. ``/joint_states``.
            msgtype: message type, e.g. ``sensor_msgs/msg/JointState``.
            text: definition of the type; needed only where the type is not a stock one.
            encoding: how ``text`` is written, ``ros2msg`` or ``ros2idl``.

        Raises:
            InputError: the topic has another type already, or the type is unknown.
        """
        if self._types.setdefault(name, msgtype) != msgtype:
            raise InputError(
                f"topic {name}: expected one type, got {self._types[name]} and {msgtype}; "
                "record one of them under another name"
            )
        if name in self._channels:
            return
        if msgtype not in self._schemas:
            try:
                data = (text or definition(msgtype)).encode()
            except InputError:
                del self._types[name]
                raise
            self._schemas[msgtype] = self._writer.register_schema(msgtype, encoding, data)
        self._channels[name] = self._writer.register_channel(
            name,
            "cdr",
            self._schemas[msgtype],
            {"offered_qos_profiles": "[]\n", "topic_type_hash": type_hash(msgtype)},
        )
        self._counts[name] = 0

    def note(self, facts: Mapping[str, str]) -> None:
        """Add to the provenance what is known only after the recording; before :meth:`close`."""
        self._provenance |= {str(key): str(value) for key, value in facts.items()}
        self._noted = True

    def write(
        self,
        topic: str,
        cdr: bytes | memoryview,
        log_time_ns: int,
        publish_time_ns: int | None = None,
    ) -> None:
        """Append one message; several threads may.

        Args:
            topic: a topic declared with :meth:`add_topic`.
            cdr: serialised message with its 4-byte encapsulation header.
            log_time_ns: time of reception, ns.
            publish_time_ns: time of sending, ns; the time of reception where it is not known.

        Raises:
            InputError: the topic was not declared.
            OSError: the bag is closed, or its disk takes no more.
        """
        if topic not in self._channels:
            raise InputError(f"topic {topic}: expected it to be declared before it is written")
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, "the bag is closed")
            self._writer.add_message(
                channel_id=self._channels[topic],
                log_time=log_time_ns,
                data=bytes(cdr),
                publish_time=log_time_ns if publish_time_ns is None else publish_time_ns,
                sequence=self._counts[topic],
            )
            self._counts[topic] += 1
            first = self._first_ns
            self._first_ns = log_time_ns if first is None else min(first, log_time_ns)
            self._last_ns = max(self._last_ns, log_time_ns)
            if self._stream.tell() != self._on_disk:  # a chunk was finished: no part of it may wait
                self._stream.flush()
                self._on_disk = self._stream.tell()

    def close(self) -> None:
        """Write the index and ``metadata.yaml``; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._noted:
            self._writer.add_metadata(PROVENANCE_RECORD, self._provenance)
        self._writer.finish()  # type: ignore[no-untyped-call]
        self._stream.close()
        text = yaml.safe_dump({"rosbag2_bagfile_information": self._metadata()}, sort_keys=False)
        (self.path / "metadata.yaml").write_text(text)
        write_manifest(self.path, {name: self._counts[name] for name in self._channels})

    def abandon(self) -> None:
        """Give the file up as it is, without an index: whole chunks stay for a salvage."""
        with self._lock:
            self._closed = True
            with contextlib.suppress(OSError):  # what is still buffered will not fit either
                self._stream.close()

    def _metadata(self) -> dict[str, Any]:
        start = self._first_ns or 0
        duration = {"nanoseconds": self._last_ns - start if self._first_ns is not None else 0}
        begin = {"nanoseconds_since_epoch": start}
        total = sum(self._counts.values())
        topics = [
            {
                "topic_metadata": {
                    "name": name,
                    "type": self._types[name],
                    "serialization_format": "cdr",
                    "offered_qos_profiles": [],
                    "type_description_hash": type_hash(self._types[name]),
                },
                "message_count": self._counts[name],
            }
            for name in self._channels
        ]
        return {
            "version": 9,
            "storage_identifier": "mcap",
            "duration": duration,
            "starting_time": begin,
            "message_count": total,
            "topics_with_message_count": topics,
            "compression_format": "",
            "compression_mode": "",
            "relative_file_paths": [self._file.name],
            "files": [
                {
                    "path": self._file.name,
                    "starting_time": dict(begin),
                    "duration": dict(duration),
                    "message_count": total,
                }
            ],
            "custom_data": dict(self._provenance),
            "ros_distro": _ROS_DISTRO,
        }
