"""Columns of one topic: stamps, joint names and NumPy arrays, filled batch by batch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from sim2real.bags import cdr
from sim2real.bags.batch import NS, Batch, Bytes, Index, Int, gather
from sim2real.bags.cdr import Block, Layout
from sim2real.bags.joints import JOINT_STATE, TRAJECTORY, JointOrder

_MAX_LAYOUTS = 16  # for each message length; what has yet another one is decoded one by one
_JOINT_TYPES = (JOINT_STATE, TRAJECTORY)
_STAMP = ("sec", "nanosec")


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


@dataclass(kw_only=True)
class ColumnBuilder:
    """Decodes the messages of one topic into arrays that are made as long as the topic.

    Attributes:
        topic, msgtype: what is collected.
        count: how many messages there will be.
        names: joint order wanted, or None for that of the first message. With an order given,
            messages that carry none of these joints (a gripper on the same topic) are left out.
    """

    topic: str
    msgtype: str
    count: int
    names: tuple[str, ...] | None = None
    _added: int = 0
    _columns: dict[str, NDArray[Any]] = field(init=False)
    _kept: NDArray[np.bool_] = field(init=False)
    _text: NDArray[np.object_] = field(init=False)
    _layouts: dict[int, list[Layout]] = field(default_factory=dict)
    _joints: JointOrder = field(init=False)

    def __post_init__(self) -> None:
        self._columns = {name: self._room((), np.int64) for name in ("sequence", "log_ns")}
        self._kept = self._room((), np.bool_)
        self._kept.fill(False)
        has_text = self.msgtype in cdr.TEXT_TYPES
        self._text = np.full(self.count if has_text else 0, "", object)
        self._joints = JointOrder(topic=self.topic, names=self.names)

    def add(self, batch: Batch, rows: Index, sequence: Int) -> None:
        """Decode some messages of a batch.

        Args:
            batch: messages of any topics.
            rows: which of them are of this topic, ascending, (N,).
            sequence: their places in the bag, (N,).

        Raises:
            InputError: a message cannot be decoded, or joints do not fit.
        """
        first, self._added = self._added, self._added + len(rows)
        if self._added > self.count:
            raise InputError(
                f"topic {self.topic}: expected {self.count} messages, got more; "
                "read the bag again when nothing writes to it"
            )
        self._put("sequence", slice(first, self._added), sequence)
        self._put("log_ns", slice(first, self._added), batch.log_ns[rows])
        if self.msgtype in _JOINT_TYPES and self._joints.names is None:
            self._joints.names = self._first_names(batch, rows)
        lengths = batch.length[rows]
        for length in dict.fromkeys(lengths.tolist()):
            chosen = np.flatnonzero(lengths == length)
            stacked = gather(batch.data, batch.start[rows[chosen]], length)
            self._decode(stacked, chosen + first)

    def _first_names(self, batch: Batch, rows: Index) -> tuple[str, ...] | None:
        for start, length in zip(
            batch.start[rows].tolist(), batch.length[rows].tolist(), strict=True
        ):
            names = cdr.joint_names(batch.data.data[start : start + length], self.msgtype)
            if names:
                return names
        return None

    def finish(self) -> Columns:
        """All columns."""
        columns = self._columns
        if not self._kept.all():
            columns = {name: values[self._kept] for name, values in columns.items()}
        if "n_points" in columns:
            points = int(columns["n_points"].max(initial=0))
            columns = {n: v[:, :points] if v.ndim > 1 else v for n, v in columns.items()}
        log_ns = columns.pop("log_ns")
        return Columns(
            topic=self.topic,
            msgtype=self.msgtype,
            sequence=columns.pop("sequence"),
            stamp_ns=columns.pop("stamp_ns", log_ns),
            log_ns=log_ns,
            names=self._joints.names or (),
            arrays=columns,
            text=tuple(self._text[: self._added].tolist()),
        )

    def _decode(self, stacked: Bytes, places: Index) -> None:
        """Decode messages of one length: known layouts first, then new ones, then one by one.

        Args:
            stacked: the messages, (N, length).
            places: theirs among the messages of the topic, ascending, (N,).
        """
        known = self._layouts.setdefault(stacked.shape[1], [])
        for layout in known:
            stacked, places = self._decode_matching(layout, stacked, places)
        while len(places) and len(known) < _MAX_LAYOUTS:
            try:
                layout = cdr.find_layout(stacked[0].data, self.msgtype)
            except ValueError:
                break  # big-endian or broken: the general path tells which
            known.append(layout)
            stacked, places = self._decode_matching(layout, stacked, places)
        for message, place in zip(stacked, places.tolist(), strict=True):
            try:
                block = cdr.decode_one(message.data, self.msgtype)
            except ValueError as error:
                raise InputError(
                    f"topic {self.topic}: expected a {self.msgtype} as message "
                    f"{self._columns['sequence'][place]} of the bag, but {error}; "
                    "record it again or leave the topic out"
                ) from None
            self._keep(block, slice(place, place + 1))

    def _decode_matching(
        self, layout: Layout, stacked: Bytes, places: Index
    ) -> tuple[Bytes, Index]:
        """Decode the messages that have the layout; returns the others."""
        same = cdr.matches(layout, stacked)
        if not same.any():
            return stacked, places
        if not same.all():
            rest = stacked[~same], places[~same]
            stacked, places = stacked[same], places[same]
        else:
            rest = stacked[:0], places[:0]
        self._keep(cdr.decode_batch(layout, stacked), _compact(places))
        return rest

    def _keep(self, block: Block, place: Index | slice) -> None:
        count = len(self._kept[place])
        if self.msgtype in _JOINT_TYPES:
            arrays = self._joints.arrays(block, self.msgtype, count)
            if arrays is None:
                return
        else:
            arrays = _plain_arrays(block, self.msgtype)
        self._kept[place] = True
        if "sec" in block.fields:
            seconds = block.fields["sec"][:, 0].astype(np.int64)
            self._put("stamp_ns", place, seconds * NS + block.fields["nanosec"][:, 0])
        for name, values in arrays.items():
            padded = self.msgtype == TRAJECTORY and values.ndim > 1
            (self._put_points if padded else self._put)(name, place, values)
        for text in block.text.values():
            self._text[place] = text

    def _put(self, name: str, place: Index | slice, values: NDArray[Any]) -> None:
        if name not in self._columns:
            self._columns[name] = self._room(values.shape[1:], values.dtype)
        self._columns[name][place] = values

    def _put_points(self, name: str, place: Index | slice, values: NDArray[Any]) -> None:
        """Put values (N, P, ...); what has fewer points is padded with NaN, False or 0."""
        points = values.shape[1]
        column = self._columns.get(name)
        if column is None or column.shape[1] < points:
            room = points if column is None else max(points, 2 * column.shape[1])
            wide = self._room((room, *values.shape[2:]), values.dtype)
            wide.fill(np.nan if values.dtype.kind == "f" else 0)
            if column is not None:
                wide[:, : column.shape[1]] = column
            self._columns[name] = column = wide
        column[place, :points] = values

    def _room(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        try:
            return np.empty((self.count, *shape), dtype)
        except (MemoryError, ValueError):  # NumPy says the latter of sizes beyond the address space
            raise InputError(
                f"topic {self.topic}: expected columns that fit into memory, but {self.count} "
                f"messages of shape {shape} do not; split the bag"
            ) from None


def _compact(places: Index) -> Index | slice:
    """As a slice where they follow one another: NumPy then copies blocks."""
    first, last = int(places[0]), int(places[-1])
    return slice(first, last + 1) if last - first + 1 == len(places) else places


def _plain_arrays(block: Block, msgtype: str) -> dict[str, NDArray[Any]]:
    out = {name: values for name, values in block.fields.items() if name not in _STAMP}
    if "orientation" in out:
        out["orientation_wxyz"] = out.pop("orientation")[:, [3, 0, 1, 2]]
    if msgtype == "std_msgs/msg/Int32":
        out["data"] = out["data"][:, 0]
    return out
