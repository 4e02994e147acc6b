"""Things that can be grasped: contact, the hand as a joint, the tasks to pick one of them up."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from policies.datasets.collect import collect
from policies.diffusion.interface import CameraSpec
from policies.errors import InputError
from policies.evaluation.environment import Environment
from policies.robots import PANDA, PANDA_HAND, ROBOTS
from policies.runtime.limits import limits_of
from policies.vla.config import units_of
from sim2real.sim.batch import BatchStepper
from sim2real.sim.gaps import end_body
from sim2real.sim.remote import open_robot
from sim2real.sim.scene import SceneObject, build_scene
from sim2real.sim.stepper import SimState, Stepper, default_state
from sim2real.sim.virtual_robot import VirtualRobot
from sim2real.tasks.camera_scene import CameraScene, solid_things
from sim2real.tasks.language_phrases import PHRASINGS, phrases
from sim2real.tasks.language_pick import (
    LIFT_M,
    MAX_STEPS,
    TASKS,
    LanguagePick,
    LanguagePickExpert,
    lifted_thing,
)
from sim2real.tasks.panda_scene import NAMES, SMALL_HALF_SIZE_M, SMALL_THINGS
from sim2real.tasks.registry import make_environment, make_expert

FINGER = PANDA_HAND.joint_names.index("panda_finger_joint1")


@pytest.fixture(scope="module")
def environment() -> LanguagePick:
    return LanguagePick(look_every=1000)


def lift(environment: LanguagePick, seed: int, target: int | None = None, steps=MAX_STEPS):
    """Outcome of the expert's run; ``target`` is what it lifts in the place of what it is told."""
    expert = LanguagePickExpert(environment)
    seen, told = environment.reset(seed), environment.target
    for _ in range(steps):
        environment.target = told if target is None else target
        action = expert.act(seen)
        environment.target = told
        outcome = environment.step(action)
        seen = outcome.seen
        if outcome.done:
            break
    return outcome


def finger_positions(stepper: Stepper) -> np.ndarray:
    names = ("panda_finger_joint1", "panda_finger_joint2")
    return np.array([float(stepper.data.joint(name).qpos[0]) for name in names])


def close_hand(stepper: Stepper) -> None:
    pose = stepper.state.qpos_rad
    for _ in range(100):
        pose[FINGER] = max(pose[FINGER] - 0.0004, 0.016)
        stepper.step(pose)


# ---- the hand as a joint -----------------------------------------------------------------------


def test_the_hand_is_a_joint_by_name_and_the_panda_stays_what_it_was():
    assert PANDA_HAND.joint_names == (*PANDA.joint_names, "panda_finger_joint1")
    assert PANDA_HAND.joints[:7] == PANDA.joints
    assert PANDA.n == 7
    assert PANDA.fingerprint == "ed48ed49fd9170ff"  # as in checkpoints and bags of it
    assert PANDA_HAND.fingerprint != PANDA.fingerprint
    assert end_body(PANDA_HAND) == end_body(PANDA) == "panda_hand"


def test_commands_may_use_nearly_all_of_the_finger_and_as_much_of_other_joints_as_before():
    finger = limits_of(PANDA_HAND)
    assert finger.lower_rad[FINGER] == pytest.approx(0.001)
    assert finger.upper_rad[FINGER] == pytest.approx(0.039)
    for robot in ROBOTS.values():
        if robot.command == "position":
            turning = [i for i, joint in enumerate(robot.joints) if not joint.sliding]
            range_rad = (robot.upper_rad - robot.lower_rad)[turning]
            limits = limits_of(robot)
            allowed = (limits.upper_rad - limits.lower_rad)[turning]
            np.testing.assert_allclose(range_rad - allowed, 0.02)


def test_both_fingers_go_where_the_one_is_told():
    stepper = Stepper(PANDA_HAND)
    np.testing.assert_allclose(finger_positions(stepper), 0.038)
    pose = PANDA_HAND.default_rad.copy()
    pose[FINGER] = 0.015
    for _ in range(100):
        stepper.step(pose)
    np.testing.assert_allclose(finger_positions(stepper), 0.015, atol=2e-4)


