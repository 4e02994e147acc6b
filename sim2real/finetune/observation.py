"""The observation of an actor for many robots at once.

The same terms, history and rounding as :class:`policies.processors.ObservationBuilder`, which
serves one robot on the real-time path; a test compares the two tick by tick.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from policies.actor.config import ActorConfig
from policies.errors import InputError
from policies.interface import Float, RobotSpec, reorder_index
from policies.processors import HISTORY, JOINT_TERMS, TermConfig
from sim2real.rl.env import Float32
from sim2real.sim.stepper import SimState

_TERMS = (*JOINT_TERMS, "base_ang_vel", "projected_gravity", "last_action", "motion_phase")
_Term = Callable[[SimState, Float32, Float], Float]


class BatchObservation:
    """Computes frames (the terms of one tick) and gathers the network's input from the last few.

    Args:
        config: the actor's description.
        robot: the robot.

    Raises:
        InputError: a term that cannot be computed for many robots at once.

    Attributes:
        depth: frames that the input reaches back, the present one included.
        frame_size: values in a frame.
        size: values in the network's input.
    """

    def __init__(self, config: ActorConfig, robot: RobotSpec) -> None:
        self._robot = robot
        self._outputs = len(config.action.joints)
        self._duration_s = config.duration_s
        self._dt_s = 1.0 / config.rate_hz
        self._columns: dict[tuple[str, float, tuple[str, ...] | None], slice] = {}
        self._terms: list[tuple[slice, float, _Term]] = []
        self.frame_size = 0
        picks: list[tuple[slice, range]] = []
        for term in config.observation:
            if term.term == HISTORY:
                back = range(1, term.history + 1)
                picks += [(self._column(member), back) for member in term.terms]
            else:
                picks.append((self._column(term), range(term.history)))
        self.depth = max((back.stop for _, back in picks), default=1)
        self._index = np.array(
            [
                k * self.frame_size + i
                for columns, back in picks
                for k in back
                for i in range(columns.start, columns.stop)
            ],
            dtype=np.intp,
        )
        self.size = len(self._index)

    def empty(self, count: int) -> Float32:
        """Frames of robots that have just been reset, (count, depth, frame_size)."""
        return np.zeros((count, self.depth, self.frame_size), dtype=np.float32)

    def push(
        self, frames: Float32, state: SimState, last_action: Float32, elapsed: Float
    ) -> Float32:
        """Take in one tick.

        Args:
            frames: the frames so far, newest first, (B, depth, frame_size).
            state: present states, arrays (B, ...).
            last_action: raw outputs of the network at the previous tick, (B, outputs).
            elapsed: control ticks since the reset, (B,).

        Returns:
            The frames with the present one first and the oldest gone.
        """
        out = np.empty_like(frames)
        out[:, 1:] = frames[:, :-1]
        for columns, scale, term in self._terms:
            out[:, 0, columns] = term(state, last_action, elapsed) * scale
        return out

    def vector(self, frames: Float32) -> Float32:
        """The network's input, (B, size)."""
        return frames.reshape(len(frames), -1)[:, self._index]

    def _column(self, config: TermConfig) -> slice:
        key = (config.term, config.scale, config.joints)
        if key not in self._columns:
            size, term = self._make(config)
            self._columns[key] = slice(self.frame_size, self.frame_size + size)
            self._terms.append((self._columns[key], config.scale, term))
            self.frame_size += size
        return self._columns[key]

    def _make(self, config: TermConfig) -> tuple[int, _Term]:
        """Size of a term, and what computes it before scaling, in float64."""
        robot, name = self._robot, config.term
        if name in JOINT_TERMS:
            names = robot.joint_names
            index = reorder_index(names, config.joints or names, f"observation term {name!r}")
            default = robot.default_rad[index]
            if name == "joint_pos":
                return len(index), lambda state, _, __: state.qpos_rad[:, index] - default
            return len(index), lambda state, _, __: state.qvel_rad_s[:, index]
        if name == "last_action":
            return self._outputs, lambda _, action, __: action.astype(np.float64)
        if name == "motion_phase" and self._duration_s:
            dt_s, duration_s = self._dt_s, self._duration_s
            return 1, lambda _, __, tick: np.minimum(tick * dt_s / duration_s, 1.0)[:, None]
        if name == "base_ang_vel" and robot.floating_base:
            return 3, lambda state, _, __: _present(state.base_ang_vel_rad_s)
        if name == "projected_gravity" and robot.floating_base:
            return 3, lambda state, _, __: projected_gravity(_present(state.base_quat_wxyz))
        raise InputError(
            f"observation term {name!r}: expected one out of {list(_TERMS)} that {robot.name} has; "
            "a policy with this term cannot be fine-tuned yet"
        )


def projected_gravity(quat_wxyz: Float) -> Float:
    """Unit gravity vectors in the base frame for orientations (B, 4) -> (B, 3)."""
    w, x, y, z = np.moveaxis(quat_wxyz, -1, 0)
    return np.stack(
        [2.0 * (w * y - x * z), -2.0 * (w * x + y * z), 1.0 - 2.0 * (w * w + z * z)], axis=-1
    )


def _present(array: Float | None) -> Float:
    if array is None:
        raise InputError("expected the base's state of a legged robot, got none")
    return array
