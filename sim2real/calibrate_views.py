"""Views of a board with the robot at rest, from a bag: what hand-eye and joints start from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from calibration.camera import Camera
from calibration.detection import Detections, Frame, View, detect_all
from calibration.kinematics import Chain
from calibration.synchronise import JointLog, resting
from calibration.targets import Target, read_target
from policies.errors import InputError
from policies.interface import Float
from policies.robots import get_robot
from sim2real.bags.reader import read_bag
from sim2real.calibrate_sources import bag_frames
from sim2real.robot_data import robot_data_dir


@dataclass(frozen=True, kw_only=True)
class RestingViews:
    """Views of the board, each with the robot at rest.

    Attributes:
        views: the board in images.
        qpos_rad: joint positions of each, in the chain's order, (n,), rad.
        without: name -> why an image gives no view.
        sha256: of all pixels and positions.
    """

    views: tuple[View, ...]
    qpos_rad: list[Float]
    without: dict[str, str]
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Looking:
    """How a bag is searched for views.

    Attributes:
        topic: of images; None for the only one.
        state_topic: of joint states.
        square_mm: edge of a square of the board as measured on the print, mm; None as described.
        rate_hz: at most so many images a second are looked at.
        max_speed_rad_s: images with a joint faster than this are left out, rad/s.
    """

    topic: str | None
    state_topic: str
    square_mm: float | None
    rate_hz: float
    max_speed_rad_s: float


def resting_views(
    bag: Path, board: Path, lens: Camera, chain: Chain, looking: Looking
) -> RestingViews:
    """Find the board in the images that were taken at rest, once for each pose.

    Args:
        bag: with images and joint states.
        board: description of the board.
        lens: the camera.
        chain: the robot's joints.
        looking: how it is searched.

    Raises:
        InputError: no such views, or images of another size than the camera's.
    """
    target = measured_board(board, looking.square_mm)
    if target.kind != "charuco":
        raise InputError(
            "expected a ChArUco board, got a chessboard, which may be read turned by half a turn; "
            "make one with `realign calibrate target`"
        )
    frames, count = bag_frames(bag, looking.topic, looking.rate_hz)
    log = joint_log(bag, looking.state_topic, chain.joint_names)
    qpos: dict[str, Float] = {}
    without: dict[str, str] = {}
    still = list(resting(frames, log, chain, looking.max_speed_rad_s, qpos, without))
    if not still:
        raise InputError(
            f"expected images with the robot at rest, got none of {len(without)} "
            f"({next(iter(without.values()), 'no images')}); hold still at each pose for a second"
        )
    seen = detect_board(still, min(count, len(still)), target)
    if (seen.width, seen.height) != (lens.width, lens.height):
        raise InputError(
            f"expected images of {lens.width}x{lens.height} as the camera's, got "
            f"{seen.width}x{seen.height}; calibrate the camera at this resolution"
        )
    positions = [qpos[view.name] for view in seen.views]
    digest = hashlib.sha256(seen.sha256.encode() + np.array(positions).tobytes()).hexdigest()
    return RestingViews(
        views=seen.views, qpos_rad=positions, without=without | seen.without, sha256=digest
    )


def measured_board(board: Path, square_mm: float | None) -> Target:
    """The board, with its squares as they came out of the printer."""
    target = read_target(board)
    if square_mm is None:
        return target
    square_m = square_mm / 1e3
    marker_m = target.marker_m * square_m / target.square_m
    return replace(target, square_m=square_m, marker_m=marker_m)


def detect_board(frames: Iterable[Frame], count: int, target: Target) -> Detections:
    """Look for the board in every image."""
    bar = tqdm(frames, total=count or None, desc="images", unit="image", disable=None)
    return detect_all(bar, target)


def find_chain(
    robot: str | None, urdf: Path | None, base: str | None, tip: str | None
) -> tuple[Chain, tuple[str, str]]:
    """The robot's chain, and the names of its ends."""
    if robot is not None:
        spec = get_robot(robot)
        base, tip = base or spec.base_body, tip or spec.ee_body
        if urdf is None:
            urdf = robot_data_dir() / spec.urdf
    if urdf is None or not base or not tip:
        raise InputError(
            "expected a robot, or a URDF file with the links of base and tip; give --robot, or "
            "--urdf, --base and --tip"
        )
    return Chain(urdf, base, tip), (base, tip)


def joint_log(bag: Path, topic: str, names: tuple[str, ...]) -> JointLog:
    """Positions of joints by header stamps; what is not finite is left out."""
    columns = read_bag(bag).columns(topic, names)
    position = columns.arrays.get("position")
    good = np.zeros(0, bool) if position is None else np.isfinite(position).all(axis=1)
    if position is None or not good.any():
        raise InputError(
            f"bag {bag}: expected positions of {', '.join(names)} on {topic}, got "
            "none; name another topic (--state-topic), robot or links"
        )
    stamp_ns, first = np.unique(columns.stamp_ns[good], return_index=True)
    return JointLog(stamp_ns=stamp_ns, qpos_rad=position[good][first])
