"""Fine-tune a policy by PPO in the simulator that moves like the robot (ASAP, arXiv 2502.01143).

The actor starts from the imported weights and keeps its observation and action; the delta-action
model is frozen inside the actuators. Every so often the actor runs the whole motion without noise
in the training simulator, and the best one so far is kept. The robot is never asked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from policies.actor.config import ActorConfig
from policies.checkpoint import Checkpoint
from policies.errors import InputError
from policies.interface import RobotSpec
from sim2real.delta.model import SavedDelta
from sim2real.finetune.actor import read_actor, write_actor
from sim2real.finetune.closed_loop import Act, ClosedLoop, Snapshot
from sim2real.finetune.reference import Reference
from sim2real.finetune.rewards import Tracking, tracking_reward
from sim2real.finetune.simulator import MakeSimulator, Randomization, Simulator, mujoco_simulator
from sim2real.finetune.tracking_env import TrackingConfig, TrackingEnv, fallen
from sim2real.rl.env import Float32
from sim2real.rl.networks import GaussianActor, Mlp
from sim2real.rl.ppo import Ppo, PpoConfig, Stats
from sim2real.sim.body_positions import BodyPositions
from sim2real.sim.gaps import Gap

Report = Callable[["Progress"], None]


def _ppo_defaults() -> PpoConfig:
    return PpoConfig(
        entropy=0.0, actor_lr=1e-4, target_kl=0.02, lr_range=(1e-6, 1e-3), critic_warmup=5
    )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """How a policy is fine-tuned.

    Attributes:
        minutes: time for training, min.
        iterations: updates after which it ends in any case; None for no such bound.
        envs: robots side by side.
        std: standard deviation of the raw actions at the start and the end of training: noise
            that finds a way around the fall hides, later on, what tracks better.
        critic_hidden: widths of the critic's hidden layers.
        randomization: ranges of random dynamics, None for the aligned simulator as it is.
        evaluate_every: updates between evaluations.
        evaluate_envs: episodes of an evaluation.
        keep_best: return the actor of the best evaluation; False for the last one. With random
            dynamics around the nominal simulator the given policy can well be the best, and
            a baseline that returns it would say nothing.
        ppo: settings of the learner.
        tracking: settings of the environment.
        seed: of everything random.
    """

    minutes: float = 20.0
    iterations: int | None = None
    envs: int = 256
    std: tuple[float, float] = (0.2, 0.1)
    critic_hidden: tuple[int, ...] = (256, 128)
    randomization: Randomization | None = None
    evaluate_every: int = 20
    evaluate_envs: int = 48
    keep_best: bool = True
    ppo: PpoConfig = field(default_factory=_ppo_defaults)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Score:
    """Noise-free runs of the whole motion in the training simulator.

    Attributes:
        success: share that neither falls nor leaves the reference.
        tracked: mean tracking reward of a tick, 0 to 1; nothing is earned after a failure.
        e_mpjpe_mm: mean body error relative to the root before a failure, mm.
    """

    success: float
    tracked: float
    e_mpjpe_mm: float


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One update.

    Attributes:
        iteration: updates so far.
        minutes: time so far, min.
        stats: what PPO reports.
        score: evaluation, if there was one.
        best: best score so far.
    """

    iteration: int
    minutes: float
    stats: Stats
    score: Score | None
    best: Score


@dataclass(frozen=True, kw_only=True)
class Finetuned:
    """The result.

    Attributes:
        config: the policy's description, with its provenance.
        model: content of policy.onnx.
        before, after: scores of the given and of the returned actor in the training simulator.
        iteration: update after which the returned actor was taken; 0 if none was better.
        iterations: updates in all.
        steps: control ticks simulated in training, all robots together.
    """

    config: ActorConfig
    model: bytes
    before: Score
    after: Score
    iteration: int
    iterations: int
    steps: int


