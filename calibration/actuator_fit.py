"""Robust least squares about a prior: estimates, covariance, and what the data do not tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.signals import Float

Columns = tuple[NDArray[np.intp], Float]
"""Places of k unknowns, (k,), and the derivatives of a group's predictions by them, (T, k)."""
Model = Callable[[Float], tuple[dict[str, Float], dict[str, Columns]]]
"""Values (p,) -> residuals (measured minus predicted) of each group, (T,), and their columns."""

_TURNS = 15
_SETTLED = 1e-4
_HUBER = 2.5
_INFLATION = (1.17, 4.0)  # at least that of the smoothing kernel between rows
_OWN_NUMBERS = 5  # unknowns that a group has for itself: they take freedom from its residuals
_NAMED = 3
_CLEAR = 3.0  # standard deviations


@dataclass(frozen=True, kw_only=True)
class Unknown:
    """One number to estimate.

    Attributes:
        name, unit: what it is.
        kind: what it is of; numbers of one kind mean the same for different joints.
        prior, std: what is expected, and how far from it it may be.
        lower: physical bound.
        optional: left at its prior where it does not differ from it clearly: it would cost
            others of their certainty.
    """

    name: str
    unit: str
    kind: str
    prior: float
    std: float
    lower: float = -np.inf
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Solution:
    """An estimate.

    Attributes:
        unknowns: what was estimated, p numbers.
        value: (p,).
        covariance: (p, p), the prior's doubt included.
        told: False for what the data hardly tell: it stays about its prior, (p,).
        residual: group -> what is left, (T,).
        cost: sum of squares over noise, with the noise's own logarithm, for comparisons.
        condition: of the information on the combinations that the data tell.
        combinations: how many combinations the data tell.
        weak: the combinations that they tell least, in words.
    """

    unknowns: tuple[Unknown, ...]
    value: Float
    covariance: Float
    told: NDArray[np.bool_]
    residual: dict[str, Float]
    cost: float
    condition: float
    combinations: int
    weak: list[str]


def solve(
    unknowns: tuple[Unknown, ...],
    model: Model,
    *,
    identified: float,
    least: Mapping[str, float],
) -> Solution:
    """Estimate; then leave out the optional numbers that come out as nothing, and estimate again.

    Whatever the data do not tell stays about its prior by itself, and its doubt is in the
    covariance of what depends on it.

    Args:
        unknowns: what to estimate.
        model: see :data:`Model`.
        identified: numbers whose standard deviation stays above this part of the prior's are not
            told by the data; numbers of the kind ``body`` count by their combinations only.
        least: group -> smallest noise that is believed.
    """
    prior, scale = (np.array([getattr(u, k) for u in unknowns]) for k in ("prior", "std"))
    optional = np.array([u.optional for u in unknowns])
    active = np.ones(len(unknowns), bool)
    fit = _Fit(unknowns, model, least)
    value = fit.run(prior, active)
    std = np.sqrt(np.diag(_inverse(fit.information(value), active)))
    active = ~optional | (np.abs(value - prior) / scale > _CLEAR * std)
    value = fit.run(np.where(active, value, prior), active)
    information = fit.information(value)
    covariance = _inverse(information, active)
    covariance[~active, ~active] = 1.0
    own = np.array([u.kind == "body" for u in unknowns])
    told = own | (np.sqrt(np.diag(covariance)) <= identified)
    condition, combinations, weak = _spectrum(unknowns, information)
    residual = model(value)[0]
    return Solution(
        unknowns=unknowns,
        value=value,
        covariance=covariance * np.outer(scale, scale),
        told=told,
        residual=residual,
        cost=fit.cost(residual),
        condition=condition,
        combinations=combinations,
        weak=weak,
    )


