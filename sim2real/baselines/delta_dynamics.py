"""Delta dynamics: a learned residual on the simulator's next state, ASAP's strongest baseline.

``s' = f(s, a) + g(s, a)``: what one tick of the simulator gets wrong is regressed on the features,
history and data of the delta-action model, by the same networks. Nothing keeps the corrected state
physical: errors feed back through the simulator, feet may end up in the floor (arXiv 2502.01143
finds it good for a moment and worse than nothing in closed loop).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from policies.interface import Float, RobotSpec
from policies.rotation import rotate, rotate_inverse
from sim2real.delta.data import Task, groups_of
from sim2real.delta.features import features
from sim2real.delta.fit import FitConfig, fit
from sim2real.delta.model import ensemble
from sim2real.delta.train import DeltaConfig
from sim2real.episodes.episode import Episode
from sim2real.replay.open_loop import History
from sim2real.sim.batch import BatchStepper
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import SimState
from sim2real.sim.tangent import difference, displaced, tangent_size

_LEAST_STEPS = 100
_WINDOW = 1
_GAINS = (1.0, 0.5, 0.25)


@dataclass(frozen=True, kw_only=True)
class DeltaDynamics:
    """A residual on the next state; a function without state.

    Attributes:
        robot: the robot.
        rate_hz: control rate of the data it was trained on, Hz.
        history: ticks of history that it needs.
        gain: factor on the residual, chosen on held-out motions.
        weights: arrays of the ensemble.
        simulator: the simulator that it corrects.
    """

    robot: RobotSpec
    rate_hz: float
    history: int
    gain: float
    weights: Mapping[str, Float] = field(repr=False)
    simulator: Gap = field(default_factory=Gap)

    def __call__(
        self, state: SimState, setpoint_rad: Float, history: History, following: SimState
    ) -> SimState:
        """The corrected next state, where the simulator says ``following``, arrays (B, ...)."""
        inputs = features(self.robot, state, setpoint_rad, history)
        residual = self.gain * ensemble(self.weights, inputs).mean(axis=0)
        return displaced(following, _turned(self.robot, residual, state, rotate))


def train_delta_dynamics(
    episodes: Sequence[Episode],
    robot: RobotSpec,
    *,
    config: DeltaConfig | None = None,
    progress: Callable[[float], None] | None = None,
) -> DeltaDynamics:
    """Train a residual on logged episodes.

    Args:
        episodes: logs of ``robot``, all at one rate.
        robot: the robot.
        config: settings of the networks, as for a delta action.
        progress: called with the share of the work that is done.

    Raises:
        InputError: episodes of another robot, damaged or too few.
    """
    config = config or DeltaConfig()
    log, groups = groups_of(episodes, robot, _LEAST_STEPS)
    with BatchStepper(robot, rate_hz=log.rate_hz) as stepper:
        task = Task(robot=robot, log=log, groups=groups, stepper=stepper, seed=config.seed)
        rows = log.steps()
        state, setpoint, history = task.logged(rows, _WINDOW)
        simulated = stepper.step(state, log.setpoint_rad[rows][:, None]).map(lambda x: x[:, 0])
        wrong = difference(log.state.map(lambda x: x[rows + 1]), simulated)
        targets = _turned(robot, wrong, state, rotate_inverse)
        # Positions change little in a tick, velocities much: each counts in its own unit.
        unit = targets.std(axis=0) + 1e-9
        targets = targets / unit
        inputs = features(robot, state, setpoint, history)
        settings = FitConfig(
            hidden=config.hidden,
            ensemble=config.ensemble,
            epochs=config.epochs,
            patience=config.patience,
            batch=config.batch,
            lr=config.lr,
            weight_decay=config.weight_decay,
            input_noise=config.input_noise,
            seed=config.seed,
        )
        held = task.held[rows]
        done = progress or (lambda share: None)
        weights, passes = fit(inputs, targets, held, settings, lambda s: done(0.5 * s))
        blind = DeltaDynamics(
            robot=robot,
            rate_hz=log.rate_hz,
            history=_WINDOW,
            gain=1.0,
            weights={**weights, "unit": weights["unit"] * unit},
        )
        gain = min(_GAINS, key=lambda g: task.replay_error(residual=replace(blind, gain=g)))
    # Held-out motions have said when to stop and how much of it to take; now they teach as well.
    weights, _ = fit(
        inputs,
        targets,
        np.zeros(len(rows), bool),
        replace(settings, epochs=max(passes, 1)),
        lambda s: done(0.5 + 0.5 * s),
    )
    return replace(blind, gain=gain, weights={**weights, "unit": weights["unit"] * unit})


def _turned(
    robot: RobotSpec, change: Float, state: SimState, turn: Callable[[Float, Float], Float]
) -> Float:
    """A state difference with its world vectors turned by the base's attitude, (B, x)."""
    if not robot.floating_base or state.base_quat_wxyz is None:
        return change
    out = change.copy()
    for start in (0, tangent_size(robot) // 2):  # base position, base velocity
        out[:, start : start + 3] = turn(state.base_quat_wxyz, change[:, start : start + 3])
    return out
