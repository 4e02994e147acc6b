"""``realign compare``: every method on the same data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from policies.robots import get_robot
from sim2real.baselines.compare import METHODS, Comparison, compare
from sim2real.episodes.store import load_episodes
from sim2real.replay.cli import table_text
from sim2real.replay.open_loop import HORIZONS_S
from sim2real.report import Bars, Section, Table, Text, write_report
from sim2real.results import check_new, write_json

_TABLES = (
    ("e_g_mpjpe_mm", "E_g-mpjpe, mm", 1.0, 2),
    ("e_mpjpe_mm", "E_mpjpe, mm", 1.0, 2),
    ("e_ee_mm", "end effector, mm", 1.0, 2),
    ("qpos_rmse_rad", "joint RMSE, mrad", 1e3, 2),
)
_HEADER = "[95 %], share of open loop [95 %]"


def compare_command(
    train: Path,
    test: Path,
    robot: str,
    *,
    methods: tuple[str, ...] = METHODS,
    horizons_s: tuple[float, ...] = HORIZONS_S,
    bootstrap: int = 1000,
    seed: int = 0,
    json: Path | None = None,
    report: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Open loop, domain randomization, system identification, delta dynamics and delta action.

    Each method is fitted to TRAIN and replays TEST from the same resets; intervals of 95 % come
    from a bootstrap over episodes, or over blocks of windows where there are few episodes.

    Args:
        train: folder of episodes to learn from.
        test: folder of episodes to be measured on.
        robot: robot name.
        methods: methods to compare; open loop is always among them.
        horizons_s: lengths of replay from a reset to the logged state, s; resets every 0.5 s.
        bootstrap: bootstrap samples.
        seed: of training, draws and bootstrap.
        json: file for machine-readable results.
        report: HTML page to write.
        overwrite: replace these files if they exist.
    """
    spec = get_robot(robot)
    for file in (json, report):
        check_new(file, overwrite=overwrite)
    learn, judge = load_episodes(train, spec), load_episodes(test, spec)
    with tqdm(
        total=1.0,
        desc="compare",
        disable=None,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}",
    ) as bar:

        def show(what: str, share: float) -> None:
            bar.set_description_str(f"compare: {what}", refresh=False)
            bar.update(share - bar.n)

        comparison = compare(
            learn,
            judge,
            spec,
            methods=methods,
            horizons_s=horizons_s,
            samples=bootstrap,
            seed=seed,
            progress=show,
        )
    result, intervals = comparison.result, comparison.intervals
    print(
        f"{robot}: {result.windows} windows of {result.episodes} episodes, {result.rate_hz:g} Hz; "
        f"intervals of 95 % over {intervals.units} draws of one {intervals.unit}"
    )
    for heading, header, rows in tables(comparison):
        print(f"\n{heading} {_HEADER}")
        print(table_text(header, rows))
    for name, trust in comparison.trust.items():
        print(
            f"\n{_title(name)}, trust in itself: {100 * trust['joints']:.0f} %, of its networks "
            f"{100 * trust['network']:.0f} % (100 %: states like those it was trained on)"
        )
    if json:
        write_json(json, comparison.to_json())
    if report:
        write_report(
            report, f"Comparison: {robot}", comparison_sections(comparison), overwrite=overwrite
        )


def tables(
    comparison: Comparison,
) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Heading, header and rows for each error: one row a method, one column a horizon."""
    result, intervals = comparison.result, comparison.intervals
    header = ("method", *(f"{h:g} s" for h in result.horizons_s))
    out = []
    for name, heading, factor, digits in _TABLES:
        if name not in intervals.errors[intervals.reference]:
            continue
        rows = []
        base = getattr(result.methods[intervals.reference], name)
        for method, metrics in result.methods.items():
            value = getattr(metrics, name)
            span, ratios = intervals.errors[method][name], intervals.ratios[method][name]
            cells = []
            for i in range(len(result.horizons_s)):
                low, high = factor * span[i]
                cell = f"{factor * value[i]:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
                if method != intervals.reference and base[i] > 0.0:
                    share = value[i] / base[i]
                    cell += f"  {share:.2f} [{ratios[i][0]:.2f}, {ratios[i][1]:.2f}]"
                cells.append(cell)
            rows.append((_title(method), *cells))
        out.append((heading, header, rows))
    return out


def comparison_sections(comparison: Comparison) -> list[Section]:
    """Sections of the page."""
    result, intervals = comparison.result, comparison.intervals
    labels = tuple(f"{h:g} s" for h in result.horizons_s)
    sections: list[Section] = [
        Text(
            text=f"Robot {result.robot}: {result.windows} windows of {result.episodes} episodes "
            f"that no method has seen, {result.rate_hz:g} Hz. Intervals of 95 % from "
            f"{intervals.samples} bootstrap samples over {intervals.units} draws of one "
            f"{intervals.unit}; shares of open loop are paired."
        )
    ]
    for (name, heading, factor, _), (_, header, rows) in zip(
        [t for t in _TABLES if t[0] in intervals.errors[intervals.reference]],
        tables(comparison),
        strict=True,
    ):
        series: dict[str, Any] = {
            _title(method): [factor * float(v) for v in getattr(metrics, name)]
            for method, metrics in result.methods.items()
        }
        sections.append(Bars(heading=heading, labels=labels, series=series, unit=heading))
        sections.append(
            Table(heading="", header=header, rows=tuple(rows), note=f"{heading} {_HEADER}")
        )
    return sections


def _title(method: str) -> str:
    return method.replace("_", " ")
