"""Things that go wrong on an emulated servo bus."""

from __future__ import annotations

from dataclasses import dataclass

from policies.errors import InputError
from sim2real.sim.timed_faults import TimedFault, Words, check_kind, parse_timed

KINDS = ("silent", "drop", "noise", "dead", "hot", "overload", "undervoltage", "unplugged")
_WITH_RATE = ("drop", "noise")
WITH_SERVO = ("dead", "hot", "overload")


@dataclass(frozen=True, kw_only=True)
class BusFault(TimedFault):
    """Something that goes wrong at a time of the emulator.

    Attributes:
        kind: ``silent`` (no servo answers), ``drop`` and ``noise`` (replies get lost or damaged),
            ``dead`` (one servo has no power), ``hot``, ``overload``, ``undervoltage``, or
            ``unplugged`` (the port goes away).
        start_s, duration_s: when, seconds since torque was first switched on.
        value: share of replies, or id of the servo.
    """

    value: float = 0.0


def parse_faults(text: str) -> tuple[BusFault, ...]:
    """``"drop=0.01,dead=3@2:0.05"`` -> faults: kind, value, start and optional duration in s.

    Raises:
        InputError: unknown kind or bad number.
    """
    example = "dead=3@2:0.05 (servo, start and duration in s)"
    return parse_timed(text, _fault, example=example)


def _fault(words: Words) -> BusFault:
    kind, _, value = words.what.partition("=")
    number = float(value or 0.0)
    check_kind(kind, KINDS)
    if (kind in _WITH_RATE and not 0.0 < number <= 1.0) or (
        kind in WITH_SERVO and not number.is_integer()
    ):
        what = "a share of replies" if kind in _WITH_RATE else "a servo id"
        raise InputError(f"expected {what} after {kind}=, got {words.text!r}")
    return BusFault(kind=kind, start_s=words.start_s, duration_s=words.duration_s, value=number)
