"""``realign calibrate``: boards, cameras, hand and eye.

OpenCV and pinocchio come with the extra ``calibration``; they are imported when a command runs, so
that its help needs neither.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, ParamSpec

import numpy as np
from tqdm import tqdm

from policies.errors import InputError
from policies.interface import Float
from policies.robots import get_robot
from sim2real.bags.reader import read_bag
from sim2real.replay.cli import table_text
from sim2real.report import Table, Text, write_report
from sim2real.results import check_new

if TYPE_CHECKING:
    from calibration.detection import Detections, Frame
    from calibration.hand_eye import HandEye
    from calibration.kinematics import Chain
    from calibration.result import CalibrationResult
    from calibration.synchronise import JointLog
    from calibration.targets import Target

P = ParamSpec("P")


def _refusals_are_input(function: Callable[P, None]) -> Callable[P, None]:
    """What ``calibration`` refuses, which knows nothing of us, becomes bad input."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        from calibration.errors import CalibrationError

        try:
            function(*args, **kwargs)
        except CalibrationError as error:
            raise InputError(str(error)) from None

    return call


@_refusals_are_input
def calibrate_target(
    out: Path,
    *,
    kind: Literal["charuco", "chessboard"] = "charuco",
    columns: int = 7,
    rows: int = 5,
    square_mm: float = 40.0,
    marker_mm: float | None = None,
    dictionary: str = "DICT_5X5_250",
    json: Path | None = None,
    overwrite: bool = False,
) -> None:
    """A board to print at true scale: OUT.pdf, OUT.png and its description OUT.json.

    Args:
        out: path without suffix.
        kind: charuco may be seen in part and tells up from down; hand-eye needs it.
        columns: number of squares across.
        rows: number of squares down.
        square_mm: edge of a square, mm.
        marker_mm: edge of a marker, mm; default 0.75 of a square.
        dictionary: ArUco dictionary of OpenCV.
        json: another file for the description.
        overwrite: replace these files if they exist.
    """
    from calibration.targets import Target, pdf_bytes, png_bytes, print_page

    target = Target(
        kind=kind,
        columns=columns,
        rows=rows,
        square_m=square_mm / 1e3,
        marker_m=(0.75 * square_mm if marker_mm is None else marker_mm) / 1e3,
        dictionary=dictionary,
    )
    description = json or out.with_name(out.name + ".json")
    image, document = (out.with_name(out.name + suffix) for suffix in (".png", ".pdf"))
    for file in (description, image, document):
        check_new(file, overwrite=overwrite)
    page, scale = print_page(target)
    try:
        for file in (description, image):
            file.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(png_bytes(page, scale))
        document.write_bytes(pdf_bytes(page, scale))
        target.save(description)
    except OSError as error:
        raise InputError(
            f"expected a place to write the board, but {out} cannot be written "
            f"({error.strerror}); choose another"
        ) from None
    width, height = (size * 1e3 for size in target.size_m())
    print(f"{target.caption()}: {width:g} x {height:g} mm of squares, {scale * 0.0254:.1f} dpi")
    print(f"print at 100 %, then measure: {document}, {image}; description: {description}")