def test_a_batch_moves_the_fingers_as_one_robot_does():
    pose = PANDA_HAND.default_rad.copy()
    pose[FINGER] = 0.02
    stepper = Stepper(PANDA_HAND)
    with BatchStepper(PANDA_HAND, threads=1) as batch:
        start = stepper.state.map(lambda x: x[None])
        after = batch.step(start, np.tile(pose, (1, 20, 1)))
    for _ in range(20):
        stepper.step(pose)
    assert isinstance(after, SimState)
    np.testing.assert_allclose(after.qpos_rad[0, -1], stepper.state.qpos_rad, atol=1e-9)


def test_other_engines_refuse_coupled_joints_and_things():
    with pytest.raises(InputError, match=r"panda_finger_joint2.*--engine mujoco"):
        open_robot("mujoco-remote", PANDA_HAND)
    with pytest.raises(InputError, match="things to grasp"):
        open_robot("mujoco-remote", PANDA, objects=SMALL_THINGS)


def test_what_a_policy_says_of_the_finger_is_in_metres():
    names = {f"qpos/{joint}": "rad" for joint in PANDA_HAND.joint_names}
    names |= {"qpos/panda_finger_joint1": "m", "goal/x": "m", "effort/panda_finger_joint1": "N"}
    spec = SimpleNamespace(state_names=tuple(names), action_names=("velocity/panda_finger_joint1",))
    model = SimpleNamespace(robot=SimpleNamespace(name="panda_hand"), spec=spec)
    assert units_of(model) == names | {"velocity/panda_finger_joint1": "m/s"}


# ---- contact -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["box", "ball", "cylinder"])
def test_what_is_between_the_fingers_stops_them_and_is_held(shape):
    thing = SceneObject(name="thing", shape=shape, half_size_m=0.022, rgb=(255, 0, 0))
    stepper = Stepper(PANDA_HAND, objects=[thing])
    tips = stepper.data.body(PANDA_HAND.ee_body).xpos.copy()
    stepper.things.place(tips[None])
    stepper.reset(default_state(PANDA_HAND))
    stepper.model.opt.gravity[:] = 0.0  # until it is held
    close_hand(stepper)
    np.testing.assert_allclose(finger_positions(stepper), 0.022, atol=2.5e-3)  # contacts give way
    stepper.model.opt.gravity[2] = -9.81
    for _ in range(100):
        stepper.step(np.append(stepper.state.qpos_rad[:7], 0.016))
    assert stepper.things.poses[0, 2] == pytest.approx(tips[2], abs=5e-3)


def test_without_friction_nothing_is_lifted(environment):
    model = environment._stepper.model
    with_friction = model.geom_friction.copy()
    assert lift(environment, 1).success
    try:
        model.geom_friction[:] = 1e-6
        assert not lift(environment, 1, steps=50).success
        assert environment.lifted is None
    finally:
        model.geom_friction[:] = with_friction


def test_things_rest_on_the_floor_and_a_legged_robot_has_none():
    stepper = Stepper(PANDA_HAND, objects=SMALL_THINGS)
    places = np.array([[0.4, 0.1 * i, SMALL_HALF_SIZE_M] for i in range(4)])
    stepper.things.place(places)
    stepper.reset(default_state(PANDA_HAND))
    for _ in range(100):
        stepper.step(PANDA_HAND.default_rad)
    np.testing.assert_allclose(stepper.things.poses[:, :3], places, atol=2e-3)
    with pytest.raises(InputError, match="fixed base"):
        build_scene(ROBOTS["g1"], SMALL_THINGS)


# ---- the tasks ---------------------------------------------------------------------------------


def test_the_expert_lifts_what_is_asked_for(environment):
    assert isinstance(environment, Environment)
    for seed in range(4):
        outcome = lift(environment, seed)
        assert outcome.success, seed
        rise_m = (environment.things_m - environment.places_m)[:, 2]
        assert rise_m[environment.target] >= LIFT_M
        assert np.delete(rise_m, environment.target).max() < 0.01