class _Fit:
    """Gauss-Newton about a prior with robust weights; noise and correlation from the residuals."""

    def __init__(
        self, unknowns: tuple[Unknown, ...], model: Model, least: Mapping[str, float]
    ) -> None:
        self._model, self._least = model, least
        self._prior = np.array([u.prior for u in unknowns])
        self._scale = np.array([u.std for u in unknowns])
        self._lower = np.array([u.lower for u in unknowns])

    def run(self, value: Float, active: NDArray[np.bool_]) -> Float:
        """Values with the least cost; what is not active stays."""
        for _ in range(_TURNS):
            information, gradient = self._normal(value)
            free = active.copy()
            step = np.zeros_like(value)
            while free.any():
                part = np.ix_(free, free)
                whole = information[part] + np.eye(int(free.sum()))
                pull = gradient[free] - (value - self._prior)[free] / self._scale[free]
                step[:] = 0.0
                step[free] = np.linalg.solve(whole, pull) * self._scale[free]
                # what would cross its bound goes to it and stays
                below = free & (value + step < self._lower)
                if not below.any():
                    break
                value = np.where(below, self._lower, value)
                free &= ~below
            value = value + step
            if np.abs(step / self._scale).max() < _SETTLED:
                break
        return value

    def _normal(self, value: Float) -> tuple[Float, Float]:
        """Information and gradient in units of the priors."""
        residual, columns = self._model(value)
        p = len(value)
        information, gradient = np.zeros((p, p)), np.zeros(p)
        for group, r in residual.items():
            sigma = self._noise(group, r)
            weight = np.minimum(1.0, _HUBER * sigma / np.maximum(np.abs(r), 1e-300))
            places, matrix = columns[group]
            scaled = matrix * self._scale[places]
            freedom = max(len(r) - _OWN_NUMBERS, 1) / len(r)
            precision = freedom / (sigma**2 * _inflation(r))
            information[np.ix_(places, places)] += precision * (
                scaled.T @ (weight[:, None] * scaled)
            )
            gradient[places] += precision * (scaled.T @ (weight * r))
        return information, gradient

    def information(self, value: Float) -> Float:
        """Information of the data at ``value``, in units of the priors, (p, p)."""
        return self._normal(value)[0]

    def _noise(self, group: str, residual: Float) -> float:
        """Standard deviation of a group's residuals, by their middle two thirds."""
        return max(float(np.quantile(np.abs(residual), 0.6827)), self._least[group])

    def cost(self, residual: dict[str, Float]) -> float:
        """Minus twice the logarithm of the likelihood, up to a constant."""
        total = 0.0
        for group, r in residual.items():
            sigma = self._noise(group, r)
            total += 2.0 * len(r) * np.log(sigma)
        return float(total)


def _inflation(residual: Float) -> float:
    """By how much neighbours that resemble each other count less."""
    if len(residual) < 10:
        return _INFLATION[0]
    r = np.clip(residual, *np.quantile(residual, [0.02, 0.98]))
    r = r - r.mean()
    power = float(r @ r)
    alike = float(r[1:] @ r[:-1]) / power if power > 0.0 else 0.0
    return float(np.clip((1.0 + alike) / (1.0 - min(alike, 0.9)), *_INFLATION))


def _inverse(information: Float, active: NDArray[np.bool_]) -> Float:
    """Covariance in units of the priors; zero for what is not active, (p, p)."""
    out = np.zeros_like(information)
    part = np.ix_(active, active)
    out[part] = np.linalg.inv(information[part] + np.eye(int(active.sum())))
    return out


def _spectrum(unknowns: tuple[Unknown, ...], information: Float) -> tuple[float, int, list[str]]:
    """Condition number of what is told, how many combinations are, and the weakest in words."""
    values, vectors = np.linalg.eigh(information)
    told = values > 1.0
    condition = float(np.sqrt(values[told].max() / values[told].min())) if told.any() else np.inf
    weak = []
    for k in np.flatnonzero(~told)[:_NAMED]:
        large = np.argsort(-np.abs(vectors[:, k]))[:_NAMED]
        weak.append(" and ".join(f"{vectors[i, k]:+.2f} {unknowns[i].name}" for i in large))
    return condition, int(told.sum()), weak
