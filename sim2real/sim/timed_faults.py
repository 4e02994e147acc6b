"""What goes wrong with virtual robots and devices, and when; and how a command line says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from policies.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TimedFault:
    """Something that goes wrong for a while.

    Attributes:
        kind: what it is.
        start_s, duration_s: when, s.
    """

    kind: str
    start_s: float = 0.0
    duration_s: float = float("inf")

    def active(self, t_s: float) -> bool:
        """True while it is on."""
        return self.start_s <= t_s < self.start_s + self.duration_s


class Words(NamedTuple):
    """One fault as it was given.

    Attributes:
        text: all of it.
        what: what stands before its time.
        start_s, duration_s: when, s.
    """

    text: str
    what: str
    start_s: float
    duration_s: float


F = TypeVar("F", bound=TimedFault)


def parse_timed(text: str, make: Callable[[Words], F], *, example: str) -> tuple[F, ...]:
    """``"WHAT@START:DURATION,WHAT@START,..."`` -> faults, in s; without a start from 0 on.

    Args:
        text: what was given.
        make: a fault of one's words; a ValueError means that they are not like the example.
        example: one that is right, and what its numbers are.

    Raises:
        InputError: a bad number, or what ``make`` refuses.
    """
    faults = []
    for item in filter(None, text.replace(" ", "").split(",")):
        what, _, times = item.partition("@")
        start, _, duration = times.partition(":")
        try:
            words = Words(item, what, float(start or 0.0), float(duration or "inf"))
            faults.append(make(words))
        except InputError:
            raise
        except ValueError:
            raise InputError(f"expected a fault like {example}, got {item!r}") from None
    return tuple(faults)


def check_kind(kind: str, known: tuple[str, ...]) -> None:
    """Refuse a kind of fault that is not known.

    Raises:
        InputError: it is not.
    """
    if kind not in known:
        raise InputError(f"expected a fault out of {list(known)}, got {kind!r}")
