"""Boards, intrinsics and results, against cameras that are known."""

import json
import re
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
pytest.importorskip("pinocchio")

from calibration import intrinsics  # noqa: E402
from calibration.camera import Camera, read_camera  # noqa: E402
from calibration.detection import Frame, detect_all  # noqa: E402
from calibration.errors import CalibrationError  # noqa: E402
from calibration.intrinsics import IntrinsicsConfig, calibrate_camera  # noqa: E402
from calibration.result import read_result, write_result  # noqa: E402
from calibration.synthetic import Renderer, random_poses  # noqa: E402
from calibration.targets import (  # noqa: E402
    Target,
    pdf_bytes,
    png_bytes,
    print_page,
    read_target,
)
from sim2real import cli  # noqa: E402
from sim2real.calibrate_common import EXIT_DRIFTED, EXIT_UNTOLD  # noqa: E402

TARGET = Target()
CAMERA = Camera(
    width=1280,
    height=720,
    pinhole=np.array([900.0, 905.0, 641.3, 357.2]),
    distortion=np.array([-0.1, 0.05, 0.001, -0.0005, 0.0]),
)
SMALL = replace(CAMERA, width=640, height=360, pinhole=CAMERA.pinhole / 2)  # quick to render
CONFIG = IntrinsicsConfig()


@pytest.fixture(scope="module")
def frames():
    rng, renderer = np.random.default_rng(0), Renderer(CAMERA)
    poses = random_poses(TARGET, CAMERA, 20, rng)
    return [
        Frame(name=f"{i:02d}.png", image=renderer.render(TARGET, T, rng=rng))
        for i, T in enumerate(poses)
    ]


@pytest.fixture(scope="module")
def detections(frames):
    return detect_all(frames, TARGET)


@pytest.fixture(scope="module")
def found(detections):
    return calibrate_camera(detections, CONFIG)


@pytest.fixture
def folder(frames, tmp_path):
    """Images in a folder, and the board's description."""
    (tmp_path / "images").mkdir()
    for frame in frames:
        cv2.imwrite(str(tmp_path / "images" / frame.name), frame.image)
    TARGET.save(tmp_path / "board.json")
    return tmp_path


def test_camera_is_found_within_its_numbers(found):
    truth = np.concatenate([CAMERA.pinhole, CAMERA.distortion])
    values = np.concatenate([found.camera.pinhole, found.camera.distortion])
    focal = np.abs(found.camera.pinhole[:2] / CAMERA.pinhole[:2] - 1)
    assert focal.max() <= 1e-3
    assert found.rms_px <= 0.1
    assert not found.rejected
    error = values - truth
    squared = float(error @ np.linalg.solve(found.camera.covariance, error))
    assert squared < 27.9  # 99.9 % of the chi-squared distribution with 9 degrees of freedom
    assert found.coverage.sum() == sum(len(view.ids) for view in found.detections.views) > 20 * 20


def test_reprojected_noise_gives_the_covariance(detections):
    """Corners with known noise, many times: the spread is the one that is reported."""
    rng = np.random.default_rng(1)
    poses = random_poses(TARGET, CAMERA, 12, rng)
    errors, reported = [], []
    for _ in range(30):
        views = []
        for i, T in enumerate(poses):
            pixels = CAMERA.project(TARGET.corners_m() @ T[:3, :3].T + T[:3, 3])[0]
            noisy = pixels + rng.normal(0, 0.1, pixels.shape)
            view = replace(detections.views[0], name=str(i), pixels=noisy)
            views.append(replace(view, ids=np.arange(24), board_m=TARGET.corners_m()))
        result = calibrate_camera(replace(detections, views=tuple(views)), CONFIG)
        errors.append(result.camera.pinhole - CAMERA.pinhole)
        reported.append(np.sqrt(np.diag(result.camera.covariance))[:4])
    ratio = np.sqrt(np.mean(np.square(errors), axis=0)) / np.mean(reported, axis=0)
    assert ratio == pytest.approx(np.ones(4), abs=0.4)


def test_outlier_view_is_removed_with_its_reason(detections):
    bad = detections.views[3]
    rng = np.random.default_rng(2)
    bent = replace(bad, pixels=bad.pixels + rng.normal(0, 3, bad.pixels.shape))
    views = (*detections.views[:3], bent, *detections.views[4:])
    result = calibrate_camera(replace(detections, views=views), CONFIG)
    assert list(result.rejected) == [bad.name]
    assert "reprojection error" in result.rejected[bad.name]
    assert result.camera.pinhole[0] == pytest.approx(900, rel=1e-3)


