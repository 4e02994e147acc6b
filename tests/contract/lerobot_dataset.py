"""What LeRobot's own package reads out of a dataset; run by LeRobot's interpreter.

    python lerobot_dataset.py FOLDER OUT.npz

Writes the images (T, H, W, 3), states, actions and times of every frame, and what a loader of
LeRobot's makes of windows.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "policies/vla/lerobot"))
import workers.lerobot_worker  # noqa: F401  (imports torchvision as it needs to be)
from lerobot.datasets.lerobot_dataset import LeRobotDataset


def main(folder: Path, out: Path) -> None:
    """Open the dataset and write what it gives."""
    dataset = LeRobotDataset("local/dataset", root=folder)
    items = [dataset[i] for i in range(len(dataset))]
    found = {
        "episodes": np.array(dataset.num_episodes),
        "fps": np.array(dataset.fps),
        "task": np.array([item["task"] for item in items]),
    }
    for key in ("observation.state", "action", "timestamp"):
        found[key] = np.stack([item[key].numpy() for item in items])
    for key in dataset.meta.camera_keys:
        pixels = np.stack([item[key].numpy() for item in items])
        found[key] = (pixels * 255.0).round().astype(np.uint8).transpose(0, 2, 3, 1)
        found[f"{key}.mean"] = np.asarray(dataset.meta.stats[key]["mean"])
    steps = [0.0, 1.0 / dataset.fps]
    windows = LeRobotDataset("local/dataset", root=folder, delta_timestamps={"action": steps})
    found["windows"] = np.stack([windows[i]["action"].numpy() for i in range(len(windows))])
    np.savez(out, **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
