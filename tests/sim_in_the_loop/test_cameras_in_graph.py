"""Cameras of the virtual robot in the ROS graph, in lockstep and in real time."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from policies.errors import InputError
from policies.robots import SO101
from policies.vla.lerobot import process
from policies.vla.lerobot.checkpoint import import_lerobot
from sim2real.bags.reader import read_bag
from sim2real.episodes.cameras import find_cameras
from sim2real.run import run
from sim2real.run_config import RunConfig

pytestmark = [pytest.mark.ros, pytest.mark.timeout(240)]
DOUBLE = Path(__file__).parents[1] / "contract/lerobot_double.py"
RATE_HZ = 20.0
CAMERAS = {"front": (24, 32), "wrist": (16, 16)}


@pytest.fixture
def lerobot(tmp_path, monkeypatch):
    """An interpreter whose LeRobot is the one of the tests, in every process of the graph."""
    shutil.copytree(process.FOLDER / "workers", tmp_path / "double/workers")
    shutil.copyfile(DOUBLE, tmp_path / "double/workers/lerobot_worker.py")
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\ncd {tmp_path / "double"} && exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv(process.PYTHON_VARIABLE, str(python))


def checkpoint(folder: Path, cameras=CAMERAS) -> Path:
    """A policy of the SO-101 that moves as the cameras' brightness tells it."""
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
    entry = lambda kind: [  # noqa: E731
        {"is": f"{kind}/{joint}", "unit": "degrees"} for joint in SO101.joint_names
    ]
    mapping = {
        "rate_hz": RATE_HZ,
        "state": entry("qpos"),
        "action": entry("position"),
        "cameras": {f"observation.images.{name}": name for name in cameras},
        "instruction": "look",
    }
    (folder / "map.json").write_text(json.dumps(mapping))
    import_lerobot(theirs, SO101, folder / "map.json", folder / "ours")
    return folder / "ours"


def config(path, domain, **changes):
    base = {"robot": "so101", "policy": path, "duration_s": 1.5, "domain_id": domain, "seed": 2}
    return RunConfig(**(base | changes))


@pytest.mark.usefixtures("lerobot")
def test_what_cameras_see_is_repeatable_in_lockstep(tmp_path, domain):
    path = checkpoint(tmp_path)
    commands, pictures = [], []
    for i in range(2):
        options = {"record": tmp_path / f"bag{i}", "record_images": ("compressed", "raw")[i]}
        result = run(config(path, domain, lockstep=True, **options), progress=False)
        assert result["completed"], (result["stopped_by"], result["transitions"])
        chunks = read_bag(tmp_path / f"bag{i}").columns("/action_chunk")
        assert np.diff(chunks.stamp_ns) == pytest.approx(1e9 / RATE_HZ)
        commands.append(read_bag(tmp_path / f"bag{i}").columns("/joint_command").arrays)
        pictures.append(find_cameras(read_bag(tmp_path / f"bag{i}"), None))
        assert result["images"]["wrist"]["written"] == len(chunks)
    for key, values in commands[0].items():
        assert np.array_equal(values, commands[1][key], equal_nan=True), key
    for name, (height, width) in CAMERAS.items():
        packed, raw = (found[name] for found in pictures)
        assert np.array_equal(packed.stamp_ns, raw.stamp_ns)
        for k in range(0, len(raw), 7):
            assert raw[k].rgb().shape == (height, width, 3)
            assert np.abs(packed[k].rgb().astype(int) - raw[k].rgb()).mean() < 6


@pytest.mark.usefixtures("lerobot")
def test_cameras_in_real_time(tmp_path, domain):
    options = {"executor": "async", "deadline_s": 2.0, "record": tmp_path / "bag"}
    result = run(config(checkpoint(tmp_path), domain, **options), progress=False)
    assert result["policy_failure"] is None
    # A machine that is too slow may end the run early, but not blind: each chunk has seen images.
    chunks = read_bag(tmp_path / "bag").columns("/action_chunk")
    assert len(chunks) >= 3
    assert np.isfinite(chunks.arrays["position"][:, 0]).all()


@pytest.mark.usefixtures("lerobot")
def test_a_camera_that_the_robot_has_not_is_named(tmp_path, domain):
    path = checkpoint(tmp_path, {"ceiling": (16, 16)})
    with pytest.raises(InputError, match=r"\['front', 'wrist'\].*so101 has, got \['ceiling'\]"):
        run(config(path, domain, lockstep=True), progress=False)


def test_the_worker_is_missing(tmp_path, domain, monkeypatch):
    monkeypatch.delenv(process.PYTHON_VARIABLE, raising=False)
    with pytest.raises(InputError, match="path of a Python interpreter that has LeRobot"):
        run(config(checkpoint(tmp_path), domain, lockstep=True), progress=False)
    assert process.PYTHON_VARIABLE not in os.environ
