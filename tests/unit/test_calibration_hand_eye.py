"""Hand-eye calibration against a robot, a camera and a board whose places are known."""

import json
from dataclasses import replace

import numpy as np
import pytest

cv2 = pytest.importorskip("cv2")
pytest.importorskip("pinocchio")

from calibration.camera import Camera  # noqa: E402
from calibration.detection import Frame, View, detect_all  # noqa: E402
from calibration.errors import CalibrationError  # noqa: E402
from calibration.hand_eye import HandEyeConfig, calibrate_hand_eye, pose_views  # noqa: E402
from calibration.kinematics import Chain  # noqa: E402
from calibration.result import read_result  # noqa: E402
from calibration.synchronise import JointLog, resting  # noqa: E402
from calibration.synthetic import HandEyeScene, Renderer  # noqa: E402
from calibration.targets import Target  # noqa: E402
from calibration.transforms import distance, inverse, rotation_vector, transform  # noqa: E402
from sim2real import cli  # noqa: E402
from sim2real.bags.definitions import typestore  # noqa: E402
from sim2real.bags.writer import BagWriter  # noqa: E402
from sim2real.calibrate_common import EXIT_DRIFTED, EXIT_UNTOLD  # noqa: E402
from sim2real.robot_data import robot_data_dir  # noqa: E402

TARGET = Target()
CAMERA = Camera(
    width=1280,
    height=720,
    pinhole=np.array([900.0, 900.0, 640.0, 360.0]),
    distortion=np.zeros(5),
)
URDF = robot_data_dir() / "panda_description/urdf/panda.urdf"
UR5 = robot_data_dir() / "ur_description/urdf/ur5_robot.urdf"
CHAIN = Chain(URDF, "panda_link0", "panda_hand_tcp")
HOME = np.array([0.0, -0.5, 0.0, -2.2, 0.0, 1.7, 0.785])
JOINT_NOISE_RAD = np.deg2rad(0.05)
SETUPS = ("eye_in_hand", "eye_to_hand")


def scene_of(setup):
    return HandEyeScene(chain=CHAIN, target=TARGET, camera=CAMERA, setup=setup, home_rad=HOME)


@pytest.fixture(scope="module")
def rendered():
    """For each setup: images, their views and the joints of each."""
    out, renderer = {}, Renderer(CAMERA)
    for setup in SETUPS:
        rng, scene = np.random.default_rng(1), scene_of(setup)
        joints = {f"{i:02d}": q for i, q in enumerate(scene.sample(20, rng))}
        frames = [
            Frame(name=name, image=renderer.render(TARGET, scene.T_cam_board(q), rng=rng))
            for name, q in joints.items()
        ]
        out[setup] = frames, detect_all(frames, TARGET).views, joints
    return out


def exact_views(scene, joints, rng, noise_px=0.05):
    """Views without images: true corners with noise."""
    views = []
    for i, q in enumerate(joints):
        T = scene.T_cam_board(q)
        pixels = CAMERA.project(TARGET.corners_m() @ T[:3, :3].T + T[:3, 3])[0]
        noisy = pixels + rng.normal(0, noise_px, pixels.shape)
        ids = np.arange(len(noisy))
        views.append(View(name=str(i), ids=ids, board_m=TARGET.corners_m(), pixels=noisy))
    return views


def solve(views, joints, setup, camera=CAMERA):
    poses = pose_views(views, joints, CHAIN, camera, setup)
    return calibrate_hand_eye(poses, camera, HandEyeConfig(setup=setup))


def errors(found, scene):
    """(rotation, translation) of both transforms against the truth, (12,), rad and m."""
    out = []
    for true, pose in zip(
        scene.truth, (found.fit.T_mount_cam, found.fit.T_other_board), strict=True
    ):
        between = inverse(pose) @ true
        out += [rotation_vector(between[:3, :3]), between[:3, 3]]
    return np.concatenate(out)


