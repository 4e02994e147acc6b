"""What all commands of ``realign calibrate`` share: refusals, results, pages, checks.

OpenCV and pinocchio come with the extra ``calibration``; they are imported when a command runs, so
that its help needs neither.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

from policies.errors import InputError
from sim2real.replay.cli import table_text
from sim2real.report import Section, Table, Text, write_report
from sim2real.results import check_new, write_json

if TYPE_CHECKING:
    from calibration.compare import Comparison
    from calibration.result import CalibrationResult

EXIT_DRIFTED = 4
EXIT_UNTOLD = 5
_EXIT = {"holds": 0, "drifted": EXIT_DRIFTED, "cannot tell": EXIT_UNTOLD}

P = ParamSpec("P")


def refusals_are_input(function: Callable[P, int | None]) -> Callable[P, int | None]:
    """What ``calibration`` refuses, which knows nothing of us, becomes bad input."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> int | None:
        from calibration.errors import CalibrationError

        try:
            return function(*args, **kwargs)
        except CalibrationError as error:
            raise InputError(str(error)) from None

    return call


def require_above_zero(**values: float) -> None:
    """Refuse options that must be positive and finite, by their names.

    Raises:
        InputError: one is not.
    """
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0.0):
            option = "--" + name.replace("_", "-")
            raise InputError(f"expected {option} above 0, got {value:g}; correct it")


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Where the result of a procedure goes, or its comparison with a stored one.

    Refused before the work begins where there is nothing to write to, or files exist.

    Attributes:
        json: file for the result (with ``check``: for the comparison).
        check: stored result to compare with, or None.
        report: page for either, or None.
        others: further files.
        overwrite: replace these.

    Raises:
        InputError: what is wrong.
    """

    json: Path | None
    check: Path | None
    report: Path | None
    others: tuple[Path | None, ...] = ()
    overwrite: bool

    def __post_init__(self) -> None:
        if self.json is None and self.check is None:
            raise InputError(
                "expected a file for the result (--json), or a stored one to compare with "
                "(--check), got neither; give one"
            )
        if self.json is not None and self.json == self.check:
            raise InputError(
                "expected another file for what --check finds than the stored result "
                f"{self.check}, got the same; leave --json out or name a new one"
            )
        for file in (self.json, *self.others, self.report):
            check_new(file, overwrite=self.overwrite)

    def finish(self, result: CalibrationResult, summary: str, sections: Sequence[Section]) -> None:
        """Print the numbers, store them, and write them as a page."""
        from calibration.result import write_result

        assert self.json is not None  # there is nothing to compare with
        write_result(self.json, result)
        std = result.std()
        rows = [(p.name, f"{p.value:.6g}", f"{std[p.name]:.2g}", p.unit) for p in result.parameters]
        print(summary)
        print(table_text(("parameter", "value", "+-", "unit"), rows))
        header = ("parameter", "value", "standard deviation", "unit")
        found = Table(heading="Parameters", header=header, rows=tuple(rows))
        title = f"Calibration: {result.kind.replace('_', '-')}"
        self._write_page(title, (Text(text=summary), found, *sections))
        print(f"result: {self.json}")

    def settle(self, kind: str, find: Callable[[CalibrationResult], Comparison]) -> int:
        """Compare the stored result with new data, and say what came out.

        Args:
            kind: kind of the result that is needed.
            find: the comparison; what it refuses for lack of information means "cannot tell".

        Returns:
            Exit code: 0 holds, 4 drifted, 5 cannot tell.
        """
        from calibration.compare import cannot_tell
        from calibration.errors import CalibrationError
        from calibration.result import read_result

        assert self.check is not None  # or there is nothing to compare with
        before = read_result(self.check, kind)
        try:
            answer = find(before)
        except CalibrationError as error:
            answer = cannot_tell(str(error))
        rows = tuple(
            (
                *(c.name, f"{c.stored:.5g}", f"{c.found:.5g}", f"{c.change:.3g}", f"{c.std:.2g}"),
                *(f"{c.tolerance:.2g}", c.unit, c.verdict),
            )
            for c in answer.changes
        )
        header = ("number", "stored", "now", "change", "+-", "tolerance", "unit", "by itself")
        if rows:
            print(table_text(header, list(rows)))
        line = f"{answer.verdict}: {answer.why}"
        if answer.distance2 is not None and answer.limit2 is not None:
            line += (
                f" (Mahalanobis distance squared {answer.distance2:.3g}, chance stays below "
                f"{answer.limit2:.3g})"
            )
        print(line)
        if self.json is not None:
            write_json(self.json, {"kind": kind, "stored": str(self.check), **answer.to_json()})
        table = Table(heading="Then and now", header=header, rows=rows)
        title = f"Calibration check: {kind.replace('_', '-')}"
        self._write_page(title, (Text(text=line), table))
        return _EXIT[answer.verdict]

    def _write_page(self, title: str, sections: tuple[Section, ...]) -> None:
        if self.report is not None:
            write_report(self.report, title, sections, overwrite=self.overwrite)


def tell_untold(untold: Mapping[str, str]) -> None:
    """Print what the data do not tell, and why."""
    for name, why in untold.items():
        print(f"not told: {name}: {why}")


def untold_sections(untold: Mapping[str, str], what: str) -> list[Section]:
    """The same as a table of a page, if there is any; ``what`` they are."""
    rows = tuple(untold.items())
    return [Table(heading="Not told", header=(what, "why"), rows=rows)] if rows else []
