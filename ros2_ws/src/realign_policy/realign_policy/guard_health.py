"""What the guard tells of itself: the summary of a run, and how it is."""

from __future__ import annotations

import json

from policies.runtime.fault import Reason, State
from policies.runtime.guard import Guard
from policies.runtime.latency import Percentiles
from realign_driver.health import Health

_SHOWN = (
    "refused_by_reason",
    "warnings",
    "clamped",
    "torque_limited",
    "commands",
    "overruns",
    "latency_ms",
    "loop_late_ms",
)


class GuardHealth:
    """Counters of a guard and times of its process."""

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.latency_ms = Percentiles()
        self.late_ms = Percentiles(65536)
        self._warned = 0

    def summary(self) -> dict[str, object]:
        """Everything that `realign run` reports of the guard."""
        guard = self.guard
        return {
            "state": guard.state.value,
            "refused": sum(n for why, n in guard.refused.items() if why is not Reason.NOT_ARMED),
            "refused_by_reason": {why.value: n for why, n in guard.refused.items()},
            "warnings": {why.value: n for why, n in guard.warnings.items()},
            "clamped": guard.clamped,
            "torque_limited": guard.shaper.torque_limited,
            "commands": guard.commands,
            "overruns": guard.overruns.total,
            "latency_ms": self.latency_ms.summary(),
            "loop_late_ms": self.late_ms.summary(),
            "transitions": [
                [e.stamp_ns, e.old.value, e.new.value, e.reason.value] for e in guard.transitions
            ],
        }

    def status(self) -> Health:
        """The same for ``/diagnostics``: an error while stopped, a warning after new warnings."""
        summary, guard = self.summary(), self.guard
        warned, before = sum(guard.warnings.values()), self._warned
        self._warned = warned
        return Health(
            message=guard.implausible or guard.state.value,
            values={key: json.dumps(summary[key]) for key in _SHOWN},
            is_error=guard.state in (State.HOLD, State.DAMP) or bool(guard.implausible),
            is_warning=warned > before,
        )
