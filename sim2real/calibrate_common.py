"""What all commands of ``realign calibrate`` share: refusals, results, pages, checks.

OpenCV and pinocchio come with the extra ``calibration``; they are imported when a command runs, so
that its help needs neither.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
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


def check_outputs(
    json: Path | None, check: Path | None, *others: Path | None, overwrite: bool
) -> None:
    """Refuse before the work begins: nothing to write to, or files that exist.

    Raises:
        InputError: what is wrong.
    """
    if json is None and check is None:
        raise InputError(
            "expected a file for the result (--json), or a stored one to compare with (--check), "
            "got neither; give one"
        )
    if json is not None and json == check:
        raise InputError(
            f"expected another file for what --check finds than the stored result {check}, got "
            "the same; leave --json out or name a new one"
        )
    for file in (json, *others):
        check_new(file, overwrite=overwrite)


def require_above_zero(**values: float) -> None:
    """Refuse options that must be positive and finite, by their names.

    Raises:
        InputError: one is not.
    """
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0.0):
            option = "--" + name.replace("_", "-")
            raise InputError(f"expected {option} above 0, got {value:g}; correct it")


def finish(
    result: CalibrationResult,
    summary: str,
    json: Path,
    report: Path | None,
    sections: Sequence[Section],
    *,
    overwrite: bool,
) -> None:
    """Print the numbers, store them, and write them as a page."""
    from calibration.result import write_result

    write_result(json, result)
    std = result.std()
    rows = [(p.name, f"{p.value:.6g}", f"{std[p.name]:.2g}", p.unit) for p in result.parameters]
    print(summary)
    print(table_text(("parameter", "value", "+-", "unit"), rows))
    if report is not None:
        header = ("parameter", "value", "standard deviation", "unit")
        found = Table(heading="Parameters", header=header, rows=tuple(rows))
        title = f"Calibration: {result.kind.replace('_', '-')}"
        write_report(report, title, (Text(text=summary), found, *sections), overwrite=overwrite)
    print(f"result: {json}")


def settle(
    kind: str,
    stored: Path,
    find: Callable[[CalibrationResult], Comparison],
    json: Path | None,
    report: Path | None,
    *,
    overwrite: bool,
) -> int:
    """Compare a stored result with new data, and say what came out.

    Args:
        kind: kind of the result that is needed.
        stored: its file.
        find: the comparison; what it refuses for lack of information means "cannot tell".
        json: file for the comparison, or None.
        report: page for it, or None.
        overwrite: replace these.

    Returns:
        Exit code: 0 holds, 4 drifted, 5 cannot tell.
    """
    from calibration.compare import cannot_tell
    from calibration.errors import CalibrationError
    from calibration.result import read_result

    before = read_result(stored, kind)
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
    if json is not None:
        write_json(json, {"kind": kind, "stored": str(stored), **answer.to_json()})
    if report is not None:
        table = Table(heading="Then and now", header=header, rows=rows)
        title = f"Calibration check: {kind.replace('_', '-')}"
        write_report(report, title, (Text(text=line), table), overwrite=overwrite)
    return _EXIT[answer.verdict]