@pytest.mark.parametrize("setup", SETUPS)
def test_rendered_views_with_perfect_joints(rendered, setup):
    _, views, joints = rendered[setup]
    found = solve(views, [joints[view.name] for view in views], setup)
    angle, length = distance(scene_of(setup).truth[0], found.fit.T_mount_cam)
    assert len(views) == 20
    assert np.rad2deg(angle) <= 0.01
    assert length <= 1e-4
    assert found.rms_px <= 0.1
    assert found.held_out_rms_px <= 0.12
    assert found.held_out_m < 5e-4
    assert np.rad2deg(found.fit.sigma_q_rad) < 0.005


@pytest.mark.parametrize("setup", SETUPS)
def test_joint_noise_is_found_and_covered_by_the_covariance(rendered, setup):
    _, views, joints = rendered[setup]
    scaled, sigma = [], []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        read = [joints[view.name] + rng.normal(0, JOINT_NOISE_RAD, 7) for view in views]
        found = solve(views, read, setup)
        error = errors(found, scene_of(setup))
        scaled.append(error / np.sqrt(np.diag(found.fit.covariance)))
        sigma.append(found.fit.sigma_q_rad)
    assert np.abs(scaled).max() <= 3.5  # 48 numbers
    assert np.abs(np.array(scaled)[:, :6]).max() <= 3.0
    assert 0.6 <= np.sqrt(np.mean(np.square(scaled))) <= 1.4  # neither too sure nor too shy
    assert np.mean(sigma) == pytest.approx(JOINT_NOISE_RAD, rel=0.15)


def test_uncertain_camera_adds_to_the_covariance():
    rng, scene = np.random.default_rng(2), scene_of("eye_in_hand")
    joints = scene.sample(10, rng)
    views = exact_views(scene, joints, rng)
    unsure = replace(CAMERA, covariance=np.diag([9.0, 9.0, 9.0, 9.0, 0, 0, 0, 0, 0]))
    sure, doubt = (solve(views, joints, "eye_in_hand", c).fit.covariance for c in (CAMERA, unsure))
    assert np.sqrt(doubt[5, 5]) > 5 * np.sqrt(sure[5, 5])
    wrong = replace(unsure, pinhole=np.array([903.0, 903.0, 640.0, 360.0]))
    found = solve(views, joints, "eye_in_hand", wrong)
    assert np.abs(errors(found, scene) / np.sqrt(np.diag(found.fit.covariance))).max() < 3


def test_rotation_about_one_axis_is_refused():
    rng, scene = np.random.default_rng(3), scene_of("eye_in_hand")
    joints = [HOME + np.eye(7)[6] * angle for angle in np.linspace(-0.3, 0.3, 12)]
    with pytest.raises(CalibrationError, match=r"turned about one axis .* undetermined"):
        solve(exact_views(scene, joints, rng), joints, "eye_in_hand")
    read = [q + rng.normal(0, JOINT_NOISE_RAD, 7) for q in joints]
    with pytest.raises(CalibrationError, match="turned about one axis"):
        solve(exact_views(scene, joints, rng), read, "eye_in_hand")


def test_hand_that_hardly_turns_is_refused():
    rng, scene = np.random.default_rng(4), scene_of("eye_in_hand")
    joints = scene.sample(12, rng, spread_rad=0.01)
    with pytest.raises(CalibrationError, match="hardly turned"):
        solve(exact_views(scene, joints, rng), joints, "eye_in_hand")


def test_too_few_views_are_refused():
    rng, scene = np.random.default_rng(5), scene_of("eye_in_hand")
    joints = scene.sample(7, rng)
    with pytest.raises(CalibrationError, match=r"at least 8 good views of the board, got 7"):
        solve(exact_views(scene, joints, rng), joints, "eye_in_hand")


@pytest.mark.parametrize("setup", SETUPS)
def test_view_with_the_wrong_joints_is_removed(setup):
    rng, scene = np.random.default_rng(6), scene_of(setup)
    joints = scene.sample(14, rng)
    views = exact_views(scene, joints, rng)
    read = [*joints[:5], joints[5] + 0.2, *joints[6:]]
    found = solve(views, read, setup)
    assert list(found.rejected) == ["5"]
    assert "do not belong together" in found.rejected["5"]
    assert distance(scene.truth[0], found.fit.T_mount_cam)[1] < 2e-4


