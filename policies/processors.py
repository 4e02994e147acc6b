"""Observation terms: from :class:`policies.interface.Observation` to the vector a network reads.

A checkpoint declares its observation as a list of terms. Every distinct term is computed once a
tick into a *frame*; the last few frames are kept, newest first, and the network's input is one
gather from them. History, per term or grouped, is therefore only a matter of indices.

Terms (size; unit before scaling):

==================  ==========  ==============================================================
base_ang_vel        3           base angular velocity in the base frame, rad/s
projected_gravity   3           unit gravity vector in the base frame
joint_pos           joints      joint position minus default pose, rad
joint_vel           joints      joint velocity, rad/s
last_action         outputs     raw output of the network at the previous tick
last_command        commanded   joint command in force minus default pose, rad
command_velocity    commanded   velocity of the joint command in force, rad/s
tracking_error      commanded   joint command in force minus joint position, rad
motion_phase        1           time since reset / motion length, 0 to 1
goal_position       3           goal in the base frame, m
==================  ==========  ==============================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.interface import Float, Observation, RobotSpec, reorder_index

Float32 = NDArray[np.float32]

HISTORY = "history"
JOINT_TERMS = ("joint_pos", "joint_vel")
COMMAND_TERMS = ("last_command", "command_velocity", "tracking_error")
NEEDS = {
    "base_ang_vel": "base_ang_vel_rad_s",
    "projected_gravity": "base_quat_wxyz",
    "goal_position": "goal",
}
TERMS = (
    *("base_ang_vel", "projected_gravity", *JOINT_TERMS),
    *("last_action", *COMMAND_TERMS, "motion_phase", "goal_position"),
)


@dataclass(frozen=True, kw_only=True)
class TermConfig:
    """One entry of a checkpoint's observation.

    Attributes:
        term: a name out of :data:`TERMS`, or ``history`` for a group of past ticks.
        scale: factor on the values.
        joints: joints of a joint term, by name, in the order the network expects; None for all
            joints of the robot. Must be None for other terms.
        history: for a term, how many ticks, the present one first (1: only the present); for a
            group, how many *past* ticks, newest first, the present one left out. Ticks before
            the reset are zeros.
        terms: members of a group, key after key, each with all its ticks. Empty otherwise.
    """

    term: str
    scale: float = 1.0
    joints: tuple[str, ...] | None = None
    history: int = 1
    terms: tuple[TermConfig, ...] = ()


@dataclass(kw_only=True)
class ActorState:
    """What an actor remembers of its own past; read by the terms.

    Attributes:
        tick: ticks since the reset.
        last_action: raw output of the network at the previous tick, (outputs,).
        command_rad: command in force, commanded joints, (commanded,), rad.
        command_vel_rad_s: velocity of that command, (commanded,), rad/s.
    """

    tick: int
    last_action: Float32
    command_rad: Float
    command_vel_rad_s: Float


_Write = Callable[[Observation, ActorState, Float32], None]


def projected_gravity(quat_wxyz: Float) -> tuple[float, float, float]:
    """Unit gravity vector in the base frame for the base orientation ``quat_wxyz`` (4,)."""
    w, x, y, z = quat_wxyz.tolist()
    return 2.0 * (w * y - x * z), -2.0 * (w * x + y * z), 1.0 - 2.0 * (w * w + z * z)


class ObservationBuilder:
    """Builds the network's input tick by tick.

    Args:
        robot: the robot, for joint order and default pose.
        terms: the observation, in the network's order.
        action_joints: joints that the policy commands, in the order of its output.
        action_size: number of outputs of the network.
        rate_hz: ticks per second, Hz.
        duration_s: motion length for ``motion_phase``, s, or None.

    Raises:
        InputError: a term that is unknown, or that this robot or policy cannot have.
    """

    def __init__(
        self,
        robot: RobotSpec,
        terms: Sequence[TermConfig],
        *,
        action_joints: Sequence[str],
        action_size: int,
        rate_hz: float,
        duration_s: float | None,
    ) -> None:
        self._robot = robot
        self._action_size = action_size
        self._action_index = reorder_index(robot.joint_names, action_joints, "action joints")
        self._dt_s = 1.0 / rate_hz
        self._duration_s = duration_s
        self._columns: dict[tuple[str, float, tuple[str, ...] | None], slice] = {}
        self._writers: list[tuple[slice, _Write]] = []
        self._frame_size = 0
        picks: list[tuple[slice, range]] = []  # columns and ticks back, in the network's order
        for config in terms:
            if config.term == HISTORY:
                back = range(1, config.history + 1)
                picks += [(self._column(member), back) for member in config.terms]
            else:
                picks.append((self._column(config), range(config.history)))
        depth = max((back.stop for _, back in picks), default=1)
        self._frames: Float32 = np.zeros((depth, self._frame_size), dtype=np.float32)
        self._flat = self._frames.reshape(-1)
        self._slots = [(self._frames[0, columns], write) for columns, write in self._writers]
        self._index = np.array(
            [
                k * self._frame_size + i
                for columns, back in picks
                for k in back
                for i in range(columns.start, columns.stop)
            ],
            dtype=np.intp,
        )
        self.vector: Float32 = np.zeros((1, len(self._index)), dtype=np.float32)
        """The network's input, (1, size), filled in place by :meth:`build`."""
        self._row = self.vector[0]
        self.needs_command: bool = any(term in COMMAND_TERMS for term, _, _ in self._columns)
        """True if a term reads the command in force."""
        self.needs: tuple[str, ...] = tuple(
            sorted({NEEDS[term] for term, _, _ in self._columns if term in NEEDS})
        )
        """Fields of the observation that must be present."""

    @property
    def size(self) -> int:
        """Number of values in the network's input."""
        return len(self._index)

    def reset(self) -> None:
        """Forget all past ticks."""
        self._frames[:] = 0.0

    def build(self, observation: Observation, state: ActorState) -> None:
        """Take in one tick and refresh :attr:`vector`.

        Args:
            observation: the measurement of this tick.
            state: the actor's own past.

        Raises:
            InputError: the observation lacks a field that a term needs.
        """
        for name in self.needs:
            if getattr(observation, name) is None:
                raise InputError(
                    f"policy: expected {name} in each observation, but it is missing; "
                    "connect the topic that carries it"
                )
        if len(self._frames) > 1:
            self._frames[1:] = self._frames[:-1]
        for slot, write in self._slots:
            write(observation, state, slot)
        self._flat.take(self._index, out=self._row, mode="clip")

    def _column(self, config: TermConfig) -> slice:
        key = (config.term, config.scale, config.joints)
        if key not in self._columns:
            size, write = self._make(config)
            self._columns[key] = slice(self._frame_size, self._frame_size + size)
            self._writers.append((self._columns[key], write))
            self._frame_size += size
        return self._columns[key]

    def _make(self, config: TermConfig) -> tuple[int, _Write]:
        """Size and writer of one term; a writer computes in float64 and rounds once."""
        term, scale = config.term, config.scale
        if config.joints is not None and term not in JOINT_TERMS:
            raise InputError(
                f"observation term {term!r}: expected no joints, got some; "
                f"only {' and '.join(JOINT_TERMS)} take them"
            )
        if term in JOINT_TERMS:
            return self._joint_term(term, scale, config.joints)
        if term in COMMAND_TERMS:
            return self._command_term(term, scale)
        if term in ("base_ang_vel", "projected_gravity"):
            return self._base_term(term, scale)
        if term == "last_action":

            def last_action(_: Observation, state: ActorState, out: Float32) -> None:
                np.multiply(state.last_action, scale, out=out)

            return self._action_size, last_action
        if term == "goal_position":

            def goal(observation: Observation, _: ActorState, out: Float32) -> None:
                out[:] = observation.goal * scale  # type: ignore[operator]

            return 3, goal
        if term == "motion_phase":
            return 1, self._phase(scale)
        raise InputError(
            f"observation: expected a term out of {sorted([*TERMS, HISTORY])}, got {term!r}"
        )

    def _joint_term(
        self, term: str, scale: float, joints: tuple[str, ...] | None
    ) -> tuple[int, _Write]:
        names = self._robot.joint_names
        reorder_index(joints or names, (), f"observation term {term!r}")  # refuses duplicates
        index = reorder_index(names, joints or names, f"robot {self._robot.name}, term {term!r}")
        default = self._robot.default_rad[index]

        def joint_pos(observation: Observation, _: ActorState, out: Float32) -> None:
            out[:] = (observation.qpos_rad.take(index) - default) * scale

        def joint_vel(observation: Observation, _: ActorState, out: Float32) -> None:
            out[:] = observation.qvel_rad_s.take(index) * scale

        return len(index), joint_pos if term == "joint_pos" else joint_vel

    def _command_term(self, term: str, scale: float) -> tuple[int, _Write]:
        index = self._action_index
        default = self._robot.default_rad[index]

        def last_command(_: Observation, state: ActorState, out: Float32) -> None:
            out[:] = (state.command_rad - default) * scale

        def command_velocity(_: Observation, state: ActorState, out: Float32) -> None:
            out[:] = state.command_vel_rad_s * scale

        def tracking_error(observation: Observation, state: ActorState, out: Float32) -> None:
            out[:] = (state.command_rad - observation.qpos_rad[index]) * scale

        writers = dict(
            zip(COMMAND_TERMS, (last_command, command_velocity, tracking_error), strict=True)
        )
        return len(index), writers[term]

    def _base_term(self, term: str, scale: float) -> tuple[int, _Write]:
        if not self._robot.floating_base:
            raise InputError(
                f"observation term {term!r}: expected a robot with a floating base, got "
                f"{self._robot.name}; remove the term or use a policy for this robot"
            )

        def base_ang_vel(observation: Observation, _: ActorState, out: Float32) -> None:
            out[:] = observation.base_ang_vel_rad_s * scale  # type: ignore[operator]

        def gravity(observation: Observation, _: ActorState, out: Float32) -> None:
            x, y, z = projected_gravity(observation.base_quat_wxyz)  # type: ignore[arg-type]
            out[0], out[1], out[2] = x * scale, y * scale, z * scale

        return 3, base_ang_vel if term == "base_ang_vel" else gravity

    def _phase(self, scale: float) -> _Write:
        if not self._duration_s:
            raise InputError(
                "observation term 'motion_phase': expected duration_s (the motion length) in the "
                "checkpoint, got none; add it"
            )
        dt_s, duration_s = self._dt_s, self._duration_s

        def phase(_: Observation, state: ActorState, out: Float32) -> None:
            # Past the end it stays at 1, the largest phase that such a policy has ever seen.
            out[0] = min(state.tick * dt_s / duration_s, 1.0) * scale

        return phase
