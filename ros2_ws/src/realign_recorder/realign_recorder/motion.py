"""Set-points over time, from a bag or a motion of ``realign calibrate excite``; no ROS here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.interface import ActionChunk, Float, RobotSpec
from sim2real.bags.reader import Bag, read_bag
from sim2real.episodes.streams import COMMAND_TOPICS, JOINT_STATE, JOINT_TRAJECTORY

NS = 1_000_000_000
# The guard stamps commands by the robot's clock as it estimates it: some ms back and forth.
_CLOCK_JUMP_NS = NS // 2
# Set-points this far apart, and many times the usual distance: what came between is not known.
_GAP_NS = NS // 2
_GAP_PERIODS = 10
_EXCITATION_HZ = 200.0
# Set-points go to the first one of a motion at this share of the joints' speed limits.
_APPROACH_SHARE = 0.2
_LEAST_APPROACH_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Motion:
    """What a robot is told, from time 0 on.

    Attributes:
        t_s: times, increasing from 0, (T,), s.
        positions_rad: set-points, (T, n), rad, in the robot's order.
        held: True where a set-point stays until the next one, False where it leads to it.
    """

    t_s: Float
    positions_rad: Float
    held: bool

    @property
    def duration_s(self) -> float:
        """Time of the last set-point, s."""
        return float(self.t_s[-1])

    def at(self, t_s: Float) -> Float:
        """Set-points at times (K,), (K, n); the first and the last one before and after."""
        t_s = np.clip(t_s, 0.0, self.duration_s)
        k = np.searchsorted(self.t_s, t_s, side="right") - 1
        rows = self.positions_rad[k]
        if self.held or len(self.t_s) == 1:
            return rows
        after = np.minimum(k + 1, len(self.t_s) - 1)
        way = np.maximum(self.t_s[after] - self.t_s[k], 1e-9)
        share = np.where(after > k, (t_s - self.t_s[k]) / way, 0.0)
        between: Float = rows + share[:, None] * (self.positions_rad[after] - rows)
        return between


def motion_of_bag(path: Path, robot: RobotSpec, topic: str = "") -> Motion:
    """The commands of a bag.

    Args:
        path: the bag.
        robot: whose joints they are.
        topic: where they were published; default: the first of ``/joint_command`` and
            ``/joint_commands``.

    Raises:
        InputError: no such bag, no commands in it, a clock that goes back, or a gap in them.
    """
    bag = read_bag(path)
    name = topic or next((t for t in COMMAND_TOPICS if bag.info.topic(t)), COMMAND_TOPICS[0])
    info = bag.info.topic(name)
    if info is None or info.type not in (JOINT_STATE, JOINT_TRAJECTORY):
        raise InputError(
            f"{path}: expected commands on {name} ({JOINT_TRAJECTORY} or {JOINT_STATE}), got "
            f"{info.type if info else 'no such topic'}; name their topic, "
            "`realign bag info` lists what there is"
        )
    stamp_ns, rows = _commands(bag, name, robot)
    usable = np.isfinite(rows).all(axis=1)  # a damping command has no positions
    stamp_ns, rows = stamp_ns[usable], rows[usable]
    if not len(rows):
        raise InputError(f"{path}: expected positions on {name}, got none; record it again")
    first = in_time(stamp_ns, str(path))
    _check_gaps(stamp_ns[first], str(path))
    t_s = (stamp_ns[first] - stamp_ns[0]) / NS
    return Motion(t_s=t_s, positions_rad=rows[first], held=robot.command == "setpoint")


def in_time(stamp_ns: NDArray[np.int64], what: str) -> NDArray[np.bool_]:
    """Which of the stamps (N,) are newer than all before them, (N,).

    Raises:
        InputError: they go back by more than half a second; ``what`` names them.
    """
    newest_ns = np.maximum.accumulate(stamp_ns)
    back = newest_ns - stamp_ns > _CLOCK_JUMP_NS
    if back.any():
        raise InputError(
            f"{what}: expected commands in the order of their stamps, but the clock goes back at "
            f"{(newest_ns[np.argmax(back)] - stamp_ns[0]) / NS:.2f} s; play a bag of one run"
        )
    return np.concatenate([[True], np.diff(newest_ns) > 0])


def _check_gaps(stamp_ns: NDArray[np.int64], what: str) -> None:
    away_ns = np.diff(stamp_ns)
    if not len(away_ns):
        return
    k = int(np.argmax(away_ns))
    if away_ns[k] > max(_GAP_NS, _GAP_PERIODS * float(np.median(away_ns))):
        raise InputError(
            f"{what}: expected positions without gaps, but there are none for "
            f"{away_ns[k] / NS:.2f} s from {(stamp_ns[k] - stamp_ns[0]) / NS:.2f} s on (lost, or "
            "the robot was stopped); play a bag of one motion"
        )


def _commands(bag: Bag, topic: str, robot: RobotSpec) -> tuple[NDArray[np.int64], Float]:
    columns = bag.columns(topic, robot.joint_names)
    if not len(columns):
        raise InputError(
            f"topic {topic}: expected joints {list(robot.joint_names)}, got "
            f"{list(bag.columns(topic).names)}; use the robot whose joints these are"
        )
    rows = columns.arrays["position"]
    return columns.stamp_ns, rows[:, 0] if rows.ndim == 3 else rows


def motion_of_excitation(path: Path, robot: RobotSpec) -> Motion:
    """A motion of ``realign calibrate excite``.

    Raises:
        InputError: no such file, or one of another robot.
    """
    from calibration.errors import CalibrationError
    from calibration.excitation import read_excitation

    try:
        plan = read_excitation(path, robot.name)
    except CalibrationError as error:
        raise InputError(str(error)) from None
    if plan.joint_names != robot.joint_names:
        raise InputError(
            f"{path}: expected a motion of {list(robot.joint_names)}, got "
            f"{list(plan.joint_names)}; make it again with `realign calibrate excite`"
        )
    t_s = np.arange(0.0, plan.duration_s, 1.0 / _EXCITATION_HZ)
    return Motion(t_s=t_s, positions_rad=plan.at(t_s)[0], held=False)


class Playback:
    """Answers observations with what a motion has for their time, like a policy.

    An arm first goes to the motion's first set-point, slowly, from where it is.

    Args:
        motion: what to play.
        robot: the robot.
        dt_s: time between the steps of a chunk, s.
        horizon: steps of a chunk.
    """

    def __init__(self, motion: Motion, robot: RobotSpec, *, dt_s: float, horizon: int) -> None:
        self.motion, self.robot = motion, robot
        self.dt_s, self.horizon = dt_s, horizon
        self._begin_ns: int | None = None
        self._approach_s = 0.0
        self._from: Float = robot.default_rad

    def act(self, stamp_ns: int, qpos_rad: Float) -> ActionChunk:
        """The next set-points.

        Args:
            stamp_ns: stamp of the joint states, ns.
            qpos_rad: measured positions, (n,), rad.
        """
        if self._begin_ns is None:
            self._begin_ns, self._from = stamp_ns, qpos_rad
            if not self.robot.floating_base:
                way = np.abs(self.motion.positions_rad[0] - qpos_rad)
                slow_s = float((way / self.robot.velocity_limit_rad_s).max()) / _APPROACH_SHARE
                self._approach_s = max(slow_s, _LEAST_APPROACH_S)
        t_s = (stamp_ns - self._begin_ns) / NS + self.dt_s * np.arange(self.horizon)
        return ActionChunk(stamp_ns=stamp_ns, dt_s=self.dt_s, positions_rad=self._at(t_s))

    def _at(self, t_s: Float) -> Float:
        rows = self.motion.at(t_s - self._approach_s)
        if not self._approach_s:
            return rows
        share = np.clip(t_s / self._approach_s, 0.0, 1.0)[:, None]
        smooth = share**2 * (3.0 - 2.0 * share)
        blended: Float = np.where(share < 1.0, self._from + smooth * (rows - self._from), rows)
        return blended

    def played_s(self, stamp_ns: int) -> float:
        """How much of the motion lies behind, s; negative before it begins."""
        if self._begin_ns is None:
            return -1.0
        return (stamp_ns - self._begin_ns) / NS - self._approach_s
