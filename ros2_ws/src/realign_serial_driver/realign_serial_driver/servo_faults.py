"""Things that go wrong on an emulated servo bus."""

from __future__ import annotations

from dataclasses import dataclass

from policies.errors import InputError

KINDS = ("silent", "drop", "noise", "dead", "hot", "overload", "undervoltage", "unplugged")
_WITH_RATE = ("drop", "noise")
WITH_SERVO = ("dead", "hot", "overload")


@dataclass(frozen=True, kw_only=True)
class BusFault:
    """Something that goes wrong at a time of the emulator.

    Attributes:
        kind: ``silent`` (no servo answers), ``drop`` and ``noise`` (replies get lost or damaged),
            ``dead`` (one servo has no power), ``hot``, ``overload``, ``undervoltage``, or
            ``unplugged`` (the port goes away).
        start_s, duration_s: when, seconds since torque was first switched on.
        value: share of replies, or id of the servo.
    """

    kind: str
    start_s: float
    duration_s: float
    value: float = 0.0

    def active(self, t_s: float) -> bool:
        """True while it is on."""
        return self.start_s <= t_s < self.start_s + self.duration_s


def parse_faults(text: str) -> tuple[BusFault, ...]:
    """``"drop=0.01,dead=3@2:0.05"`` -> faults: kind, value, start and optional duration in s.

    Raises:
        InputError: unknown kind or bad number.
    """
    faults = []
    for item in filter(None, text.replace(" ", "").split(",")):
        what, _, times = item.partition("@")
        kind, _, value = what.partition("=")
        start, _, duration = times.partition(":")
        try:
            fault = BusFault(
                kind=kind,
                start_s=float(start or 0.0),
                duration_s=float(duration or "inf"),
                value=float(value or 0.0),
            )
        except ValueError:
            raise InputError(
                f"expected a fault like dead=3@2:0.05 (servo, start and duration in s), "
                f"got {item!r}"
            ) from None
        if kind not in KINDS:
            raise InputError(f"expected a fault out of {list(KINDS)}, got {kind!r}")
        if (kind in _WITH_RATE and not 0.0 < fault.value <= 1.0) or (
            kind in WITH_SERVO and not fault.value.is_integer()
        ):
            what = "a share of replies" if kind in _WITH_RATE else "a servo id"
            raise InputError(f"expected {what} after {kind}=, got {item!r}")
        faults.append(fault)
    return tuple(faults)
