"""`realign demo`: the whole loop on the embedded virtual robot.

A policy reaches for goals through the ROS graph on a robot whose dynamics differ from the nominal
model in a way that nothing here is told. Two bags are recorded: one to learn from, one held out.
Both become episodes; open-loop replay of the held-out ones shows the gap; a delta-action model
learned from the first closes it.
"""

from __future__ import annotations

import json as json_module
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from tqdm import tqdm

from policies.errors import FaultError, InputError

_MARKER = "demo.json"


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """What the demo does.

    Attributes:
        gap_seed: draws the hidden dynamics gap.
        train_goals, test_goals: goals (one episode each) to learn from and held out.
        goal_period_s: time for each goal, s.
        seed: of goals, start poses and training.
    """

    gap_seed: int = 7
    train_goals: int = 24
    test_goals: int = 8
    goal_period_s: float = 4.0
    seed: int = 0


def panda_checkpoint() -> Path:
    """The reach policy that the repository trains itself and ships."""
    return Path(str(files("policies"))) / "checkpoints" / "panda_reach"


def run_demo(out: Path, config: DemoConfig) -> dict[str, Any]:
    """Run the loop; writes bags, episodes, the delta model, result.json and report.html to ``out``.

    Returns:
        The content of ``result.json``: ``runs``, ``replay`` (the JSON of `realign replay`), label
        statistics and ``wall_s``.

    Raises:
        FaultError: a run was stopped by a fault.
    """
    from policies.robots.panda import PANDA
    from sim2real.delta.train import DeltaConfig, train_delta
    from sim2real.episodes.store import load_episodes, save_episodes
    from sim2real.replay.open_loop import replay

    start = time.monotonic()
    runs = {}
    for name, goals, seed in (
        ("train", config.train_goals, config.seed + 1),
        ("held_out", config.test_goals, config.seed + 2),
    ):
        runs[name] = _record(out, config, name, goals, seed)
        save_episodes(_episodes(out / "bags" / name), out / "episodes" / name, robot=PANDA)
    train = load_episodes(out / "episodes" / "train", PANDA)
    held_out = load_episodes(out / "episodes" / "held_out", PANDA)
    with _bar("delta action: train") as bar:
        model, report = train_delta(
            train, PANDA, config=DeltaConfig(seed=config.seed), progress=_stages(bar)
        )
    model.save(out / "delta")
    with _bar("replay, before and after") as bar:
        result = replay(held_out, PANDA, delta=model, progress=lambda s: _to(bar, s))
    content = {
        "runs": runs,
        "replay": result.to_json(),
        "delta_labels": vars(report.labels),
        "wall_s": round(time.monotonic() - start, 1),
    }
    (out / "result.json").write_text(json_module.dumps(content, indent=1, default=_plain) + "\n")
    _write_report(out / "report.html", content, result)
    return content


def _record(out: Path, config: DemoConfig, name: str, goals: int, seed: int) -> dict[str, Any]:
    from sim2real.run import run
    from sim2real.run_config import RunConfig

    result = run(
        RunConfig(
            robot="panda",
            policy=panda_checkpoint(),
            lockstep=True,
            record=out / "bags" / name,
            seed=seed,
            gap=f"hidden:{config.gap_seed}",
            goals=goals,
            goal_period_s=config.goal_period_s,
        ),
        description=f"ROS graph: {name.replace('_', ' ')} goals",
    )
    if not result["completed"]:
        raise FaultError(f"the {name} run was stopped by {result['stopped_by']}; see {out}")
    return result


def _episodes(bag: Path) -> list[Any]:
    from policies.robots.panda import PANDA
    from sim2real.episodes.build import build_episodes

    with _bar(f"bag -> episodes: {bag.name.replace('_', ' ')}") as bar:
        return build_episodes(bag, PANDA, progress=lambda done, total: _to(bar, done / total))


def _write_report(path: Path, content: dict[str, Any], result: Any) -> None:
    from sim2real.replay.report import replay_sections
    from sim2real.report import write_report

    run = content["runs"]["held_out"]
    intro = (
        "A Franka Panda reached for goals through the ROS 2 graph on a virtual robot with a hidden "
        f"dynamics gap ({run['steps']} control ticks held out, guard refused "
        f"{run['guard']['refused']} chunks). Logged actions are replayed open loop in the nominal "
        "simulator, without and with the delta-action model, from resets every 0.5 s."
    )
    write_report(path, "realign demo", replay_sections(result, intro=intro))


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays for JSON."""
    return value.tolist()


def _bar(description: str) -> tqdm[Any]:
    return tqdm(
        total=1.0,
        desc=description,
        disable=None,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}",
    )


def _to(bar: tqdm[Any], share: float) -> None:
    bar.update(share - bar.n)


def _stages(bar: tqdm[Any]) -> Callable[[str, float], None]:
    def show(stage: str, share: float) -> None:
        bar.set_description_str(f"delta action: {stage}", refresh=False)
        _to(bar, share)

    return show


def table(content: dict[str, Any]) -> str:
    """The printed result: errors before and after, per horizon."""
    replay = content["replay"]
    before, after = replay["methods"]["open_loop"], replay["methods"]["delta_action"]
    header = ("held-out replay error", "horizon", "open loop", "delta action", "ratio")
    rows = ["{:24s}{:>9s}{:>12s}{:>14s}{:>8s}".format(*header)]
    for key, label in (("E_g_mpjpe_mm", "E_g-mpjpe, mm"), ("qpos_rmse_rad", "joint RMSE, rad")):
        for i, horizon in enumerate(replay["horizons_s"]):
            b, a = before[key][i], after[key][i]
            digits = 2 if key.endswith("mm") else 4
            rows.append(f"{label:24s}{horizon:7.2f} s{b:12.{digits}f}{a:14.{digits}f}{a / b:8.2f}")
    return "\n".join(rows)


def demo_command(
    out: Path = Path("realign_demo"),
    overwrite: bool = False,
    gap_seed: int = 7,
    train_goals: int = 24,
    test_goals: int = 8,
    seed: int = 0,
) -> None:
    """The whole loop on the embedded virtual robot; ends in a table and report.html.

    Args:
        out: directory to write.
        overwrite: replace the output of an earlier demo.
        gap_seed: draws the hidden dynamics gap.
        train_goals: goals (episodes of 4 s) to learn from.
        test_goals: goals held out.
        seed: of goals, start poses and training.
    """
    from sim2real.graph import require_ros

    require_ros()
    if train_goals < 2 or test_goals < 1:
        raise InputError(
            f"expected at least 2 goals to learn from and 1 held out, got {train_goals} and "
            f"{test_goals}"
        )
    _make_folder(out, overwrite=overwrite)
    config = DemoConfig(
        gap_seed=gap_seed, train_goals=train_goals, test_goals=test_goals, seed=seed
    )
    content = run_demo(out, config)
    print(table(content))
    run = content["runs"]["train"]
    speed = run["duration_s"] / run["wall_s"]
    print(
        f"ROS graph in lockstep: {speed:.1f} simulated s per wall s, {run['steps']} ticks recorded"
    )
    print(f"{content['wall_s']:.0f} s in all; report: {out / 'report.html'}")


def _make_folder(out: Path, *, overwrite: bool) -> None:
    if out.exists():
        if not overwrite:
            raise InputError(f"{out} exists already; give another --out, or --overwrite")
        if not (out / _MARKER).is_file():
            raise InputError(f"{out} is not the output of a demo and stays; give another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    (out / _MARKER).write_text('{"made_by": "realign demo"}\n')
