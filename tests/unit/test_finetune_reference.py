"""Motions to track: read by name, resampled, placed where the policy starts; bad files refused."""

import json

import numpy as np
import pytest

from policies.actor.config import ActionConfig, ActorConfig
from policies.errors import InputError
from policies.processors import TermConfig
from policies.robots import G1, PANDA
from policies.rotation import rotate
from sim2real.finetune.reference import Reference, load_reference
from sim2real.sim.stepper import default_state

LEGS = G1.joint_names[:12]


def config_of(robot, joints, duration_s=0.5):
    held = [name for name in robot.joint_names if name not in joints]
    return ActorConfig(
        name="motion",
        robot=robot.name,
        robot_fingerprint=robot.fingerprint,
        rate_hz=robot.control_rate_hz,
        action=ActionConfig(type="position_offset_from_default", joints=joints),
        hold_pose_rad=dict.fromkeys(held, 0.07),
        observation=(TermConfig(term="joint_pos"),),
        duration_s=duration_s,
        start_pose_rad=dict(zip(robot.joint_names, robot.default_rad.tolist(), strict=True)),
    )


def standing(robot=G1):
    """The robot at rest with its lowest body 3 cm above the floor."""
    state = default_state(robot).map(lambda x: np.tile(x, (26, 1)))
    return Reference.of("own", robot, state).lifted(0.03)


def motion(frames=16, fps=30.0):
    """Legs that move along straight lines, a base that is yawed, shifted and moves."""
    rng = np.random.default_rng(0)
    names = list(LEGS[::-1])  # another order than the robot's
    share = np.linspace(0.0, 1.0, frames)[:, None]
    start = np.array([G1.default_rad[G1.joint_names.index(n)] for n in names])
    yaw = 0.9 + 0.2 * share[:, 0]
    return {
        "fps": np.float32(fps),
        "joint_names": np.array(names),
        "joint_pos": start + share * rng.uniform(-0.2, 0.2, 12),
        "root_pos": np.array([1.0, 2.0, 5.0]) + share * [0.3, 0.4, 0.0],
        "root_quat_xyzw": np.stack([0 * yaw, 0 * yaw, np.sin(yaw / 2), np.cos(yaw / 2)], axis=1),
    }


def load(tmp_path, content, *, kind="npz", config=None):
    path = tmp_path / f"wave.{kind}"
    if kind == "npz":
        np.savez(path, **content)
    else:
        path.write_text(json.dumps({k: np.asarray(v).tolist() for k, v in content.items()}))
    return load_reference(path, G1, config or config_of(G1, LEGS), standing())


@pytest.mark.parametrize("kind", ["npz", "json"])
def test_a_motion_is_resampled_reordered_and_placed(tmp_path, kind):
    content = motion()
    reference = load(tmp_path, content, kind=kind)
    state = reference.state
    assert reference.name == "wave"
    assert len(reference) == 26  # 0.5 s at 50 Hz, and the start
    knee = list(content["joint_names"]).index("left_knee_joint")
    first, last = content["joint_pos"][[0, -1], knee]
    np.testing.assert_allclose(
        state.qpos_rad[:, 3], first + (last - first) * np.arange(26) / 25, atol=1e-6
    )
    np.testing.assert_allclose(state.qpos_rad[:, 20], 0.07)  # a joint that the policy holds
    np.testing.assert_allclose(state.qvel_rad_s[:, 3], (last - first) / 0.5, atol=1e-5)
    # The base starts over the origin and faces x; the way it goes turns with it.
    np.testing.assert_allclose(state.base_pos_m[0, :2], 0.0, atol=1e-9)
    np.testing.assert_allclose(state.base_quat_wxyz[0], [1, 0, 0, 0], atol=1e-6)
    turned = rotate(np.array([np.cos(0.45), 0, 0, -np.sin(0.45)]), np.array([0.3, 0.4, 0.0]))
    np.testing.assert_allclose(state.base_pos_m[-1, :2], turned[:2], atol=1e-6)
    np.testing.assert_allclose(state.base_lin_vel_m_s[:, :2], np.tile(turned[:2] / 0.5, (26, 1)))
    np.testing.assert_allclose(state.base_ang_vel_rad_s, np.tile([0, 0, 0.4], (26, 1)), atol=1e-3)
    lowest = reference.body_pos_m[..., 2].min(axis=1)
    assert np.median(lowest) == pytest.approx(0.03)


