"""Train a delta-action model by inverse labelling and regression, with aggregation.

1. Label every logged step (:mod:`sim2real.delta.labels`).
2. Fit the ensemble to the labels; episodes held out decide when to stop.
3. Aggregate (after DAgger, arXiv 1011.0686): roll the simulator with the model, label the states
   that it drifts to so that they return to the log, fit again on both. The round with the smallest
   error on the held-out episodes is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from sim2real.delta.features import features
from sim2real.delta.fit import FitConfig, fit
from sim2real.delta.labels import LabelConfig, LabelStats, label_log, solve
from sim2real.delta.model import DeltaModel, joint_indices
from sim2real.episodes.episode import Episode
from sim2real.replay.log import Log, Rows
from sim2real.replay.open_loop import History, at_motor, play
from sim2real.sim.batch import BatchStepper
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import SimState

Progress = Callable[[str, float], None]
"""Called with the stage (``label``, ``fit``, ``roll``) and the share of it that is done."""

_LIMIT_RAD = {"position": 0.1, "setpoint": 0.5}
_HORIZON_S = 1.0
_LEAST_STEPS = 100
_HISTORIES = (1, 3)


@dataclass(frozen=True, kw_only=True)
class DeltaConfig:
    """How a delta-action model is trained.

    Attributes:
        joints: joints that get a delta; none means all. ``_joint`` at the end may be left out.
        history: ticks of history that the model sees; None to fit once with each of 1 and 3 and
            keep what replays the held-out episodes better. A delay of the robot needs more than
            one tick, a legged robot's few episodes do not support more.
        hidden: widths of the hidden layers.
        ensemble: networks in the ensemble.
        epochs: most passes over the data.
        patience: epochs without progress on the held-out episodes before stopping.
        batch: samples per gradient step.
        lr: largest learning rate.
        weight_decay: of AdamW.
        input_noise: noise on standardised features while training; keeps the model calm on states
            that the log does not have.
        validation: share of the episodes held out.
        rounds: aggregation rounds after the first fit. None by default: the labels alone did as
            well on the arm and better on the legged robot, in half the time.
        pull: share of the drift from the log that a label undoes per tick.
        limit_rad: bound on the delta, rad; None for 0.1 (arm) or 0.5 (legged robot).
        ridge: cost of a delta, see :class:`sim2real.delta.labels.LabelConfig`.
        iterations: Gauss-Newton steps of the labels.
        label_ticks: control ticks that one label explains.
        seed: of initialisation, split, order and noise.
    """

    joints: tuple[str, ...] = ()
    history: int | None = None
    hidden: tuple[int, ...] = (256, 128)
    ensemble: int = 3
    epochs: int = 40
    patience: int = 15
    batch: int = 512
    lr: float = 2e-3
    weight_decay: float = 1e-3
    input_noise: float = 0.1
    validation: float = 0.15
    rounds: int = 0
    pull: float = 0.1
    limit_rad: float | None = None
    ridge: float = 0.3
    iterations: int = 2
    label_ticks: int = 1
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What happened in training.

    Attributes:
        labels: statistics of the labels.
        samples: labelled steps, logged and aggregated, in the last round.
        fit_loss, validation_loss: last losses of each round, in units of label variance.
        validation_rmse_rad: joint error after up to 1 s of replay on the held-out episodes: open
            loop, then each round.
        round: the round that was kept, 0 for the fit on the log alone.
        history: ticks of history of the model.
    """

    labels: LabelStats
    samples: int
    fit_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    validation_rmse_rad: tuple[float, ...]
    round: int
    history: int


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Training pairs.

    Attributes:
        inputs: features, (N, F).
        deltas: labels of the chosen joints, (N, m), rad.
        rows: row of the log that each belongs to, (N,).
    """

    inputs: Float
    deltas: Float
    rows: Rows

    def join(self, other: Samples) -> Samples:
        """Both together."""
        return Samples(
            inputs=np.concatenate([self.inputs, other.inputs]),
            deltas=np.concatenate([self.deltas, other.deltas]),
            rows=np.concatenate([self.rows, other.rows]),
        )


def train_delta(
    episodes: Sequence[Episode],
    robot: RobotSpec,
    *,
    config: DeltaConfig | None = None,
    simulator: Gap | None = None,
    progress: Progress | None = None,
) -> tuple[DeltaModel, TrainReport]:
    """Train a delta-action model on logged episodes.

    Args:
        episodes: logs of ``robot``, all at one rate; at least two, one of them is held out.
        robot: the robot.
        config: see :class:`DeltaConfig`.
        simulator: the simulator to correct, e.g. from system identification; None for nominal.
        progress: called as the work goes on.

    Returns:
        The model and a report; the same input and seed give the same model on one machine.

    Raises:
        InputError: episodes of another robot, damaged or too few; unknown joints; bad config.
    """
    config = config or DeltaConfig()
    log = Log.of(episodes, robot)
    _check(config, episodes, log)
    joints = np.array(joint_indices(robot, config.joints))
    labelling = LabelConfig(
        limit_rad=config.limit_rad or _LIMIT_RAD[robot.command],
        ridge=config.ridge,
        iterations=config.iterations,
        ticks=config.label_ticks,
    )
    held = _held_out(log, len(episodes), config)
    report: Progress = progress or (lambda stage, share: None)
    with BatchStepper(robot, simulator, rate_hz=log.rate_hz) as stepper:
        rows, deltas, stats = label_log(
            stepper, log, joints, labelling, lambda share: report("label", share)
        )
        choices = _HISTORIES if config.history is None else (config.history,)
        candidates = [
            _train(
                _Task(robot, log, stepper, simulator, joints, labelling, config, history, held),
                rows,
                deltas[:, joints],
                stats,
                report,
            )
            for history in choices
        ]
    return min(candidates, key=lambda c: min(c[1].validation_rmse_rad[1:]))


def _train(
    task: _Task, rows: Rows, deltas: Float, stats: LabelStats, report: Progress
) -> tuple[DeltaModel, TrainReport]:
    """Fit on the labels, then ``config.rounds`` times on what the model drifted into as well."""
    inputs = features(
        task.robot,
        task.log.state.map(lambda x: x[rows]),
        task.motor[rows],
        History.of(task.log, task.motor, rows, task.history),
    )
    samples = Samples(inputs=inputs, deltas=deltas, rows=rows)
    errors = [task.replay_error(None)]
    models: list[DeltaModel] = []
    losses: list[tuple[float, float]] = []
    for turn in range(task.config.rounds + 1):
        if turn:
            samples = samples.join(task.aggregate(models[-1], lambda share: report("roll", share)))
        model, loss = task.fit(samples, lambda share: report("fit", share))
        models.append(model)
        losses.append(loss)
        errors.append(task.replay_error(model))
    best = int(np.argmin(errors[1:]))
    return models[best], TrainReport(
        labels=stats,
        samples=len(samples.rows),
        fit_loss=tuple(x[0] for x in losses),
        validation_loss=tuple(x[1] for x in losses),
        validation_rmse_rad=tuple(errors),
        round=best,
        history=task.history,
    )


def _check(config: DeltaConfig, episodes: Sequence[Episode], log: Log) -> None:
    if len(episodes) < 2 or len(log.steps()) < _LEAST_STEPS:
        raise InputError(
            f"expected at least 2 episodes and {_LEAST_STEPS} control ticks to train on, got "
            f"{len(episodes)} with {len(log.steps())}; record more"
        )
    positive = ("ensemble", "epochs", "batch", "lr", "iterations", "label_ticks", "ridge")
    wrong = [name for name in positive if not getattr(config, name) > 0]
    wrong += [name for name in ("history", "rounds") if (getattr(config, name) or 0) < 0]
    wrong += [name for name in ("validation", "pull") if not 0.0 < getattr(config, name) < 1.0]
    if not all(0 < width <= 4096 for width in config.hidden):
        wrong.append("hidden")
    if config.limit_rad is not None and not 0.0 < config.limit_rad < np.pi:
        wrong.append("limit_rad")
    if wrong:
        raise InputError(
            f"expected positive training settings, got others for {wrong}; correct them"
        )


def _held_out(log: Log, episodes: int, config: DeltaConfig) -> Rows:
    """First rows of the held-out episodes."""
    firsts = np.unique(log.first)
    count = min(max(round(config.validation * episodes), 1), episodes - 1)
    return np.sort(np.random.default_rng(config.seed).permutation(firsts)[:count])


class _Task:
    """One log, one split, one simulator: fit, roll and judge models on them."""

    def __init__(
        self,
        robot: RobotSpec,
        log: Log,
        stepper: BatchStepper,
        simulator: Gap | None,
        joints: Rows,
        labelling: LabelConfig,
        config: DeltaConfig,
        history: int,
        held: Rows,
    ) -> None:
        self.robot, self.log, self.stepper = robot, log, stepper
        self.simulator, self.motor = simulator or Gap(), at_motor(stepper, log)
        self.joints, self.labelling, self.config = joints, labelling, config
        longest = int((log.last - log.first).max())
        self.ticks = min(round(_HORIZON_S * log.rate_hz), longest)
        starts = log.windows(max(self.ticks // 2, 1), 1)
        outside = np.isin(log.first[starts], held)
        self.train_starts, self.held_starts = starts[~outside], starts[outside]
        self.held, self.history = held, history

    def fit(
        self, samples: Samples, progress: Callable[[float], None]
    ) -> tuple[DeltaModel, tuple[float, float]]:
        """A new ensemble on ``samples``, and its losses on both parts."""
        c = self.config
        outside = np.isin(self.log.first[samples.rows], self.held)
        settings = FitConfig(
            hidden=c.hidden,
            ensemble=c.ensemble,
            epochs=c.epochs,
            patience=c.patience,
            batch=c.batch,
            lr=c.lr,
            weight_decay=c.weight_decay,
            input_noise=c.input_noise,
            seed=c.seed,
        )
        weights, losses = fit(samples.inputs, samples.deltas, outside, settings, progress)
        model = DeltaModel(
            robot=self.robot,
            rate_hz=self.log.rate_hz,
            joints=tuple(self.robot.joint_names[i] for i in self.joints),
            history=self.history,
            hidden=c.hidden,
            members=c.ensemble,
            limit_rad=self.labelling.limit_rad,
            weights=weights,
            simulator=self.simulator,
            training={"method": "inverse", "seed": c.seed, "samples": len(samples.rows)},
        )
        return model, losses

    def replay_error(self, model: DeltaModel | None) -> float:
        """Joint error over up to 1 s of replay on the held-out episodes, rad."""
        log, starts = self.log, self.held_starts
        states = play(self.stepper, log, starts, self.ticks, delta=model)
        real = np.arange(self.ticks + 1) <= log.left(starts)[:, None]
        ahead = log.ahead(starts, self.ticks)
        error = _error(states, log.state.map(lambda x: x[ahead]))
        return float(np.sqrt((error[real] ** 2).mean()))

    def aggregate(self, model: DeltaModel, progress: Callable[[float], None]) -> Samples:
        """States that the model drifts to, with labels that lead back to the log."""
        log, config = self.log, self.config
        starts = np.concatenate([self.train_starts, self.held_starts])
        states = play(
            self.stepper, log, starts, self.ticks, delta=model, progress=lambda s: progress(s / 2)
        )
        ahead = log.ahead(starts, self.ticks)
        # Each second tick: neighbours along a roll-out say nearly the same.
        window, tick = np.nonzero(np.arange(self.ticks) < log.left(starts)[:, None])
        chosen = (tick > 0) & (tick % 2 == window % 2)
        window, tick = window[chosen], tick[chosen]
        rows = ahead[window, tick]
        drifted = states.map(lambda x: x[window, tick])
        goal = _blend(
            log.state.map(lambda x: x[rows + 1]),
            drifted,
            log.state.map(lambda x: x[rows]),
            1.0 - config.pull,
        )
        delta, _, _ = solve(
            self.stepper,
            drifted,
            log.setpoint_rad[rows][:, None],
            log.setpoint_rad[log.before(rows, self.stepper.delay_ticks)],
            goal.map(lambda x: x[:, None]),
            self.joints,
            self.labelling,
            lambda s: progress(0.5 + s / 2),
        )
        inputs = features(
            self.robot,
            drifted,
            self.motor[rows],
            _rolled_history(log, self.motor, starts, states, window, tick, self.history),
        )
        return Samples(inputs=inputs, deltas=delta[:, self.joints], rows=rows)


def _error(states: SimState, logged: SimState) -> Float:
    """Joint and, for a legged robot, base position errors side by side, (..., n or n + 3)."""
    joints = states.qpos_rad - logged.qpos_rad
    if states.base_pos_m is None or logged.base_pos_m is None:
        return joints
    return np.concatenate([joints, states.base_pos_m - logged.base_pos_m], axis=-1)


def _blend(goal: SimState, drifted: SimState, logged: SimState, keep: float) -> SimState:
    """The logged next state, moved by the share ``keep`` of the present drift of the joints."""
    return SimState(
        **{
            **vars(goal),
            "qpos_rad": goal.qpos_rad + keep * (drifted.qpos_rad - logged.qpos_rad),
            "qvel_rad_s": goal.qvel_rad_s + keep * (drifted.qvel_rad_s - logged.qvel_rad_s),
        }
    )


def _rolled_history(
    log: Log, motor_rad: Float, starts: Rows, states: SimState, window: Rows, tick: Rows, ticks: int
) -> History:
    """What came before each tick of a roll-out: the log before its start, then the roll-out."""
    past = History.of(log, motor_rad, starts, ticks)
    ahead = log.ahead(starts, states.qpos_rad.shape[1] - 1)
    index = tick[:, None] + np.arange(ticks)

    def gather(before: Float, after: Float) -> Float:
        return np.concatenate([before, after], axis=1)[window[:, None], index]

    return History(
        qpos_rad=gather(past.qpos_rad, states.qpos_rad),
        qvel_rad_s=gather(past.qvel_rad_s, states.qvel_rad_s),
        setpoint_rad=gather(past.setpoint_rad, motor_rad[ahead]),
    )
