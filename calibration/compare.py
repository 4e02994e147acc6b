"""Does a stored result still hold? A few new data against it, with the uncertainty of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from calibration.errors import CalibrationError
from calibration.result import CalibrationResult
from calibration.signals import Float

Verdict = Literal["holds", "drifted", "cannot tell"]
_SIGMAS = 2.0
_QUANTILE = 2.326  # of a normal distribution, one side, 99 %


@dataclass(frozen=True, kw_only=True)
class Change:
    """One number then and now.

    Attributes:
        name, unit: what it is.
        stored, found: the two values.
        change: found minus stored.
        std: standard deviation of the change.
        tolerance: the smallest change that matters.
        verdict: by itself.
    """

    name: str
    unit: str
    stored: float
    found: float
    change: float
    std: float
    tolerance: float
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The answer.

    Attributes:
        verdict: ``drifted``: the new data contradict the stored result by more than the tolerance;
            ``holds``: a change beyond the tolerance is ruled out; else ``cannot tell``.
        why: in words.
        changes: number by number.
        distance2: squared Mahalanobis distance of all changes together; None without new numbers.
        limit2: what 99 % of pure chance stays below.
    """

    verdict: Verdict
    why: str
    changes: tuple[Change, ...] = ()
    distance2: float | None = None
    limit2: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def chi2_limit(degrees: int) -> float:
    """What 99 % of a chi-squared variable stays below (Wilson and Hilferty)."""
    share = 2.0 / (9.0 * degrees)
    return float(degrees * (1.0 - share + _QUANTILE * np.sqrt(share)) ** 3)


def judge(
    names: list[tuple[str, str]], stored: Float, found: Float, covariance: Float, tolerance: Float
) -> Comparison:
    """Compare numbers.

    Args:
        names: name and unit of each.
        stored: values then, (n,).
        found: values now, (n,).
        covariance: of found minus stored, (n, n).
        tolerance: the smallest change of each that matters, (n,).
    """
    if not names:
        return cannot_tell("the new data tell none of the stored numbers")
    change = found - stored
    std = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    scale = np.where(std > 0.0, std, 1.0)
    scaled = covariance / np.outer(scale, scale)
    distance2 = float(change / scale @ np.linalg.pinv(scaled, hermitian=True) @ (change / scale))
    limit2 = chi2_limit(len(names))
    rows = [
        Change(
            name=name,
            unit=unit,
            stored=float(stored[i]),
            found=float(found[i]),
            change=float(change[i]),
            std=float(std[i]),
            tolerance=float(tolerance[i]),
            verdict=_single(abs(float(change[i])), float(std[i]), float(tolerance[i])),
        )
        for i, (name, unit) in enumerate(names)
    ]
    moved = [row for row in rows if row.verdict == "drifted"]
    # together a change may be clear that is not in any number by itself
    moved = moved or [row for row in rows if abs(row.change) > row.tolerance]
    unclear = [row for row in rows if row.verdict == "cannot tell"]
    verdict: Verdict
    if moved and distance2 > limit2:
        worst = max(moved, key=lambda row: abs(row.change) / row.tolerance)
        verdict, why = "drifted", f"{_words(worst)}; {len(moved)} of {len(rows)} numbers moved"
    elif unclear:
        worst = max(unclear, key=lambda row: row.std / row.tolerance)
        verdict, why = (
            "cannot tell",
            f"{_words(worst)}, which leaves {len(unclear)} of {len(rows)} numbers open; "
            "record more, or more varied, data",
        )
    else:
        worst = max(rows, key=lambda row: abs(row.change) / row.tolerance)
        verdict, why = "holds", f"largest change: {_words(worst)}"
    return Comparison(
        verdict=verdict, why=why, changes=tuple(rows), distance2=distance2, limit2=limit2
    )


def _single(size: float, std: float, tolerance: float) -> Verdict:
    if size - _SIGMAS * std > tolerance:
        return "drifted"
    return "holds" if size + _SIGMAS * std <= tolerance else "cannot tell"


def _words(row: Change) -> str:
    return (
        f"{row.name} changed by {row.change:.3g} +- {row.std:.2g} {row.unit} "
        f"(tolerance {row.tolerance:.2g})"
    )


def cannot_tell(why: str) -> Comparison:
    """The answer where new data do not tell anything."""
    return Comparison(verdict="cannot tell", why=why)


def compare(
    stored: CalibrationResult, found: CalibrationResult, tolerance: Mapping[str, float]
) -> Comparison:
    """Compare two results of one kind, number by number.

    Args:
        stored: what held.
        found: from new data.
        tolerance: name of each number that matters -> smallest change that does.

    Raises:
        CalibrationError: results of different kinds.
    """
    if stored.kind != found.kind:
        raise CalibrationError(
            f"expected a stored result of kind {found.kind!r}, got {stored.kind!r}; "
            "name the result of the same command"
        )
    then = {p.name: i for i, p in enumerate(stored.parameters)}
    now = {p.name: i for i, p in enumerate(found.parameters)}
    wanted = [name for name in tolerance if name in then]
    lost = [name for name in wanted if name not in now]
    if lost:
        return cannot_tell(f"the new data do not tell {', '.join(lost)}")
    old, new = [then[name] for name in wanted], [now[name] for name in wanted]
    covariance = stored.covariance[np.ix_(old, old)] + found.covariance[np.ix_(new, new)]
    return judge(
        [(name, stored.parameters[then[name]].unit) for name in wanted],
        np.array([stored.parameters[i].value for i in old]),
        np.array([found.parameters[i].value for i in new]),
        covariance,
        np.array([tolerance[name] for name in wanted]),
    )
