"""Columns of one topic: stamps, joint names and NumPy arrays, built batch by batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.interface import Float, reorder_index
from sim2real.bags import cdr
from sim2real.bags.cdr import Block, Layout
from sim2real.bags.mcap_stream import Message

NS = 1_000_000_000
Int = NDArray[np.int64]
_BATCH = 2048
_MAX_NEW_LAYOUTS = 16
_JOINT_FIELDS = {
    "sensor_msgs/msg/JointState": ("position", "velocity", "effort"),
    "trajectory_msgs/msg/JointTrajectory": ("positions", "velocities", "accelerations", "effort"),
}
_SINGULAR = {"positions": "position", "velocities": "velocity", "accelerations": "acceleration"}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Messages of one topic in the order of the bag.

    Attributes:
        topic, msgtype: where they come from.
        stamp_ns: header stamps (N,), ns; times of reception for a type without header.
        log_ns: times of reception, (N,), ns.
        sequence: place of each message among all messages of the bag, (N,): what came before what,
            also where clocks jump.
        names: joint names in the order of the arrays, () for types without joints.
        arrays: by type, all rad, m, s and frames as in the message, quaternions wxyz.
            JointState: ``position``, ``velocity``, ``effort`` (N, n), NaN where a message has none,
            and ``has_position``, ... (N,). JointTrajectory: ``position``, ``velocity``,
            ``acceleration``, ``effort`` (N, P, n), ``has_position``, ... (N, P), ``n_points`` (N,),
            ``time_from_start_ns`` (N, P). Imu: ``orientation_wxyz`` (N, 4), ``angular_velocity``,
            ``linear_acceleration`` (N, 3). Odometry: ``position``, ``linear_velocity``,
            ``angular_velocity`` (N, 3), ``orientation_wxyz``. PoseStamped: ``position``,
            ``orientation_wxyz``. Int32: ``data`` (N,).
        text: String: the data; Header: the frame ids; () otherwise.
    """

    topic: str
    msgtype: str
    stamp_ns: Int
    log_ns: Int
    sequence: Int
    names: tuple[str, ...]
    arrays: dict[str, NDArray[Any]]
    text: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.stamp_ns)


class Entry(NamedTuple):
    """One message that waits to be decoded."""

    sequence: int
    log_ns: int
    data: bytes