def test_lifting_the_wrong_thing_is_a_failure(environment):
    outcome = lift(environment, 8, wrong := 2)  # seed 8 asks for the first
    assert outcome.failure
    assert not outcome.success
    assert environment.lifted == wrong
    assert lifted_thing(np.array([0.0, 0.05, -0.01, 0.0])) is None


def test_demonstrations_show_both_cameras_the_hand_and_the_instruction():
    environment = LanguagePick()
    data = collect(environment, LanguagePickExpert(environment), episodes=1, noise=0.008)
    data.check()
    assert data.state_names[-1] == "qpos/panda_finger_joint1"
    assert data.action_names[-1] == "position/panda_finger_joint1"
    assert set(data.images) == {"front", "hand"}
    closing = data.action[0][:, -1] - data.state[0][:, -1]
    assert closing.min() < -0.005  # it squeezes
    assert data.state[0][-1, -1] == pytest.approx(SMALL_HALF_SIZE_M, abs=3e-3)


def test_runs_repeat_and_the_state_tells_nothing_of_the_things(environment):
    first = environment.reset(1)
    one = environment.step(first.state + 0.01)
    again = environment.reset(1)
    other = environment.step(again.state + 0.01)
    np.testing.assert_array_equal(one.seen.state, other.seen.state)
    np.testing.assert_array_equal(first.images["hand"], again.images["hand"])
    assert first.state.shape == (8,)
    with pytest.raises(InputError, match="finite"):
        environment.step(np.full(8, np.nan))
    with pytest.raises(InputError, match="language-pick-red"):
        LanguagePick("language-pick-purple")


def test_the_registry_makes_them_and_each_asks_in_words_of_its_own():
    for task in TASKS[:2]:
        made = make_environment(task)
        assert made.spec.name == task
        assert isinstance(make_expert(made), LanguagePickExpert)
    told = {
        deed: {text for name in NAMES for kind in PHRASINGS for text in phrases(name, kind, deed)}
        for deed in ("touch", "pick")
    }
    assert not told["touch"] & told["pick"]
    known, other = (set(phrases("red", kind, "pick")) for kind in PHRASINGS)
    assert "pick up the red cube" in known
    assert not known & other


# ---- the virtual robot -------------------------------------------------------------------------


def test_the_virtual_robot_tells_how_far_things_rose_and_its_cameras_where_they_are():
    things, places = solid_things(PANDA_HAND, 3)
    robot = VirtualRobot(PANDA_HAND, seed=3, objects=things, places_m=places)
    assert set(robot.rise_m.values()) == {0.0}
    assert robot.read().qpos_rad[FINGER] == PANDA_HAND.default_rad[FINGER]  # no noise of 1 cm
    assert robot.objects is not None
    np.testing.assert_allclose(robot.objects[:, :3], places)
    robot.stepper.things.place(places + [[0.0, 0.0, 0.1]] * 4)  # as a hand would
    robot.step(PANDA_HAND.default_rad)
    assert min(robot.rise_m.values()) > 0.09
    scene = CameraScene(PANDA_HAND, [CameraSpec(name="front", height=64, width=64)], 3)
    np.testing.assert_array_equal(scene.places_m, places)
    still = scene.images(PANDA_HAND.default_rad)["front"]
    raised = scene.images(PANDA_HAND.default_rad, robot.objects)["front"]
    assert (still != raised).any(axis=2).sum() > 20
    assert solid_things(PANDA, 3)[0] == ()
    assert VirtualRobot(PANDA).objects is None


def test_the_hands_camera_sees_the_fingers_close():
    scene = CameraScene(PANDA_HAND, [CameraSpec(name="hand", height=64, width=64)], 0)
    closed = PANDA_HAND.default_rad.copy()
    closed[FINGER] = 0.0
    images = [scene.images(pose)["hand"] for pose in (PANDA_HAND.default_rad, closed)]
    assert (images[0] != images[1]).any(axis=2)[40:].sum() > 30


def test_a_thing_keeps_its_mass_and_name():
    heavy = replace(SMALL_THINGS[0], mass_kg=0.4)
    model = build_scene(PANDA_HAND, [heavy])
    assert model.body("object/red").mass[0] == pytest.approx(0.4)