def test_wrong_setup_gives_no_number():
    rng, scene = np.random.default_rng(7), scene_of("eye_in_hand")
    joints = scene.sample(14, rng)
    with pytest.raises(CalibrationError):
        solve(exact_views(scene, joints, rng), joints, "eye_to_hand")


def test_jacobian_is_the_derivative_of_the_pose():
    pose, jacobian = CHAIN.pose(HOME)
    for joint in range(7):
        moved = inverse(pose) @ CHAIN.pose(HOME + 1e-6 * np.eye(7)[joint])[0]
        twist = np.concatenate([rotation_vector(moved[:3, :3]), moved[:3, 3]]) / 1e-6
        assert twist == pytest.approx(jacobian[:, joint], abs=1e-5)
    reverse = CHAIN.order(CHAIN.joint_names[::-1])
    assert reverse == [6, 5, 4, 3, 2, 1, 0]


def test_links_and_joints_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(CalibrationError, match="expected a link of panda, got 'hand'"):
        Chain(URDF, "panda_link0", "hand")
    with pytest.raises(CalibrationError, match="expected joints that lead"):
        Chain(URDF, "panda_hand_tcp", "panda_link0")
    with pytest.raises(CalibrationError, match="cannot be read"):
        Chain(tmp_path / "none.urdf", "a", "b")
    with pytest.raises(CalibrationError, match=r"panda_joint7 are not among"):
        CHAIN.order([f"panda_joint{i}" for i in range(1, 7)])


def test_rotations_small_and_large_come_back():
    rng = np.random.default_rng(8)
    for angle in (0.0, 1e-9, 1e-4, 1.0, 3.0, np.pi - 1e-7):
        axis = rng.normal(size=3)
        vector = angle * axis / np.linalg.norm(axis)
        assert rotation_vector(transform(vector, np.zeros(3))[:3, :3]) == pytest.approx(
            vector, abs=1e-8 if angle < 3 else 1e-6
        )


def test_images_of_a_moving_robot_or_an_old_pose_are_left_out():
    stamps = np.arange(0, 6_000_000_000, 10_000_000)
    time = stamps / 1e9
    first = np.interp(time, [0, 1, 2, 6], [0, 0, 0.5, 0.5])
    log = JointLog(stamp_ns=stamps, qpos_rad=HOME + np.outer(first, np.eye(7)[0]))
    frames = [
        Frame(name=str(t), image=np.zeros((2, 2), np.uint8), stamp_ns=int(t * 1e9))
        for t in (0.5, 0.6, 1.5, 3.0, 9.0)
    ]
    found, without = {}, {}
    kept = [f.name for f in resting(frames, log, CHAIN, 0.02, found, without)]
    assert kept == list(found) == ["0.5", "3.0"]
    assert found["3.0"] == pytest.approx(HOME + 0.5 * np.eye(7)[0])
    assert without == {
        "0.6": "same pose as 0.5",
        "1.5": "the robot moved at 0.5 rad/s",
        "9.0": "no joint states at that time",
    }


