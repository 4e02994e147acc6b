"""The language tasks of a second arm: other joints, other cameras, the same words."""

from __future__ import annotations

import numpy as np
import pytest

from policies.datasets.collect import collect
from policies.robots import get_robot
from sim2real.sim.kinematics import Kinematics
from sim2real.sim.stepper import Stepper, default_state
from sim2real.tasks.language_touch import LanguageTouch, LanguageTouchExpert
from sim2real.tasks.panda_scene import NAMES

TASK = "language-touch-so101"
SO101 = get_robot("so101")


@pytest.fixture(scope="module")
def environment() -> LanguageTouch:
    return LanguageTouch(TASK)


def test_the_second_arm_has_names_and_cameras_of_its_own_and_the_same_instructions(environment):
    seen = environment.reset(7)
    assert environment.robot is SO101
    assert environment.spec.state_names == tuple(f"qpos/{name}" for name in SO101.joint_names)
    assert set(seen.images) == {"front", "wrist"}
    assert seen.instruction == LanguageTouch().reset(7).instruction
    blue = LanguageTouch(f"{TASK}-blue")
    blue.reset(7)
    assert blue.target == NAMES.index("blue")
    np.testing.assert_array_equal(blue.places_m, environment.places_m)


def test_things_lie_within_reach_and_further_apart_than_a_touch(environment):
    for seed in range(20):
        environment.reset(seed)
        LanguageTouchExpert(environment).reset(seed)  # raises where it is out of reach
        gaps = np.linalg.norm(environment.places_m[:, None] - environment.places_m[None], axis=2)
        assert gaps[np.triu_indices(4, 1)].min() > 3 * environment.scene.tolerance_m


def test_the_expert_touches_what_is_asked_for(environment):
    data = collect(environment, LanguageTouchExpert(environment), episodes=4, noise=0.02)
    data.check()
    assert {name for text in data.task for name in NAMES if name in text} == set(NAMES)
    assert all(5 <= len(state) < environment.spec.max_steps for state in data.state)


def test_gravity_is_what_the_servos_bear_at_rest():
    pose = np.array([0.2, -0.3, 0.5, 0.9, 0.1, 0.5])
    stepper, kinematics = Stepper(SO101), Kinematics(SO101)
    stepper.reset(default_state(SO101, pose))
    sag = kinematics.gravity_nm(pose) / SO101.kp_nm_rad
    assert np.abs(sag).max() > 0.01
    for _ in range(300):
        stepper.step(pose + sag)
    # Friction holds it within a small band around where gravity alone would leave it.
    friction = max(joint.friction_nm for joint in SO101.joints) / SO101.kp_nm_rad.min()
    np.testing.assert_allclose(stepper.state.qpos_rad, pose, atol=1.5 * friction)
    without = Stepper(SO101)
    without.reset(default_state(SO101, pose))
    for _ in range(300):
        without.step(pose)
    assert np.abs(without.state.qpos_rad - pose).max() > 2.0 * friction


def test_an_arm_that_is_held_up_bears_nothing():
    panda = get_robot("panda")
    np.testing.assert_array_equal(Kinematics(panda).gravity_nm(panda.default_rad), np.zeros(7))