def finetune(
    checkpoint: Checkpoint,
    robot: RobotSpec,
    reference: Reference,
    *,
    delta: SavedDelta | None = None,
    simulator: Gap | None = None,
    config: FinetuneConfig | None = None,
    report: Report | None = None,
    make: MakeSimulator = mujoco_simulator,
) -> Finetuned:
    """Fine-tune a policy.

    Args:
        checkpoint: the policy to start from.
        robot: its robot.
        reference: the motion to track, as long as the policy's.
        delta: frozen delta-action model, or None.
        simulator: dynamics without the delta; None for those that the delta was trained on.
        config: settings.
        report: called after each update.
        make: physics engine.

    Raises:
        InputError: policy, delta, reference and robot do not belong together; bad settings.
    """
    settings = config or FinetuneConfig()
    _check(settings)
    what = f"policy {checkpoint.config.name!r}"
    actor = GaussianActor(read_actor(checkpoint.model, what), settings.std[0])
    actor.log_std.requires_grad_(False)  # it follows a schedule
    rate_hz = checkpoint.config.rate_hz

    def world(count: int, seed: int) -> ClosedLoop:
        physics = Simulator(
            robot,
            count,
            rate_hz,
            delta=delta,
            base=simulator,
            randomization=settings.randomization,
            make=make,
            seed=seed,
        )
        return ClosedLoop(checkpoint.config, physics)

    train_loop = world(settings.envs, settings.seed)
    test_loop = world(settings.evaluate_envs, settings.seed)
    try:
        bank = on_the_way(checkpoint.config, robot, train_loop.simulator, actor_act(actor.mean))
        tracking = replace(settings.tracking, seed=settings.seed)
        env = TrackingEnv(train_loop, reference, bank, tracking)
        critic = Mlp([env.sizes[1], *settings.critic_hidden, 1], seed=settings.seed)
        learner = Ppo(env, actor, critic, replace(settings.ppo, seed=settings.seed))
        run = _Run(settings, learner, test_loop, reference, report)
        run.go()
    finally:
        train_loop.simulator.close()
        test_loop.simulator.close()
    facts = _provenance(checkpoint, reference, delta, train_loop.simulator, settings, run)
    name = checkpoint.config.name
    named = name if name.endswith("_finetuned") else f"{name}_finetuned"
    return Finetuned(
        config=replace(checkpoint.config, name=named, source=facts),
        model=write_actor(run.best_actor),
        before=run.first,
        after=run.best,
        iteration=run.best_iteration,
        iterations=learner.iteration,
        steps=learner.iteration * settings.ppo.steps * settings.envs,
    )


def actor_act(mean: Mlp) -> Act:
    """A network as a function on arrays."""
    device = mean.linears[0].weight.device

    def act(vector: Float32) -> Float32:
        with torch.no_grad():
            out: Float32 = mean(torch.from_numpy(vector).to(device)).cpu().numpy()
        return out

    return act


def on_the_way(
    config: ActorConfig,
    robot: RobotSpec,
    simulator: Simulator,
    act: Act,
    *,
    count: int = 16,
    noise_rad: float = 0.02,
) -> list[Snapshot]:
    """Episodes of the policy in the nominal simulator at every tick, for training to begin from.

    Args:
        config: the policy's description.
        robot: its robot.
        simulator: the training simulator: as much past is recorded as it needs.
        act: the policy.
        count: episodes.
        noise_rad: noise on their start poses.
    """
    keeps = (simulator.history, simulator.delay_ticks)
    nominal = Simulator(robot, count, config.rate_hz, keeps=keeps)
    try:
        loop = ClosedLoop(config, nominal)
        now = start = loop.start(count, np.random.default_rng(1), noise_rad)
        standing, out = np.ones(count, dtype=bool), []
        for _ in range(loop.ticks):
            down = fallen(now.state)
            standing &= ~down
            if not standing.any():
                break
            out.append(now.take(np.flatnonzero(standing)))
            now = now.put(np.flatnonzero(down), start.take(np.flatnonzero(down)))
            now = loop.advance(now, act(loop.vector(now)))[0]
    finally:
        nominal.close()
    return out


