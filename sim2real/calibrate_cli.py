"""``realign calibrate``: boards, cameras, hand and eye.

OpenCV and pinocchio come with the extra ``calibration``; they are imported when a command runs, so
that its help needs neither.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from policies.errors import InputError
from sim2real.calibrate_common import Outputs, refusals_are_input, require_above_zero
from sim2real.report import Bars, Section, Table
from sim2real.results import check_new

if TYPE_CHECKING:
    from calibration.compare import Comparison
    from calibration.hand_eye import HandEye
    from calibration.result import CalibrationResult

_FEWEST_TO_CHECK = 4


@refusals_are_input
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


@refusals_are_input
def calibrate_camera(
    source: Path,
    board: Path,
    json: Path | None = None,
    *,
    check: Path | None = None,
    tolerance_percent: float = 0.5,
    topic: str | None = None,
    yaml: Path | None = None,
    name: str = "camera",
    square_mm: float | None = None,
    model: Literal["plumb_bob", "rational_polynomial"] = "plumb_bob",
    rate_hz: float = 2.0,
    fewest_views: int = 8,
    report: Path | None = None,
    overwrite: bool = False,
) -> int | None:
    """Focal lengths, centre and distortion of a camera, with their covariance.

    Args:
        source: folder of images, video, or bag.
        board: description of the board, from `realign calibrate target`.
        json: file for the result (with --check: for the comparison).
        check: stored result to compare with, 4 views do; exit code 0 holds, 4 drifted, 5 cannot
            tell.
        tolerance_percent: smallest change that matters to --check: of the focal lengths, and of
            the centre as a part of the image's width.
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
    from calibration.compare import compare
    from calibration.files import write_text
    from calibration.intrinsics import IntrinsicsConfig, calibrate_camera
    from sim2real.calibrate_sources import open_source
    from sim2real.calibrate_views import detect_board, measured_board

    outputs = Outputs(json=json, check=check, report=report, others=(yaml,), overwrite=overwrite)
    require_above_zero(tolerance_percent=tolerance_percent)
    target = measured_board(board, square_mm)
    frames, count = open_source(source, topic, rate_hz)
    seen = detect_board(frames, count, target)
    if check is not None:

        def compare_with(stored: CalibrationResult) -> Comparison:
            config = IntrinsicsConfig(
                model=stored.details.get("distortion_model", model),
                fewest_views=min(fewest_views, _FEWEST_TO_CHECK),
            )
            new = calibrate_camera(seen, config).to_result()
            return compare(stored, new, _camera_tolerances(stored, tolerance_percent / 100.0))

        return outputs.settle("camera", compare_with)
    found = calibrate_camera(seen, IntrinsicsConfig(model=model, fewest_views=fewest_views))
    if yaml is not None:
        write_text(yaml, found.camera.to_yaml(name), "camera_info")
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
    sections = (coverage, *_view_sections(found.view_rms_px, found.rejected))
    outputs.finish(found.to_result(), summary, sections)
    return None


def _camera_tolerances(stored: CalibrationResult, part: float) -> dict[str, float]:
    values = {parameter.name: parameter.value for parameter in stored.parameters}
    width = float(stored.details.get("image_width", 0))
    out = {name: part * values[name] for name in ("fx", "fy") if name in values}
    return out | dict.fromkeys(("cx", "cy"), part * width)


@refusals_are_input
def calibrate_hand_eye(
    bag: Path,
    board: Path,
    camera: Path,
    json: Path | None = None,
    *,
    check: Path | None = None,
    tolerance_deg: float = 0.3,
    tolerance_mm: float = 3.0,
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
) -> int | None:
    """Where a camera sits on a robot's hand or beside the robot, with its covariance.

    Args:
        bag: images of a ChArUco board and joint states, the robot at rest in many poses.
        board: description of the board, from `realign calibrate target`.
        camera: the camera, from `realign calibrate camera` (.json) or camera_info (.yaml).
        json: file for the result (with --check: for the comparison).
        check: stored result to compare with, 4 poses do, and the board may lie elsewhere; exit
            code 0 holds, 4 drifted, 5 cannot tell.
        tolerance_deg: smallest turn of the camera about an axis that matters to --check, degrees.
        tolerance_mm: smallest shift along an axis, mm.
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
    from calibration.hand_eye import HandEyeConfig, calibrate_hand_eye, mount_change, pose_views
    from sim2real.calibrate_views import Looking, find_chain, resting_views

    outputs = Outputs(json=json, check=check, report=report, overwrite=overwrite)
    require_above_zero(tolerance_deg=tolerance_deg, tolerance_mm=tolerance_mm)
    lens = read_camera(camera)
    chain, links = find_chain(robot, urdf, base, tip)
    looking = Looking(
        topic=topic,
        state_topic=state_topic,
        square_mm=square_mm,
        rate_hz=rate_hz,
        max_speed_rad_s=max_speed_rad_s,
    )
    rest = resting_views(bag, board, lens, chain, looking)
    posed = pose_views(rest.views, rest.qpos_rad, chain, lens, setup)

    def find(fewest: int) -> HandEye:
        config = HandEyeConfig(setup=setup, fewest_views=fewest)
        return calibrate_hand_eye(posed, lens, config, rest.without)

    if check is not None:

        def compare_with(stored: CalibrationResult) -> Comparison:
            new = find(min(fewest_views, _FEWEST_TO_CHECK))
            return mount_change(stored, new, np.deg2rad(tolerance_deg), tolerance_mm / 1e3)

        return outputs.settle("hand_eye", compare_with)
    found = find(fewest_views)
    sections = _view_sections(found.view_rms_px, found.rejected)
    result = found.to_result(*links, rest.sha256)
    outputs.finish(result, _hand_eye_summary(found), sections)
    return None


def _hand_eye_summary(found: HandEye) -> str:
    return (
        f"{found.setup.replace('_', ' ')}: {len(found.view_rms_px)} views, {len(found.rejected)} "
        f"images not used; reprojection error {found.rms_px:.3f} px rms (closed form, "
        f"{found.method}: {found.start_rms_px:.3f}), on held-out views {found.held_out_rms_px:.3f} "
        f"px, {np.rad2deg(found.held_out_rad):.3f} deg, {found.held_out_m * 1e3:.2f} mm; noise of "
        f"corners {found.fit.sigma_px:.3f} px, of joints "
        f"{np.rad2deg(found.fit.sigma_q_rad):.3f} deg"
    )


def _view_sections(rms_px: dict[str, float], rejected: dict[str, str]) -> tuple[Section, ...]:
    views = Bars(
        heading="Reprojection error of each view",
        labels=tuple(rms_px),
        series={"error": list(rms_px.values())},
        unit="px",
    )
    if not rejected:
        return (views,)
    rows = tuple(rejected.items())
    return (views, Table(heading="Images not used", header=("image", "why"), rows=rows))
