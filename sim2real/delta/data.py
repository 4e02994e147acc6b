"""One log for training: motions, the split between them, one simulator to judge models in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from sim2real.episodes.episode import Episode
from sim2real.episodes.pieces import FEWEST_MOTIONS, motions, pieces
from sim2real.replay.log import Log, Rows
from sim2real.replay.open_loop import DeltaAction, History, Residual, at_motor, play
from sim2real.sim.batch import BatchStepper
from sim2real.sim.stepper import SimState

_HORIZON_S = 1.0
_WORST = 10.0
_MOST_GROUPS = 6


def groups_of(
    episodes: Sequence[Episode], robot: RobotSpec, least_steps: int
) -> tuple[Log, NDArray[np.intp]]:
    """Join episodes and say which motion each row belongs to.

    Episodes with the same ``task`` are one motion. Where there are fewer than three tasks, each
    episode is one; where there are fewer than three episodes, they are cut into parts.

    Returns:
        The log, and the motion of each row, (N,), numbers from 0 up to at most 6 motions.

    Raises:
        InputError: too little data, see also :meth:`Log.of`.
    """
    have = sum(max(len(e) - 1, 0) for e in episodes)
    if have < least_steps:
        rate_hz = episodes[0].rate_hz if episodes else robot.control_rate_hz
        raise InputError(
            f"expected at least {least_steps} control ticks ({least_steps / rate_hz:g} s) to train "
            f"on, got {have}; record more"
        )
    Log.of(episodes, robot)  # says what is wrong with an episode before it is cut
    if len(episodes) < FEWEST_MOTIONS:
        total = sum((len(e) - 1) / e.rate_hz for e in episodes)
        episodes = pieces(episodes, total / (FEWEST_MOTIONS + 1))
    tasks = motions(episodes)
    numbers = {task: i % _MOST_GROUPS for i, task in enumerate(dict.fromkeys(tasks))}
    log = Log.of(episodes, robot)
    groups = np.repeat([numbers[task] for task in tasks], [len(e) for e in episodes])
    return log, groups


class Task:
    """One log, one split, one simulator.

    Args:
        robot: the robot.
        log: episodes.
        groups: motion of each row, (N,).
        stepper: the simulator to correct.
        seed: draws the motion that is held out.

    Attributes:
        motor: set-points at the motors, (N, n), rad.
        ticks: control ticks of a replay, up to 1 s.
        held_group, held: number of the held-out motion; its rows, (N,), bool.
        groups: motion of each row, (N,).
        starts: rows where replays start, (B,).
    """

    def __init__(
        self,
        *,
        robot: RobotSpec,
        log: Log,
        groups: NDArray[np.intp],
        stepper: BatchStepper,
        seed: int,
    ) -> None:
        self.robot, self.log, self.stepper = robot, log, stepper
        self.motor = at_motor(stepper, log)
        self.groups = groups
        self.held_group = int(np.random.default_rng(seed).choice(np.unique(groups)))
        self.held: NDArray[np.bool_] = groups == self.held_group
        longest = int((log.last - log.first).max())
        self.ticks = min(round(_HORIZON_S * log.rate_hz), longest)
        self.starts = log.windows(max(self.ticks // 4, 1), max(self.ticks // 4, 1))

    def logged(self, rows: Rows, ticks: int) -> tuple[SimState, Float, History]:
        """State, set-point at the motors and ``ticks`` of history of rows of the log."""
        state = self.log.state.map(lambda x: x[rows])
        return state, self.motor[rows], History.of(self.log, self.motor, rows, ticks)

    def replay_error(
        self,
        model: DeltaAction | None = None,
        group: int | None = None,
        residual: Residual | None = None,
    ) -> float:
        """Error over up to 1 s of replay of a motion, or the held-out one, rad and m together."""
        chosen = self.held if group is None else self.groups == group
        log, starts = self.log, self.starts[chosen[self.starts]]
        states = play(self.stepper, log, starts, self.ticks, delta=model, residual=residual)
        real = np.arange(self.ticks + 1) <= log.left(starts)[:, None]
        ahead = log.ahead(starts, self.ticks)
        error = np.sqrt((_error(states, log.state.map(lambda x: x[ahead])) ** 2).mean(axis=-1))
        # A model that diverges is as bad as can be, not a number that hides among others.
        return float(np.nan_to_num(np.minimum(error[real], _WORST), nan=_WORST).mean())


def _error(states: SimState, logged: SimState) -> Float:
    """Joint and, for a legged robot, base position errors side by side, (..., n or n + 3)."""
    joints = states.qpos_rad - logged.qpos_rad
    if states.base_pos_m is None or logged.base_pos_m is None:
        return joints
    return np.concatenate([joints, states.base_pos_m - logged.base_pos_m], axis=-1)
