"""Encoder offsets, signs and order against robots whose encoders are known to be off."""

import json

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("pinocchio")

from calibration.camera import Camera
from calibration.detection import View
from calibration.errors import CalibrationError
from calibration.joint_offsets import (
    StopsConfig,
    ViewsConfig,
    offsets_from_stops,
    offsets_from_views,
)
from calibration.kinematics import Chain
from calibration.result import read_result
from calibration.synthetic import HandEyeScene
from calibration.targets import Target
from policies.robots import PANDA
from sim2real import cli
from sim2real.calibrate_common import EXIT_DRIFTED, EXIT_UNTOLD
from sim2real.calibrate_play import write_motion
from sim2real.robot_data import robot_data_dir

TARGET = Target()
CAMERA = Camera(
    width=1280,
    height=720,
    pinhole=np.array([900.0, 900.0, 640.0, 360.0]),
    distortion=np.zeros(5),
)
CHAIN = Chain(robot_data_dir() / PANDA.urdf, "panda_link0", "panda_hand_tcp")
HOME = np.array([0.0, -0.5, 0.0, -2.2, 0.0, 1.7, 0.785])
OFFSET = np.array([0.0, 0.015, -0.01, 0.02, -0.012, 0.008, 0.0])
NOISE_RAD = 2e-4
SETUPS = ("eye_in_hand", "eye_to_hand")


def scene_of(setup):
    return HandEyeScene(chain=CHAIN, target=TARGET, camera=CAMERA, setup=setup, home_rad=HOME)


def views_of(scene, joints, rng, noise_px=0.05):
    views = []
    for i, q in enumerate(joints):
        T = scene.T_cam_board(q)
        pixels = CAMERA.project(TARGET.corners_m() @ T[:3, :3].T + T[:3, 3])[0]
        noisy = pixels + rng.normal(0, noise_px, pixels.shape)
        ids = np.arange(len(noisy))
        views.append(View(name=str(i), ids=ids, board_m=TARGET.corners_m(), pixels=noisy))
    return views


def readings(setup, seed=0, count=24, offset=OFFSET):
    """Views, and what encoders read at them that are off by minus ``offset``."""
    rng, scene = np.random.default_rng(seed), scene_of(setup)
    joints = scene.sample(count, rng)
    views = views_of(scene, joints, rng)
    return scene, views, [q - offset + rng.normal(0, NOISE_RAD, 7) for q in joints]


@pytest.mark.parametrize("setup", SETUPS)
def test_offsets_are_found_and_gauge_freedoms_named(setup):
    scaled = []
    for seed in range(3):
        _, views, read = readings(setup, seed)
        found = offsets_from_views(views, read, CHAIN, CAMERA, ViewsConfig(setup=setup))
        assert found.told == [False, True, True, True, True, True, False]
        assert "another place of the base" in found.untold["panda_joint1"]
        assert "another mount" in found.untold["panda_joint7"]
        middle = found.offset_rad[1:6] - OFFSET[1:6]
        assert np.abs(middle).max() < 2e-3
        assert found.after < 0.3 * found.before
        scaled.append(middle / np.sqrt(np.diag(found.covariance))[1:6])
        assert found.offset_rad[[0, 6]] == pytest.approx(0.0)
    assert 0.3 < np.sqrt(np.mean(np.square(scaled))) < 2.0


def test_known_mount_tells_the_last_joint():
    offset = OFFSET + np.eye(7)[6] * 0.01
    scene, views, read = readings("eye_in_hand", offset=offset)
    mount = scene.truth[0], np.diag([1e-4**2] * 3 + [1e-4**2] * 3)
    found = offsets_from_views(views, read, CHAIN, CAMERA, ViewsConfig(), mount)
    assert found.told == [False, True, True, True, True, True, True]
    assert found.offset_rad[6] == pytest.approx(0.01, abs=2e-3)


@pytest.mark.parametrize("joint", [1, 3, 4])
def test_joint_that_turns_the_other_way_is_named(joint):
    _, views, read = readings("eye_in_hand")
    turned = [q * np.where(np.arange(7) == joint, -1.0, 1.0) for q in read]
    with pytest.raises(CalibrationError, match=f"panda_joint{joint + 1} turning the other way"):
        offsets_from_views(views, turned, CHAIN, CAMERA, ViewsConfig())


def test_exchanged_joints_are_named():
    _, views, read = readings("eye_in_hand")
    exchanged = [q[[0, 1, 4, 3, 2, 5, 6]] for q in read]
    with pytest.raises(CalibrationError, match="panda_joint3 and panda_joint5 exchanged"):
        offsets_from_views(views, exchanged, CHAIN, CAMERA, ViewsConfig())


