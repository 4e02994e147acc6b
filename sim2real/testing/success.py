"""How often a policy succeeds, with the interval that the number of runs allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.evaluation.metrics import wilson
from policies.interface import Float
from sim2real.testing.loop import GuardedRun


@dataclass(frozen=True, kw_only=True, repr=False)
class Success:
    """Outcome of several runs.

    Attributes:
        runs: the runs.
        successes: how many reached all their goals without a stop or a fall.
        low, high: Wilson's 95 % interval of the share of successes.
        goal_error_m: distances from all goals at their ends, (goals,), m.
    """

    runs: tuple[GuardedRun, ...]
    successes: int
    low: float
    high: float
    goal_error_m: Float

    @property
    def share(self) -> float:
        """Share of runs that succeeded."""
        return self.successes / len(self.runs)

    def __repr__(self) -> str:
        """One line: pytest shows it where an assertion fails."""
        stops = sorted({run.stopped_by.value for run in self.runs if run.stopped_by is not None})
        falls = sum(run.fell for run in self.runs)
        return (
            f"{self.successes} of {len(self.runs)} runs succeeded "
            f"({100 * self.share:.0f} % [{100 * self.low:.0f}, {100 * self.high:.0f}]), "
            f"{falls} fell, stopped by {', '.join(stops) or 'nothing'}"
        )


def success_of(runs: Sequence[GuardedRun], tolerance_m: float = 0.03) -> Success:
    """Judge runs of one kind.

    Args:
        runs: at least one.
        tolerance_m: distance at which a goal counts as reached, m.
    """
    successes = sum(run.success(tolerance_m) for run in runs)
    low, high = wilson(successes, len(runs))
    return Success(
        runs=tuple(runs),
        successes=successes,
        low=low,
        high=high,
        goal_error_m=np.concatenate([run.goal_error_m for run in runs]),
    )