@_refusals_are_input
def calibrate_camera(
    source: Path,
    board: Path,
    json: Path,
    *,
    topic: str | None = None,
    yaml: Path | None = None,
    name: str = "camera",
    square_mm: float | None = None,
    model: Literal["plumb_bob", "rational_polynomial"] = "plumb_bob",
    rate_hz: float = 2.0,
    fewest_views: int = 8,
    report: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Focal lengths, centre and distortion of a camera, with their covariance.

    Args:
        source: folder of images, video, or bag.
        board: description of the board, from `realign calibrate target`.
        json: file for the result.
        topic: image topic of a bag; not needed where it has one only.
        yaml: file for ROS camera_info.
        name: of the camera in it.
        square_mm: edge of a square as measured on the print, mm.
        model: distortion: plumb_bob has 5 coefficients, rational_polynomial 8 for wide lenses.
        rate_hz: at most so many images a second are taken from a video or bag.
        fewest_views: fewer good views are refused.
        report: file for an HTML page.
        overwrite: replace these files if they exist.
    """
    from calibration.intrinsics import IntrinsicsConfig, calibrate_camera
    from calibration.result import write_result
    from sim2real.calibrate_sources import open_source

    for file in (json, yaml, report):
        check_new(file, overwrite=overwrite)
    target = _measured(board, square_mm)
    frames, count = open_source(source, topic, rate_hz)
    found = calibrate_camera(
        _detect(frames, count, target), IntrinsicsConfig(model=model, fewest_views=fewest_views)
    )
    write_result(json, found.to_result())
    if yaml is not None:
        _write(yaml, found.camera.to_yaml(name))
    coverage = Table(
        heading="Corners in each cell of the image",
        header=("", *(str(i + 1) for i in range(found.coverage.shape[1]))),
        rows=tuple(
            (f"row {i + 1}", *(str(n) for n in row)) for i, row in enumerate(found.coverage)
        ),
    )
    summary = (
        f"{len(found.view_rms_px)} views, {len(found.rejected)} images not used; reprojection "
        f"error {found.rms_px:.3f} px rms; corners in {found.covered():.0%} of the image's cells"
    )
    tables = (coverage, *_view_tables(found.view_rms_px, found.rejected))
    _show(found.to_result(), summary, report, tables, overwrite=overwrite)
    print(f"result: {json}")


@_refusals_are_input
def calibrate_hand_eye(
    bag: Path,
    board: Path,
    camera: Path,
    json: Path,
    *,
    setup: Literal["eye_in_hand", "eye_to_hand"] = "eye_in_hand",
    robot: str | None = None,
    urdf: Path | None = None,
    base: str | None = None,
    tip: str | None = None,
    topic: str | None = None,
    state_topic: str = "/joint_states",
    square_mm: float | None = None,
    rate_hz: float = 2.0,
    max_speed_rad_s: float = 0.02,
    fewest_views: int = 8,
    report: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Where a camera sits on a robot's hand or beside the robot, with its covariance.

    Args:
        bag: images of a ChArUco board and joint states, the robot at rest in many poses.
        board: description of the board, from `realign calibrate target`.
        camera: the camera, from `realign calibrate camera` (.json) or camera_info (.yaml).
        json: file for the result.
        setup: eye_in_hand: camera on the hand, board stands; eye_to_hand: the other way round.
        robot: robot name, for URDF and links.
        urdf: URDF file instead of the robot's.
        base: link that stands; default the robot's base.
        tip: link that moves with the hand; default the robot's.
        topic: image topic; not needed where the bag has one only.
        state_topic: topic of the joint states.
        square_mm: edge of a square as measured on the print, mm.
        rate_hz: at most so many images a second are looked at.
        max_speed_rad_s: images with a joint faster than this are left out, rad/s.
        fewest_views: fewer good views are refused.
        report: file for an HTML page.
        overwrite: replace these files if they exist.
    """
    from calibration.camera import read_camera
    from calibration.hand_eye import HandEyeConfig, calibrate_hand_eye, pose_views
    from calibration.result import write_result
    from calibration.synchronise import resting
    from sim2real.calibrate_sources import bag_frames

    for file in (json, report):
        check_new(file, overwrite=overwrite)
    target, lens = _measured(board, square_mm), read_camera(camera)
    if target.kind != "charuco":
        raise InputError(
            "expected a ChArUco board for hand-eye, got a chessboard, which may be read turned by "
            "half a turn; make one with `realign calibrate target`"
        )
    chain, links = _chain(robot, urdf, base, tip)
    frames, count = bag_frames(bag, topic, rate_hz)
    log = _joint_log(bag, state_topic, chain)
    qpos: dict[str, Float] = {}
    without: dict[str, str] = {}
    still = list(resting(frames, log, chain, max_speed_rad_s, qpos, without))
    if not still:
        raise InputError(
            f"expected images with the robot at rest, got none of {len(without)} "
            f"({next(iter(without.values()), 'no images')}); hold still at each pose for a second"
        )
    seen = _detect(still, min(count, len(still)), target)
    if (seen.width, seen.height) != (lens.width, lens.height):
        raise InputError(
            f"expected images of {lens.width}x{lens.height} as in {camera}, got "
            f"{seen.width}x{seen.height}; calibrate the camera at this resolution"
        )
    positions = [qpos[view.name] for view in seen.views]
    found = calibrate_hand_eye(
        pose_views(seen.views, positions, chain, lens, setup),
        lens,
        HandEyeConfig(setup=setup, fewest_views=fewest_views),
        without | seen.without,
    )
    digest = hashlib.sha256(seen.sha256.encode() + np.array(positions).tobytes()).hexdigest()
    result = found.to_result(*links, digest)
    write_result(json, result)
    tables = _view_tables(found.view_rms_px, found.rejected)
    _show(result, _hand_eye_summary(found), report, tables, overwrite=overwrite)
    print(f"result: {json}")


def _hand_eye_summary(found: HandEye) -> str:
    return (
        f"{found.setup.replace('_', ' ')}: {len(found.view_rms_px)} views, {len(found.rejected)} "
        f"images not used; reprojection error {found.rms_px:.3f} px rms (closed form, "
        f"{found.method}: {found.start_rms_px:.3f}), on held-out views {found.held_out_rms_px:.3f} "
        f"px, {np.rad2deg(found.held_out_rad):.3f} deg, {found.held_out_m * 1e3:.2f} mm; noise of "
        f"corners {found.fit.sigma_px:.3f} px, of joints "
        f"{np.rad2deg(found.fit.sigma_q_rad):.3f} deg"
    )


def _measured(board: Path, square_mm: float | None) -> Target:
    """The board, with its squares as they came out of the printer."""
    from calibration.targets import read_target

    target = read_target(board)
    if square_mm is None:
        return target
    square_m = square_mm / 1e3
    marker_m = target.marker_m * square_m / target.square_m
    return replace(target, square_m=square_m, marker_m=marker_m)


def _detect(frames: Iterable[Frame], count: int, target: Target) -> Detections:
    from calibration.detection import detect_all

    bar = tqdm(frames, total=count or None, desc="images", unit="image", disable=None)
    return detect_all(bar, target)


def _chain(
    robot: str | None, urdf: Path | None, base: str | None, tip: str | None
) -> tuple[Chain, tuple[str, str]]:
    """The robot's chain, and the names of its ends."""
    from calibration.kinematics import Chain

    if robot is not None:
        spec = get_robot(robot)
        base, tip = base or spec.base_body, tip or spec.ee_body
        if urdf is None:
            from sim2real.robot_data import robot_data_dir

            urdf = robot_data_dir() / spec.urdf
    if urdf is None or not base or not tip:
        raise InputError(
            "expected a robot, or a URDF file with the links of base and tip; give --robot, or "
            "--urdf, --base and --tip"
        )
    return Chain(urdf, base, tip), (base, tip)


def _joint_log(bag: Path, topic: str, chain: Chain) -> JointLog:
    from calibration.synchronise import JointLog

    columns = read_bag(bag).columns(topic, chain.joint_names)
    position = columns.arrays.get("position")
    good = np.zeros(0, bool) if position is None else np.isfinite(position).all(axis=1)
    if position is None or not good.any():
        raise InputError(
            f"bag {bag}: expected positions of {', '.join(chain.joint_names)} on {topic}, got "
            "none; name another topic (--state-topic), robot or links"
        )
    stamp_ns, first = np.unique(columns.stamp_ns[good], return_index=True)
    return JointLog(stamp_ns=stamp_ns, qpos_rad=position[good][first])


def _show(
    result: CalibrationResult,
    summary: str,
    report: Path | None,
    tables: tuple[Table, ...],
    *,
    overwrite: bool,
) -> None:
    """Print the numbers, and write them as a page."""
    std = result.std()
    rows = [(p.name, f"{p.value:.6g}", f"{std[p.name]:.2g}", p.unit) for p in result.parameters]
    print(summary)
    print(table_text(("parameter", "value", "+-", "unit"), rows))
    if report is not None:
        header = ("parameter", "value", "standard deviation", "unit")
        found = Table(heading="Parameters", header=header, rows=tuple(rows))
        title = f"Calibration: {result.kind.replace('_', '-')}"
        write_report(report, title, (Text(text=summary), found, *tables), overwrite=overwrite)


def _view_tables(rms_px: dict[str, float], rejected: dict[str, str]) -> tuple[Table, ...]:
    used = tuple((name, f"{rms:.3f}") for name, rms in rms_px.items())
    tables = [Table(heading="Views", header=("image", "reprojection error, px"), rows=used)]
    if rejected:
        rows = tuple(rejected.items())
        tables.append(Table(heading="Images not used", header=("image", "why"), rows=rows))
    return tuple(tables)


def _write(file: Path, text: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"expected a place to write camera_info, but {file} cannot be written "
            f"({error.strerror}); choose another"
        ) from None
