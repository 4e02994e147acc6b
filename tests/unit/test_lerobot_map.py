"""What the numbers of a LeRobot checkpoint are: units, joints, order, and words about mistakes."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import InputError
from policies.robots import PANDA, SO101
from policies.vla.lerobot.mapping import (
    Entry,
    check_dataset,
    parse_entries,
    read_map,
    resolve,
    to_lerobot,
    to_si,
)

MAP = {
    "rate_hz": 30,
    "state": [
        {"name": "shoulder_pan.pos", "is": "qpos/shoulder_pan", "unit": "degrees"},
        {"is": "qpos/elbow_flex", "unit": "degrees", "sign": -1, "zero_rad": 0.5},
        {"is": "qpos/wrist_flex", "unit": "-100..100", "range_rad": "limits"},
        {"name": "gripper.pos", "is": "qpos/gripper", "unit": "0..100", "range_rad": [1.0, -1.0]},
        {"is": "qvel/shoulder_pan", "unit": "degrees/s"},
        {"is": "goal/x", "unit": "m"},
    ],
    "action": [{"is": "position/shoulder_pan", "unit": "rad"}],
    "cameras": {"observation.images.front": "front"},
    "instruction": "pick",
}


def changed(**changes):
    return {**copy.deepcopy(MAP), **changes}


def entry(**changes):
    return changed(state=[{"is": "qpos/shoulder_pan", "unit": "rad", **changes}])


def test_units_become_si():
    entries = resolve(MAP, SO101, "map").state
    theirs = np.array([90.0, 90.0, -100.0, 0.0, 180.0, 0.3])
    lower = SO101.lower_rad[SO101.joint_names.index("wrist_flex")]
    ours = [np.pi / 2, 0.5 - np.pi / 2, lower, 1.0, np.pi, 0.3]
    np.testing.assert_allclose(to_si(theirs, entries), ours, atol=1e-12)
    theirs = np.array([-180.0, 0.0, 100.0, 100.0, 0.0, 0.0])
    ours = [-np.pi, 0.5, -lower, -1.0, 0.0, 0.0]
    np.testing.assert_allclose(to_si(theirs, entries), ours, atol=1e-12)


def test_the_middle_of_a_range_is_the_middle_of_the_joint():
    entries = resolve(MAP, SO101, "map").state
    middle = to_si(np.array([[0.0, 0.0, 0.0, 50.0, 0.0, 0.0]]), entries)
    np.testing.assert_allclose(middle[0, 2:4], [0.0, 0.0], atol=1e-12)


@given(st.lists(st.floats(-1e4, 1e4), min_size=6, max_size=6))
def test_there_and_back(values):
    entries = resolve(MAP, SO101, "map").state
    there = to_lerobot(np.array(values), entries)
    np.testing.assert_allclose(to_si(there, entries), values, atol=1e-8)


def test_map_names_and_pose():
    resolved = resolve(changed(start_pose_rad={"elbow_flex": 0.25}), SO101, "map")
    assert [e.name for e in resolved.state][:2] == ["shoulder_pan.pos", "qpos/elbow_flex"]
    assert resolved.cameras == {"observation.images.front": "front"}
    assert resolved.instruction == "pick"
    assert resolved.start_pose_rad["elbow_flex"] == 0.25
    assert resolved.start_pose_rad["wrist_flex"] == SO101.default_rad[3]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (entry(unit="turns"), r"state\[0\].*'rad', 'degrees', '-100..100', '0..100'.*'turns'"),
        (entry(unit="0..100"), r"'range_rad' for the units.*'0..100' without"),
        (entry(range_rad=[0, 1]), "'range_rad' for the units.*'rad' with"),
        (entry(unit="0..100", range_rad=[1, 1]), "two different angles"),
        (entry(unit="0..100", range_rad="limits", sign=-1), "no 'sign'"),
        (entry(sign=0), "'sign' of 1 or -1"),
        (entry(**{"is": "angle/shoulder_pan"}), "'is' to be one of.*'angle/shoulder_pan'"),
        (entry(**{"is": "position/shoulder_pan"}), "expected states such as"),
        (entry(**{"is": "qpos/shoulder"}), "'qpos/shoulder'"),
        (entry(joint="x"), r"state\[0\]: expected keys.*'joint'"),
        (changed(state=[]), "at least one entry in 'state'"),
        (changed(action=[{"is": "qpos/shoulder_pan", "unit": "rad"}]), "expected actions such as"),
        (changed(state=MAP["state"][:1] * 2), "each quantity once in 'state'"),
        (changed(rate_hz=0), "'rate_hz'.*above 0"),
        (changed(cameras={"a": "x", "b": "x"}), "another camera for each feature"),
        (changed(start_pose_rad={"elbow_flex": 90.0}), "check that the unit is rad"),
        ({k: v for k, v in MAP.items() if k != "rate_hz"}, "'rate_hz', but it is missing"),
    ],
)
def test_mistakes_are_named(data, words):
    with pytest.raises(InputError, match=words):
        resolve(data, SO101, "map")


def test_another_robot_has_other_joints():
    with pytest.raises(InputError, match="panda"):
        resolve(MAP, PANDA, "map")


def test_read_map(tmp_path):
    path = tmp_path / "map.json"
    path.write_text(json.dumps(MAP))
    assert read_map(path, SO101) == resolve(MAP, SO101, "x")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="a map file"):
        read_map(path, SO101)
    with pytest.raises(InputError, match="a map file"):
        read_map(tmp_path / "none.json", SO101)


def test_entries_are_read_strictly():
    good = {"name": "a", "quantity": "qpos/a", "unit": "rad", "scale": 1.0, "offset": 0.0}
    assert parse_entries([good], "x") == (Entry(**good),)
    for bad in ([{**good, "scale": 0.0}], [{**good, "more": 1}], {"a": good}, [{}]):
        with pytest.raises(InputError, match="x"):
            parse_entries(bad, "x")


def info(state, fps=30, action=("position/shoulder_pan",)):
    names = {"observation.state": {"names": state}, "action": {"names": list(action)}}
    return {"fps": fps, "features": names}


def test_names_are_compared_with_the_dataset(tmp_path):
    resolved = resolve(changed(state=MAP["state"][:1] + MAP["state"][3:4]), SO101, "map")
    path = tmp_path / "info.json"
    for names in (["shoulder_pan.pos", "gripper.pos"], {"m": ["shoulder_pan.pos", "gripper.pos"]}):
        path.write_text(json.dumps(info(names)))
        check_dataset(resolved, path)
    for data, words in (
        (info(["gripper.pos", "shoulder_pan.pos"]), "in the order of the dataset"),
        (info(None), "observation.state"),
        (info(["shoulder_pan.pos", "gripper.pos"], fps=50), "got 50 Hz"),
        (info(["shoulder_pan.pos", "gripper.pos"], action=["b"]), r"'action'.*got \['b'\]"),
        ({"fps": 30, "features": {}}, "'observation.state', but it is missing"),
    ):
        path.write_text(json.dumps(data))
        with pytest.raises(InputError, match=words):
            check_dataset(resolved, path)
    with pytest.raises(InputError, match=r"meta/info\.json"):
        check_dataset(resolved, tmp_path / "none.json")
