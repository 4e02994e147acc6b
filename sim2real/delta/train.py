"""Train a delta-action model: motor terms by multi-step errors, then networks on labels.

1. Linearise the simulator along the log (:mod:`sim2real.delta.linear`).
2. Fit the motor terms to multi-step errors; motions left out choose terms and regularisation
   (:mod:`sim2real.delta.fit_motor`).
3. Label what the terms do not explain (:mod:`sim2real.delta.labels`) and fit the networks to it.
4. Aggregate (after DAgger, arXiv 1011.0686): roll the simulator with the model, label the states
   that it drifts to so that they return to the log, fit again on both.
5. Replay held-out motions in the simulator: history, gain of the networks and round with the
   smallest error are kept. Networks that do not help there are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from sim2real.delta.data import Task, groups_of
from sim2real.delta.fit_motor import MotorFit, fit_motor
from sim2real.delta.labels import LabelConfig, LabelStats, label_log
from sim2real.delta.linear import linearise
from sim2real.delta.model import DeltaModel, joint_indices
from sim2real.delta.motor import TERMS
from sim2real.delta.networks import Samples, aggregate, fit_networks, samples_of
from sim2real.delta.trust import coordinates, ranges
from sim2real.episodes.episode import Episode
from sim2real.sim.batch import BatchStepper
from sim2real.sim.gaps import Gap

Progress = Callable[[str, float], None]
"""Called with the stage (``linearise``, ``motor``, ``fit``, ``roll``) and the share of it done."""

_LIMIT_RAD = {"position": 0.1, "setpoint": 0.5}
_HORIZONS_S = {"position": (0.12, 0.4), "setpoint": (0.08, 0.12)}
_LEAST_STEPS = 100
_WINDOWS = (1, 3)
_GAINS = (0.5, 1.0)
_WORTH = 0.95  # networks that gain less than this are left out: they cost time and generality


@dataclass(frozen=True, kw_only=True)
class DeltaConfig:
    """How a delta-action model is trained.

    Attributes:
        joints: joints that get a delta; none means all. ``_joint`` at the end may be left out.
        horizon_s: length of the windows that the motor terms are fitted to, s; None for the
            better of 0.08 and 0.12 s (legged robot: impacts soon rule longer ones) or of 0.12 and
            0.4 s (arm).
        networks: False for motor terms alone.
        window: ticks of history that the networks see; None for the better of 1 and 3 on held-out
            replay.
        hidden: widths of the hidden layers.
        ensemble: networks in the ensemble.
        epochs: most passes over the data.
        patience: epochs without progress on held-out data before stopping.
        batch: samples per gradient step.
        lr: largest learning rate.
        weight_decay: of AdamW.
        input_noise: noise on standardised features while training; keeps the networks calm on
            states that the log does not have.
        rounds: aggregation rounds after the first fit.
        pull: share of the drift from the log that a label undoes per tick.
        limit_rad: bound on the delta, rad; None for 0.1 (arm) or 0.5 (legged robot).
        ridge: cost of a label, see :class:`sim2real.delta.labels.LabelConfig`.
        iterations: Gauss-Newton steps of the labels.
        seed: of initialisation, split, order and noise.
    """

    joints: tuple[str, ...] = ()
    horizon_s: float | None = None
    networks: bool = True
    window: int | None = None
    hidden: tuple[int, ...] = (256, 128)
    ensemble: int = 3
    epochs: int = 40
    patience: int = 15
    batch: int = 512
    lr: float = 2e-3
    weight_decay: float = 1e-3
    input_noise: float = 0.1
    rounds: int = 0
    pull: float = 0.1
    limit_rad: float | None = None
    ridge: float = 0.3
    iterations: int = 3
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainReport:
    """What happened in training.

    Attributes:
        motor: the fitted motor terms.
        labels: statistics of the labels of what the motor terms leave.
        samples: labelled steps, logged and aggregated, in the last fit.
        errors: error after up to 1 s of replay on held-out motions, rad and m together: of the
            simulator alone (``open_loop``), with motor terms (``motor``), and with each candidate
            for the networks; nothing in them has seen that motion.
        chosen: the candidate that was kept, ``motor`` for no networks.
    """

    motor: MotorFit
    labels: LabelStats
    samples: int
    errors: dict[str, float]
    chosen: str


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
        episodes: logs of ``robot``, all at one rate. Episodes of one ``task`` count as one motion;
            motions are held out whole. A single long episode is cut into parts.
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
    log, groups = groups_of(episodes, robot, _LEAST_STEPS)
    _check(config)
    joints = joint_indices(robot, config.joints)
    limit_rad = config.limit_rad or _LIMIT_RAD[robot.command]
    labelling = LabelConfig(limit_rad=limit_rad, ridge=config.ridge, iterations=config.iterations)
    report: Progress = progress or (lambda stage, share: None)
    with BatchStepper(robot, simulator, rate_hz=log.rate_hz) as stepper:
        task = Task(robot=robot, log=log, groups=groups, stepper=stepper, seed=config.seed)
        linear = linearise(stepper, log, np.array(joints), lambda s: report("linearise", s))
        empty = _empty_model(task, joints, limit_rad, simulator or Gap(), config)

        def judge(parameters: Float, group: int) -> float:
            return task.replay_error(_moved(empty, parameters), group)

        motor = fit_motor(
            robot,
            log,
            task.motor,
            linear,
            joints,
            groups,
            _horizons(config, robot, task),
            judge,
            lambda s: report("motor", s),
        )
        base = _moved(empty, motor.parameters, terms=list(motor.terms))

        def labelled(model: DeltaModel) -> tuple[Samples, LabelStats]:
            drawn = model(*task.logged(linear.rows, model.history))
            deltas, stats = label_log(
                stepper, log, linear, np.array(joints), labelling, base_rad=drawn
            )
            return samples_of(task, linear, deltas[:, joints]), stats

        samples, labels = labelled(base)
        # What chooses the networks knows nothing of the held-out motion, the motor terms included.
        blind = _moved(empty, motor.left_out.get(task.held_group, motor.parameters))
        errors = {"open_loop": task.replay_error(None), "motor": task.replay_error(blind)}
        model, chosen, count = base, "motor", 0
        if config.networks:
            choice = _choose_networks(
                task, blind, labelled(blind)[0], labelling, config, errors, report
            )
            if choice is not None:
                chosen = choice.name
                model, count = _add_networks(task, base, samples, choice, labelling, config, report)
    return model, TrainReport(
        motor=motor, labels=labels, samples=count, errors=errors, chosen=chosen
    )


def _horizons(config: DeltaConfig, robot: RobotSpec, task: Task) -> list[int]:
    """Control ticks of the windows to try, within what the episodes have."""
    given = _HORIZONS_S[robot.command] if config.horizon_s is None else (config.horizon_s,)
    ticks = [int(np.clip(round(h * task.log.rate_hz), 1, task.ticks)) for h in given]
    return list(dict.fromkeys(ticks))


def _empty_model(
    task: Task, joints: list[int], limit_rad: float, simulator: Gap, config: DeltaConfig
) -> DeltaModel:
    """A model that adds nothing, with the ranges of the log."""
    state, setpoint, _ = task.logged(task.log.steps(), 0)
    low, high = ranges(coordinates(task.robot, state, setpoint))
    return DeltaModel(
        robot=task.robot,
        rate_hz=task.log.rate_hz,
        joints=tuple(task.robot.joint_names[i] for i in joints),
        window=1,
        hidden=config.hidden,
        members=config.ensemble,
        limit_rad=limit_rad,
        gain=0.0,
        spread=1.0,
        weights={"motor": np.zeros((task.robot.n, len(TERMS))), "low": low, "high": high},
        simulator=simulator,
        training={"method": "inverse", "seed": config.seed, "steps": len(task.log.steps())},
    )


def _moved(model: DeltaModel, parameters: Float, **training: object) -> DeltaModel:
    """The model with other motor terms."""
    return replace(
        model,
        weights={**model.weights, "motor": parameters},
        training={**model.training, **training},
    )


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """Networks that helped on a held-out motion."""

    name: str
    window: int
    gain: float
    rounds: int
    epochs: int
    spread: float


def _choose_networks(
    task: Task,
    blind: DeltaModel,
    labelled: Samples,
    labelling: LabelConfig,
    config: DeltaConfig,
    errors: dict[str, float],
    report: Progress,
) -> _Choice | None:
    """History, gain and rounds that replay the held-out motion best; None for no networks."""
    windows = _WINDOWS if config.window is None else (config.window,)
    best = None
    for window in windows:
        samples = labelled
        for turn in range(config.rounds + 1):
            model, epochs = fit_networks(
                task, blind, samples, window, config, lambda s: report("fit", s)
            )
            for gain in _GAINS:
                name = f"networks, history {window}, gain {gain:g}, round {turn}"
                error = task.replay_error(replace(model, gain=gain))
                if error < _WORTH * errors["motor"] and error < min(errors.values()):
                    best = _Choice(
                        name=name,
                        window=window,
                        gain=gain,
                        rounds=turn,
                        epochs=epochs,
                        spread=model.spread,
                    )
                errors[name] = error
            if turn < config.rounds:
                samples = samples.join(
                    aggregate(task, model, labelled, labelling, config.pull, report)
                )
    return best


def _add_networks(
    task: Task,
    base: DeltaModel,
    labelled: Samples,
    choice: _Choice,
    labelling: LabelConfig,
    config: DeltaConfig,
    report: Progress,
) -> tuple[DeltaModel, int]:
    """The chosen networks, now that the held-out motion may teach as well; number of samples."""
    samples, model = labelled, base
    for turn in range(choice.rounds + 1):
        if turn:
            samples = samples.join(aggregate(task, model, labelled, labelling, config.pull, report))
        model, _ = fit_networks(
            task,
            base,
            samples,
            choice.window,
            config,
            lambda s: report("fit", s),
            epochs=max(choice.epochs, 1),
        )
    return replace(model, gain=choice.gain, spread=choice.spread), len(samples.rows)


def _check(config: DeltaConfig) -> None:
    positive = ("ensemble", "epochs", "batch", "lr", "iterations", "ridge")
    wrong = [name for name in positive if not getattr(config, name) > 0]
    if config.horizon_s is not None and not 0.0 < config.horizon_s <= 10.0:
        wrong.append("horizon_s")
    wrong += [name for name in ("window", "rounds") if (getattr(config, name) or 0) < 0]
    if not 0.0 < config.pull < 1.0:
        wrong.append("pull")
    if not all(0 < width <= 4096 for width in config.hidden):
        wrong.append("hidden")
    if config.limit_rad is not None and not 0.0 < config.limit_rad < np.pi:
        wrong.append("limit_rad")
    if wrong:
        raise InputError(
            f"expected positive training settings, got others for {wrong}; correct them"
        )