def test_board_that_is_never_tilted_is_refused():
    rng = np.random.default_rng(3)
    poses = random_poses(TARGET, SMALL, 12, rng, tilt_rad=0.01)
    renderer = Renderer(SMALL)
    frames = (Frame(name=str(i), image=renderer.render(TARGET, T, rng=rng))
              for i, T in enumerate(poses))  # fmt: skip
    with pytest.raises(CalibrationError, match=r"tilt.*focal length cannot be told"):
        calibrate_camera(detect_all(frames, TARGET), CONFIG)


def test_too_few_views_are_refused(detections):
    few = replace(detections, views=detections.views[:7])
    with pytest.raises(CalibrationError, match=r"at least 8 good views .* got 7"):
        calibrate_camera(few, CONFIG)


def test_rational_model_and_choice_of_views(detections):
    config = IntrinsicsConfig(model="rational_polynomial", most_views=15)
    result = calibrate_camera(detections, config)
    assert len(result.camera.distortion) == 8
    assert len(result.view_rms_px) == 15
    assert set(result.rejected.values()) == {"much like another view"}
    chosen, others = intrinsics.most_different(detections.views, 5)
    assert (len(chosen), len(others)) == (5, 15)


def test_chessboard_works_too():
    board = Target(kind="chessboard", columns=8, rows=6, square_m=0.03)
    rng, renderer = np.random.default_rng(4), Renderer(SMALL)
    poses = random_poses(board, SMALL, 10, rng, tilt_rad=0.5)
    frames = (Frame(name=str(i), image=renderer.render(board, T, rng=rng))
              for i, T in enumerate(poses))  # fmt: skip
    result = calibrate_camera(detect_all(frames, board), CONFIG)
    assert result.camera.pinhole[:2] == pytest.approx(SMALL.pinhole[:2], rel=5e-3)
    assert result.rms_px <= 0.15


def test_result_comes_back_as_it_was(found, tmp_path):
    result = found.to_result()
    write_result(tmp_path / "c.json", result)
    again = read_result(tmp_path / "c.json", "camera")
    assert again.parameters == result.parameters
    assert np.array_equal(again.covariance, result.covariance)
    assert again.data_sha256 == found.detections.sha256
    assert again.software["realign"] != "not installed"
    camera = read_camera(tmp_path / "c.json")
    assert np.array_equal(camera.pinhole, found.camera.pinhole)
    (tmp_path / "c.yaml").write_text(found.camera.to_yaml("wrist"))
    camera = read_camera(tmp_path / "c.yaml")
    assert camera.pinhole == pytest.approx(found.camera.pinhole)
    assert camera.covariance is None


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda c: c.pop("covariance"), "damaged"),
        (lambda c: c["covariance"].pop(), "covariance of 9 x 9|damaged"),
        (lambda c: c["covariance"][0].__setitem__(0, -1.0), "negative variances"),
        (lambda c: c["parameters"][0].update(value=None), "damaged"),
        (lambda c: c.update(version=99), "version 99"),
        (lambda c: c.update(kind="hand_eye"), "kind 'hand_eye'"),
        (lambda c: c["transforms"].update(T_a_b={"matrix": np.ones((4, 4)).tolist()}), "T_a_b"),
        (lambda c: c["details"].update(distortion_model="other"), "known distortion model"),
        (lambda c: c["parameters"][0].update(value=-900.0), "positive"),
    ],
)
def test_damaged_results_are_refused(found, tmp_path, change, what):
    content = json.loads(json.dumps(found.to_result().to_json()))
    change(content)
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match=what):
        read_camera(tmp_path / "c.json")


def test_print_is_at_true_scale():
    page, scale = print_page(TARGET)
    png = png_bytes(page, scale)
    x, y, metres = struct.unpack(">IIB", png[png.index(b"pHYs") + 4 :][:9])
    assert (x, y, metres) == (round(scale), round(scale), 1)
    read = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(read, page)
    assert scale * 0.0254 == pytest.approx(300, rel=0.01)
    view = detect_all([Frame(name="page", image=read)], TARGET).views[0]
    between = np.linalg.norm(view.pixels[-1] - view.pixels[0]) / scale
    assert between == pytest.approx(np.linalg.norm(view.board_m[-1] - view.board_m[0]), abs=5e-5)
    pdf = pdf_bytes(page, scale)
    width = float(re.search(rb"MediaBox \[0 0 ([\d.]+)", pdf).group(1))
    assert width / 72 * 0.0254 == pytest.approx(page.shape[1] / scale, rel=1e-5)
    start = pdf.index(b"stream\n", pdf.index(b"/Image")) + 7
    bits = np.frombuffer(zlib.decompress(pdf[start : pdf.index(b"\nendstream", start)]), np.uint8)
    shape = (page.shape[0], -1)
    image = np.unpackbits(bits.reshape(shape), axis=1)[:, : page.shape[1]] * 255
    assert np.array_equal(image, np.where(page >= 128, 255, 0))
    for number, offset in enumerate(re.findall(rb"(\d{10}) 00000 n", pdf), 1):
        assert pdf[int(offset) :].startswith(f"{number} 0 obj".encode())


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"columns": 2}, "squares a side"),
        ({"square_m": 40.0}, "2 to 1000 mm"),
        ({"marker_m": 0.039}, "0.4 to 0.9"),
        ({"dictionary": "DICT_9X9"}, "dictionary of OpenCV"),
        ({"dictionary": "DICT_4X4_50", "columns": 20, "rows": 20}, "larger dictionary"),
        ({"kind": "circles"}, "charuco or chessboard"),
    ],
)
def test_impossible_boards_are_refused(change, what):
    with pytest.raises(CalibrationError, match=what):
        replace(TARGET, **change)


