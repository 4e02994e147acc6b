"""Robust, regularised least squares with bounds, for residuals that come in batches.

The residual function takes many candidates at once, so that a Jacobian by finite differences is
one batch and so are the trial steps of a Levenberg-Marquardt iteration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.interface import Float
from sim2real.replay.steepness import steepness

Residuals = Callable[[Float], Float]
"""Candidates (V, P) -> residuals (V, B, T, C): B windows of T ticks of C signals."""

_TRIALS = ((0.0, 1.0), (0.0, 0.5), (0.1, 1.0), (1.0, 1.0), (10.0, 1.0))
"""Damping and length of the steps that are tried."""

_REWEIGHTINGS = 3


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What is minimised over P numbers in units of their prior's standard deviation.

    Half the sum of ``z^2`` (the prior) and of a Cauchy loss on residuals over their noise, where
    the T ticks of one window count as one observation: neighbours in time say nearly the same.

    Attributes:
        residuals: see :data:`Residuals`.
        lower, upper: bounds, (P,).
        floor: smallest noise that is believed of each signal, (C,), in units of the residuals.
        kind: number of the kind of quantity that each signal is, (C,).
        contacts: True where contacts open and close, so that some derivatives mean nothing; where
            there are none, what is steep is telling.
        probe: step of the finite differences.
        outlier: residual over noise beyond which a sample loses influence.
    """

    residuals: Residuals
    lower: Float
    upper: Float
    floor: Float
    kind: NDArray[np.intp]
    contacts: bool = False
    probe: float = 0.1
    outlier: float = 3.0

    def noise(self, residuals: Float) -> Float:
        """Robust size of residuals (B, T, C) of each signal, (C,).

        The geometric mean of the signal's own and of its kind's: by its own alone, a signal that
        is badly explained would be taken for a noisy one and given up.
        """
        own = np.maximum(1.48 * np.median(np.abs(residuals), axis=(0, 1)), self.floor)
        count = np.bincount(self.kind)
        kind = (np.bincount(self.kind, weights=own) / count)[self.kind]
        return np.maximum(np.sqrt(own * kind), self.floor)

    def weights(self, residuals: Float, noise: Float) -> Float:
        """Weights of squared residuals (B, T, C) at which their sum has the loss's gradient."""
        influence = 1.0 / (1.0 + (residuals / (self.outlier * noise)) ** 2)
        return influence / (noise**2 * residuals.shape[1])


@dataclass(frozen=True, kw_only=True)
class Local:
    """The problem around one point.

    Attributes:
        z: the point, (P,).
        residuals: there, (B, T, C).
        noise: their size, (C,).
        jacobian: of the residuals, (P, B T C); zero for parameters that were left out.
        information: weighted J^T J of the data alone, (P, P).
        gradients: of the data's part of the cost, one for each window, (B, P).
    """

    z: Float
    residuals: Float
    noise: Float
    jacobian: Float
    information: Float
    gradients: Float

    @property
    def gradient(self) -> Float:
        """Gradient of the data's part of the cost, (P,)."""
        return self.gradients.sum(axis=0)

    def posterior_std(self, active: NDArray[np.bool_]) -> Float:
        """Standard deviations over those of the prior, (P,); 1 where not active.

        The larger of two answers: the curvature of the cost, and what the scatter of the windows'
        gradients makes of it (a sandwich estimate with windows as clusters), which also sees
        errors of the model that a whole window shares.
        """
        out = np.ones(len(self.z))
        inside = np.flatnonzero(active)
        information, gradients = self.information[np.ix_(inside, inside)], self.gradients[:, inside]
        inverse = np.linalg.inv(information + np.eye(len(inside)))
        meat = gradients.T @ gradients + np.eye(len(inside))
        sandwich = inverse @ meat @ inverse
        out[inside] = np.sqrt(np.maximum(np.diag(inverse), np.diag(sandwich)))
        return out

    def condition(self, active: NDArray[np.bool_]) -> float:
        """Condition number of the data's information on the active parameters."""
        inside = np.flatnonzero(active)
        if not len(inside):
            return 1.0
        values = np.linalg.eigvalsh(self.information[np.ix_(inside, inside)])
        return float(values[-1] / max(values[0], 1e-12 * values[-1], 1e-300))

    def at(self, problem: Problem, z: Float, residuals: Float) -> Local:
        """The problem around another point, with Broyden's update of the Jacobian."""
        moved = z - self.z
        missed = (residuals - self.residuals).reshape(-1) - moved @ self.jacobian
        jacobian = self.jacobian + np.outer(moved, missed) / max(float(moved @ moved), 1e-30)
        return local_problem(problem, z, residuals, jacobian)


