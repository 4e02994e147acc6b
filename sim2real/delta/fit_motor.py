"""Fit the motor terms to multi-step errors, through the linearised simulator.

Gauss-Newton with robust weights: the error of each window of K ticks and its derivative by all
parameters are carried along

    error' = r + A error + B delta(state + error),    G' = (A + B D) G + B Phi

where ``D`` is the feedback of the delta itself. The normal equations are kept apart for each
motion: one after the other is left out, replayed in the real simulator, and so chooses terms,
regularisation and window length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from policies.interface import Float, RobotSpec
from sim2real.delta.linear import Linearisation
from sim2real.delta.motor import SUBSETS, TERMS, feedback, scales, term_values
from sim2real.replay.log import Log, Rows
from sim2real.replay.open_loop import History
from sim2real.replay.steepness import steepness
from sim2real.sim.stepper import SimState
from sim2real.sim.tangent import joint_slices, tangent_size

Progress = Callable[[float], None]
Judge = Callable[[Float, int], float]
"""Replay error with parameters (n, terms) on one motion."""

_RIDGES = (1.0, 1e3)
_CHUNK = 150  # windows; bounds memory
_MOST_WINDOWS = 800
_ITERATIONS = 4
_ROBUST = 2.0  # errors of this many typical ones begin to count less
_WORTH = 0.01  # share of the replay error below which no terms are better than some
_VELOCITY = 0.3  # weight of velocities against positions, each in units of its typical error


@dataclass(frozen=True, kw_only=True)
class MotorFit:
    """Fitted motor terms.

    Attributes:
        parameters: of all joints, zero where not fitted, (n, terms).
        deviation: their standard deviation, from the spread between motions, (n, terms).
        terms: names of the terms in use.
        ridge: chosen strength of the regularisation.
        ticks: chosen length of the windows, control ticks.
        explained: share of the replay error that goes on a motion that the fit has not seen, mean
            over the motions; 0 where no terms help.
        left_out: motion -> parameters of a fit without it, (n, terms).
    """

    parameters: Float
    deviation: Float
    terms: tuple[str, ...]
    ridge: float
    ticks: int
    explained: float
    left_out: dict[int, Float] = field(default_factory=dict, repr=False)


@dataclass(kw_only=True)
class _Normal:
    """Normal equations of one motion, N p = -b."""

    n: Float
    b: Float


def error_blocks(robot: RobotSpec) -> list[tuple[slice, float]]:
    """Coordinates of a state difference that share a unit and a typical error, with a weight."""
    base = [slice(0, 3), slice(3, 6)] if robot.floating_base else []
    positions, velocities = joint_slices(robot)
    half = tangent_size(robot) // 2
    rates = [slice(half + s.start, half + s.stop) for s in base]
    return [(s, 1.0) for s in [*base, positions]] + [(s, _VELOCITY) for s in [*rates, velocities]]


def fit_motor(
    robot: RobotSpec,
    log: Log,
    motor_rad: Float,
    linear: Linearisation,
    joints: list[int],
    groups: NDArray[np.intp],
    horizons: Sequence[int],
    judge: Judge,
    progress: Progress | None = None,
) -> MotorFit:
    """Fit parameters of the motor terms.

    Args:
        robot: the robot.
        log: episodes.
        motor_rad: set-points at the motors, (N, n), rad.
        linear: the simulator along the log.
        joints: joints that get a delta.
        groups: motion of each row of the log, (N,); one is left out at a time.
        horizons: control ticks in a window; each is tried.
        judge: replays a left-out motion and chooses between terms, regularisation and horizons.
        progress: called with the share of the work that is done.
    """
    kinds = np.unique(groups)
    nothing = np.zeros((robot.n, len(TERMS)))
    open_loop = {int(g): judge(nothing, int(g)) for g in kinds}
    best = MotorFit(
        parameters=nothing,
        deviation=nothing,
        terms=(),
        ridge=np.inf,
        ticks=horizons[0],
        explained=0.0,
    )
    todo = [(ticks, terms) for ticks in horizons for terms in SUBSETS]
    for i, (ticks, terms) in enumerate(todo):
        problem = _Problem(robot, log, motor_rad, linear, joints, ticks)
        for candidate in _candidates(problem, groups, terms):
            left = {g: judge(p, g) for g, p in candidate.left_out.items()}
            explained = 1.0 - sum(left.values()) / max(sum(open_loop.values()), 1e-30)
            # What helps one motion and harms another is noise, or another robot's parameter.
            harmless = all(error <= open_loop[g] for g, error in left.items())
            if harmless and explained > max(best.explained, _WORTH):
                best = candidate.finish(problem, explained)
        if progress:
            progress((i + 1) / len(todo))
    return best


@dataclass(kw_only=True)
class _Candidate:
    """Parameters for one set of terms and one ridge."""

    terms: tuple[str, ...]
    ridge: float
    parameters: Float
    left_out: dict[int, Float]

    def finish(self, problem: _Problem, explained: float) -> MotorFit:
        spread = np.std(list(self.left_out.values()), axis=0)  # jackknife
        return MotorFit(
            parameters=self.parameters,
            deviation=spread * np.sqrt(max(len(self.left_out) - 1, 1)),
            terms=self.terms,
            ridge=self.ridge,
            ticks=problem.ticks,
            explained=explained,
            left_out=self.left_out,
        )


def _candidates(
    problem: _Problem, groups: NDArray[np.intp], terms: tuple[str, ...]
) -> list[_Candidate]:
    """Gauss-Newton for one set of terms; each ridge, with and without each motion."""
    log, ticks = problem.log, problem.ticks
    starts = log.steps(ticks)
    every = max(ticks // 4, -(-len(starts) // _MOST_WINDOWS), 1)
    starts = starts[(starts - log.first[starts]) % every == 0]
    used = np.tile([term.name in terms for term in TERMS], len(problem.joints))
    now = problem.full(np.zeros(len(problem.unit)))
    normal: dict[int, _Normal] = {}
    for _ in range(_ITERATIONS):
        # What is typical shrinks as the fit gets better, and outliers stand out more.
        scale = problem.typical(starts, now)
        normal = problem.normal_equations(starts, groups[starts], now, scale)
        now = problem.full(_solve(list(normal.values()), used, problem.unit, _RIDGES[0]))
    out = []
    for ridge in _RIDGES:
        left_out = {
            group: [x for other, x in normal.items() if other != group] or [own]
            for group, own in normal.items()
        }
        out.append(
            _Candidate(
                terms=terms,
                ridge=ridge,
                parameters=problem.full(_solve(list(normal.values()), used, problem.unit, ridge)),
                left_out={
                    group: problem.full(_solve(rest, used, problem.unit, ridge))
                    for group, rest in left_out.items()
                },
            )
        )
    return out


def _solve(parts: Sequence[_Normal], used: NDArray[np.bool_], unit: Float, ridge: float) -> Float:
    out = np.zeros(len(unit))
    index = np.flatnonzero(used)
    n = np.sum([x.n for x in parts], axis=0)[np.ix_(index, index)]
    b = np.sum([x.b for x in parts], axis=0)[index]
    out[index] = -np.linalg.solve(n + ridge * np.diag(1.0 / unit[index] ** 2), b)
    return out


class _Problem:
    """Multi-step errors of windows and their derivatives."""

    def __init__(
        self,
        robot: RobotSpec,
        log: Log,
        motor_rad: Float,
        linear: Linearisation,
        joints: list[int],
        ticks: int,
    ) -> None:
        self.robot, self.log, self.linear = robot, log, linear
        self.motor, self.joints, self.ticks = motor_rad, joints, ticks
        self.place = np.full(len(log.first), -1)
        self.place[linear.rows] = np.arange(len(linear.rows))
        self.blocks = error_blocks(robot)
        self.weights = np.empty(tangent_size(robot))
        for where, weight in self.blocks:
            self.weights[where] = weight
        self.unit = scales(robot, joints).ravel()
        self.history = History.of(log, motor_rad, np.arange(len(log.first)), 1)

    def normal_equations(
        self, starts: Rows, groups: NDArray[np.intp], parameters: Float, scale: Float
    ) -> dict[int, _Normal]:
        """Sums over the windows of each motion."""
        many = len(self.joints) * len(TERMS)
        out: dict[int, _Normal] = {}
        chunks = -(-len(starts) // _CHUNK)
        for first in range(chunks):
            part = slice(first, None, chunks)  # each sees something of every motion
            errors, slopes = self._carry(starts[part], parameters, slopes=True)
            assert slopes is not None
            root = self.weights / (scale * np.sqrt(1.0 + (errors / (_ROBUST * scale)) ** 2))
            if self.robot.floating_base:  # an arm touches nothing: what is steep there is telling
                root = root * self._trust(slopes)
            now = parameters[self.joints].ravel()
            a = slopes * root[..., None]
            y = (errors - slopes @ now) * root
            for group in np.unique(groups[part]):
                chosen = groups[part] == group
                flat, rest = a[chosen].reshape(-1, many).astype(np.float64), y[chosen].ravel()
                new = _Normal(n=flat.T @ flat, b=flat.T @ rest)
                have = out.get(int(group))
                if have is not None:
                    new = _Normal(n=have.n + new.n, b=have.b + new.b)
                out[int(group)] = new
        return out

    def _trust(self, slopes: Float) -> Float:
        """Weights (B, 1, x) of windows by the size of their derivatives (B, K, x, m terms)."""
        unit = (self.unit**2).astype(np.float32)
        size = np.sqrt((slopes**2 @ unit).sum(axis=1))
        trust: Float = (1.0 / np.sqrt(1.0 + steepness(size) ** 2))[:, None]
        return trust

    def full(self, parameters: Float) -> Float:
        """Parameters of the chosen joints, flat, as those of all joints, (n, terms)."""
        out = np.zeros((self.robot.n, len(TERMS)))
        out[self.joints] = parameters.reshape(len(self.joints), -1)
        return out

    def typical(self, starts: Rows, parameters: Float) -> Float:
        """Typical error of each coordinate after each tick, (K, x)."""
        parts = []
        for begin in range(0, len(starts), 4 * _CHUNK):
            errors, _ = self._carry(starts[begin : begin + 4 * _CHUNK], parameters, slopes=False)
            sizes = [np.sqrt((errors[:, :, s] ** 2).mean(axis=2)) for s, _ in self.blocks]
            parts.append(np.stack(sizes, axis=2))
        typical = np.median(np.concatenate(parts), axis=0) + 1e-6
        scale = np.empty((self.ticks, tangent_size(self.robot)))
        for i, (where, _) in enumerate(self.blocks):
            scale[:, where] = typical[:, i, None]
        return scale

    def _carry(
        self, starts: Rows, parameters: Float, *, slopes: bool
    ) -> tuple[Float, Float | None]:
        """Errors (B, K, x) and their derivatives by the parameters (B, K, x, m terms)."""
        robot, linear, joints = self.robot, self.linear, self.joints
        size, count, many = tangent_size(robot), len(starts), len(joints) * len(TERMS)
        at_q, at_v = joint_slices(robot)
        error = np.zeros((count, size), np.float32)
        slope = np.zeros((count, size, many), np.float32)
        errors, all_slopes = [], []
        before = np.zeros((count, robot.n))
        for k in range(self.ticks):
            rows = starts + k
            place = self.place[rows]
            state = SimState(
                qpos_rad=self.log.state.qpos_rad[rows] + error[:, at_q],
                qvel_rad_s=self.log.state.qvel_rad_s[rows] + error[:, at_v],
            )
            past = History(
                qpos_rad=self.history.qpos_rad[rows],
                qvel_rad_s=self.history.qvel_rad_s[rows] + before[:, None],
                setpoint_rad=self.history.setpoint_rad[rows],
            )
            values = term_values(robot, state, self.motor[rows], past, self.log.rate_hz)
            delta = (values * parameters).sum(axis=-1)[:, joints].astype(np.float32)
            a, b = linear.by_state[place], linear.by_delta[place]
            if slopes:
                by_q, by_v = feedback(robot, state, parameters)
                closed = a.copy()
                closed[:, :, np.arange(size)[at_q][joints]] += b * by_q[:, None, joints].astype(
                    np.float32
                )
                closed[:, :, np.arange(size)[at_v][joints]] += b * by_v[:, None, joints].astype(
                    np.float32
                )
                driven = b[..., None] * values[:, None, joints].astype(np.float32)
                slope = closed @ slope + driven.reshape(count, size, many)
                all_slopes.append(slope)
            before = error[:, at_v].astype(np.float64)
            error = (
                (a @ error[..., None])[..., 0]
                + (b @ delta[..., None])[..., 0]
                + linear.residual[place]
            )
            errors.append(error.astype(np.float64))
        return np.stack(errors, axis=1), np.stack(all_slopes, axis=1) if slopes else None
