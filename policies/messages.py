"""NumPy <-> ROS messages by duck typing: fields are read and set, no message package is imported.

One place for the wire conventions, used by every node:

- joint states and commands are mapped by name;
- ROS quaternions are xyzw, ours wxyz;
- a command without positions is a *damping* command (torque = -kd qdot);
- arrays are set as ``array.array``, which rclpy copies in one go (an ndarray takes 100x longer).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from policies.errors import InputError
from policies.interface import ActionChunk, Float, reorder_index

NS = 1_000_000_000
MAX_POINTS = 1024


def stamp_to_ns(stamp: Any) -> int:
    """``builtin_interfaces/Time`` or ``Duration`` -> ns."""
    return int(stamp.sec) * NS + int(stamp.nanosec)


def set_stamp(stamp: Any, ns: int) -> None:
    """Set a ``builtin_interfaces/Time`` or ``Duration`` from ns, in place."""
    stamp.sec, stamp.nanosec = divmod(int(ns), NS)


def doubles(values: Any) -> array[float]:
    """Any float array -> ``array('d')`` for a float64[] field."""
    out = array("d")
    out.frombytes(np.ascontiguousarray(values, dtype=np.float64).tobytes())
    return out


class NameMap:
    """Reorders named message arrays into a fixed order; the index is cached per name list."""

    def __init__(self, names: Sequence[str], what: str) -> None:
        self._want = tuple(names)
        self._what = what
        self._names: list[str] | None = None
        self._index: Any = None

    def index(self, names: Sequence[str]) -> Any:
        """Index into a message's arrays.

        Raises:
            InputError: a joint is missing or named twice.
        """
        if names != self._names:
            index = reorder_index(names, self._want, self._what)
            whole = len(names) == len(self._want) and bool(np.all(index == np.arange(len(index))))
            self._index = slice(None) if whole else index
            self._names = list(names)
        return self._index


def joint_state_to_numpy(msg: Any, names: NameMap) -> tuple[Float, Float, Float | None]:
    """``sensor_msgs/JointState`` -> positions, velocities, efforts (None if absent), each (n,).

    Raises:
        InputError: names or array lengths do not fit.
    """
    index = names.index(msg.name)
    n = len(msg.name)
    if len(msg.position) != n or len(msg.velocity) != n:
        raise InputError(
            f"joint state: expected {n} positions and velocities, one for each name, got "
            f"{len(msg.position)} and {len(msg.velocity)}; the driver must publish both"
        )
    effort = np.array(msg.effort)[index] if n and len(msg.effort) == n else None
    return np.array(msg.position)[index], np.array(msg.velocity)[index], effort


def quat_wxyz(q: Any) -> Float:
    """``geometry_msgs/Quaternion`` (xyzw) -> array wxyz, (4,)."""
    return np.array([q.w, q.x, q.y, q.z])


def set_quat(q: Any, wxyz: Float) -> None:
    """Array wxyz -> ``geometry_msgs/Quaternion``, in place."""
    q.w, q.x, q.y, q.z = (float(v) for v in wxyz)


def vector(v: Any) -> Float:
    """``geometry_msgs/Vector3`` or ``Point`` -> array (3,)."""
    return np.array([v.x, v.y, v.z])


def set_vector(v: Any, xyz: Float) -> None:
    """Array (3,) -> ``geometry_msgs/Vector3`` or ``Point``, in place."""
    v.x, v.y, v.z = (float(x) for x in xyz)


def fill_trajectory(
    msg: Any,
    point_type: Any,
    *,
    stamp_ns: int,
    names: Sequence[str],
    dt_s: float,
    positions_rad: Float,
    velocities_rad_s: Float | None = None,
) -> Any:
    """Set a ``trajectory_msgs/JointTrajectory``; ``positions_rad`` is (steps, n), rad.

    With shape (1, 0) it is a damping command: no positions, zero velocities.
    """
    set_stamp(msg.header.stamp, stamp_ns)
    msg.joint_names = list(names)
    points = []
    for k, row in enumerate(positions_rad):
        point = point_type()
        if len(row):
            point.positions = doubles(row)
            if velocities_rad_s is not None:
                point.velocities = doubles(velocities_rad_s[k])
        else:
            point.velocities = doubles(np.zeros(len(names)))
        set_stamp(point.time_from_start, round(k * dt_s * NS))
        points.append(point)
    msg.points = points
    return msg


def trajectory_to_chunk(msg: Any, names: NameMap) -> ActionChunk:
    """``trajectory_msgs/JointTrajectory`` -> chunk in the order of ``names``.

    Values are not judged here (the guard does that), only the form.

    Raises:
        InputError: names, lengths or times do not fit.
    """
    index = names.index(msg.joint_names)
    n = len(msg.joint_names)
    if not msg.points:
        raise InputError("action chunk: expected at least one point, got none")
    if len(msg.points) > MAX_POINTS:
        raise InputError(
            f"action chunk: expected at most {MAX_POINTS} points, got {len(msg.points)}; "
            "send a shorter plan"
        )
    for point in msg.points:
        if len(point.positions) != n:
            raise InputError(
                f"action chunk: expected {n} positions in each point, got {len(point.positions)}"
            )
    positions = np.array([point.positions for point in msg.points], dtype=np.float64)[:, index]
    times = [stamp_to_ns(point.time_from_start) for point in msg.points]
    dt_ns = times[1] - times[0] if len(times) > 1 else 0
    if times[0] != 0 or any(b - a != dt_ns or dt_ns <= 0 for a, b in pairwise(times)):
        raise InputError("action chunk: expected even steps from time_from_start 0")
    return ActionChunk(
        stamp_ns=stamp_to_ns(msg.header.stamp), dt_s=dt_ns / NS, positions_rad=positions
    )
