"""Images that belong together with joint positions: the robot at rest, each pose once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.detection import Frame
from calibration.kinematics import Chain
from calibration.transforms import Float, distance

_NS = 1e9
_GAP_S = 0.1
_NEW_POSE = (np.deg2rad(2.0), 0.01)


@dataclass(frozen=True, kw_only=True)
class JointLog:
    """Joint positions over time.

    Attributes:
        stamp_ns: ascending, (N,), ns.
        qpos_rad: in the chain's order, (N, n), rad.
    """

    stamp_ns: NDArray[np.int64]
    qpos_rad: Float

    def at(self, stamp_ns: int, max_speed_rad_s: float) -> Float | str:
        """Positions at a time, (n,), rad, interpolated; or why there are none.

        Args:
            stamp_ns: when, ns.
            max_speed_rad_s: a joint that moves faster in the 0.1 s before and after is not at rest.
        """
        time = (self.stamp_ns - stamp_ns) / _NS
        if not len(time) or not time[0] <= 0.0 <= time[-1]:
            return "no joint states at that time"
        after = int(np.searchsorted(time, 0.0))
        gap_s = float(time[after] - time[max(0, after - 1)])
        if gap_s > _GAP_S:
            return f"a gap of {gap_s:.2f} s in the joint states"
        around = np.array([-_GAP_S, 0.0, _GAP_S]).clip(time[0], time[-1])
        before, now, later = np.array(
            [np.interp(around, time, column) for column in self.qpos_rad.T]
        ).T
        moved = max(float(np.abs(before - now).max()), float(np.abs(later - now).max()))
        speed = moved / _GAP_S
        if speed > max_speed_rad_s:
            return f"the robot moved at {speed:.2g} rad/s"
        return np.asarray(now, float)


def resting(
    frames: Iterable[Frame],
    log: JointLog,
    chain: Chain,
    max_speed_rad_s: float,
    found: dict[str, Float],
    without: dict[str, str],
) -> Iterator[Frame]:
    """Frames that were taken with the robot at rest, in a pose that none before had.

    Args:
        frames: images with stamps.
        log: joint positions.
        chain: of these joints.
        max_speed_rad_s: see :meth:`JointLog.at`.
        found: gets the joint positions of each frame that is passed on, by name.
        without: gets the reason of each other one, by name.
    """
    poses: dict[str, Float] = {}
    for frame in frames:
        if frame.stamp_ns is None:
            without[frame.name] = "no stamp"
            continue
        qpos = log.at(frame.stamp_ns, max_speed_rad_s)
        if isinstance(qpos, str):
            without[frame.name] = qpos
            continue
        pose = chain.pose(qpos)[0]
        same = [n for n, other in poses.items() if _same(distance(pose, other))]
        if same:
            without[frame.name] = f"same pose as {same[0]}"
            continue
        poses[frame.name] = pose
        found[frame.name] = qpos
        yield frame


def _same(between: tuple[float, float]) -> bool:
    return between[0] < _NEW_POSE[0] and between[1] < _NEW_POSE[1]