def evaluate(
    loop: ClosedLoop, reference: Reference, act: Act, tracking: TrackingConfig, *, seed: int = 0
) -> Score:
    """Run the whole motion once in every robot of ``loop``, without noise on the actions."""
    judge = Tracking(loop.robot, reference, loop.joints)
    bodies = BodyPositions(loop.robot)
    count = loop.simulator.count
    rng = np.random.default_rng([seed, 3])
    now = start = loop.start(count, rng, tracking.start_noise_rad)
    alive = np.ones(count, dtype=bool)
    tracked, error, ticks = 0.0, 0.0, 0
    for _ in range(loop.ticks):
        now = loop.advance(now, act(loop.vector(now)))[0]
        body_m = bodies(now.state)
        apart = body_m - reference.body_pos_m[now.tick]
        far = np.linalg.norm(apart, axis=-1).mean(axis=-1) > tracking.far_m
        failed = far | fallen(now.state)
        alive &= ~failed
        if not alive.any():
            break
        # Who failed begins anew, uncounted: a robot on the floor can shake itself to infinity.
        rows = np.flatnonzero(failed)
        now = now.put(rows, start.take(rows))
        reward = tracking_reward(tracking.reward, judge.errors(now.tick, now.state, body_m))
        relative = np.linalg.norm(apart - apart[:, reference.root, None], axis=-1).mean(axis=-1)
        tracked += float(reward[alive].sum())
        error += float(relative[alive].sum())
        ticks += int(alive.sum())
    return Score(
        success=float(alive.mean()),
        tracked=tracked / (count * loop.ticks),
        e_mpjpe_mm=1e3 * error / max(ticks, 1),
    )


class _Run:
    """The training loop: update, evaluate, remember the best."""

    def __init__(
        self,
        settings: FinetuneConfig,
        learner: Ppo,
        test_loop: ClosedLoop,
        reference: Reference,
        report: Report | None,
    ) -> None:
        self._settings, self._learner, self._loop = settings, learner, test_loop
        self._reference, self._report = reference, report
        self.first = self.best = self._score()
        self.best_iteration = 0
        self.best_actor = self._copy()

    def go(self) -> None:
        """Train until the time is up."""
        settings, learner = self._settings, self._learner
        begin, over = time.monotonic(), False
        while not over:
            stats = learner.iterate()
            minutes = (time.monotonic() - begin) / 60.0
            share = minutes / settings.minutes
            if settings.iterations:
                share = max(share, learner.iteration / settings.iterations)
            over = share >= 1.0
            first, last = np.log(settings.std)
            with torch.no_grad():
                learner.actor.log_std.fill_(first + min(share, 1.0) * (last - first))
            score = None
            if over or learner.iteration % settings.evaluate_every == 0:
                score = self._score()
                if score.tracked > self.best.tracked or (over and not settings.keep_best):
                    self.best, self.best_iteration = score, learner.iteration
                    self.best_actor = self._copy()
            if self._report:
                self._report(
                    Progress(
                        iteration=learner.iteration,
                        minutes=minutes,
                        stats=stats,
                        score=score,
                        best=self.best,
                    )
                )

    def _score(self) -> Score:
        settings = self._settings
        act = actor_act(self._learner.actor.mean)
        return evaluate(self._loop, self._reference, act, settings.tracking, seed=settings.seed)

    def _copy(self) -> Mlp:
        mean = self._learner.actor.mean
        return Mlp.of(*mean.arrays(), mean.activation)


def _provenance(
    checkpoint: Checkpoint,
    reference: Reference,
    delta: SavedDelta | None,
    simulator: Simulator,
    settings: FinetuneConfig,
    run: _Run,
) -> dict[str, str]:
    """Where the new policy comes from, as text by key."""
    base = simulator.gaps[0].name if settings.randomization is None else "random dynamics"
    facts: dict[str, Any] = {
        "format": "realign finetune",
        "parent": checkpoint.config.name,
        "parent_sha256": checkpoint.sha256,
        "reference": reference.name,
        "simulator": base,
        "delta": "none"
        if delta is None
        else f"{delta.members} networks, {len(delta.joints)} joints",
        "seed": settings.seed,
        "iteration": run.best_iteration,
        "tracked": f"{run.first.tracked:.4f} before, {run.best.tracked:.4f} after",
    }
    origin = {f"parent_{k}": v for k, v in checkpoint.config.source.items() if k != "format"}
    return {key: str(value) for key, value in {**origin, **facts}.items()}


def _check(settings: FinetuneConfig) -> None:
    positive = ("minutes", "envs", "evaluate_every", "evaluate_envs")
    wrong = [name for name in positive if not getattr(settings, name) > 0]
    if not min(settings.std) > 0.0:
        wrong.append("std")
    if settings.iterations is not None and settings.iterations < 1:
        wrong.append("iterations")
    if wrong:
        raise InputError(
            f"expected positive settings for fine-tuning, got others for {wrong}; correct them"
        )
