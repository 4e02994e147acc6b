"""How sure the errors of a replay are: bootstrap intervals, paired for ratios.

Windows of one episode are alike, so whole episodes are drawn where there are enough of them, and
otherwise blocks of neighbouring windows that together span the longest horizon. All methods are
measured in the same draws, so that an interval of a ratio is not wider than what tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.interface import Float
from sim2real.replay.metrics import JSON_NAMES, WindowErrors
from sim2real.replay.open_loop import ReplayResult

LEAST_EPISODES = 8
"""Fewest episodes that are drawn as wholes."""

_LEAST_BLOCKS = 4
_COVERAGE = (2.5, 97.5)


@dataclass(frozen=True, kw_only=True)
class Intervals:
    """Bootstrap intervals of 95 %.

    Attributes:
        unit: what was drawn, in words.
        units: how many there are.
        samples: number of draws.
        errors: method -> attribute of :class:`Metrics` -> (H, ..., 2), lower and upper.
        ratios: the same for the error over that of the reference method.
        reference: that method.
    """

    unit: str
    units: int
    samples: int
    errors: dict[str, dict[str, Float]]
    ratios: dict[str, dict[str, Float]]
    reference: str

    def to_json(self, result: ReplayResult) -> dict[str, dict[str, object]]:
        """Method -> ``<error>_ci95``, ``<error>_ratio`` and ``<error>_ratio_ci95``."""
        base = vars(result.methods[self.reference])
        out: dict[str, dict[str, object]] = {}
        for method, values in vars_of(result).items():
            own: dict[str, object] = {}
            for name, json in JSON_NAMES.items():
                if name not in values:
                    continue
                own[f"{json}_ci95"] = self.errors[method][name].tolist()
                own[f"{json}_ratio"] = ratio(values[name], base[name]).tolist()
                own[f"{json}_ratio_ci95"] = self.ratios[method][name].tolist()
            out[method] = own
        return out


def vars_of(result: ReplayResult) -> dict[str, dict[str, Float]]:
    """Method -> attribute of its mean errors -> values."""
    return {
        name: {k: v for k, v in vars(metrics).items() if v is not None}
        for name, metrics in result.methods.items()
    }


def ratio(error: Float, reference: Float) -> Float:
    """``error / reference``; 1 where both are zero, so that no reference is worse than itself."""
    tiny = np.finfo(float).tiny
    out: Float = (error + tiny) / (reference + tiny)
    return out


def bootstrap(
    result: ReplayResult, *, samples: int, seed: int = 0, reference: str = "open_loop"
) -> Intervals:
    """Intervals of the mean errors of a replay, and of their ratios to a reference method.

    Args:
        result: the replay.
        samples: draws with replacement.
        seed: of the draws.
        reference: method of the ratios.

    Raises:
        InputError: too few samples or windows.
    """
    if samples < 100:
        raise InputError(
            f"expected at least 100 bootstrap samples for an interval of 95 %, got {samples}; "
            "give e.g. --bootstrap 1000"
        )
    groups, unit = _units(result)
    if groups.max() < 1:
        raise InputError(
            f"expected at least 2 windows to draw from, got {len(groups)} of "
            f"{max(result.horizons_s):g} s; test on longer episodes or give shorter horizons"
        )
    rng = np.random.default_rng(seed)
    member = np.zeros((int(groups.max()) + 1, len(groups)))
    member[groups, np.arange(len(groups))] = 1.0
    draws = rng.multinomial(len(member), np.full(len(member), 1.0 / len(member)), size=samples)
    weights = _covering(draws @ member, result.errors[reference])
    means = {name: errors.means(weights) for name, errors in result.errors.items()}
    return Intervals(
        unit=unit,
        units=len(member),
        samples=len(weights),
        errors={m: {k: _interval(v) for k, v in each.items()} for m, each in means.items()},
        ratios={
            m: {k: _interval(ratio(v, means[reference][k])) for k, v in each.items()}
            for m, each in means.items()
        },
        reference=reference,
    )


def _interval(values: Float) -> Float:
    """(S, H, ...) -> (H, ..., 2)."""
    return np.moveaxis(np.percentile(values, _COVERAGE, axis=0), 0, -1)


def _covering(weights: Float, errors: WindowErrors) -> Float:
    """Draws in which each horizon is covered by some window."""
    covered = weights @ np.isfinite(errors.e_g_mpjpe_mm)
    return weights[(covered > 0).all(axis=1)]


def _units(result: ReplayResult) -> tuple[NDArray[np.intp], str]:
    """Number of the unit that each window belongs to, and what a unit is."""
    if result.episodes >= LEAST_EPISODES:
        return result.episode, "episode"
    block = max(int(np.ceil(max(result.horizons_s) / result.window_every_s)), 1)
    while block > 1 and len(result.episode) // block < _LEAST_BLOCKS:
        block -= 1
    place = np.arange(len(result.episode)) - np.searchsorted(result.episode, result.episode)
    key = result.episode * (len(place) + 1) + place // block
    unit = f"block of {block} neighbouring windows" if block > 1 else "window"
    return np.unique(key, return_inverse=True)[1], unit
