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
from sim2real.episodes.cameras import FACTS, ImageLimits
from sim2real.episodes.episode import Episode
from sim2real.episodes.pieces import between
from sim2real.episodes.store import save_episodes
from sim2real.results import check_new, write_json

_AGES = ("mean_age_s", "max_age_s", "missing")


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
    images: bool = True,
    cameras: tuple[str, ...] | None = None,
    max_image_age_s: float = 0.2,
    max_missing: float = 0.05,
    task: str | None = None,
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
        images: keep the images of the bags' cameras.
        cameras: which cameras, NAME or NAME=TOPIC; all by default.
        max_image_age_s: an image older than this counts as missing at a step, s.
        max_missing: share of the steps at which an image may be missing; the one before stays.
        task: what was done, in place of the instruction or the marker in the bag.

    Raises:
        InputError: anything about the bags or the paths is wrong.
    """
    spec = get_robot(robot)
    check_new(json, overwrite=overwrite)
    check_new(out, overwrite=overwrite)
    limits = ImageLimits(max_age_s=max_image_age_s, max_missing=max_missing)
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
                    cameras=cameras if images else (),
                    image_limits=limits,
                    task=task,
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
        print(f"{name}: {_counted(count)}")
    shown = "not measurable" if latency_s is None else f"{latency_s * 1e3:.1f} ms"
    print(
        f"{out}: {_counted(len(episodes))}, {summary['frames']} frames, "
        f"{summary['duration_s']:.2f} s at {summary['rate_hz']:g} Hz; "
        f"command-to-motion latency {shown}"
    )
    for line in _camera_lines(summary["cameras"]):
        print(line)
    if json is not None:
        write_json(json, {**summary, "robot": spec.name, "out": str(out)})


def _counted(episodes: int) -> str:
    return f"{episodes} episode{'s' if episodes != 1 else ''}"


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
        "cameras": _cameras(episodes),
    }


def _cameras(episodes: list[Episode]) -> dict[str, dict[str, float]]:
    """Camera -> size, and how well its images fit to the steps before anything was cut off."""
    found: dict[str, dict[str, float]] = {}
    for name, frames in episodes[0].images.items():
        told = [{k: e.source[f"{FACTS}{name}.{k}"] for k in _AGES} for e in episodes]
        found[name] = {
            "height": frames.height,
            "width": frames.width,
            "mean_age_s": float(np.mean([float(t["mean_age_s"]) for t in told])),
            "max_age_s": max(float(t["max_age_s"]) for t in told),
            "missing": sum(int(t["missing"]) for t in told),
        }
    return found


def _camera_lines(cameras: dict[str, dict[str, float]]) -> list[str]:
    return [
        f"camera {name}: {c['width']} x {c['height']}, {1e3 * c['mean_age_s']:.1f} ms old at its "
        f"step, {1e3 * c['max_age_s']:.1f} ms at most, missing at {c['missing']}"
        for name, c in cameras.items()
    ]