@dataclass(kw_only=True)
class ColumnBuilder:
    """Collects messages of one topic and decodes them a batch at a time.

    Attributes:
        topic, msgtype: what is collected.
        names: joint order wanted, or None for that of the first message. With an order given,
            messages that carry none of these joints (a gripper on the same topic) are left out.
    """

    topic: str
    msgtype: str
    names: tuple[str, ...] | None = None
    _pending: list[Entry] = field(default_factory=list)
    _layouts: dict[int, list[Layout]] = field(default_factory=dict)
    _parts: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    _text: dict[int, str] = field(default_factory=dict)
    _index: dict[tuple[str, ...], NDArray[np.intp] | None] = field(default_factory=dict)

    def add(self, sequence: int, message: Message) -> None:
        """Take one message; ``sequence`` is its place in the bag.

        Raises:
            InputError: a message of the batch that this completes cannot be decoded.
        """
        # a copy: a view would keep the whole chunk in memory
        self._pending.append(Entry(sequence, message.log_ns, bytes(message.data)))
        if len(self._pending) >= _BATCH:
            self._flush()

    def finish(self) -> Columns:
        """All columns.

        Raises:
            InputError: a message cannot be decoded, or joints do not fit.
        """
        self._flush()
        merged = _concatenate(self._parts)
        sequence = merged.pop("sequence", np.zeros(0, np.int64))
        order = np.argsort(sequence, kind="stable")
        merged = {name: values[order] for name, values in merged.items()}
        log_ns = merged.pop("log_ns", np.zeros(0, np.int64))
        return Columns(
            topic=self.topic,
            msgtype=self.msgtype,
            stamp_ns=merged.pop("stamp_ns", log_ns),
            log_ns=log_ns,
            sequence=sequence[order],
            names=self.names or (),
            arrays=merged,
            text=tuple(self._text[int(i)] for i in sequence[order]) if self._text else (),
        )

    def _flush(self) -> None:
        batch, self._pending = self._pending, []
        by_length: dict[int, list[Entry]] = {}
        for entry in batch:
            by_length.setdefault(len(entry.data), []).append(entry)
        for length, entries in by_length.items():
            self._decode(entries, length)

    def _decode(self, entries: list[Entry], length: int) -> None:
        """Decode messages of one length: known layouts first, then new ones, then one by one."""
        stacked = np.frombuffer(b"".join(entry.data for entry in entries), np.uint8)
        stacked = stacked.reshape(len(entries), length)
        todo = np.arange(len(entries))
        known = self._layouts.setdefault(length, [])
        for layout in known:
            todo = self._decode_matching(layout, stacked, todo, entries)
        for _ in range(_MAX_NEW_LAYOUTS - len(known)):
            if not len(todo):
                return
            try:
                layout = cdr.find_layout(entries[todo[0]].data, self.msgtype)
            except ValueError:
                break  # big-endian or broken: the general path tells which
            known.append(layout)
            todo = self._decode_matching(layout, stacked, todo, entries)
        for i in todo:
            try:
                block = cdr.decode_one(entries[i].data, self.msgtype)
            except ValueError as error:
                raise InputError(
                    f"topic {self.topic}: expected a {self.msgtype} as message "
                    f"{entries[i].sequence} of the bag, but {error}; "
                    "record it again or leave the topic out"
                ) from None
            self._keep(block, [entries[i]])

    def _decode_matching(
        self,
        layout: Layout,
        stacked: NDArray[np.uint8],
        todo: NDArray[np.intp],
        entries: list[Entry],
    ) -> NDArray[np.intp]:
        if not len(todo):
            return todo
        same = cdr.matches(layout, stacked[todo])
        chosen = todo[same]
        if len(chosen):
            self._keep(cdr.decode_batch(layout, stacked[chosen]), [entries[i] for i in chosen])
        return todo[~same]

    def _keep(self, block: Block, entries: list[Entry]) -> None:
        part: dict[str, NDArray[Any]] = {
            "sequence": np.array([entry.sequence for entry in entries], np.int64),
            "log_ns": np.array([entry.log_ns for entry in entries], np.int64),
        }
        fields = block.fields
        if "sec" in fields:
            seconds = fields.pop("sec")[:, 0].astype(np.int64)
            part["stamp_ns"] = seconds * NS + fields.pop("nanosec")[:, 0].astype(np.int64)
        if self.msgtype in _JOINT_FIELDS:
            index = self._joint_index(block.names)
            if index is None:
                return
            part |= self._joint_arrays(block, index, len(entries))
        else:
            part |= _plain_arrays(self.msgtype, fields)
        for values in block.text.values():
            self._text.update(zip((entry.sequence for entry in entries), values, strict=True))
        self._parts.append(part)

    def _joint_index(self, names: tuple[str, ...]) -> NDArray[np.intp] | None:
        """Index into a message's arrays; None where it has none of the joints."""
        if not names:
            return None
        if self.names is None:
            self.names = names
        if names not in self._index:
            if set(names).isdisjoint(self.names):
                self._index[names] = None
            else:
                self._index[names] = reorder_index(names, self.names, f"topic {self.topic}")
        return self._index[names]

    def _joint_arrays(
        self, block: Block, index: NDArray[np.intp], count: int
    ) -> dict[str, NDArray[Any]]:
        out: dict[str, NDArray[Any]] = {}
        trajectory = self.msgtype == "trajectory_msgs/msg/JointTrajectory"
        prefixes = [f"{i}." for i in range(block.n_points)] if trajectory else [""]
        for name in _JOINT_FIELDS[self.msgtype]:
            rows = [self._joint_field(block, p + name, index, count) for p in prefixes]
            values = np.empty((count, len(rows), len(index)))
            for i, row in enumerate(rows):
                values[:, i] = np.nan if row is None else row
            present = np.tile([row is not None for row in rows], (count, 1)).astype(bool)
            out[_SINGULAR.get(name, name)] = values
            out[f"has_{_SINGULAR.get(name, name)}"] = present.reshape(count, len(rows))
        if not trajectory:
            return {name: values[:, 0] for name, values in out.items()}
        since = np.zeros((count, block.n_points), np.int64)
        for i, p in enumerate(prefixes):
            since[:, i] = block.fields[f"{p}from_start_sec"][:, 0].astype(np.int64) * NS
            since[:, i] += block.fields[f"{p}from_start_nanosec"][:, 0].astype(np.int64)
        out["time_from_start_ns"] = since
        out["n_points"] = np.full(count, block.n_points, np.int64)
        return out

    def _joint_field(
        self, block: Block, name: str, index: NDArray[np.intp], count: int
    ) -> Float | None:
        values = block.fields.get(name)
        if values is None:
            return None
        if values.shape != (count, len(block.names)):
            raise InputError(
                f"topic {self.topic}: expected {len(block.names)} values of {name}, one for each "
                f"joint name, got {values.shape[1]}; the publisher must send all or none"
            )
        picked: Float = values[:, index]
        return picked


def _plain_arrays(msgtype: str, fields: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    out = {name: values for name, values in fields.items() if not name.endswith("_covariance")}
    if "orientation" in out:
        out["orientation_wxyz"] = out.pop("orientation")[:, [3, 0, 1, 2]]
    if msgtype == "std_msgs/msg/Int32":
        out["data"] = out["data"][:, 0]
    return out


def _concatenate(parts: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Join parts; trajectories of fewer points are padded (NaN, False, 0)."""
    if not parts:
        return {}
    points = max((p["time_from_start_ns"].shape[1] for p in parts if "n_points" in p), default=0)
    out: dict[str, NDArray[Any]] = {}
    for name in parts[0]:
        columns = [part[name] for part in parts]
        if points and columns[0].ndim > 1:
            columns = [_pad(values, points) for values in columns]
        out[name] = np.concatenate(columns)
    return out


def _pad(values: NDArray[Any], points: int) -> NDArray[Any]:
    width = [(0, 0)] * values.ndim
    width[1] = (0, points - values.shape[1])
    fill = np.nan if values.dtype.kind == "f" else 0
    return np.pad(values, width, constant_values=fill)
