"""Tables and JSON of the LeRobotDataset v3.0 layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sim2real.episodes.episode import Episode

DATA = "data/chunk-000/file-000.parquet"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
TASKS = "meta/tasks.parquet"
INFO = "meta/info.json"
STATS = "meta/stats.json"
REQUIRED = {"observation.state": "qpos_rad", "observation.velocity": "qvel_rad_s"}
ACTION = {"action": "action_rad"}
OPTIONAL = {
    "observation.effort": "effort_nm",
    "observation.base_pos": "base_pos_m",
    "observation.base_quat": "base_quat_wxyz",
    "observation.base_lin_vel": "base_lin_vel_m_s",
    "observation.base_ang_vel": "base_ang_vel_rad_s",
    "action.velocity": "action_vel_rad_s",
}
AXES = {
    "observation.base_pos": ["x", "y", "z"],
    "observation.base_quat": ["w", "x", "y", "z"],
    "observation.base_lin_vel": ["x", "y", "z"],
    "observation.base_ang_vel": ["x", "y", "z"],
}
SCALARS = {
    "timestamp": "float64",
    "time_s": "float64",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}


def index_columns(episodes: Sequence[Episode], tasks: list[str]) -> dict[str, NDArray[Any]]:
    """LeRobot's bookkeeping columns, one value a frame."""
    lengths = [len(episode) for episode in episodes]
    frames = np.concatenate([np.arange(n) for n in lengths])
    return {
        "timestamp": frames / episodes[0].rate_hz,
        "time_s": np.concatenate([episode.t_s for episode in episodes]),
        "frame_index": frames,
        "episode_index": np.repeat(np.arange(len(episodes)), lengths),
        "index": np.arange(sum(lengths)),
        "task_index": np.repeat([tasks.index(episode.task) for episode in episodes], lengths),
    }


def frame_table(columns: dict[str, NDArray[Any]]) -> pa.Table:
    """Frames as Parquet columns: (T, k) becomes lists of fixed size k."""
    arrays = {}
    for name, values in columns.items():
        if values.ndim == 1:
            arrays[name] = pa.array(values, type=pa.from_numpy_dtype(SCALARS[name]))
        else:
            flat = pa.array(np.ascontiguousarray(values, np.float64).reshape(-1))
            arrays[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    return pa.table(arrays)


def episode_table(episodes: Sequence[Episode], ends: NDArray[Any]) -> pa.Table:
    """One row an episode; ``ends`` are the rows at which the episodes end, (E,)."""
    zeros = [0] * len(episodes)
    lengths = [len(episode) for episode in episodes]
    return pa.table(
        {
            "episode_index": pa.array(range(len(episodes)), pa.int64()),
            "tasks": pa.array([[episode.task] for episode in episodes], pa.list_(pa.string())),
            "length": pa.array(lengths, pa.int64()),
            "data/chunk_index": pa.array(zeros, pa.int64()),
            "data/file_index": pa.array(zeros, pa.int64()),
            "dataset_from_index": pa.array(ends - lengths, pa.int64()),
            "dataset_to_index": pa.array(ends, pa.int64()),
            "meta/episodes/chunk_index": pa.array(zeros, pa.int64()),
            "meta/episodes/file_index": pa.array(zeros, pa.int64()),
            "realign/source": pa.array([json.dumps(e.source, sort_keys=True) for e in episodes]),
        }
    )


def task_table(tasks: list[str]) -> pa.Table:
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


def dataset_info(
    episodes: Sequence[Episode],
    tasks: list[str],
    joints: list[str],
    shapes: dict[str, list[int]],
) -> dict[str, Any]:
    """Content of ``meta/info.json``; ``shapes`` gives the shape of a row of each column."""
    rate = episodes[0].rate_hz
    features = {
        key: {
            "dtype": SCALARS.get(key, "float64"),
            "shape": shape,
            "names": None if key in SCALARS else AXES.get(key, joints),
        }
        for key, shape in shapes.items()
    }
    return {
        "codebase_version": "v3.0",
        "robot_type": episodes[0].robot,
        "total_episodes": len(episodes),
        "total_frames": sum(len(episode) for episode in episodes),
        "total_tasks": len(tasks),
        "chunks_size": 1000,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": int(rate) if rate == int(rate) else rate,
        "splits": {"train": f"0:{len(episodes)}"},
        "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "video_path": None,
        "features": features,
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
