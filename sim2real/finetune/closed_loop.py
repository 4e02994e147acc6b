"""An actor in closed loop with many simulated robots, in the order of events of a real run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.actor.config import ActorConfig
from policies.actor.onnx_actor import pose_array
from policies.interface import Float, reorder_index
from sim2real.finetune.actor import check_trainable
from sim2real.finetune.observation import BatchObservation
from sim2real.finetune.simulator import Past, Simulator, join
from sim2real.replay.open_loop import History
from sim2real.rl.env import Float32
from sim2real.sim.stepper import SimState, default_state

Rows = NDArray[np.intp]
Act = Callable[[Float32], Float32]
"""Observation vectors (B, inputs) -> raw actions (B, outputs)."""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything that B running episodes consist of; enough to go on from there.

    Attributes:
        tick: control ticks since the start of the motion, (B,).
        state: robot states, arrays (B, ...).
        past: what the simulator remembers.
        frames: observation frames with the present one first, (B, depth, frame size).
        last_action: raw action of the tick before, (B, outputs).
    """

    tick: Rows
    state: SimState
    past: Past
    frames: Float32
    last_action: Float32

    def take(self, rows: Rows) -> Snapshot:
        """Some of the episodes."""
        return self._with([a[rows] for a in self._arrays()])

    def put(self, rows: Rows, other: Snapshot) -> Snapshot:
        """The same with the episodes ``rows`` replaced by those of ``other``."""
        arrays = [a.copy() for a in self._arrays()]
        for mine, theirs in zip(arrays, other._arrays(), strict=True):
            mine[rows] = theirs
        return self._with(arrays)

    @staticmethod
    def join(parts: Sequence[Snapshot]) -> Snapshot:
        """Episodes of several snapshots one after the other."""
        columns = zip(*(part._arrays() for part in parts), strict=True)
        return parts[0]._with([np.concatenate(column) for column in columns])

    def _arrays(self) -> list[NDArray[Any]]:
        history = self.past.history
        own: list[NDArray[Any]] = [
            self.tick,
            self.frames,
            self.last_action,
            self.past.sent_rad,
            self.past.fresh,
        ]
        own += [history.qpos_rad, history.qvel_rad_s, history.setpoint_rad]
        return own + [a for a in vars(self.state).values() if a is not None]

    def _with(self, arrays: list[NDArray[Any]]) -> Snapshot:
        names = [name for name, a in vars(self.state).items() if a is not None]
        tick, frames, last_action, sent, fresh, qpos, qvel, setpoint, *state = arrays
        return Snapshot(
            tick=tick,
            state=SimState(**dict(zip(names, state, strict=True))),
            past=Past(
                history=History(qpos_rad=qpos, qvel_rad_s=qvel, setpoint_rad=setpoint),
                sent_rad=sent,
                fresh=fresh,
            ),
            frames=frames,
            last_action=last_action,
        )


class ClosedLoop:
    """Runs an actor's description (observation, action, start) on a batched simulator.

    Args:
        config: the actor's description.
        simulator: B robots.

    Raises:
        InputError: a policy of another robot or rate, or of a kind that cannot be fine-tuned.

    Attributes:
        ticks: control ticks in the motion.
        joints: indices of the joints that the policy commands.
    """

    def __init__(self, config: ActorConfig, simulator: Simulator) -> None:
        check_trainable(config, f"policy {config.name!r}")
        robot = simulator.robot
        what = f"policy {config.name!r}"
        self.config, self.robot, self.simulator = config, robot, simulator
        self.observation = BatchObservation(config, robot)
        self.joints: Rows = reorder_index(robot.joint_names, config.action.joints, what)
        self.ticks = round((config.duration_s or 0.0) * config.rate_hz)
        self._start_rad = pose_array(config.start_pose_rad, robot, what)
        self._hold = np.array(robot.default_rad)
        for name, value in config.hold_pose_rad.items():
            self._hold[robot.joint_names.index(name)] = value

    def start(self, count: int, rng: np.random.Generator, noise_rad: float) -> Snapshot:
        """Episodes at the start pose, with noise of that deviation on the joints."""
        robot = self.robot
        pose = self._start_rad + rng.normal(0.0, noise_rad, (count, robot.n))
        pose = np.clip(pose, robot.lower_rad, robot.upper_rad)
        state = join([default_state(robot, row).map(lambda x: x[None]) for row in pose])
        action = np.zeros((count, len(self.joints)), dtype=np.float32)
        tick = np.zeros(count, dtype=np.intp)
        frames = self.observation.push(
            self.observation.empty(count), state, action, tick.astype(np.float64)
        )
        return Snapshot(
            tick=tick,
            state=state,
            past=self.simulator.past(state),
            frames=frames,
            last_action=action,
        )

    def vector(self, now: Snapshot) -> Float32:
        """What the actor sees, (B, inputs)."""
        return self.observation.vector(now.frames)

    def command(self, action: Float32) -> Float:
        """Joint set-points of raw actions (B, outputs) -> (B, n), rad."""
        settings = self.config.action
        out = np.tile(self._hold, (len(action), 1))
        bounded = np.clip(action.astype(np.float64), -settings.clip, settings.clip)
        out[:, self.joints] = self.robot.default_rad[self.joints] + settings.scale * bounded
        return out

    def advance(self, now: Snapshot, action: Float32) -> tuple[Snapshot, Float, Float]:
        """One control tick: the next snapshot, the set-points and the deltas, (B, n), rad."""
        command = self.command(action)
        state, past, delta = self.simulator.step(now.state, command, now.past)
        tick = now.tick + 1
        frames = self.observation.push(now.frames, state, action, tick.astype(np.float64))
        after = Snapshot(tick=tick, state=state, past=past, frames=frames, last_action=action)
        return after, command, delta