# ---- the command -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(rendered, tmp_path_factory):
    """Bag of a robot that stands 1 s at each pose, board and camera."""
    folder = tmp_path_factory.mktemp("hand_eye")
    frames, _, joints = rendered["eye_to_hand"]
    store = typestore()
    new = {name.rsplit("/", 1)[1]: kind for name, kind in store.types.items()}
    names = [*CHAIN.joint_names[::-1], "panda_finger_joint1"]
    with BagWriter(folder / "bag", provenance={}) as bag:
        bag.add_topic("/joint_states", "sensor_msgs/msg/JointState")
        bag.add_topic("/camera/image_raw", "sensor_msgs/msg/Image")
        for i, frame in enumerate(frames):
            for tick in range(20):
                stamp_ns = (i + 1) * 10**9 + tick * 50_000_000
                stamp = new["Time"](sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
                header = new["Header"](stamp=stamp, frame_id="camera")
                message = new["JointState"](
                    header=header,
                    name=names,
                    position=np.append(joints[frame.name][::-1], 0.04),
                    velocity=np.zeros(0),
                    effort=np.zeros(0),
                )
                data = store.serialize_cdr(message, "sensor_msgs/msg/JointState")
                bag.write("/joint_states", data, stamp_ns)
                if tick != 10:
                    continue
                message = new["Image"](
                    header=header,
                    height=720,
                    width=1280,
                    encoding="mono8",
                    is_bigendian=0,
                    step=1280,
                    data=frame.image.ravel(),
                )
                data = store.serialize_cdr(message, "sensor_msgs/msg/Image")
                bag.write("/camera/image_raw", data, stamp_ns)
    TARGET.save(folder / "board.json")
    (folder / "camera.yaml").write_text(CAMERA.to_yaml("side"))
    return folder


def arguments(files, out, *options):
    places = ["--board", str(files / "board.json"), "--camera", str(files / "camera.yaml")]
    return [
        "calibrate",
        "hand-eye",
        str(files / "bag"),
        *places,
        "--json",
        str(out),
        "--setup",
        "eye_to_hand",
        *options,
    ]


def test_command_finds_the_camera_beside_the_robot(files, tmp_path, capsys):
    options = ("--robot", "panda", "--report", str(tmp_path / "r.html"))
    assert cli.main(arguments(files, tmp_path / "out.json", *options)) == 0
    assert "eye to hand: 20 views" in capsys.readouterr().out
    result = read_result(tmp_path / "out.json", "hand_eye")
    angle, length = distance(scene_of("eye_to_hand").truth[0], result.transforms["T_base_cam"])
    assert np.rad2deg(angle) <= 0.01
    assert length <= 1e-4
    assert result.covariance.shape == (12, 12)
    assert result.frames["tip"] == "link panda_hand_tcp of the robot"
    assert "<h1>Calibration: hand-eye" in (tmp_path / "r.html").read_text()


@pytest.fixture(scope="module")
def stored(files):
    out = files / "stored.json"
    assert cli.main(arguments(files, out, "--robot", "panda")) == 0
    return out


@pytest.mark.parametrize(
    ("shift_m", "options", "code", "word"),
    [
        (0.0, (), 0, "holds"),
        (0.03, (), EXIT_DRIFTED, "drifted"),
        (0.0, ("--tolerance-mm", "0.001"), EXIT_UNTOLD, "cannot tell"),
    ],
)
def test_check_tells_whether_the_camera_has_moved(
    files, stored, tmp_path, capsys, shift_m, options, code, word
):
    content = json.loads(stored.read_text())
    content["transforms"]["T_base_cam"]["matrix"][0][3] += shift_m
    moved = tmp_path / "stored.json"
    moved.write_text(json.dumps(content))
    out = tmp_path / "check.json"
    args = arguments(files, out, "--robot", "panda", "--check", str(moved), *options)
    assert cli.main(args) == code
    answer = json.loads(out.read_text())
    assert answer["verdict"] == word
    change = np.array([c["change"] for c in answer["changes"][3:]])
    assert np.linalg.norm(change) == pytest.approx(shift_m, abs=2e-4)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (("--robot", "panda", "--topic", "/other"), "its image topics are: /camera/image_raw"),
        (("--robot", "panda", "--state-topic", "/other"), "expected topic /other"),
        (("--urdf", str(UR5), "--base", "base_link", "--tip", "tool0"), "expected positions of"),
        (("--robot", "panda", "--square-mm", "4000"), "squares of 2 to 1000 mm"),
        ((), "expected a robot, or a URDF file"),
        (("--urdf", str(URDF), "--base", "panda_link0", "--tip", "hand"), "a link of panda"),
    ],
)
def test_bad_input_ends_in_one_sentence(files, tmp_path, capsys, options, what):
    assert cli.main(arguments(files, tmp_path / "out.json", *options)) == cli.EXIT_INPUT
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("realign: ")
    assert what in error
    assert not (tmp_path / "out.json").exists()
