"""Train a delta-action model by reinforcement learning, after ASAP (arXiv 2502.01143).

Environments begin at logged states, play the logged set-points plus the delta and are rewarded for
staying with the log. It is here to compare with: :mod:`sim2real.delta.train` solves for the delta.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from policies.rotation import rotation_vector
from sim2real.delta.data import Task, groups_of
from sim2real.delta.model import joint_indices
from sim2real.delta.ppo_model import PpoDelta, delta_of, observation_size, observe
from sim2real.episodes.episode import Episode
from sim2real.replay.log import Rows
from sim2real.rl.env import Float32, Inputs, Transition
from sim2real.rl.networks import GaussianActor, Mlp
from sim2real.rl.ppo import Ppo, PpoConfig
from sim2real.sim.batch import BatchStepper
from sim2real.sim.body_positions import BodyPositions
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import SimState

Progress = Callable[[str, float], None]
"""Called with what there is to say and the share of the budget that is used."""

_LIMIT_RAD = {"position": 0.1, "setpoint": 0.5}
_SHARPNESS = {"position": 1000.0, "setpoint": 1.0}
_LEAST_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class PpoDeltaConfig:
    """Settings of the training; the defaults are ASAP's where it has any, for a legged robot.

    Attributes:
        joints: joints that get a delta; none means all. ``_joint`` at the end may be left out.
        minutes: time for training, min.
        iterations: most rollouts; None for as many as the time allows.
        envs: robots side by side (ASAP: 5000).
        episode_s: length of an episode, s.
        limit_rad: bound on the delta, rad; None for 0.1 (arm) or 0.5 (legged robot). An action of
            1 is half of it.
        sharpness: factor on the errors in the reward; None for 1 (legged robot) or 1000 (arm,
            which drifts by millimetres, not centimetres).
        far_m: mean distance of the bodies from the log at which an episode ends, m.
        hidden: widths of the hidden layers of both networks.
        std: initial standard deviation of the actions.
        ppo: settings of the learner; its seed is replaced.
        seed: of everything random.
    """

    joints: tuple[str, ...] = ()
    minutes: float = 10.0
    iterations: int | None = None
    envs: int = 256
    episode_s: float = 1.0
    limit_rad: float | None = None
    sharpness: float | None = None
    far_m: float = 0.5
    hidden: tuple[int, ...] = (512, 256, 128)
    std: float = 0.8
    ppo: PpoConfig = field(default_factory=PpoConfig)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class PpoDeltaReport:
    """What happened in training.

    Attributes:
        iterations: rollouts.
        steps: control ticks simulated in all environments together.
        reward: mean reward of a second in the first and the last rollout.
        errors: error over up to 1 s of replay of the motions it was trained on, rad and m
            together, of the simulator alone (``open_loop``) and with the model (``ppo``).
    """

    iterations: int
    steps: int
    reward: tuple[float, float]
    errors: dict[str, float]


class Closeness:
    """The reward: how close bodies and joints are to the log, and how small the action is.

    Each part is ``weight * exp(-error / sigma)`` of a mean squared error per coordinate. Where the
    original compares the rotation and angular velocity of all bodies, this takes the base's.

    Args:
        robot: the robot.
        names: its bodies, in the order of positions.
        sharpness: factor on the errors.
    """

    ACTION_RATE, ACTION_NORM, FAR = 0.01, 0.1, 200.0

    def __init__(self, robot: RobotSpec, names: Sequence[str], sharpness: float) -> None:
        def having(*patterns: str) -> NDArray[np.intp]:
            return np.flatnonzero([any(fnmatch(n, p) for p in patterns) for n in names])

        lower = having("*hip*", "*knee*", "*ankle*") if robot.floating_base else having()
        upper = np.setdiff1d(np.arange(len(names)), lower)
        points = having(robot.ee_body) if robot.ee_body else having("head_link", "*_rubber_hand")
        feet = having("*ankle_roll*") if robot.floating_base else having()
        share = 0.5 if len(lower) else 1.0
        groups = [(share, 0.03, upper), (share, 0.1, lower), (1.0, 0.03, points), (1.0, 0.03, feet)]
        self._groups = [group for group in groups if len(group[2])]
        self._sharpness = sharpness

    def __call__(
        self, state: SimState, logged: SimState, apart_m: Float, apart_m_s: Float
    ) -> Float:
        """Sum of the parts.

        Args:
            state: simulated states, arrays (B, ...).
            logged: logged states, arrays (B, ...).
            apart_m: differences of body positions, (B, bodies, 3), m.
            apart_m_s: differences of body velocities, (B, bodies, 3), m/s.

        Returns:
            (B,), per tick.
        """
        parts = [(weight, sigma, apart_m[:, ids]) for weight, sigma, ids in self._groups]
        parts += [
            (0.5, 1.0, apart_m_s),
            (0.5, 1.0, state.qpos_rad - logged.qpos_rad),
            (0.5, 1.0, state.qvel_rad_s - logged.qvel_rad_s),
        ]
        if state.base_quat_wxyz is not None and logged.base_quat_wxyz is not None:
            parts.append((0.5, 1.0, rotation_vector(state.base_quat_wxyz, logged.base_quat_wxyz)))
        if state.base_ang_vel_rad_s is not None and logged.base_ang_vel_rad_s is not None:
            parts.append((0.5, 1.0, state.base_ang_vel_rad_s - logged.base_ang_vel_rad_s))
        out = np.zeros(len(apart_m))
        for weight, sigma, difference in parts:
            error = (difference.reshape(len(out), -1) ** 2).mean(axis=1)
            out += weight * np.exp(-self._sharpness * error / sigma)
        return out


class DeltaEnv:
    """B robots that play the log with the learner's delta on top.

    Args:
        task: the log in a simulator.
        joints: indices of the joints that get a delta.
        limit_rad: bound on the delta, rad; an action of 1 is half of it.
        config: settings.
    """

    def __init__(
        self, task: Task, joints: list[int], limit_rad: float, config: PpoDeltaConfig
    ) -> None:
        self._task, self._joints, self._config = task, joints, config
        self._limit_rad = limit_rad
        robot, log = task.robot, task.log
        self._bodies = BodyPositions(robot)
        self._logged_m = self._bodies(log.state)
        sharpness = config.sharpness or _SHARPNESS[robot.command]
        self._closeness = Closeness(robot, self._bodies.names, sharpness)
        self._ticks = max(round(config.episode_s * log.rate_hz), 1)
        self._starts = log.steps()
        self._rng = np.random.default_rng([config.seed, 5])
        self._row = np.zeros(config.envs, dtype=np.intp)
        self._end = np.zeros(config.envs, dtype=np.intp)
        self._action = np.zeros((config.envs, len(joints)))
        self._state = log.state.map(lambda x: x[self._row])
        self._body_m = self._logged_m[self._row]
        self.reset()
        critic = self._inputs().critic.shape[1]
        self.sizes = (observation_size(robot), critic, len(joints))

    @property
    def count(self) -> int:
        """Number of environments B."""
        return self._config.envs

    def reset(self) -> Inputs:
        """Begin a new episode in every environment."""
        self._begin(np.arange(self.count))
        return self._inputs()

    def step(self, action: Float32) -> Transition:
        """Play one logged set-point, with the delta of an action (B, joints)."""
        task, log, rate_hz = self._task, self._task.log, self._task.log.rate_hz
        delta = np.zeros((self.count, 1, task.robot.n))
        wanted = action.astype(np.float64)
        delta[:, 0, self._joints] = delta_of(wanted, self._limit_rad / 2.0, self._limit_rad)
        sent = log.setpoint_rad[log.before(self._row, task.stepper.delay_ticks)]
        target = log.setpoint_rad[self._row][:, None]
        state = task.stepper.step(self._state, target, sent, delta).map(lambda x: x[:, 0])
        body_m, following = self._bodies(state), self._row + 1
        logged = log.state.map(lambda x: x[following])
        apart = body_m - self._logged_m[following]
        before = self._body_m - self._logged_m[self._row]
        close = self._closeness(state, logged, apart, rate_hz * (apart - before))
        distance = np.linalg.norm(apart, axis=-1).mean(axis=-1)
        terminated = ~(distance <= self._config.far_m)
        change = ((action - self._action) ** 2).sum(axis=1)
        reward = close - self._closeness.ACTION_RATE * change
        reward -= self._closeness.ACTION_NORM * np.linalg.norm(action, axis=1)
        reward -= self._closeness.FAR * terminated
        self._row, self._state, self._body_m = following, state, body_m
        self._action = wanted
        truncated = (following >= self._end) & ~terminated
        ended = np.flatnonzero(terminated | truncated)
        # At the end of an episode the log has no set-point that could be played; what is in force
        # there completes the observation whose value the learner asks for.
        final = self._inputs()
        self._begin(ended)
        return Transition(
            inputs=self._inputs() if len(ended) else final,
            reward=(reward / rate_hz).astype(np.float32),
            terminated=terminated,
            truncated=truncated,
            final_critic=final.critic,
            metrics={"distance_mm": 1e3 * float(distance.mean())},
        )

    def _begin(self, envs: Rows) -> None:
        """New episodes in some environments, each at a random row of the log."""
        log = self._task.log
        rows = self._rng.choice(self._starts, size=len(envs))
        self._row[envs] = rows
        self._end[envs] = np.minimum(rows + self._ticks, log.last[rows])
        self._action[envs] = 0.0
        self._body_m[envs] = self._logged_m[rows]
        for name, array in vars(self._state).items():
            if array is not None:
                array[envs] = getattr(log.state, name)[rows]

    def _inputs(self) -> Inputs:
        task, root = self._task, self._bodies.root
        actor = observe(task.robot, self._state, task.motor[self._row])
        logged_m, here = self._logged_m[self._row], self._body_m[:, root : root + 1]
        seen = (actor, self._action, logged_m - self._body_m, logged_m - here)
        parts = [x.reshape(self.count, -1) for x in seen]
        return Inputs(
            actor=actor.astype(np.float32),
            critic=np.concatenate(parts, axis=1).astype(np.float32),
        )


def train_ppo_delta(
    episodes: Sequence[Episode],
    robot: RobotSpec,
    *,
    config: PpoDeltaConfig | None = None,
    simulator: Gap | None = None,
    progress: Progress | None = None,
) -> tuple[PpoDelta, PpoDeltaReport]:
    """Train a delta-action model on logged episodes by reinforcement learning.

    Args:
        episodes: logs of ``robot``, all at one rate; all of them are trained on.
        robot: the robot.
        config: see :class:`PpoDeltaConfig`.
        simulator: the simulator to correct; None for nominal.
        progress: called after each rollout.

    Returns:
        The model and a report; the same input, seed and ``iterations`` give the same model on one
        machine as long as the time does not end the training.

    Raises:
        InputError: episodes of another robot, damaged or too few; unknown joints; bad config.
    """
    config = config or PpoDeltaConfig()
    _check(config)
    log, groups = groups_of(episodes, robot, _LEAST_STEPS)
    joints = joint_indices(robot, config.joints)
    limit_rad = config.limit_rad or _LIMIT_RAD[robot.command]
    with BatchStepper(robot, simulator, rate_hz=log.rate_hz) as stepper:
        task = Task(robot=robot, log=log, groups=groups, stepper=stepper, seed=config.seed)
        env = DeltaEnv(task, joints, limit_rad, config)
        inputs, privileged, outputs = env.sizes
        mean = Mlp([inputs, *config.hidden, outputs], seed=config.seed)
        critic = Mlp([privileged, *config.hidden, 1], seed=config.seed + 1)
        settings = replace(config.ppo, seed=config.seed)
        learner = Ppo(env, GaussianActor(mean, config.std), critic, settings)
        rewards = _learn(learner, config, progress or (lambda text, share: None))
        model = PpoDelta(
            robot=robot,
            rate_hz=log.rate_hz,
            joints=tuple(robot.joint_names[i] for i in joints),
            hidden=config.hidden,
            scale_rad=limit_rad / 2.0,
            limit_rad=limit_rad,
            weights=_weights(mean),
            simulator=simulator or Gap(),
            training={"method": "ppo", "seed": config.seed, "iterations": learner.iteration},
        )
        kinds = np.unique(groups)
        errors = {
            name: float(np.mean([task.replay_error(one, int(group)) for group in kinds]))
            for name, one in (("open_loop", None), ("ppo", model))
        }
    return model, PpoDeltaReport(
        iterations=learner.iteration,
        steps=learner.iteration * settings.steps * config.envs,
        reward=(rewards[0] * log.rate_hz, rewards[-1] * log.rate_hz),
        errors=errors,
    )


def _learn(learner: Ppo, config: PpoDeltaConfig, report: Progress) -> list[float]:
    """Iterate until time or count are used up; returns the mean reward of each rollout."""
    begin, share, rewards = time.monotonic(), 0.0, list[float]()
    while share < 1.0:
        stats = learner.iterate()
        rewards.append(stats.reward)
        share = (time.monotonic() - begin) / 60.0 / config.minutes
        if config.iterations:
            share = max(share, learner.iteration / config.iterations)
        away = stats.metrics["distance_mm"]
        report(f"rollout {learner.iteration}, {away:.1f} mm from the log", min(share, 1.0))
    return rewards


def _weights(mean: Mlp) -> dict[str, Float]:
    weights, biases = mean.arrays()
    out = {f"w{i}": weight.astype(np.float64) for i, weight in enumerate(weights)}
    return out | {f"b{i}": bias.astype(np.float64) for i, bias in enumerate(biases)}


def _check(config: PpoDeltaConfig) -> None:
    wrong = [
        name
        for name in ("minutes", "envs", "episode_s", "far_m", "std")
        if not 0.0 < getattr(config, name) < np.inf
    ]
    if config.iterations is not None and config.iterations < 1:
        wrong.append("iterations")
    if config.limit_rad is not None and not 0.0 < config.limit_rad < np.pi:
        wrong.append("limit_rad")
    if config.sharpness is not None and not 0.0 < config.sharpness < np.inf:
        wrong.append("sharpness")
    if not all(0 < width <= 4096 for width in config.hidden):
        wrong.append("hidden")
    if wrong:
        raise InputError(
            f"expected positive training settings, got others for {wrong}; correct them"
        )