def test_command_writes_result_camera_info_and_report(folder, capsys):
    out = folder / "camera.json"
    args = ["calibrate", "camera", str(folder / "images"), "--board", str(folder / "board.json")]
    extra = [
        "--json",
        str(out),
        "--yaml",
        str(folder / "c.yaml"),
        "--report",
        str(folder / "r.html"),
    ]
    assert cli.main([*args, *extra]) == 0
    assert "20 views" in capsys.readouterr().out
    assert read_camera(out).pinhole[0] == pytest.approx(900, rel=1e-3)
    assert read_camera(folder / "c.yaml").width == 1280
    assert "Corners in each cell" in (folder / "r.html").read_text()
    assert cli.main([*args, *extra]) == cli.EXIT_INPUT  # nothing is replaced by accident


@pytest.mark.parametrize(
    ("change", "tolerance", "views", "code", "word"),
    [
        (1.0, "0.5", 8, 0, "holds"),
        (1.02, "0.5", 8, EXIT_DRIFTED, "drifted"),
        (1.0, "0.001", 8, EXIT_UNTOLD, "cannot tell"),
        (1.0, "0.5", 3, EXIT_UNTOLD, "cannot tell"),
    ],
)
def test_check_tells_whether_the_camera_is_still_the_same(
    found, folder, capsys, change, tolerance, views, code, word
):
    stored, out = folder / "camera.json", folder / "check.json"
    write_result(stored, found.to_result())
    content = json.loads(stored.read_text())
    content["parameters"][0]["value"] *= change
    stored.write_text(json.dumps(content))
    for image in sorted((folder / "images").iterdir())[views:]:
        image.unlink()
    args = ["calibrate", "camera", str(folder / "images"), "--board", str(folder / "board.json")]
    options = ["--check", str(stored), "--tolerance-percent", tolerance, "--json", str(out)]
    assert cli.main([*args, *options]) == code
    assert capsys.readouterr().out.strip().splitlines()[-1].startswith(word)
    assert json.loads(out.read_text())["verdict"] == word


def test_command_makes_a_board_that_is_read_again(tmp_path):
    out = str(tmp_path / "b")
    assert cli.main(["calibrate", "target", out, "--columns", "9", "--square-mm", "25"]) == 0
    target = read_target(tmp_path / "b.json")
    assert target == Target(columns=9, square_m=0.025, marker_m=0.01875)
    assert (tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")
    (tmp_path / "b.json").write_text('{"kind": "charuco"}')
    with pytest.raises(CalibrationError, match="board description"):
        read_target(tmp_path / "b.json")


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda f: cv2.imwrite(str(f / "a.png"), np.zeros((48, 64), np.uint8)), "of one size"),
        (lambda f: (f / "a.png").write_bytes(b"no image"), "cannot be decoded"),
        (lambda f: [p.unlink() for p in f.iterdir()], "expected images"),
        (
            lambda f: [cv2.imwrite(str(p), np.zeros((72, 128), np.uint8)) for p in f.iterdir()],
            "none of 20 shows enough of it",
        ),
    ],
)
def test_bad_images_end_in_one_sentence(folder, capsys, spoil, what):
    spoil(folder / "images")
    args = ["calibrate", "camera", str(folder / "images"), "--board", str(folder / "board.json")]
    assert cli.main([*args, "--json", str(folder / "c.json")]) == cli.EXIT_INPUT
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("realign: ")
    assert what in error
    assert not (folder / "c.json").exists()


def test_video_is_a_source(frames, folder):
    """Every second is one image; motion JPEG of high quality keeps the corners."""
    video = folder / "v.avi"
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter_fourcc(*"MJPG"), 2.0, (1280, 720), False)
    writer.set(cv2.VIDEOWRITER_PROP_QUALITY, 95)
    for frame in frames[:10]:
        writer.write(frame.image)
    writer.release()
    args = ["calibrate", "camera", str(video), "--board", str(folder / "board.json")]
    assert cli.main([*args, "--json", str(folder / "c.json")]) == 0
    assert read_camera(folder / "c.json").pinhole[0] == pytest.approx(900, rel=5e-3)
