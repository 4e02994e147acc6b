"""The language tasks: what the cameras show, who is asked for what, and what counts as success."""

from __future__ import annotations

import numpy as np
import pytest

from policies.datasets.collect import collect
from policies.errors import InputError
from policies.evaluation.environment import Environment
from policies.robots import get_robot
from sim2real.sim.camera_rig import CameraRig, RigCamera
from sim2real.sim.kinematics import Kinematics
from sim2real.sim.scene import SceneObject
from sim2real.tasks.language_phrases import PHRASINGS, draw_phrase, phrases
from sim2real.tasks.language_touch import TASKS, LanguageTouch, LanguageTouchExpert
from sim2real.tasks.panda_scene import MOVED_VIEWS, NAMES, THINGS, USUAL_VIEWS
from sim2real.tasks.registry import make_environment, make_expert

PANDA = get_robot("panda")
PLACES = np.array([[0.4, 0.2, 0.03], [0.5, -0.2, 0.03], [0.6, 0.1, 0.03], [0.45, 0.0, 0.03]])


@pytest.fixture(scope="module")
def rig() -> CameraRig:
    return CameraRig(PANDA, THINGS, USUAL_VIEWS.cameras())


@pytest.fixture(scope="module")
def environment() -> LanguageTouch:
    return LanguageTouch()


def pixels_of(image: np.ndarray, name: str) -> np.ndarray:
    """Pixels of a thing, (k, 2): row and column; told by the ratio of its colours."""
    rgb = np.array(THINGS[NAMES.index(name)].rgb, dtype=float)
    seen = image.astype(float)
    scale = np.linalg.norm(seen, axis=2) * np.linalg.norm(rgb)
    return np.argwhere((seen @ rgb) / np.maximum(scale, 1.0) > 0.995)


def projected(camera: RigCamera, point: np.ndarray, pose: tuple[np.ndarray, np.ndarray]):
    """Row and column of a point, by the pinhole equations; pose of the body that carries it."""
    origin, rotation = pose
    position = origin + rotation @ np.array(camera.position_m)
    ahead = rotation @ (np.array(camera.target_m) - np.array(camera.position_m))
    ahead /= np.linalg.norm(ahead)
    right = np.cross(ahead, rotation @ np.array(camera.up))
    right /= np.linalg.norm(right)
    up = np.cross(right, ahead)
    focal = 0.5 * camera.height / np.tan(0.5 * np.radians(camera.fov_deg))
    ray = point - position
    return np.array(
        [
            0.5 * camera.height - focal * (ray @ up) / (ray @ ahead) - 0.5,
            0.5 * camera.width + focal * (ray @ right) / (ray @ ahead) - 0.5,
        ]
    )


