"""What plays a part in tests of several folders: LeRobot, and a policy server in a thread."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from policies.diffusion.chunk_policy import RobotModel
from policies.robots import SO101
from policies.serving.protocol import Served
from policies.serving.server import PolicyServer, ServeConfig
from policies.vla.lerobot import process
from policies.vla.lerobot.checkpoint import import_lerobot

CAMERAS = {"front": (24, 32), "wrist": (16, 16)}
"""Cameras of the SO-101 -> height and width of what the policy sees."""
RATE_HZ = 20.0


@contextmanager
def running(model: RobotModel, served: Served, **config: object) -> Iterator[PolicyServer]:
    """A server in a thread of this process, on a free port."""
    server = PolicyServer(model, served, ServeConfig(**{"port": 0, **config}))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join(30.0)


def write_worker(folder: Path) -> Path:
    """The worker files with the one that plays LeRobot; returns where they are."""
    double = Path(__file__).parent / "contract/lerobot_double.py"
    shutil.copytree(process.FOLDER / "workers", folder / "double/workers")
    shutil.copyfile(double, folder / "double/workers/lerobot_worker.py")
    return folder / "double"


def play_lerobot(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Have the LeRobot of this process and its children be the one of the tests."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\ncd {write_worker(folder)} && exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    patch.setenv(process.PYTHON_VARIABLE, str(python))


def lerobot_policy(
    folder: Path, instruction: str, cameras: Mapping[str, tuple[int, int]] = CAMERAS
) -> Path:
    """A policy for the SO-101 with cameras that does what its instruction says."""
    theirs = folder / "theirs"
    theirs.mkdir()
    features = {"observation.state": {"type": "STATE", "shape": [SO101.n]}}
    for name, size in cameras.items():
        features[f"observation.images.{name}"] = {"type": "VISUAL", "shape": [3, *size]}
    config = {"type": "act", "n_obs_steps": 1, "chunk_size": 8, "n_action_steps": 4}
    config["input_features"] = features
    config["output_features"] = {"action": {"type": "ACTION", "shape": [SO101.n]}}
    (theirs / "config.json").write_text(json.dumps(config))
    save_file({"none": np.zeros(1, np.float32)}, theirs / "model.safetensors")
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        (theirs / name).write_text(json.dumps({"steps": [{"registry_name": "device_processor"}]}))
    entries = {
        kind: [{"is": f"{kind}/{joint}", "unit": "degrees"} for joint in SO101.joint_names]
        for kind in ("qpos", "position")
    }
    mapping = {
        "rate_hz": RATE_HZ,
        "state": entries["qpos"],
        "action": entries["position"],
        "cameras": {f"observation.images.{name}": name for name in cameras},
        "instruction": instruction,
    }
    (folder / "map.json").write_text(json.dumps(mapping))
    import_lerobot(theirs, SO101, folder / "map.json", folder / "ours")
    return folder / "ours"