def test_a_motion_shorter_than_the_policy_is_held_at_its_end(tmp_path):
    reference = load(tmp_path, motion(frames=8))
    np.testing.assert_allclose(
        reference.state.qpos_rad[12:], reference.state.qpos_rad[[25]].repeat(14, 0), atol=1e-2
    )
    np.testing.assert_allclose(reference.state.qvel_rad_s[14:], 0.0, atol=1e-9)


def test_quaternions_that_change_sign_are_one_motion(tmp_path):
    content = motion()
    plain = load(tmp_path, content)
    content["root_quat_xyzw"][5:9] *= -1.0
    flipped = load(tmp_path, content)
    np.testing.assert_allclose(flipped.state.base_quat_wxyz, plain.state.base_quat_wxyz)


def test_a_fixed_base_needs_no_root(tmp_path):
    path = tmp_path / "arm.npz"
    pose = np.tile(PANDA.default_rad, (5, 1))
    np.savez(path, fps=10.0, joint_names=np.array(PANDA.joint_names), joint_pos=pose)
    config = config_of(PANDA, PANDA.joint_names, duration_s=0.2)
    own = standing(PANDA)
    reference = load_reference(path, PANDA, config, own)
    assert reference.state.base_pos_m is None
    np.testing.assert_allclose(reference.state.qpos_rad, np.tile(PANDA.default_rad, (21, 1)))


def without(key):
    return lambda c: c.pop(key)


def setting(key, value):
    return lambda c: c.update({key: value})


def poke(key, index, value):
    return lambda c: c[key].__setitem__(index, value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("fps"), "'fps'"),
        (without("joint_pos"), "'joint_pos'"),
        (without("root_pos"), "'root_pos'"),
        (setting("fps", 0.0), "positive fps"),
        (setting("fps", np.zeros(2)), "'fps'"),
        (setting("joint_pos", np.zeros((16, 3))), r"\(frames, 12\)"),
        (setting("joint_pos", np.zeros((1, 12))), "at least 2 frames"),
        (setting("joint_pos", np.zeros(12)), "2 dimensions"),
        (setting("joint_pos", np.full((16, 12), "x")), "numbers"),
        (poke("joint_pos", (3, 4), np.nan), "finite"),
        (poke("root_pos", (0, 0), np.inf), "finite"),
        (setting("root_pos", np.zeros((4, 3))), r"root_pos \(16, 3\)"),
        (setting("root_quat_xyzw", np.full((16, 4), 0.1)), "unit quaternions"),
        (setting("joint_names", np.array(["tail", *LEGS[1:]])), "tail"),
        (setting("joint_names", np.array([LEGS[0], LEGS[0], *LEGS[2:]])), "twice"),
    ],
)
def test_bad_motions_are_refused_in_one_sentence(tmp_path, change, words):
    content = motion()
    change(content)
    with pytest.raises(InputError, match=words) as info:
        load(tmp_path, content)
    assert "\n" not in str(info.value)


def test_a_motion_without_the_policys_joints_is_refused(tmp_path):
    with pytest.raises(InputError, match="waist_yaw_joint"):
        load(tmp_path, motion(), config=config_of(G1, (*LEGS, "waist_yaw_joint")))


@pytest.mark.parametrize(
    "name", ["gone.npz", "text.npz", "list.json", "broken.json", "pickled.npz"]
)
def test_files_that_are_no_motions_are_refused(tmp_path, name):
    path = tmp_path / name
    if name == "text.npz":
        path.write_text("hello")
    if name == "list.json":
        path.write_text("[1, 2]")
    if name == "broken.json":
        path.write_text('{"fps": 30')
    if name == "pickled.npz":
        np.savez(path, **{**motion(), "joint_names": np.array(LEGS, dtype=object)})
    with pytest.raises(InputError, match="expected a motion"):
        load_reference(path, G1, config_of(G1, LEGS), standing())
