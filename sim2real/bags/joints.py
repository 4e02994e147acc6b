"""Joint arrays of decoded messages, in the order of joints that is wanted."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.interface import Float, reorder_index
from sim2real.bags.batch import NS, Index
from sim2real.bags.cdr import Block

JOINT_STATE = "sensor_msgs/msg/JointState"
TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
_POINT_FIELDS = {
    "positions": "position",
    "velocities": "velocity",
    "accelerations": "acceleration",
    "effort": "effort",
}


@dataclass(kw_only=True)
class JointOrder:
    """Puts the joints of messages in order by name.

    Attributes:
        topic: where the messages come from.
        names: joint order wanted; None until it is known.
    """

    topic: str
    names: tuple[str, ...] | None
    _index: dict[tuple[str, ...], Index | slice | None] = field(default_factory=dict)

    def arrays(self, block: Block, msgtype: str, count: int) -> dict[str, NDArray[Any]] | None:
        """Joint columns of a JointState or JointTrajectory; None if it has none of the joints.

        Args:
            block: messages of one layout.
            msgtype: their type.
            count: how many they are.

        Raises:
            InputError: some of the joints are missing or twice, or values are.
        """
        index = self._index_of(block.names)
        if index is None:
            return None
        if msgtype == JOINT_STATE:
            return self._state(block, index, count)
        return self._trajectory(block, index, count)

    def _index_of(self, names: tuple[str, ...]) -> Index | slice | None:
        """Index into a message's arrays; None where it has none of the joints."""
        if not names or self.names is None:
            return None
        if names not in self._index:
            if set(names).isdisjoint(self.names):
                self._index[names] = None
            else:
                index = reorder_index(names, self.names, f"topic {self.topic}")
                same = names == self.names
                self._index[names] = slice(None) if same else index
        return self._index[names]

    def _state(self, block: Block, index: Index | slice, count: int) -> dict[str, NDArray[Any]]:
        out: dict[str, NDArray[Any]] = {}
        for name in ("position", "velocity", "effort"):
            values = self._values(block, name, index, count)
            out[name] = self._absent(count) if values is None else values
            out[f"has_{name}"] = np.full(count, values is not None)
        return out

    def _trajectory(
        self, block: Block, index: Index | slice, count: int
    ) -> dict[str, NDArray[Any]]:
        points = range(block.n_points)
        out: dict[str, NDArray[Any]] = {"n_points": np.full(count, block.n_points, np.int64)}
        for plural, name in _POINT_FIELDS.items():
            out[name] = np.empty((count, block.n_points, len(self.names or ())))
            out[f"has_{name}"] = np.empty((count, block.n_points), bool)
            for i in points:
                values = self._values(block, f"{i}.{plural}", index, count)
                out[name][:, i] = np.nan if values is None else values
                out[f"has_{name}"][:, i] = values is not None
        since = out["time_from_start_ns"] = np.empty((count, block.n_points), np.int64)
        for i in points:
            since[:, i] = block.fields[f"{i}.from_start_sec"][:, 0].astype(np.int64) * NS
            since[:, i] += block.fields[f"{i}.from_start_nanosec"][:, 0]
        return out

    def _absent(self, count: int) -> Float:
        return np.full((count, len(self.names or ())), np.nan)

    def _values(self, block: Block, name: str, index: Index | slice, count: int) -> Float | None:
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
