"""Motion tracking as a vectorised environment: what PPO fine-tunes a policy in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.interface import Float
from policies.rotation import rotate_inverse
from sim2real.finetune.closed_loop import ClosedLoop, Rows, Snapshot
from sim2real.finetune.observation import projected_gravity
from sim2real.finetune.reference import Reference
from sim2real.finetune.rewards import RewardConfig, Tracking, penalty, tracking_reward
from sim2real.rl.env import Flags, Float32, Inputs, Transition
from sim2real.sim.body_positions import BodyPositions
from sim2real.sim.stepper import SimState
from sim2real.sim.virtual_robot import FALL_HEIGHT_M, FALL_TILT_RAD


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """Settings of the environment.

    Attributes:
        reward: weights of the reward.
        start_share: share of the episodes that begin at the start of the motion; the others
            begin somewhere on the way (reference state initialisation).
        start_noise_rad: noise on the joints at the start of the motion.
        far_m: mean distance of the bodies from the reference at which an episode ends, m.
        seed: of starts and noise.
    """

    reward: RewardConfig = field(default_factory=RewardConfig)
    start_share: float = 0.3
    start_noise_rad: float = 0.01
    far_m: float = 0.5
    seed: int = 0


class TrackingEnv:
    """B robots that track one motion with an actor's observation and action.

    Args:
        loop: the actor's description on a simulator.
        reference: the motion, at least ``loop.ticks`` long.
        on_the_way: episodes of the policy in the nominal simulator to begin from: they have the
            history of observations and actions that a bare reference state lacks.
        config: settings.
    """

    def __init__(
        self,
        loop: ClosedLoop,
        reference: Reference,
        on_the_way: Sequence[Snapshot],
        config: TrackingConfig | None = None,
    ) -> None:
        self.loop, self.reference = loop, reference
        self.config = config or TrackingConfig()
        self.tracking = Tracking(loop.robot, reference, loop.joints)
        self._bodies = BodyPositions(loop.robot)
        self._rng = np.random.default_rng(self.config.seed)
        inside = [s for s in on_the_way if 0 < s.tick[0] < loop.ticks - 1]
        self._bank = Snapshot.join(inside) if inside else None
        self._count = loop.simulator.count
        self._dynamics = loop.simulator.dynamics
        self._rate_hz = loop.config.rate_hz
        self._now = self._begin(self._count)
        self._body_m = self._bodies(self._now.state)
        privileged = self._critic(self._now, self._body_m, self._zero_deltas(), self._all())
        self.sizes = (loop.observation.size, privileged.shape[1], len(loop.joints))

    @property
    def count(self) -> int:
        """Number of environments B."""
        return self._count

    def reset(self) -> Inputs:
        """Begin a new episode in every environment."""
        self._now = self._begin(self._count)
        self._body_m = self._bodies(self._now.state)
        critic = self._critic(self._now, self._body_m, self._zero_deltas(), self._all())
        return Inputs(actor=self.loop.vector(self._now), critic=critic)

    def step(self, action: Float32) -> Transition:
        """Act once, (B, outputs)."""
        before = self._now
        now, command, delta = self.loop.advance(before, action)
        body_m = self._bodies(now.state)
        errors = self.tracking.errors(now.tick, now.state, body_m)
        feet = self.tracking.feet
        penalties = self.tracking.penalties(
            now.state,
            command + delta,
            # The first action of an episode has none before it.
            np.where(before.tick[:, None] > 0, action - before.last_action, 0.0),
            body_m[:, feet],
            body_m[:, feet] - self._body_m[:, feet],
        )
        far = self.distance(now.tick, body_m) > self.config.far_m
        terminated = far | fallen(now.state)
        truncated = (now.tick >= self.loop.ticks) & ~terminated
        weights = self.config.reward
        tracked = tracking_reward(weights, errors)
        reward = tracked - penalty(weights, penalties) - weights.fall * terminated
        critic = self._critic(now, body_m, delta, self._all())
        final = critic
        self._now, self._body_m = now, body_m
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            critic = self._restart(ended, critic)
        metrics = {f"error_{name}": float(value.mean()) for name, value in errors.items()}
        metrics |= {f"penalty_{name}": float(value.mean()) for name, value in penalties.items()}
        return Transition(
            inputs=Inputs(actor=self.loop.vector(self._now), critic=critic),
            # Per second, not per tick: returns stay of the order of 1.
            reward=(reward / self._rate_hz).astype(np.float32),
            terminated=terminated,
            truncated=truncated,
            final_critic=final,
            metrics=metrics | {"tracked": float(tracked.mean())},
        )

    def distance(self, tick: Rows, body_pos_m: Float) -> Float:
        """Mean distance of the bodies from the reference, (B,), m."""
        apart = body_pos_m - self.reference.body_pos_m[tick]
        return np.linalg.norm(apart, axis=-1).mean(axis=-1)

    def _restart(self, ended: Rows, critic: Float32) -> Float32:
        """Begin anew in some environments; returns the critic's inputs with theirs replaced."""
        self._now = self._now.put(ended, self._begin(len(ended)))
        fresh = self._now.take(ended)
        body_m = self._bodies(fresh.state)
        self._body_m[ended] = body_m
        out = critic.copy()
        out[ended] = self._critic(fresh, body_m, self._zero_deltas()[ended], ended)
        return out

    def _begin(self, count: int) -> Snapshot:
        """New episodes, some at the start of the motion, the others on the way."""
        settings = self.config
        out = self.loop.start(count, self._rng, settings.start_noise_rad)
        if self._bank is None:
            return out
        rows = np.flatnonzero(self._rng.random(count) >= settings.start_share)
        return out.put(
            rows, self._bank.take(self._rng.integers(len(self._bank.tick), size=len(rows)))
        )

    def _all(self) -> Rows:
        return np.arange(self._count)

    def _zero_deltas(self) -> Float:
        return np.zeros((self._count, self.loop.robot.n))

    def _critic(self, now: Snapshot, body_m: Float, delta: Float, rows: Rows) -> Float32:
        """What the critic sees of the episodes ``rows``: the truth that no sensor tells."""
        state, joints = now.state, self.loop.joints
        want = self.reference.state.map(lambda x: x[now.tick])
        parts: list[NDArray[Any]] = [
            (now.tick / self.loop.ticks)[:, None],
            now.last_action,
            (state.qpos_rad - self.loop.robot.default_rad)[:, joints],
            0.1 * state.qvel_rad_s[:, joints],
            (want.qpos_rad - state.qpos_rad)[:, joints],
            0.1 * (want.qvel_rad_s - state.qvel_rad_s)[:, joints],
            delta[:, joints],
            self._dynamics[rows],
        ]
        quat, linear, angular = (
            state.base_quat_wxyz,
            state.base_lin_vel_m_s,
            state.base_ang_vel_rad_s,
        )
        apart = self.reference.body_pos_m[now.tick] - body_m
        base = self.tracking.base(now.tick, state)
        if base is None or quat is None or linear is None or angular is None:
            parts.append(apart.reshape(len(apart), -1))
        else:
            local = rotate_inverse(np.repeat(quat[:, None], apart.shape[1], axis=1), apart)
            parts += [local.reshape(len(apart), -1), projected_gravity(quat)]
            parts += [rotate_inverse(quat, linear), 0.25 * angular, *base]
            parts.append(body_m[:, self.tracking.feet, 2])
            parts.append(body_m[:, self.reference.root, 2:])
        return np.concatenate(parts, axis=1).astype(np.float32)


def fallen(state: SimState) -> Flags:
    """Robots whose base is too low or tilted too far, (B,); the same bounds as in a real run."""
    if state.base_pos_m is None or state.base_quat_wxyz is None:
        return np.zeros(len(state.qpos_rad), dtype=bool)
    up = -projected_gravity(state.base_quat_wxyz)[:, 2]
    low: Flags = state.base_pos_m[:, 2] < FALL_HEIGHT_M
    return low | (up < np.cos(FALL_TILT_RAD))
