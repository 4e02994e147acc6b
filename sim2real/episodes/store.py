"""Episodes on disk in the LeRobotDataset v3.0 layout, plus a manifest that is checked on load.

Layout: ``meta/info.json``, ``meta/stats.json``, ``meta/tasks.parquet``, ``meta/episodes`` and
``data`` in one Parquet file each (https://huggingface.co/docs/lerobot, dataset format v3.0).
Arrays are float64, so that a replay from disk is the replay from the bag bit for bit;
``time_s`` is the time since the start of the bag, ``timestamp`` that since the start of the
episode. ``meta/realign.json`` holds robot, fingerprint, sources, latency and SHA-256 sums.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from policies.actor.config import read_json
from policies.datasets.image_column import (
    IMAGES,
    image_statistics,
    write_frames,
)
from policies.datasets.layout import (
    DATA,
    EPISODES,
    INFO,
    STATS,
    TASKS,
    frame_table,
    read_table,
    statistics,
    task_table,
    write_meta,
)
from policies.errors import InputError
from policies.interface import RobotSpec
from policies.robots import ROBOTS, get_robot
from sim2real.episodes.align import estimate_latency_s
from sim2real.episodes.episode import Episode
from sim2real.episodes.lerobot_layout import (
    ACTION,
    AXES,
    OPTIONAL,
    REQUIRED,
    dataset_info,
    episode_table,
    index_columns,
)
from sim2real.episodes.stored_images import joined_images, stored_images

FORMAT = 1
MANIFEST = "meta/realign.json"
_REBUILD = "build the episodes again"


def save_episodes(
    episodes: Sequence[Episode],
    out_dir: Path,
    *,
    overwrite: bool = False,
    robot: RobotSpec | None = None,
    latency_s: float | None = None,
) -> None:
    """Write episodes to a new directory; it appears whole or not at all.

    Args:
        episodes: at least one, all of one robot and rate, with the same optional fields.
        out_dir: directory to be made.
        overwrite: replace ``out_dir`` if it holds episodes.
        robot: robot of the episodes; None to look it up by its name.
        latency_s: command-to-motion delay for the manifest, s; None to estimate it here.

    Raises:
        InputError: ``out_dir`` exists, or the episodes do not belong together.
    """
    out_dir = Path(out_dir)
    _require_free(out_dir, overwrite)
    features = _require_uniform(episodes)
    robot = robot or get_robot(episodes[0].robot)
    if robot.fingerprint != episodes[0].robot_fingerprint:
        raise InputError(
            f"episodes of {episodes[0].robot}: expected robot fingerprint {robot.fingerprint}, got "
            f"{episodes[0].robot_fingerprint}; build them again with this version of the robot"
        )
    if latency_s is None:
        latency_s = estimate_latency_s(episodes)
    part = out_dir.with_name(f".{out_dir.name}.part-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        _write(episodes, features, list(robot.joint_names), part, latency_s)
        if out_dir.exists():
            old = out_dir.with_name(f".{out_dir.name}.old-{os.getpid()}")
            out_dir.rename(old)
            part.rename(out_dir)
            shutil.rmtree(old)
        else:
            part.rename(out_dir)
    except OSError as error:
        raise InputError(
            f"expected a place to write episodes, but {out_dir} cannot be made "
            f"({error.strerror}); choose another"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load_episodes(directory: Path, robot: RobotSpec | None = None) -> list[Episode]:
    """Read episodes written by :func:`save_episodes`.

    Args:
        directory: dataset directory.
        robot: robot that they must be of; None for the one in the manifest.

    Raises:
        InputError: no such dataset, it was changed after it was written, it is of another robot or
            of another version of it, or values are missing or not finite.
    """
    directory = Path(directory)
    manifest = _load_manifest(directory)
    for name, digest in manifest["sha256"].items():
        file = directory / name
        if not file.is_file() or _sha256(file) != digest:
            raise InputError(
                f"episodes {directory}: expected {name} as it was written, but its SHA-256 differs "
                "or it is missing; build the episodes again"
            )
    _require_robot(directory, manifest, robot)
    joints, features = manifest["joint_names"], manifest["features"]
    table = read_table(directory / DATA, _REBUILD, columns=[*features, "time_s"])
    arrays = _columns(directory, table, features, len(joints))
    cameras = stored_images(directory / DATA, manifest.get("cameras", {}), table.num_rows)
    try:
        return [
            Episode(
                robot=manifest["robot"],
                robot_fingerprint=manifest["robot_fingerprint"],
                rate_hz=float(manifest["rate_hz"]),
                task=task,
                source=source,
                images={n: frames.part(span.start, span.stop) for n, frames in cameras.items()},
                **{name: values[span].copy() for name, values in arrays.items()},
            )
            for span, task, source in _episode_rows(directory, table.num_rows)
        ]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"episodes {directory}: expected a list of episodes that fits the data, but it does "
            f"not ({error}); build the episodes again"
        ) from None


def _episode_rows(directory: Path, frames: int) -> list[tuple[slice, str, dict[str, str]]]:
    """Rows of the data, task and source of each episode."""
    rows = []
    end = 0
    for row in read_table(directory / EPISODES, _REBUILD).to_pylist():
        begin, end = row["dataset_from_index"], row["dataset_to_index"]
        if not 0 <= begin < end <= frames:
            raise ValueError(f"an episode from row {begin} to {end} of {frames}")
        source = read_json(row["realign/source"], "source")
        rows.append((slice(begin, end), str(row["tasks"][0]), source))
    return rows


def _require_free(out_dir: Path, overwrite: bool) -> None:
    if not out_dir.exists():
        return
    if not overwrite:
        raise InputError(
            f"expected a new directory, but {out_dir} exists; choose another or give --overwrite"
        )
    if not (out_dir / MANIFEST).is_file():
        raise InputError(
            f"expected episodes to overwrite, but {out_dir} holds something else; choose another"
        )


def _require_uniform(episodes: Sequence[Episode]) -> dict[str, str]:
    """Feature -> field of :class:`Episode`, the same for all episodes."""
    if not episodes:
        raise InputError("expected at least one episode to save, got none; build episodes first")
    fields = [
        {key: name for key, name in OPTIONAL.items() if getattr(episode, name) is not None}
        for episode in episodes
    ]
    cameras = [
        [f"{name} {c.width} x {c.height}" for name, c in sorted(e.images.items())] for e in episodes
    ]
    for what, values in (
        ("robot", [f"{e.robot} {e.robot_fingerprint}" for e in episodes]),
        ("set of cameras", [", ".join(found) or "none" for found in cameras]),
        ("rate in Hz", [str(e.rate_hz) for e in episodes]),
        ("set of optional fields", [", ".join(sorted(f)) or "none" for f in fields]),
    ):
        if len(set(values)) > 1:
            raise InputError(
                f"episodes of one dataset: expected one {what}, got {sorted(set(values))}; "
                "save them apart"
            )
    features = {**REQUIRED, **ACTION, **fields[0]}
    for number, episode in enumerate(episodes):
        for name in ("t_s", *features.values()):
            if not np.isfinite(getattr(episode, name)).all():
                raise InputError(
                    f"episode {number}: expected finite values, but {name} has others; "
                    "leave the episode out"
                )
    return features


def _write(
    episodes: Sequence[Episode],
    features: dict[str, str],
    joints: list[str],
    out: Path,
    latency_s: float | None,
) -> None:
    for name in (DATA, EPISODES, TASKS):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
    tasks = list(dict.fromkeys(episode.task for episode in episodes))
    lengths = [len(episode) for episode in episodes]
    columns = {
        key: np.concatenate([getattr(episode, field) for episode in episodes])
        for key, field in features.items()
    }
    columns |= index_columns(episodes)
    cameras = joined_images(episodes)
    files = {IMAGES + name: frames.file for name, frames in cameras.items()}
    write_frames(out / DATA, frame_table(columns), files)
    pq.write_table(episode_table(episodes), out / EPISODES, compression="zstd")
    pq.write_table(task_table(tasks), out / TASKS)
    write_meta(out / INFO, dataset_info(episodes, joints, columns))
    stats = {key: statistics(values) for key, values in columns.items()}
    for name, frames in cameras.items():
        stats[IMAGES + name] = image_statistics(len(frames), frames.rgb)
    write_meta(out / STATS, stats)
    first = episodes[0]
    manifest = {
        "format": FORMAT,
        "robot": first.robot,
        "robot_fingerprint": first.robot_fingerprint,
        "joint_names": joints,
        "rate_hz": first.rate_hz,
        "episodes": len(episodes),
        "frames": sum(lengths),
        "duration_s": sum((n - 1) / first.rate_hz for n in lengths),
        "latency_s": latency_s,
        "features": features,
        "cameras": {
            name: {"height": frames.height, "width": frames.width}
            for name, frames in first.images.items()
        },
        "sources": [dict(episode.source) for episode in episodes],
        "sha256": {name: _sha256(out / name) for name in (DATA, EPISODES, TASKS)},
    }
    write_meta(out / MANIFEST, manifest)


def _load_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    if not path.is_file():
        raise InputError(
            f"expected a directory of episodes, but {path} does not exist; make one with "
            "`realign episodes build`"
        )
    try:
        manifest = read_json(path.read_text(encoding="utf-8"), str(path))
        keys = ("robot", "robot_fingerprint", "rate_hz", "joint_names", "features", "sha256")
        missing = [key for key in keys if key not in manifest]
        if manifest.get("format") != FORMAT or missing:
            raise ValueError(f"format {manifest.get('format')}, missing {missing}")
        if not isinstance(manifest["robot"], str):
            raise ValueError("no name of a robot")
        if not {DATA, EPISODES} <= dict(manifest["sha256"]).keys():
            raise ValueError("no SHA-256 sums of the data")
        known = {**REQUIRED, **ACTION, **OPTIONAL}
        features = manifest["features"]
        if not features.items() <= known.items() or not {*REQUIRED, *ACTION} <= set(features):
            raise ValueError("unknown or missing features")
        for name, size in manifest.get("cameras", {}).items():
            if not all(type(size[side]) is int and size[side] > 0 for side in ("height", "width")):
                raise ValueError(f"no size of {name}")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(
            f"expected an episode manifest of format {FORMAT}, but {path} is none ({error}); "
            "build the episodes again"
        ) from None
    return dict(manifest)


def _require_robot(directory: Path, manifest: dict[str, Any], robot: RobotSpec | None) -> None:
    robot = robot or ROBOTS.get(manifest["robot"])
    if robot is None:
        raise InputError(
            f"episodes {directory}: expected a robot out of {sorted(ROBOTS)}, got "
            f"{manifest['robot']!r}; build the episodes for one of these"
        )
    for what, have, want in (
        ("robot", manifest["robot"], robot.name),
        ("robot fingerprint", manifest["robot_fingerprint"], robot.fingerprint),
        ("joints", manifest["joint_names"], list(robot.joint_names)),
    ):
        if have != want:
            raise InputError(
                f"episodes {directory}: expected {what} {want}, got {have}; "
                "use the robot that they were built for, or build them again"
            )


def _columns(
    directory: Path, table: pa.Table, features: dict[str, str], n: int
) -> dict[str, NDArray[Any]]:
    """Field of :class:`Episode` -> all rows, checked."""
    out: dict[str, NDArray[Any]] = {}
    for key, name in {**features, "time_s": "t_s"}.items():
        if key not in table.column_names:
            raise InputError(
                f"episodes {directory}: expected a column {key}, but it is missing; "
                "build the episodes again"
            )
        column = table[key].combine_chunks()
        width = len(AXES[key]) if key in AXES else n
        try:
            values = np.asarray(column.flatten() if key != "time_s" else column, dtype=np.float64)
        except (ValueError, TypeError, AttributeError):
            raise InputError(
                f"episodes {directory}: expected numbers in {key}, got something else; "
                "build the episodes again"
            ) from None
        if values.size != table.num_rows * (1 if key == "time_s" else width):
            raise InputError(
                f"episodes {directory}: expected {width} values a row in {key}, got "
                f"{values.size / max(table.num_rows, 1):g}; build the episodes again"
            )
        if not np.isfinite(values).all():
            raise InputError(
                f"episodes {directory}: expected finite values, but {key} has others; "
                "build the episodes again"
            )
        out[name] = values if key == "time_s" else values.reshape(-1, width)
    return out


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        digest = hashlib.sha256()
        for block in iter(lambda: stream.read(2**20), b""):
            digest.update(block)
        return digest.hexdigest()
