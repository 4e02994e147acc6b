"""The SO-101: limits of its URDF, a model that hangs together, goals that it reaches."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from policies.robots import PANDA, SO101
from sim2real.sim.gaps import make_gap
from sim2real.sim.kinematics import Kinematics
from sim2real.sim.model import robot_data_dir
from sim2real.sim.stepper import Stepper, default_state
from sim2real.tasks.reach import sample_solved_goals


def test_ranges_are_those_of_the_urdf():
    urdf = ElementTree.parse(robot_data_dir() / SO101.urdf)
    limits = {
        joint.get("name"): joint.find("limit")
        for joint in urdf.iter("joint")
        if joint.get("type") == "revolute"
    }
    assert set(limits) == set(SO101.joint_names)
    for joint in SO101.joints:
        assert float(limits[joint.name].get("lower")) == pytest.approx(joint.lower_rad, abs=1e-4)
        assert float(limits[joint.name].get("upper")) == pytest.approx(joint.upper_rad, abs=1e-4)
        assert joint.lower_rad < joint.default_rad < joint.upper_rad


def test_arm_carries_itself_and_sags_a_little():
    stepper = Stepper(SO101)
    stepper.reset(default_state(SO101))
    for _ in range(200):
        stepper.step(SO101.default_rad)
    sag = np.abs(stepper.state.qpos_rad - SO101.default_rad)
    assert 0.005 < sag.max() < 0.06
    assert np.abs(stepper.state.qvel_rad_s).max() < 1e-3
    assert np.abs(stepper.effort_nm).max() < 0.5 * SO101.effort_limit_nm.max()
    for _ in range(200):  # without torque it falls
        stepper.step(SO101.default_rad, damp=True)
    assert np.abs(stepper.state.qpos_rad - SO101.default_rad).max() > 0.2


def test_no_joint_is_faster_than_its_servo():
    stepper = Stepper(SO101)
    stepper.reset(default_state(SO101))
    fastest = 0.0
    for _ in range(100):
        stepper.step(SO101.upper_rad)
        fastest = max(fastest, float(np.abs(stepper.state.qvel_rad_s).max()))
    assert 2.0 < fastest < 4.7  # of the data sheet, without load


def test_goals_lie_in_front_of_the_arm_and_its_jaw_looks_down():
    kinematics = Kinematics(SO101)
    goals, poses = sample_solved_goals(kinematics, 30, np.random.default_rng(0))
    assert (goals >= (0.14, -0.14, 0.04)).all()
    assert (goals <= (0.28, 0.14, 0.2)).all()
    for goal, pose in zip(goals, poses, strict=True):
        position, rotation = kinematics.end_effector(pose)
        assert position == pytest.approx(goal, abs=1e-3)
        assert rotation[2, 2] < 0.0


@pytest.mark.parametrize("name", ["payload", "sticky", "latency", "hidden:7"])
def test_gaps_are_of_the_arms_size(name):
    small, large = make_gap(SO101, name), make_gap(PANDA, name)
    assert sum(small.payload_kg.values()) <= 0.05 * max(sum(large.payload_kg.values()), 1e-9)
    stepper = Stepper(SO101, small)
    stepper.reset(default_state(SO101))
    for _ in range(200):
        stepper.step(SO101.default_rad)
    assert np.abs(stepper.state.qpos_rad - SO101.default_rad).max() < 0.15
