"""``realign episodes build``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from policies.errors import InputError
from policies.robots import get_robot
from sim2real.episodes.align import estimate_latency_s
from sim2real.episodes.build import build_episodes
from sim2real.episodes.episode import Episode
from sim2real.episodes.pieces import between
from sim2real.episodes.store import save_episodes
from sim2real.results import check_new, write_json


def episodes_build(
    bag: list[Path],
    robot: str,
    out: Path,
    *,
    rate_hz: float | None = None,
    overwrite: bool = False,
    json: Path | None = None,
    state_topic: str | None = None,
    command_topic: str | None = None,
    min_length_s: float = 0.5,
    start_s: float = 0.0,
    end_s: float | None = None,
) -> None:
    """Cut bags into episodes on an even grid and store them (LeRobotDataset v3 layout).

    Args:
        bag: one or more rosbag2 directories, or .mcap or .db3 files.
        robot: whose joints are in them.
        out: directory to be made.
        rate_hz: grid rate, Hz; the control rate of the robot by default.
        overwrite: replace OUT if it holds episodes, and the JSON file.
        json: write a summary to this file.
        state_topic: joint states; /joint_states by default.
        command_topic: commands; /joint_command or /joint_commands by default.
        min_length_s: shorter stretches are left out, s.
        start_s: leave out what comes before, s since the start of each bag.
        end_s: leave out what comes after, s since the start of each bag: two calls with the same
            time split a log into one part to learn from and one to judge by.

    Raises:
        InputError: anything about the bags or the paths is wrong.
    """
    spec = get_robot(robot)
    check_new(json, overwrite=overwrite)
    check_new(out, overwrite=overwrite)
    episodes: list[Episode] = []
    counts: dict[str, int] = {}
    with tqdm(total=len(bag), desc="episodes", unit="bag", disable=None) as bar:
        for path in bag:
            bar.set_postfix_str(path.name)
            found = between(
                build_episodes(
                    path,
                    spec,
                    rate_hz=rate_hz,
                    state_topic=state_topic,
                    command_topic=command_topic,
                    min_length_s=min_length_s,
                ),
                start_s,
                np.inf if end_s is None else end_s,
                min_length_s,
            )
            if not found:
                raise InputError(
                    f"{path}: expected episodes of at least {min_length_s:g} s between "
                    f"{start_s:g} and {end_s or 'the end'} s of the bag, got none; give other times"
                )
            counts[str(path)] = len(found)
            episodes += found
            bar.update()
    latency_s = estimate_latency_s(episodes)
    save_episodes(episodes, out, overwrite=overwrite, latency_s=latency_s)
    summary = _summary(episodes, counts, latency_s)
    for name, count in counts.items():
        print(f"{name}: {count} episode{'s' if count != 1 else ''}")
    shown = "not measurable" if latency_s is None else f"{latency_s * 1e3:.1f} ms"
    print(
        f"{out}: {summary['episodes']} episodes, {summary['frames']} frames, "
        f"{summary['duration_s']:.2f} s at {summary['rate_hz']:g} Hz; "
        f"command-to-motion latency {shown}"
    )
    if json is not None:
        write_json(json, {**summary, "robot": spec.name, "out": str(out)})


def _summary(
    episodes: list[Episode], counts: dict[str, int], latency_s: float | None
) -> dict[str, Any]:
    return {
        "episodes": len(episodes),
        "frames": sum(len(episode) for episode in episodes),
        "duration_s": sum((len(episode) - 1) / episode.rate_hz for episode in episodes),
        "rate_hz": episodes[0].rate_hz,
        "latency_s": latency_s,
        "bags": counts,
    }