def hand_pose(qpos: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Frame of the hand: the finger tips' frame, 0.1034 m back along its axis (Franka's manual)."""
    tips, rotation = Kinematics(PANDA).end_effector(qpos)
    return tips - 0.1034 * rotation[:, 2], rotation


@pytest.mark.parametrize("index", [0, 1], ids=["front", "hand"])
@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_things_are_seen_where_a_pinhole_camera_sees_them(rig, index, turn):
    qpos = PANDA.default_rad.copy()
    qpos[0] += turn
    camera = USUAL_VIEWS.cameras()[index]
    image = rig.images(qpos, PLACES)[camera.name]
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    pose = (np.zeros(3), np.eye(3)) if camera.body is None else hand_pose(qpos)
    checked = 0
    for name, place in zip(NAMES, PLACES, strict=True):
        expected = projected(camera, place, pose)
        if not (expected > 5.0).all() or not (expected < 58.0).all():
            continue
        pixels = pixels_of(image, name)
        assert len(pixels) >= 4, name
        np.testing.assert_allclose(pixels.mean(axis=0), expected, atol=2.0, err_msg=name)
        checked += 1
    assert checked >= 3


def test_the_front_camera_stays_and_the_hands_goes_with_the_hand(rig):
    moved = PANDA.default_rad.copy()
    moved[5] += 0.2
    before, after = rig.images(PANDA.default_rad, PLACES), rig.images(moved, PLACES)
    shifts = {
        camera: np.linalg.norm(
            pixels_of(after[camera], "yellow").mean(axis=0)
            - pixels_of(before[camera], "yellow").mean(axis=0)
        )
        for camera in ("front", "hand")
    }
    assert shifts["front"] < 1.0
    assert shifts["hand"] > 4.0


def test_only_what_is_asked_for_is_rendered_and_a_moved_camera_sees_otherwise(rig):
    only = rig.images(PANDA.default_rad, PLACES, ["hand"])
    assert list(only) == ["hand"]
    moved = CameraRig(PANDA, THINGS, MOVED_VIEWS.cameras())
    pair = [r.images(PANDA.default_rad, PLACES) for r in (rig, moved)]
    assert (pair[0]["front"] != pair[1]["front"]).any(axis=2).mean() > 0.1
    np.testing.assert_array_equal(pair[0]["hand"], pair[1]["hand"])


def test_cameras_that_cannot_be_are_named():
    ball = SceneObject(name="a", shape="ball", half_size_m=0.03, rgb=(1, 2, 3))
    camera = RigCamera(name="c", position_m=(1.0, 0.0, 1.0), target_m=(0.0, 0.0, 0.0))
    with pytest.raises(InputError, match="fixed base"):
        CameraRig(get_robot("g1"), [ball], [camera])
    lost = RigCamera(name="c", position_m=(0.0,) * 3, target_m=(0.0, 0.0, 1.0), body="elbow")
    with pytest.raises(InputError, match=r"camera 'c'.*elbow"):
        CameraRig(PANDA, [ball], [lost])
    along = RigCamera(name="c", position_m=(0.0, 0.0, 1.0), target_m=(0.0, 0.0, 0.0))
    with pytest.raises(InputError, match="up direction"):
        CameraRig(PANDA, [ball], [along])


def test_phrases_are_many_and_those_held_out_are_new():
    for name in NAMES:
        known, other = (set(phrases(name, phrasing)) for phrasing in PHRASINGS)
        assert len(known) >= 12
        assert len(other) >= 12
        assert not known & other
        drawn = {draw_phrase(name, "train", seed) for seed in range(200)}
        assert drawn == known
    everything = [text for name in NAMES for p in PHRASINGS for text in phrases(name, p)]
    assert len(set(everything)) == len(everything)
    with pytest.raises(InputError, match="purple"):
        phrases("purple", "train")


def test_one_scene_for_all_tasks_and_each_asks_for_its_own(environment):
    assert isinstance(environment, Environment)
    images, said = [], []
    for name in NAMES:
        one = LanguageTouch(f"language-touch-{name}")
        seen = one.reset(7)
        images.append(seen.images["front"])
        said.append(seen.instruction)
        assert one.target == NAMES.index(name)
        assert name in seen.instruction
    for image in images[1:]:
        np.testing.assert_array_equal(image, images[0])
    assert len(set(said)) == len(NAMES)
    targets = []
    for seed in range(8):
        environment.reset(seed)
        targets.append(environment.target)
    assert sorted(targets) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_the_instruction_can_be_another_than_the_task():
    one = LanguageTouch("language-touch-red", instruction="touch the green cube")
    assert one.reset(3).instruction == "touch the green cube"
    assert one.target == NAMES.index("red")
    held_out = LanguageTouch("language-touch-red", phrasing="held-out")
    assert held_out.reset(3).instruction in phrases("red", "held-out")


def test_things_lie_apart_and_within_reach(environment):
    for seed in range(30):
        environment.reset(seed)
        gaps = np.linalg.norm(environment.places_m[:, None] - environment.places_m[None], axis=2)
        assert gaps[np.triu_indices(4, 1)].min() > 3 * environment.scene.tolerance_m
        LanguageTouchExpert(environment).reset(seed)  # raises where it is out of reach


def test_the_expert_touches_what_is_asked_for_and_only_that(environment):
    data = collect(environment, LanguageTouchExpert(environment), episodes=4, noise=0.02)
    data.check()
    assert {name for text in data.task for name in NAMES if name in text} == set(NAMES)
    assert set(data.images) == {"front", "hand"}
    assert all(10 <= len(state) < environment.spec.max_steps for state in data.state)
    assert environment.touched == environment.target


def test_touching_the_wrong_thing_is_a_failure():
    one = LanguageTouch("language-touch-red")
    expert = LanguageTouchExpert(one)
    one.reset(5)
    one.target = NAMES.index("blue")
    expert.reset(5)  # knows of the blue one
    one.target = NAMES.index("red")
    for _ in range(one.spec.max_steps):
        outcome = one.step(expert.act(one._seen()))
        if outcome.done:
            break
    assert outcome.failure
    assert not outcome.success
    assert one.touched == NAMES.index("blue")


def test_runs_repeat_and_the_state_tells_nothing_of_the_things(environment):
    first = environment.reset(1)
    one = environment.step(first.state + 0.05)
    again = environment.reset(1)
    other = environment.step(again.state + 0.05)
    np.testing.assert_array_equal(first.images["hand"], again.images["hand"])
    np.testing.assert_array_equal(one.seen.state, other.seen.state)
    assert first.instruction == again.instruction
    assert first.state.shape == (7,)
    with pytest.raises(InputError, match="finite"):
        environment.step(np.full(7, np.nan))


def test_images_can_be_shown_again_until_the_next_look():
    slow, fast = LanguageTouch(look_every=3), LanguageTouch()
    pairs = [(slow.reset(2), fast.reset(2))]
    for _ in range(4):
        action = pairs[-1][0].state + 0.05
        pairs.append((slow.step(action).seen, fast.step(action).seen))
    same = [(a.images["hand"] == b.images["hand"]).all() for a, b in pairs]
    assert same == [True, False, False, True, False]
    np.testing.assert_array_equal(pairs[2][0].images["hand"], pairs[0][0].images["hand"])


def test_the_registry_makes_them_and_refuses_instructions_elsewhere():
    for task in TASKS:
        made = make_environment(task)
        assert made.spec.name == task
        assert isinstance(make_expert(made), LanguageTouchExpert)
    with pytest.raises(InputError, match="no instruction"):
        make_environment("obstacle", instruction="go left")
    with pytest.raises(InputError, match="language-touch-red"):
        LanguageTouch("language-touch-purple")
