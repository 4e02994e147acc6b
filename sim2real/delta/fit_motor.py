"""Fit the motor terms to multi-step errors, through the linearised simulator.

Gauss-Newton with robust weights: the error of each window of K ticks and its derivative by all
parameters are carried along

    error' = r + A error + B delta(state + error),    G' = (A + B D) G + B Phi

where ``D`` is the feedback of the delta itself. The normal equations are kept apart for each
motion, so that one after the other can be left out to choose terms and regularisation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.interface import Float, RobotSpec
from sim2real.delta.linear import Linearisation
from sim2real.delta.motor import SUBSETS, TERMS, feedback, scales, term_values
from sim2real.replay.log import Log, Rows
from sim2real.replay.open_loop import History
from sim2real.sim.stepper import SimState
from sim2real.sim.tangent import joint_slices, tangent_size

Progress = Callable[[float], None]

_RIDGES = (0.1, 1.0, 10.0, 100.0, 1e3, 1e4)
_CHUNK = 150  # windows; bounds memory
_ITERATIONS = 6
_ROBUST = 2.0  # errors of this many typical ones begin to count less
_VELOCITY = 0.3  # weight of velocities against positions, each in units of its typical error


@dataclass(frozen=True, kw_only=True)
class MotorFit:
    """Fitted motor terms.

    Attributes:
        parameters: of all joints, zero where not fitted, (n, terms).
        deviation: their standard deviation, from the spread between motions, (n, terms).
        terms: names of the terms in use.
        ridge: chosen strength of the regularisation.
        explained: share of the squared multi-step error of left-out motions that is explained.
    """

    parameters: Float
    deviation: Float
    terms: tuple[str, ...]
    ridge: float
    explained: float


@dataclass(kw_only=True)
class _Normal:
    """Normal equations of one motion: cost(p) = p N p + 2 b p + c."""

    n: Float
    b: Float
    c: float

    def cost(self, p: Float) -> float:
        return float(p @ self.n @ p + 2.0 * self.b @ p + self.c)


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
    ticks: int,
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
        ticks: control ticks in a window.
        progress: called with the share of the work that is done.
    """
    starts = log.steps(ticks)
    starts = starts[(starts - log.first[starts]) % max(ticks // 4, 1) == 0]
    problem = _Problem(robot, log, motor_rad, linear, joints, ticks)
    fit: MotorFit | None = None
    for i in range(_ITERATIONS):
        now = np.zeros((robot.n, len(TERMS))) if fit is None else fit.parameters
        # What is typical shrinks as the fit gets better, and outliers stand out more.
        scale = problem.typical(starts, now)
        normal = problem.normal_equations(starts, groups[starts], now, scale)
        fit = _choose(problem, starts, groups[starts], scale, normal, fit if i > 2 else None)
        if progress:
            progress((i + 1) / _ITERATIONS)
    assert fit is not None
    return fit


def _choose(
    problem: _Problem,
    starts: Rows,
    groups: NDArray[np.intp],
    scale: Float,
    normal: dict[int, _Normal],
    keep: MotorFit | None,
) -> MotorFit:
    """Terms and ridge that explain left-out motions best, then a solve on all."""
    robot, joints = problem.robot, problem.joints
    unit = scales(robot, joints).ravel()
    names = [term.name for term in TERMS]
    options = (
        [(terms, ridge) for terms in SUBSETS for ridge in _RIDGES]
        if keep is None
        else [(keep.terms, keep.ridge)]
    )

    def full(p: Float) -> Float:
        out = np.zeros((robot.n, len(TERMS)))
        out[joints] = p.reshape(len(joints), -1)
        return out

    whole = problem.cost(starts, full(np.zeros(len(unit))), scale)
    best: tuple[float, tuple[str, ...], float, list[Float]] | None = None
    for terms, ridge in options:
        used = np.tile([name in terms for name in names], len(joints))
        left, solved = 0.0, []
        for group in normal:
            rest = [x for name, x in normal.items() if name != group] or [normal[group]]
            solved.append(_solve(rest, used, unit, ridge))
            own = starts[groups == group]
            left += len(own) / len(starts) * problem.cost(own, full(solved[-1]), scale)
        if best is None or left < best[0]:
            best = left, terms, ridge, solved
    assert best is not None
    left, terms, ridge, solved = best
    used = np.tile([name in terms for name in names], len(joints))
    spread = np.std(solved, axis=0) * np.sqrt(max(len(solved) - 1, 1))  # jackknife
    return MotorFit(
        parameters=full(_solve(list(normal.values()), used, unit, ridge)),
        deviation=full(spread),
        terms=terms,
        ridge=ridge,
        explained=1.0 - left / max(whole, 1e-30),
    )


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
        self.history = History.of(log, motor_rad, np.arange(len(log.first)), 1)

    def normal_equations(
        self, starts: Rows, groups: NDArray[np.intp], parameters: Float, scale: Float
    ) -> dict[int, _Normal]:
        """Sums over the windows of each motion."""
        many = len(self.joints) * len(TERMS)
        out: dict[int, _Normal] = {}
        for begin in range(0, len(starts), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            errors, slopes = self._carry(starts[part], parameters, slopes=True)
            assert slopes is not None
            root = self.weights / (scale * np.sqrt(1.0 + (errors / (_ROBUST * scale)) ** 2))
            now = parameters[self.joints].ravel()
            a = slopes * root[..., None]
            y = (errors - slopes @ now) * root
            for group in np.unique(groups[part]):
                chosen = groups[part] == group
                flat, rest = a[chosen].reshape(-1, many).astype(np.float64), y[chosen].ravel()
                new = _Normal(n=flat.T @ flat, b=flat.T @ rest, c=float(rest @ rest))
                have = out.get(int(group))
                if have is not None:
                    new = _Normal(n=have.n + new.n, b=have.b + new.b, c=have.c + new.c)
                out[int(group)] = new
        return out

    def cost(self, starts: Rows, parameters: Float, scale: Float) -> float:
        """Robust mean of the squared errors of windows, in units of the typical error."""
        total = 0.0
        for begin in range(0, len(starts), 4 * _CHUNK):
            errors, _ = self._carry(starts[begin : begin + 4 * _CHUNK], parameters, slopes=False)
            lost = np.log1p((errors / (_ROBUST * scale)) ** 2) @ self.weights**2
            total += float(lost.mean(axis=1).sum())
        return total / len(starts)

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
