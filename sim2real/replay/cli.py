"""``realign replay``: open-loop replay of logged actions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from policies.checkpoint_files import UNSEALED, is_sealed, read_config
from policies.robots import get_robot
from sim2real.delta.model import DeltaModel, load_delta
from sim2real.delta.trust import TrustMeter
from sim2real.episodes.store import load_episodes
from sim2real.replay.episode_page import camera_strip
from sim2real.replay.open_loop import HORIZONS_S, replay
from sim2real.replay.report import metric_rows, replay_sections
from sim2real.report import write_report
from sim2real.results import check_new, write_json
from sim2real.sim.gaps import make_gap


def table_text(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """A table in aligned columns: the first to the left, the others to the right."""
    cells = [header, *rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    )


def replay_command(
    episodes: Path,
    robot: str,
    *,
    delta: Path | None = None,
    horizons_s: tuple[float, ...] = HORIZONS_S,
    gap: str = "none",
    json: Path | None = None,
    report: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Replay logged actions in the simulator and print how far it drifts from the log.

    Args:
        episodes: folder of episodes, from `realign episodes build`.
        robot: robot name.
        delta: delta-action model; replayed beside plain open loop.
        horizons_s: lengths of replay from a reset to the logged state, s; resets every 0.5 s.
        gap: dynamics gap of the simulator.
        json: file for machine-readable results.
        report: HTML page to write.
        overwrite: replace these files if they exist.
    """
    spec = get_robot(robot)
    for file in (json, report):
        check_new(file, overwrite=overwrite)
    model = None if delta is None else load_delta(delta, spec)
    if delta is not None and not is_sealed(read_config(delta)[0]):
        print(f"note: {delta}: {UNSEALED}")
    meter = TrustMeter(model) if isinstance(model, DeltaModel) else None
    logged = load_episodes(episodes, spec)
    with tqdm(
        total=1.0,
        desc="replay",
        disable=None,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}",
    ) as bar:
        result = replay(
            logged,
            spec,
            delta=meter or model,
            horizons_s=horizons_s,
            gap=make_gap(spec, gap),
            progress=lambda share: _to(bar, share),
        )
    content = result.to_json()
    print(f"{robot}: {result.windows} windows of {result.episodes} episodes, {result.rate_hz:g} Hz")
    print(table_text(*metric_rows(content)))
    if meter is not None:
        content["methods"]["delta_action"]["trust"] = meter.summary()
        print(_trust_text(meter))
    worst = list(zip(result.joint_names, *_last_per_joint(content), strict=True))
    print(f"\njoint RMSE over {horizons_s[-1]:g} s, mrad")
    header = ("joint", *(m.replace("_", " ") for m in result.methods))
    print(table_text(header, [(str(n), *(f"{1e3 * v:.2f}" for v in vs)) for n, *vs in worst]))
    if json:
        write_json(json, content)
    if report:
        sections = replay_sections(result, strip=camera_strip(logged[0]))
        write_report(report, f"Open-loop replay: {robot}", sections, overwrite=overwrite)


def _trust_text(meter: TrustMeter) -> str:
    """How far the model trusted itself in this replay."""
    trust = meter.summary()
    text = f"trust of the delta in itself: {100 * trust['joints']:.0f} %"
    if meter.model.gain > 0.0:
        text += f", of its networks {100 * trust['network']:.0f} %"
    return f"{text} (100 %: states like those it was trained on; 0 %: it adds nothing)"


def _to(bar: tqdm[Any], share: float) -> None:
    bar.update(share - bar.n)


def _last_per_joint(
    content: dict[str, dict[str, dict[str, list[list[float]]]]],
) -> list[list[float]]:
    return [m["qpos_rmse_per_joint_rad"][-1] for m in content["methods"].values()]
