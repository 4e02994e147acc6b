"""Cameras of the virtual robot in the ROS graph, in lockstep and in real time."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import pytest

from policies.errors import InputError
from policies.vla.lerobot import process
from sim2real.bags.reader import read_bag
from sim2real.episodes.cameras import find_cameras
from sim2real.run import run
from sim2real.run_config import RunConfig

pytestmark = [pytest.mark.ros, pytest.mark.timeout(240)]


@pytest.fixture
def lerobot(doubles, tmp_path, monkeypatch):
    """An interpreter whose LeRobot is the one of the tests, in every process of the graph."""
    doubles.play_lerobot(tmp_path, monkeypatch)


@pytest.fixture
def checkpoint(doubles, tmp_path):
    """A policy of the SO-101 that moves as the cameras' brightness tells it."""
    return partial(doubles.lerobot_policy, tmp_path, "look")


def config(path, domain, **changes):
    base = {"robot": "so101", "policy": path, "duration_s": 1.5, "domain_id": domain, "seed": 2}
    return RunConfig(**(base | changes))


@pytest.mark.usefixtures("lerobot")
def test_what_cameras_see_is_repeatable_in_lockstep(checkpoint, doubles, tmp_path, domain):
    path = checkpoint()
    commands, pictures = [], []
    for i in range(2):
        options = {"record": tmp_path / f"bag{i}", "record_images": ("compressed", "raw")[i]}
        result = run(config(path, domain, lockstep=True, **options), progress=False)
        assert result["completed"], (result["stopped_by"], result["transitions"])
        chunks = read_bag(tmp_path / f"bag{i}").columns("/action_chunk")
        assert np.diff(chunks.stamp_ns) == pytest.approx(1e9 / doubles.RATE_HZ)
        commands.append(read_bag(tmp_path / f"bag{i}").columns("/joint_command").arrays)
        pictures.append(find_cameras(read_bag(tmp_path / f"bag{i}"), None))
        assert result["images"]["wrist"]["written"] == len(chunks)
    for key, values in commands[0].items():
        assert np.array_equal(values, commands[1][key], equal_nan=True), key
    for name, (height, width) in doubles.CAMERAS.items():
        packed, raw = (found[name] for found in pictures)
        assert np.array_equal(packed.stamp_ns, raw.stamp_ns)
        for k in range(0, len(raw), 7):
            assert raw[k].rgb().shape == (height, width, 3)
            assert np.abs(packed[k].rgb().astype(int) - raw[k].rgb()).mean() < 6


@pytest.mark.usefixtures("lerobot")
def test_cameras_in_real_time(checkpoint, tmp_path, domain):
    options = {"executor": "async", "deadline_s": 2.0, "record": tmp_path / "bag"}
    result = run(config(checkpoint(), domain, **options), progress=False)
    assert result["policy_failure"] is None
    # A machine that is too slow may end the run early, but not blind: each chunk has seen images.
    chunks = read_bag(tmp_path / "bag").columns("/action_chunk")
    assert len(chunks) >= 3
    assert np.isfinite(chunks.arrays["position"][:, 0]).all()


@pytest.mark.usefixtures("lerobot")
def test_a_camera_that_the_robot_has_not_is_named(checkpoint, domain):
    path = checkpoint({"ceiling": (16, 16)})
    with pytest.raises(InputError, match=r"\['front', 'wrist'\].*so101 has, got \['ceiling'\]"):
        run(config(path, domain, lockstep=True), progress=False)


def test_the_worker_is_missing(checkpoint, domain, monkeypatch):
    monkeypatch.delenv(process.PYTHON_VARIABLE, raising=False)
    with pytest.raises(InputError, match="path of a Python interpreter that has LeRobot"):
        run(config(checkpoint(), domain, lockstep=True), progress=False)
    assert process.PYTHON_VARIABLE not in os.environ
