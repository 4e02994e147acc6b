"""What goes wrong with the emulated robot, and when."""

from __future__ import annotations

from dataclasses import dataclass

from policies.errors import InputError
from realign_franka_driver.errors import Error
from sim2real.sim.timed_faults import TimedFault, Words, check_kind, parse_timed

TIMED, UNTIMED = ("reflex", "estop", "silence"), ("loss", "version")
_NAMES = {error.name.lower(): error for error in Error}


@dataclass(frozen=True, kw_only=True)
class BoxFault(TimedFault):
    """Something that goes wrong at a time, or that somebody does.

    Attributes:
        kind: ``reflex``, ``estop`` (the user stop is pressed), ``silence`` (no UDP either way),
            ``loss`` (of single commands) or ``version`` (of the protocol).
        start_s, duration_s: when, seconds since the first motion.
        value: probability of a loss, or version.
        error: error of a reflex.
    """

    value: float = 0.0
    error: Error = Error.CARTESIAN_REFLEX


def parse_faults(text: str) -> tuple[BoxFault, ...]:
    """``"reflex@2,silence@3:0.1,loss:0.05,version:9"`` -> faults.

    ``reflex=joint_velocity_violation@2`` names the error. Times are in s.

    Raises:
        InputError: unknown kind or error, or bad number.
    """
    example = "silence@2:0.1 (start and duration in s) or loss:0.05"
    return parse_timed(text, _fault, example=example)


def _fault(words: Words) -> BoxFault:
    kind, _, error = words.what.partition("=")
    name, _, number = kind.partition(":")
    if name in UNTIMED:
        return BoxFault(kind=name, value=float(number))
    check_kind(kind, (*TIMED, *UNTIMED))
    if error and (kind != "reflex" or error not in _NAMES):
        raise InputError(f"expected a reflex out of {sorted(_NAMES)}, got {error!r} for {kind}")
    reason = _NAMES.get(error, Error.CARTESIAN_REFLEX)
    return BoxFault(kind=kind, start_s=words.start_s, duration_s=words.duration_s, error=reason)
