"""Camera, hand-eye and joints end to end, from a bag of the virtual robot whose truth is known."""

import json

import numpy as np
import pytest

pytest.importorskip("cv2")
pytest.importorskip("pinocchio")

from calibration.result import read_result
from calibration.targets import Target
from calibration.transforms import distance, inverse, rotation_vector
from sim2real import cli

OFFSET_DEG = ("0", "0.6", "-0.5", "0.8", "-0.4", "0.5", "0")


def command(name, *options):
    return cli.main(["calibrate", name, *(str(x) for x in options)])


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """Two bags, with right encoders and with wrong ones; board, camera, truth."""
    folder = tmp_path_factory.mktemp("rehearsal")
    board = folder / "board.json"
    Target().save(board)
    size = ("--width", 640, "--height", 360, "--poses", 14, "--image-noise", 2)
    for name, more in (("bag", ()), ("off", ("--offset-deg", *OFFSET_DEG))):
        where = (folder / name, "--truth", folder / f"{name}.truth.json", "--board", board)
        assert command("rehearse", *where, "--robot", "panda", *size, *more) == 0
    bag, camera = folder / "bag", folder / "camera.json"
    assert command("camera", bag, "--board", board, "--json", camera) == 0
    return folder


def common(folder):
    return (
        "--robot",
        "panda",
        "--board",
        folder / "board.json",
        "--camera",
        folder / "camera.json",
    )


def test_camera_of_the_virtual_robot(rehearsed):
    truth = json.loads((rehearsed / "bag.truth.json").read_text())
    result = read_result(rehearsed / "camera.json", "camera")
    found = np.array([p.value for p in result.parameters])
    true = np.array([*truth["pinhole"], *truth["distortion"]])
    assert found[:2] == pytest.approx(true[:2], rel=5e-3)
    assert np.abs((found - true) / np.sqrt(np.diag(result.covariance))).max() < 4.0


def test_mount_of_the_virtual_camera(rehearsed, tmp_path):
    out = tmp_path / "hand_eye.json"
    assert command("hand-eye", rehearsed / "bag", *common(rehearsed), "--json", out) == 0
    truth = json.loads((rehearsed / "bag.truth.json").read_text())
    result = read_result(out, "hand_eye")
    true = np.array(truth["T_mount_cam"])
    angle, length = distance(true, result.transforms["T_tip_cam"])
    assert np.rad2deg(angle) < 0.25
    assert length < 5e-3
    between = inverse(result.transforms["T_tip_cam"]) @ true
    error = np.concatenate([rotation_vector(between[:3, :3]), between[:3, 3]])
    assert np.abs(error / np.sqrt(np.diag(result.covariance)[:6])).max() < 4.0


def test_encoders_of_the_virtual_robot(rehearsed, tmp_path):
    out = tmp_path / "joints.json"
    assert command("joints", rehearsed / "off", *common(rehearsed), "--json", out) == 0
    truth = json.loads((rehearsed / "off.truth.json").read_text())["offset_rad"]
    result = read_result(out, "joints")
    std = result.std()
    assert len(result.parameters) == 5
    for parameter in result.parameters:
        true = truth[parameter.name.removeprefix("offset.")]
        assert parameter.value == pytest.approx(true, abs=4 * std[parameter.name])
        assert std[parameter.name] < 2e-3
    assert set(result.details["untold"]) == {"panda_joint1", "panda_joint7"}


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--robot", "g1"), "expected an arm with a hand"),
        (("--robot", "panda", "--offset-deg", 1, 2), "expected an offset for each of"),
    ],
)
def test_bad_input_ends_in_one_sentence(rehearsed, tmp_path, capsys, options, what):
    board = rehearsed / "board.json"
    where = (tmp_path / "bag", "--truth", tmp_path / "t.json", "--board", board)
    assert command("rehearse", *where, *options) == cli.EXIT_INPUT
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert what in error[0]
    assert not (tmp_path / "bag").exists()
