"""Tables and JSON of the LeRobotDataset v3.0 layout (https://huggingface.co/docs/lerobot).

One Parquet file of frames, one of episodes, one of tasks, ``info.json`` and ``stats.json``; images
are one video a camera. What is written here knows nothing of robots: names and arrays only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from policies.errors import InputError

DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
TASKS = "meta/tasks.parquet"
INFO = "meta/info.json"
STATS = "meta/stats.json"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
VERSION = "v3.0"
SCALARS = {
    "timestamp": "float64",
    "time_s": "float64",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


def index_columns(lengths: Sequence[int], tasks: Sequence[str], rate_hz: float) -> dict[str, Any]:
    """LeRobot's bookkeeping columns, one value a frame.

    Args:
        lengths: frames of each episode.
        tasks: task of each episode.
        rate_hz: frames a second, Hz.
    """
    known = list(dict.fromkeys(tasks))
    frames = np.concatenate([np.arange(n) for n in lengths])
    return {
        "timestamp": frames / rate_hz,
        "frame_index": frames,
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "index": np.arange(sum(lengths)),
        "task_index": np.repeat([known.index(task) for task in tasks], lengths),
    }


def frame_table(columns: Mapping[str, NDArray[Any]]) -> pa.Table:
    """Frames as Parquet columns: (T, k) becomes lists of fixed size k."""
    arrays = {}
    for name, values in columns.items():
        if values.ndim == 1:
            arrays[name] = pa.array(values, type=pa.from_numpy_dtype(SCALARS[name]))
        else:
            flat = pa.array(np.ascontiguousarray(values, np.float64).reshape(-1))
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.table(arrays)


def episode_table(
    lengths: Sequence[int], tasks: Sequence[str], extra: Mapping[str, Sequence[Any]]
) -> pa.Table:
    """One row an episode.

    Args:
        lengths: frames of each episode.
        tasks: task of each episode.
        extra: further columns, one value an episode.
    """
    zeros = [0] * len(lengths)
    ends = np.cumsum(lengths)
    return pa.table(
        {
            "episode_index": pa.array(range(len(lengths)), pa.int64()),
            "tasks": pa.array([[task] for task in tasks], pa.list_(pa.string())),
            "length": pa.array(lengths, pa.int64()),
            "data/chunk_index": pa.array(zeros, pa.int64()),
            "data/file_index": pa.array(zeros, pa.int64()),
            "dataset_from_index": pa.array(ends - lengths, pa.int64()),
            "dataset_to_index": pa.array(ends, pa.int64()),
            "meta/episodes/chunk_index": pa.array(zeros, pa.int64()),
            "meta/episodes/file_index": pa.array(zeros, pa.int64()),
            **{name: pa.array(values) for name, values in extra.items()},
        }
    )


def task_table(tasks: Sequence[str]) -> pa.Table:
    """Tasks as LeRobot reads them: a pandas frame whose index is the text."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": tasks})
    column = {"metadata": None, "field_name": None, "name": None}
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [],
        "columns": [
            column | {"name": n, "field_name": n, "pandas_type": kind, "numpy_type": numpy_type}
            for n, kind, numpy_type in (
                ("task_index", "int64", "int64"),
                ("task", "unicode", "object"),
            )
        ],
        "creator": {"library": "pyarrow", "version": pa.__version__},
        "pandas_version": "2.0.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def array_feature(shape: Sequence[int], names: Sequence[str] | None, dtype: str) -> dict[str, Any]:
    """Entry of ``info.json`` for a column of numbers, each row of ``shape``."""
    return {
        "dtype": dtype,
        "shape": list(shape) or [1],
        "names": None if names is None else list(names),
    }


def video_feature(size: Sequence[int], rate_hz: float) -> dict[str, Any]:
    """Entry of ``info.json`` for a camera whose images have ``size`` (height, width)."""
    return {
        "dtype": "video",
        "shape": [*size, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": size[0],
            "video.width": size[1],
            "video.fps": rate_hz,
            "video.channels": 3,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "has_audio": False,
        },
    }


def dataset_info(
    *,
    robot_type: str | None,
    rate_hz: float,
    episodes: int,
    frames: int,
    tasks: int,
    features: Mapping[str, Any],
    video_path: str | None = None,
) -> dict[str, Any]:
    """Content of ``meta/info.json``.

    Args:
        robot_type: robot, or None where there is none.
        rate_hz: frames a second, Hz.
        episodes: how many episodes.
        frames: how many frames.
        tasks: how many tasks.
        features: column -> its description (:func:`array_feature`).
        video_path: pattern of the videos' names, or None without cameras.
    """
    return {
        "codebase_version": VERSION,
        "robot_type": robot_type,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": int(rate_hz) if rate_hz == int(rate_hz) else rate_hz,
        "splits": {"train": f"0:{episodes}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": video_path,
        "features": dict(features),
    }


def statistics(values: NDArray[Any]) -> dict[str, list[float]]:
    """Statistics of one column over all frames, for ``meta/stats.json``."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    levels = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
    quantiles = np.quantile(rows, list(levels.values()), axis=0)
    return {
        "min": rows.min(axis=0).tolist(),
        "max": rows.max(axis=0).tolist(),
        "mean": rows.mean(axis=0).tolist(),
        "std": rows.std(axis=0).tolist(),
        "count": [len(rows)],
        **{name: row.tolist() for name, row in zip(levels, quantiles, strict=True)},
    }


def write_meta(path: Path, content: object) -> None:
    """Write one of the JSON files."""
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_table(path: Path, remedy: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a Parquet file.

    Args:
        path: the file.
        remedy: what the user can do if it cannot be read.
        columns: those to read, as far as they are there; None for all.

    Raises:
        InputError: it is missing, cut off, damaged or no Parquet.
    """
    try:
        file = pq.ParquetFile(path)
        if columns is not None:
            columns = [name for name in columns if name in file.schema_arrow.names]
        table = file.read(columns=columns)
        table.validate(full=True)  # text is UTF-8, offsets lie inside
        return table
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"expected a Parquet file, but {path} cannot be read ({reason}); {remedy}"
        ) from None
