"""LeRobot's own package opens the episodes that we build from bags, and sees the same pixels.

``REALIGN_LEROBOT_PYTHON`` names an interpreter that has LeRobot, see docs/tutorials/
run_a_lerobot_policy.md; without it everything here skips.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from policies import images
from policies.robots import PANDA
from policies.vla.lerobot.process import PYTHON_VARIABLE
from sim2real.episodes.episode import Episode
from sim2real.episodes.frames import CameraFrames
from sim2real.episodes.store import save_episodes

READER = Path(__file__).parent / "lerobot_dataset.py"
LIMIT_S = 300.0
SIZES = {"front": (48, 64), "hand": (30, 40)}

pytestmark = [
    pytest.mark.slow,  # LeRobot takes some seconds to import
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        PYTHON_VARIABLE not in os.environ,
        reason=f"needs LeRobot: set {PYTHON_VARIABLE} to an interpreter that has it",
    ),
]


def camera(name: str, steps: int, seed: int) -> CameraFrames:
    """Noise: JPEG files of one camera, PNG files of the other; each stays for two steps."""
    rng = np.random.default_rng(seed)
    kind: images.Format = "jpeg" if name == "front" else "png"
    files = [
        images.encode(rng.integers(0, 256, (*SIZES[name], 3), np.uint8), kind, name)
        for _ in range(steps)
    ]
    return CameraFrames(
        camera=name,
        height=SIZES[name][0],
        width=SIZES[name][1],
        index=np.arange(steps) // 2,
        source=lambda i: files[i],
    )


def episode(steps: int, seed: int, task: str) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        robot=PANDA.name,
        robot_fingerprint=PANDA.fingerprint,
        rate_hz=10.0,
        t_s=np.arange(steps) / 10.0,
        qpos_rad=rng.normal(size=(steps, PANDA.n)),
        qvel_rad_s=rng.normal(size=(steps, PANDA.n)),
        action_rad=rng.normal(size=(steps, PANDA.n)),
        images={name: camera(name, steps, seed) for name in SIZES},
        task=task,
    )


def test_lerobot_reads_what_we_write(tmp_path):
    episodes = [episode(12, 0, "touch the red cube"), episode(7, 1, "touch the blue ball")]
    save_episodes(episodes, tmp_path / "dataset", latency_s=0.0)
    skip = ("PYTHONPATH", "LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE")
    environment = {key: value for key, value in os.environ.items() if key not in skip}
    environment["HF_HOME"] = str(tmp_path / "cache")
    words = [os.environ[PYTHON_VARIABLE], READER, tmp_path / "dataset", tmp_path / "seen.npz"]
    done = subprocess.run(
        list(map(str, words)),
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    seen = np.load(tmp_path / "seen.npz")
    assert (int(seen["episodes"]), int(seen["fps"])) == (2, 10)
    assert seen["task"].tolist() == ["touch the red cube"] * 12 + ["touch the blue ball"] * 7
    for key, name in (("observation.state", "qpos_rad"), ("action", "action_rad")):
        ours = np.concatenate([getattr(e, name) for e in episodes])
        np.testing.assert_array_equal(seen[key], ours.astype(np.float32))
    np.testing.assert_array_equal(seen["windows"][0], episodes[0].action_rad[:2].astype(np.float32))
    for name in SIZES:
        ours = np.stack([e.images[name].rgb(k) for e in episodes for k in range(len(e))])
        np.testing.assert_array_equal(seen[f"observation.images.{name}"], ours)
        mean = seen[f"observation.images.{name}.mean"].reshape(3)
        np.testing.assert_allclose(mean, ours.mean(axis=(0, 1, 2)) / 255.0, atol=1e-6)
