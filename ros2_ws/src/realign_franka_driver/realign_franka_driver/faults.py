"""What goes wrong with the emulated robot, and when."""

from __future__ import annotations

from dataclasses import dataclass

from policies.errors import InputError
from realign_franka_driver.errors import Error

TIMED = ("reflex", "estop", "silence")
_NAMES = {error.name.lower(): error for error in Error}


@dataclass(frozen=True, kw_only=True)
class BoxFault:
    """Something that goes wrong at a time, or that somebody does.

    Attributes:
        kind: ``reflex``, ``estop`` (the user stop is pressed), ``silence`` (no UDP either way),
            ``loss`` (of single commands) or ``version`` (of the protocol).
        start_s, duration_s: when, seconds since the first motion.
        value: probability of a loss, or version.
        error: error of a reflex.
    """

    kind: str
    start_s: float = 0.0
    duration_s: float = float("inf")
    value: float = 0.0
    error: Error = Error.CARTESIAN_REFLEX

    def active(self, t_s: float) -> bool:
        """True while it is on."""
        return self.start_s <= t_s < self.start_s + self.duration_s


def parse_faults(text: str) -> tuple[BoxFault, ...]:
    """``"reflex@2,silence@3:0.1,loss:0.05,version:9"`` -> faults.

    ``reflex=joint_velocity_violation@2`` names the error. Times are in s.

    Raises:
        InputError: unknown kind or error, or bad number.
    """
    return tuple(_parse(item) for item in filter(None, text.replace(" ", "").split(",")))


def _parse(item: str) -> BoxFault:
    what, _, times = item.partition("@")
    kind, _, error = what.partition("=")
    name, _, number = kind.partition(":")
    try:
        if name in ("loss", "version"):
            return BoxFault(kind=name, value=float(number))
        start, _, duration = times.partition(":")
        start_s, duration_s = float(start or 0.0), float(duration or "inf")
    except ValueError:
        raise InputError(
            "expected a fault like silence@2:0.1 (start and duration in s) or loss:0.05, "
            f"got {item!r}"
        ) from None
    if kind not in TIMED:
        raise InputError(f"expected a fault out of {[*TIMED, 'loss', 'version']}, got {kind!r}")
    if error and (kind != "reflex" or error not in _NAMES):
        raise InputError(f"expected a reflex out of {sorted(_NAMES)}, got {error!r} for {kind}")
    reason = _NAMES.get(error, Error.CARTESIAN_REFLEX)
    return BoxFault(kind=kind, start_s=start_s, duration_s=duration_s, error=reason)