def test_joint_that_does_not_move_is_not_told():
    rng, scene = np.random.default_rng(4), scene_of("eye_in_hand")
    spread = np.where(np.arange(7) == 2, 1e-9, 0.45)
    joints = scene.sample(20, rng, spread_rad=spread)
    read = [q - OFFSET for q in joints]
    found = offsets_from_views(views_of(scene, joints, rng), read, CHAIN, CAMERA, ViewsConfig())
    told = dict(zip(CHAIN.joint_names, found.told, strict=True))
    wrong = np.abs(found.offset_rad - OFFSET)[found.told]
    assert wrong.max() < 3e-3
    assert not told["panda_joint1"]


def test_too_few_views_are_refused():
    _, views, read = readings("eye_in_hand", count=6)
    with pytest.raises(CalibrationError, match="at least 8 good views"):
        offsets_from_views(views, read, CHAIN, CAMERA, ViewsConfig())


# ---- mechanical stops --------------------------------------------------------------------------


def to_the_stops(offset, joints=range(7), seed=0):
    """Times and readings of a Panda that moves some joints to both stops, one after the other."""
    rng = np.random.default_rng(seed)
    places = [PANDA.default_rad.copy()]
    for j in joints:
        for end in (PANDA.lower_rad[j], PANDA.upper_rad[j], PANDA.default_rad[j]):
            goal = places[-1].copy()
            goal[j] = end
            places += [goal, goal]
    corners = np.arange(len(places))
    time = np.arange(0, len(places) - 1, 0.02)
    q = np.stack([np.interp(time, corners, p) for p in np.array(places).T], axis=1)
    return time, q - offset + rng.normal(0, 2e-4, q.shape)


def solve_stops(time, q):
    limits = PANDA.lower_rad, PANDA.upper_rad
    return offsets_from_stops(PANDA.joint_names, time, q, *limits, StopsConfig())


def test_stops_tell_every_joint():
    offset = np.array([0.02, -0.01, 0.015, 0.03, -0.02, 0.01, 0.04])
    found = solve_stops(*to_the_stops(offset))
    assert all(found.told)
    assert found.offset_rad == pytest.approx(offset, abs=1.5e-3)
    scaled = (found.offset_rad - offset) / np.sqrt(np.diag(found.covariance))
    assert np.abs(scaled).max() < 3.0


def test_joints_that_did_not_reach_both_stops_are_named():
    time, q = to_the_stops(np.zeros(7), joints=(0, 1, 2))
    q[:, 1] *= 0.8
    found = solve_stops(time, q)
    assert found.told == [True, False, True, False, False, False, False]
    assert "one was not reached" in found.untold["panda_joint2"]
    with pytest.raises(CalibrationError, match="expected joints that rest at both stops"):
        solve_stops(time, np.cumsum(np.full_like(q, 0.01), axis=0))


# ---- the command -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bags(tmp_path_factory):
    folder = tmp_path_factory.mktemp("joints")
    for name, first, joints in (
        ("first", 0.02, range(7)),
        ("same", 0.02, range(7)),
        ("moved", 0.05, range(7)),
        ("half", 0.02, (0, 1)),
    ):
        q = to_the_stops(np.eye(7)[0] * first, joints, seed=len(name))[1]
        write_motion(folder / name, PANDA, "none", 50.0, q, (q, 0 * q, 0 * q))
    args = ["calibrate", "joints", str(folder / "first"), "--robot", "panda", "--stops"]
    assert cli.main([*args, "--json", str(folder / "stored.json")]) == 0
    return folder


def test_command_stores_offsets_from_stops(bags):
    result = read_result(bags / "stored.json", "joints")
    values = {p.name: p.value for p in result.parameters}
    assert values["offset.panda_joint1"] == pytest.approx(0.02, abs=1.5e-3)
    assert result.details["method"] == "stops"


@pytest.mark.parametrize(
    ("bag", "code", "word"),
    [("same", 0, "holds"), ("moved", EXIT_DRIFTED, "drifted"), ("half", EXIT_UNTOLD, "cannot")],
)
def test_check_tells_whether_the_encoders_are_still_the_same(bags, capsys, bag, code, word):
    args = ["calibrate", "joints", str(bags / bag), "--robot", "panda", "--stops"]
    assert cli.main([*args, "--check", str(bags / "stored.json"), "--tolerance-deg", "0.5"]) == code
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith(word)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ((), "expected a board and a camera"),
        (("--stops", "--state-topic", "/other"), "expected topic /other"),
    ],
)
def test_bad_input_ends_in_one_sentence(bags, tmp_path, capsys, options, what):
    args = ["calibrate", "joints", str(bags / "same"), "--robot", "panda"]
    assert cli.main([*args, "--json", str(tmp_path / "o.json"), *options]) == cli.EXIT_INPUT
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert what in error[0]
    assert json.loads((bags / "stored.json").read_text())["kind"] == "joints"
