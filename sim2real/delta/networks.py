"""The networks of a delta-action model: samples, fits, and states that the model drifts to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from policies.interface import Float
from sim2real.delta.data import Task
from sim2real.delta.features import features
from sim2real.delta.fit import FitConfig, fit
from sim2real.delta.labels import LabelConfig, solve
from sim2real.delta.linear import Float32, Linearisation
from sim2real.delta.model import DeltaModel, joint_indices
from sim2real.delta.trust import usual_spread
from sim2real.replay.log import Rows
from sim2real.replay.open_loop import History, play
from sim2real.sim.stepper import SimState

if TYPE_CHECKING:
    from sim2real.delta.train import DeltaConfig

_WIDEST = 3  # ticks of history that samples carry; a fit takes what it wants of them


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Labelled states.

    Attributes:
        state: states, arrays (N, ...).
        history: ticks before each, (N, H, n).
        deltas: labels of the chosen joints, (N, m), rad.
        rows: row of the log that each belongs to, (N,).
        by_delta: derivative of the next state by the deltas there, (N, x, m).
    """

    state: SimState
    history: History
    deltas: Float
    rows: Rows
    by_delta: Float32

    def join(self, other: Samples) -> Samples:
        """Both together."""

        def both(a: Float, b: Float) -> Float:
            return np.concatenate([a, b])

        mine, theirs = vars(self.state), vars(other.state)
        past, later = vars(self.history), vars(other.history)
        return Samples(
            state=SimState(**{k: both(v, theirs[k]) for k, v in mine.items() if v is not None}),
            history=History(**{k: both(v, later[k]) for k, v in past.items()}),
            deltas=both(self.deltas, other.deltas),
            rows=np.concatenate([self.rows, other.rows]),
            by_delta=np.concatenate([self.by_delta, other.by_delta]),
        )


def samples_of(task: Task, linear: Linearisation, deltas: Float) -> Samples:
    """Samples of the logged states themselves."""
    state, _, history = task.logged(linear.rows, _WIDEST)
    return Samples(
        state=state, history=history, deltas=deltas, rows=linear.rows, by_delta=linear.by_delta
    )


def fit_networks(
    task: Task,
    base: DeltaModel,
    samples: Samples,
    window: int,
    config: DeltaConfig,
    progress: Callable[[float], None],
    *,
    epochs: int | None = None,
) -> tuple[DeltaModel, int]:
    """Fit an ensemble to labels.

    Args:
        task: log and split.
        base: the model that the networks come on top of.
        samples: what to learn.
        window: ticks of history that the networks see.
        config: settings.
        progress: called with the share of the work that is done.
        epochs: None to learn from what is not held out and stop by what is; a number of passes to
            learn from everything.

    Returns:
        The model with gain 1, and the number of passes that was best.
    """
    inputs = features(
        task.robot, samples.state, task.motor[samples.rows], samples.history.last(window)
    )
    held = task.held[samples.rows] if epochs is None else np.zeros(len(samples.rows), bool)
    settings = FitConfig(
        hidden=config.hidden,
        ensemble=config.ensemble,
        epochs=epochs or config.epochs,
        patience=config.patience,
        batch=config.batch,
        lr=config.lr,
        weight_decay=config.weight_decay,
        input_noise=config.input_noise,
        seed=config.seed,
    )
    weights, passes = fit(inputs, samples.deltas, held, settings, progress)
    model = replace(base, window=window, gain=1.0, weights={**base.weights, **weights})
    judged = samples.rows[held] if held.any() else samples.rows
    each = model.each(*task.logged(judged, model.history))
    return replace(model, spread=usual_spread(each, weights["unit"])), passes


def aggregate(
    task: Task,
    model: DeltaModel,
    labelled: Samples,
    config: LabelConfig,
    pull: float,
    progress: Callable[[str, float], None],
) -> Samples:
    """States that the model drifts to, with labels that lead back to the log.

    Args:
        task: log and simulator.
        model: the model to roll.
        labelled: samples of the log; their derivatives serve for the drifted states as well, each
            Gauss-Newton step is checked in the simulator.
        config: of the labels.
        pull: share of the drift that a label undoes per tick.
        progress: called with the stage and the share of it that is done.
    """
    log, starts, ticks = task.log, task.starts, task.ticks
    states = play(
        task.stepper, log, starts, ticks, delta=model, progress=lambda s: progress("roll", s)
    )
    ahead = log.ahead(starts, ticks)
    # Each second tick: neighbours along a roll-out say nearly the same.
    window, tick = np.nonzero(np.arange(ticks) < log.left(starts)[:, None])
    chosen = (tick > 0) & (tick % 2 == window % 2)
    window, tick = window[chosen], tick[chosen]
    rows = ahead[window, tick]
    drifted = states.map(lambda x: x[window, tick])
    goal = _blend(
        log.state.map(lambda x: x[rows + 1]), drifted, log.state.map(lambda x: x[rows]), 1.0 - pull
    )
    past = _rolled_history(task, starts, states, window, tick)
    joints = np.array(joint_indices(task.robot, model.joints))
    place = np.full(len(log.first), -1)
    place[labelled.rows] = np.arange(len(labelled.rows))
    by_delta = labelled.by_delta[place[rows]]
    motor = replace(model, gain=0.0)
    delta, _, _ = solve(
        task.stepper,
        drifted,
        log.setpoint_rad[rows],
        log.setpoint_rad[log.before(rows, task.stepper.delay_ticks)],
        goal,
        by_delta,
        joints,
        config,
        base_rad=motor(drifted, task.motor[rows], past),
    )
    return Samples(
        state=drifted, history=past, deltas=delta[:, joints], rows=rows, by_delta=by_delta
    )


def _blend(goal: SimState, drifted: SimState, logged: SimState, keep: float) -> SimState:
    """The logged next state, moved by the share ``keep`` of the present drift of the joints."""
    return replace(
        goal,
        qpos_rad=goal.qpos_rad + keep * (drifted.qpos_rad - logged.qpos_rad),
        qvel_rad_s=goal.qvel_rad_s + keep * (drifted.qvel_rad_s - logged.qvel_rad_s),
    )


def _rolled_history(
    task: Task, starts: Rows, states: SimState, window: Rows, tick: Rows
) -> History:
    """What came before each tick of a roll-out: the log before its start, then the roll-out."""
    past = History.of(task.log, task.motor, starts, _WIDEST)
    ahead = task.log.ahead(starts, states.qpos_rad.shape[1] - 1)
    index = tick[:, None] + np.arange(_WIDEST)

    def gather(before: Float, after: Float) -> Float:
        joined: Float = np.concatenate([before, after], axis=1)[window[:, None], index]
        return joined

    return History(
        qpos_rad=gather(past.qpos_rad, states.qpos_rad),
        qvel_rad_s=gather(past.qvel_rad_s, states.qvel_rad_s),
        setpoint_rad=gather(past.setpoint_rad, task.motor[ahead]),
    )