def local_problem(problem: Problem, z: Float, residuals: Float, jacobian: Float) -> Local:
    """The problem around ``z`` from residuals (B, T, C) and their Jacobian (P, B T C)."""
    noise = problem.noise(residuals)
    weights = problem.weights(residuals, noise)
    if problem.contacts:
        weights = weights * _trust(jacobian, residuals.shape)
    weighted = jacobian * weights.reshape(-1)
    return Local(
        z=z,
        residuals=residuals,
        noise=noise,
        jacobian=jacobian,
        information=weighted @ jacobian.T,
        gradients=np.einsum(
            "pbi,bi->bp",
            weighted.reshape(len(z), len(residuals), -1),
            residuals.reshape(len(residuals), -1),
        ),
    )


def _trust(jacobian: Float, shape: tuple[int, ...]) -> Float:
    """Weights of windows by the size of their derivatives, (B, 1, C)."""
    size = np.sqrt((jacobian**2).sum(axis=0).reshape(shape).mean(axis=1))
    trust: Float = (1.0 / (1.0 + steepness(size) ** 2))[:, None]
    return trust


def linearise(problem: Problem, z: Float, active: NDArray[np.bool_]) -> Local:
    """The problem around ``z``, by finite differences in the active parameters."""
    inside = np.flatnonzero(active)
    step = np.where(z + problem.probe <= problem.upper, problem.probe, -problem.probe)
    points = np.tile(z, (len(inside) + 1, 1))
    points[np.arange(1, len(points)), inside] += step[inside]
    values = problem.residuals(points)
    slope = (values[1:] - values[0]) / step[inside].reshape(-1, 1, 1, 1)
    jacobian = np.zeros((len(z), values[0].size))
    jacobian[inside] = slope.reshape(len(inside), -1)
    return local_problem(problem, z, values[0], jacobian)


def profile(problem: Problem, local: Local, index: int, values: Float) -> int:
    """Which value of one parameter suits best if all others follow.

    Others can make up for much of what a delay does, so that descent ends in the valley in which
    it starts. The Jacobian at one point serves to let the others follow, in a few reweighted
    linear solutions; only the residuals at the values themselves are simulated.

    Args:
        problem: the problem.
        local: the problem around some point.
        index: the parameter.
        values: its candidates, in units of the prior, (V,).

    Returns:
        The best of the candidates.
    """
    points = np.tile(local.z, (len(values), 1))
    points[:, index] = values
    others = np.delete(np.arange(len(local.z)), index)
    slope = local.jacobian[others]
    sizes = []
    for start, point in zip(problem.residuals(points), points, strict=True):
        left = start
        for _ in range(_REWEIGHTINGS):
            weighted = slope * problem.weights(left, problem.noise(left)).reshape(-1)
            hessian = weighted @ slope.T + np.eye(len(others))
            step = np.linalg.solve(hessian, -(weighted @ start.reshape(-1) + point[others]))
            step = np.clip(point[others] + step, problem.lower[others], problem.upper[others])
            left = start + ((step - point[others]) @ slope).reshape(start.shape)
        sizes.append(float(np.log(problem.noise(left)).sum()))
    return int(np.argmin(sizes))


def costs(problem: Problem, residuals: Float, z: Float, noise: Float) -> Float:
    """Cost of candidates z (V, P) with residuals (V, B, T, C), (V,)."""
    size = (residuals / (problem.outlier * noise)) ** 2
    data = 0.5 * problem.outlier**2 * np.log1p(size).mean(axis=2).sum(axis=(1, 2))
    total: Float = data + 0.5 * (z**2).sum(axis=1)
    return total


def improve(
    problem: Problem,
    local: Local,
    active: NDArray[np.bool_],
    settled: Float | None = None,
) -> tuple[Local, float]:
    """One step: several dampings and lengths are tried in one batch, the best is taken.

    Args:
        problem: the problem.
        local: the problem around the present point.
        active: parameters that may move, (P,).
        settled: values that the others take from now on, (P,); they stay if not given.

    Returns:
        The problem around the new point (the present one if none is better), and its cost over
        the present one's.
    """
    start = local.z if settled is None else np.where(active, local.z, settled)
    slope = local.gradient + local.information @ (start - local.z) + start
    blocked = ((start <= problem.lower) & (slope > 0)) | ((start >= problem.upper) & (slope < 0))
    free = np.flatnonzero(active & ~blocked)
    hessian = local.information[np.ix_(free, free)] + np.eye(len(free))
    points = [start]
    for damping, length in _TRIALS:
        step = np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), -slope[free])
        point = start.copy()
        point[free] += length * step
        points.append(np.clip(point, problem.lower, problem.upper))
    tried = np.array(points)
    residuals = problem.residuals(tried)
    cost = costs(problem, residuals, tried, local.noise)
    best = int(np.argmin(np.where(np.isfinite(cost), cost, np.inf)))
    ratio = float(cost[best] / max(cost[0], np.finfo(float).tiny))
    return local.at(problem, tried[best], residuals[best]), ratio
