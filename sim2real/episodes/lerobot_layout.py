"""Columns of robot episodes in the LeRobotDataset v3.0 layout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from policies.datasets import layout
from policies.datasets.image_column import IMAGES, image_feature
from sim2real.episodes.episode import Episode

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
QUANTITIES = {
    "observation.state": "qpos",
    "observation.velocity": "qvel",
    "observation.effort": "effort",
    "action": "position",
    "action.velocity": "velocity",
}
"""Column of joints -> what it holds of them: names are ``qpos/joint``, as policies know them."""
AXES = {
    "observation.base_pos": ["x", "y", "z"],
    "observation.base_quat": ["w", "x", "y", "z"],
    "observation.base_lin_vel": ["x", "y", "z"],
    "observation.base_ang_vel": ["x", "y", "z"],
}


def index_columns(episodes: Sequence[Episode]) -> dict[str, NDArray[Any]]:
    """LeRobot's bookkeeping columns and the time since the start of the bag, one value a frame."""
    lengths = [len(episode) for episode in episodes]
    tasks = [episode.task for episode in episodes]
    columns = layout.index_columns(lengths, tasks, episodes[0].rate_hz)
    columns["time_s"] = np.concatenate([episode.t_s for episode in episodes])
    return columns


def episode_table(episodes: Sequence[Episode]) -> pa.Table:
    """One row an episode."""
    return layout.episode_table(
        [len(episode) for episode in episodes],
        [episode.task for episode in episodes],
        {"realign/source": [json.dumps(e.source, sort_keys=True) for e in episodes]},
    )


def _names(key: str, joints: list[str]) -> list[str] | None:
    if key in layout.SCALARS:
        return None
    return AXES.get(key) or [f"{QUANTITIES[key]}/{joint}" for joint in joints]


def dataset_info(
    episodes: Sequence[Episode], joints: list[str], columns: dict[str, NDArray[Any]]
) -> dict[str, Any]:
    """Content of ``meta/info.json``."""
    features = {
        key: layout.array_feature(
            values.shape[1:],
            _names(key, joints),
            layout.SCALARS.get(key, "float64"),
        )
        for key, values in columns.items()
    }
    features |= {
        IMAGES + name: image_feature((frames.height, frames.width))
        for name, frames in episodes[0].images.items()
    }
    return layout.dataset_info(
        robot_type=episodes[0].robot,
        rate_hz=episodes[0].rate_hz,
        episodes=len(episodes),
        frames=sum(len(episode) for episode in episodes),
        tasks=len({episode.task for episode in episodes}),
        features=features,
    )
