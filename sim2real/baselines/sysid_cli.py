"""``realign sysid``: a robot's parameters from its logs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from policies.robots import get_robot
from sim2real.baselines.parameter_fit import Estimate, SysIdConfig
from sim2real.baselines.sysid import SysIdReport, identify
from sim2real.episodes.store import load_episodes
from sim2real.replay.cli import table_text
from sim2real.replay.report import metric_rows
from sim2real.results import check_new, write_json


def sysid_command(
    episodes: Path,
    robot: str,
    out: Path,
    *,
    parameters: tuple[str, ...] = (),
    detail: Literal["auto", "robot", "group", "side", "joint"] = "auto",
    window_s: float | None = None,
    windows: int = SysIdConfig.windows,
    iterations: int = SysIdConfig.iterations,
    seed: int = 0,
    json: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Motors, friction, inertia, payload, floor and delay with which the simulator fits the logs.

    Writes a gap that `--gap` of other commands takes. What the data do not tell stays nominal.

    Args:
        episodes: folder of episodes, from `realign episodes build`; a part is held out.
        robot: robot name.
        out: JSON file for the gap.
        parameters: strength, kp, kd, limit, friction, damping, armature, spring, offset, payload,
            floor, delay; default for a legged robot all but kp and damping (kd does the same), for
            an arm all but kp, limit, spring and floor.
        detail: joints that share a value: left and right together (group), apart (side), none
            (joint); robot for payload, floor and delay alone; auto for robot, group or joint,
            whichever replays the held-out part best.
        window_s: length of the windows that are simulated from logged states, s; default 0.12 for
            a legged robot and 0.25 for an arm.
        windows: most windows; more is slower.
        iterations: Jacobians at each level of detail.
        seed: of the split.
        json: file for machine-readable results.
        overwrite: replace these files if they exist.
    """
    spec = get_robot(robot)
    for file in (out, json):
        check_new(file, overwrite=overwrite)
    config = SysIdConfig(
        parameters=parameters,
        detail=None if detail == "auto" else detail,
        window_s=window_s,
        windows=windows,
        iterations=iterations,
        seed=seed,
    )
    logged = load_episodes(episodes, spec)
    with tqdm(
        total=1.0,
        desc="sysid",
        disable=None,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}",
    ) as bar:

        def show(stage: str, share: float) -> None:
            bar.set_description_str(f"sysid: {stage}", refresh=False)
            bar.update(share - bar.n)

        gap, report = identify(logged, spec, config=config, progress=show)
    gap.save(out, spec, found_by="realign sysid", windows=report.windows, seed=seed)
    _print(robot, report)
    print(f"gap: {out}")
    if json:
        write_json(json, content(robot, report) | {"gap": gap.to_json()})


def _print(robot: str, report: SysIdReport) -> None:
    print(
        f"{robot}: {report.windows} windows of {report.window_s:g} s, one value a {report.detail}, "
        f"condition number {report.condition:.1e}"
    )
    rows = [_row(estimate) for estimate in report.estimates if estimate.state != "prior"]
    print(table_text(("parameter", "nominal", "estimate", "+-", "unit", ""), rows))
    if report.unidentified:
        print(f"the data do not tell, stay nominal: {', '.join(report.unidentified)}")
    print("\nopen-loop replay of the held-out part")
    print(table_text(*metric_rows(report.held_out.to_json())))


def _row(estimate: Estimate) -> tuple[str, ...]:
    note = ["only with others"] if estimate.state == "with others" else []
    note += ["at its bound"] if estimate.at_bound else []
    numbers = (estimate.prior, estimate.value, estimate.std)
    return (
        estimate.name,
        *(f"{number:.4g}" for number in numbers),
        estimate.unit,
        ", ".join(note),
    )


def content(robot: str, report: SysIdReport) -> dict[str, Any]:
    """The JSON of `realign sysid`."""
    return {
        "robot": robot,
        "detail": report.detail,
        "condition": report.condition,
        "windows": report.windows,
        "window_s": report.window_s,
        "parameters": [asdict(estimate) for estimate in report.estimates],
        "unidentified": list(report.unidentified),
        "held_out": report.held_out.to_json(),
    }
