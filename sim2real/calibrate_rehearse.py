"""``realign calibrate rehearse``: a virtual robot with a camera and a board, and the truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from tqdm import tqdm

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from policies.robots import get_robot
from sim2real.bags.batch import NS
from sim2real.bags.images import RAW
from sim2real.bags.joints import JOINT_STATE
from sim2real.bags.writer import BagWriter
from sim2real.calibrate_common import refusals_are_input, require_above_zero
from sim2real.calibrate_messages import MessageWriter
from sim2real.episodes.streams import STATE_TOPIC
from sim2real.results import check_new, write_json
from sim2real.sim.gaps import make_gap
from sim2real.sim.stepper import Stepper, default_state

if TYPE_CHECKING:
    from calibration.synthetic import HandEyeScene
    from calibration.targets import Target

IMAGE_TOPIC = "/camera/image_raw"
_RATE_HZ = 50.0
_HOLD_S = 1.0
_SHARP = 1.4  # focal length over the image's height: 39 deg from top to bottom


@refusals_are_input
def calibrate_rehearse(
    out: Path,
    robot: str,
    board: Path,
    truth: Path,
    *,
    setup: Literal["eye_in_hand", "eye_to_hand"] = "eye_in_hand",
    poses: int = 20,
    width: int = 1280,
    height: int = 720,
    image_noise: float = 4.0,
    joint_noise_deg: float = 0.005,
    offset_deg: tuple[float, ...] = (),
    gap: str = "none",
    seed: int = 0,
    overwrite: bool = False,
) -> None:
    """Rehearse camera, hand-eye and joints: a virtual robot looks at a board from many poses.

    The camera's images show the board alone, cast ray by ray through its lens, without the robot.

    Args:
        out: bag to write; it must not exist.
        robot: robot name.
        board: description of the board, from `realign calibrate target`.
        truth: JSON file for what the calibration must find.
        setup: eye_in_hand: camera on the hand, board stands; eye_to_hand: the other way round.
        poses: number of poses, 1 s at each.
        width: of the images, px.
        height: of the images, px.
        image_noise: standard deviation of the pixels, gray values of 255.
        joint_noise_deg: standard deviation of the encoders' noise, degrees.
        offset_deg: what must be added to the readings of the joints up to the hand, degrees;
            default none.
        gap: dynamics gap of the virtual robot.
        seed: of poses and noise.
        overwrite: replace the truth file if it exists (a bag is never replaced).
    """
    from calibration.targets import read_target

    spec = get_robot(robot)
    require_above_zero(poses=poses, width=width, height=height)
    target = read_target(board)
    for file in (out, truth):
        check_new(file, overwrite=overwrite and file == truth)
    if spec.floating_base or spec.ee_body is None:
        raise InputError(f"expected an arm with a hand, got {robot}; name another robot")
    scene = _scene(spec, target, setup, width, height)
    n = len(scene.chain.joint_names)
    offset = np.deg2rad(offset_deg or np.zeros(n))
    if len(offset) != n:
        raise InputError(
            f"expected an offset for each of {', '.join(scene.chain.joint_names)}, got "
            f"{len(offset)}; give {n}"
        )
    rng = np.random.default_rng(seed)
    try:
        goals = scene.sample(poses, rng)
    except ValueError as error:
        raise InputError(
            f"expected a board that is in sight from many poses, but {error}; choose a smaller one"
        ) from None
    hidden = make_gap(spec, gap)
    stepper = Stepper(spec, hidden, rate_hz=_RATE_HZ)
    provenance = {"robot": spec.name, "robot_fingerprint": spec.fingerprint}
    with BagWriter(out, provenance=provenance) as bag:
        bag.add_topic(STATE_TOPIC, JOINT_STATE)
        bag.add_topic(IMAGE_TOPIC, RAW)
        noise = np.deg2rad(joint_noise_deg)
        messages = _messages(scene, spec, stepper, goals, offset, noise, image_noise, rng)
        for topic, data, stamp_ns in messages:
            bag.write(topic, data, stamp_ns)
    mount, other = scene.truth
    write_json(
        truth,
        {
            "robot": robot,
            "setup": setup,
            "pinhole": scene.camera.pinhole.tolist(),
            "distortion": scene.camera.distortion.tolist(),
            "T_mount_cam": mount.tolist(),
            "T_other_board": other.tolist(),
            "offset_rad": dict(zip(scene.chain.joint_names, offset.tolist(), strict=True)),
        },
    )
    print(f"{out}: {poses} poses of {robot}, {width}x{height} images; truth: {truth}")


def _scene(spec: RobotSpec, target: Target, setup: str, width: int, height: int) -> HandEyeScene:
    from calibration.camera import Camera
    from calibration.kinematics import Chain
    from calibration.synthetic import HandEyeScene
    from sim2real.robot_data import robot_data_dir

    chain = Chain(robot_data_dir() / spec.urdf, spec.base_body, spec.ee_body or "")
    focal = _SHARP * height
    camera = Camera(
        width=width,
        height=height,
        pinhole=np.array([focal, 1.004 * focal, 0.503 * width, 0.495 * height]),
        distortion=np.array([-0.1, 0.05, 0.001, -0.0005, 0.0]),
    )
    home = spec.default_rad[[spec.joint_names.index(name) for name in chain.joint_names]]
    return HandEyeScene(chain=chain, target=target, camera=camera, setup=setup, home_rad=home)


def _messages(
    scene: HandEyeScene,
    spec: RobotSpec,
    stepper: Stepper,
    goals: list[Float],
    offset_rad: Float,
    joint_noise_rad: float,
    image_noise: float,
    rng: np.random.Generator,
) -> Iterator[tuple[str, bytes, int]]:
    """Joint states while the robot holds each pose, and one image of each, in time."""
    from calibration.synthetic import Renderer

    messages = MessageWriter(spec)
    renderer = Renderer(scene.camera)
    index = [spec.joint_names.index(name) for name in scene.chain.joint_names]
    ticks = round(_HOLD_S * _RATE_HZ)
    for k, goal in enumerate(tqdm(goals, desc="rehearse", unit="pose", disable=None)):
        pose = spec.default_rad.copy()
        pose[index] = goal
        stepper.reset(default_state(spec, pose))
        for tick in range(ticks):
            stamp_ns = NS + round((k * ticks + tick) * NS / _RATE_HZ)
            state = stepper.state
            read = state.qpos_rad + joint_noise_rad * rng.normal(size=spec.n)
            read[index] -= offset_rad
            felt = messages.joint_state(stamp_ns, read, state.qvel_rad_s, stepper.effort_nm)
            yield STATE_TOPIC, felt, stamp_ns
            if tick == ticks // 2:
                seen = scene.T_cam_board(state.qpos_rad[index])
                image = renderer.render(scene.target, seen, rng=rng, noise_sigma=image_noise)
                yield IMAGE_TOPIC, messages.image(stamp_ns, image, "camera"), stamp_ns
            stepper.step(pose)
