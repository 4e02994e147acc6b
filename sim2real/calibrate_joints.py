"""``realign calibrate joints``: encoder offsets from views of a board or from stops, from a bag."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from policies.errors import InputError
from policies.robots import get_robot
from sim2real.calibrate_common import (
    Outputs,
    refusals_are_input,
    require_above_zero,
    tell_untold,
    untold_sections,
)
from sim2real.report import Bars, Section

if TYPE_CHECKING:
    from calibration.compare import Comparison
    from calibration.joint_offsets import JointOffsets, ViewsConfig
    from calibration.result import CalibrationResult
    from sim2real.calibrate_views import Looking


@refusals_are_input
def calibrate_joints(
    bag: Path,
    robot: str,
    json: Path | None = None,
    *,
    stops: bool = False,
    board: Path | None = None,
    camera: Path | None = None,
    hand_eye: Path | None = None,
    setup: Literal["eye_in_hand", "eye_to_hand"] = "eye_in_hand",
    check: Path | None = None,
    tolerance_deg: float = 0.3,
    topic: str | None = None,
    state_topic: str = "/joint_states",
    square_mm: float | None = None,
    rate_hz: float = 2.0,
    max_speed_rad_s: float = 0.02,
    joint_noise_deg: float = 0.01,
    report: Path | None = None,
    overwrite: bool = False,
) -> int | None:
    """Encoder offsets (to be added to readings), and whether signs and order are right.

    Offsets that the data cannot tell are named: by views never that of the first joint, which
    turns everything like another place of the base's side, and that of the last one only with
    --hand-eye.

    Args:
        bag: images of a ChArUco board and joint states, the robot at rest in many poses; or, with
            --stops, joint states alone.
        robot: robot name.
        json: file for the result (with --check: for the comparison).
        stops: each joint was moved to both mechanical stops and held there for a moment.
        board: description of the board, from `realign calibrate target`.
        camera: the camera, from `realign calibrate camera` (.json) or camera_info (.yaml).
        hand_eye: result of `realign calibrate hand-eye`, made with encoders that were right.
        setup: eye_in_hand: camera on the hand, board stands; eye_to_hand: the other way round.
        check: stored result to compare with; exit code 0 holds, 4 drifted, 5 cannot tell.
        tolerance_deg: smallest change of an offset that matters to --check, degrees.
        topic: image topic; not needed where the bag has one only.
        state_topic: topic of the joint states.
        square_mm: edge of a square as measured on the print, mm.
        rate_hz: at most so many images a second are looked at.
        max_speed_rad_s: images with a joint faster than this are left out, rad/s.
        joint_noise_deg: standard deviation of a reading, degrees.
        report: file for an HTML page.
        overwrite: replace these files if they exist.
    """
    from calibration.joint_offsets import ViewsConfig
    from sim2real.calibrate_views import Looking

    outputs = Outputs(json=json, check=check, report=report, overwrite=overwrite)
    require_above_zero(tolerance_deg=tolerance_deg, joint_noise_deg=joint_noise_deg)
    if stops:
        solve, digest = _from_stops(bag, robot, state_topic)
    else:
        config = ViewsConfig(setup=setup, joint_noise_rad=float(np.deg2rad(joint_noise_deg)))
        looking = Looking(
            topic=topic,
            state_topic=state_topic,
            square_mm=square_mm,
            rate_hz=rate_hz,
            max_speed_rad_s=max_speed_rad_s,
        )
        solve, digest = _from_views(bag, robot, board, camera, hand_eye, config, looking)
    if check is not None:

        def compare_with(stored: CalibrationResult) -> Comparison:
            from calibration.compare import compare

            new = solve().to_result({"robot": robot}, digest)
            names = [parameter.name for parameter in stored.parameters]
            tolerance_rad = float(np.deg2rad(tolerance_deg))
            return compare(stored, new, dict.fromkeys(names, tolerance_rad))

        return outputs.settle("joints", compare_with)
    found = solve()
    result = found.to_result({"robot": robot}, digest)
    summary = (
        f"offsets of {sum(found.told)} of {len(found.told)} joints, from {found.method}; misfit "
        f"{found.before:.3g} -> {found.after:.3g} {found.unit}"
    )
    outputs.finish(result, summary, _sections(found))
    tell_untold(found.untold)
    return None


def _from_stops(bag: Path, robot: str, state_topic: str) -> tuple[Callable[[], JointOffsets], str]:
    """How to find offsets from a bag, which has been read, and its hash."""
    from calibration.joint_offsets import StopsConfig, offsets_from_stops
    from sim2real.bags.batch import NS
    from sim2real.bags.reader import read_bag
    from sim2real.calibrate_motion import digest
    from sim2real.calibrate_views import joint_log

    spec = get_robot(robot)
    log = joint_log(bag, state_topic, spec.joint_names)
    solve = functools.partial(
        offsets_from_stops,
        spec.joint_names,
        (log.stamp_ns - log.stamp_ns[0]) / NS,
        log.qpos_rad,
        spec.lower_rad,
        spec.upper_rad,
        StopsConfig(),
    )
    return solve, digest(read_bag(bag))


def _from_views(
    bag: Path,
    robot: str,
    board: Path | None,
    camera: Path | None,
    hand_eye: Path | None,
    config: ViewsConfig,
    looking: Looking,
) -> tuple[Callable[[], JointOffsets], str]:
    """How to find offsets from views, which have been found in the bag, and their hash."""
    from calibration.camera import read_camera
    from calibration.joint_offsets import offsets_from_views
    from calibration.result import read_result
    from sim2real.calibrate_views import find_chain, resting_views

    if board is None or camera is None:
        raise InputError(
            "expected a board and a camera (--board, --camera), or --stops for a bag in which "
            "joints were moved to their stops, got neither; give one"
        )
    lens = read_camera(camera)
    chain, _ = find_chain(robot, None, None, None)
    mount = None
    if hand_eye is not None:
        stored = read_result(hand_eye, "hand_eye")
        name = "T_tip_cam" if config.setup == "eye_in_hand" else "T_base_cam"
        if name not in stored.transforms:
            raise InputError(
                f"expected a hand-eye result with {name}, got {', '.join(stored.transforms)}; "
                "give its setup (--setup)"
            )
        mount = stored.transforms[name], stored.covariance[:6, :6]
    rest = resting_views(bag, board, lens, chain, looking)
    solve = functools.partial(
        offsets_from_views, rest.views, rest.qpos_rad, chain, lens, config, mount
    )
    return solve, rest.sha256


def _sections(found: JointOffsets) -> list[Section]:
    offsets = Bars(
        heading="Offsets",
        labels=found.joint_names,
        series={"offset": np.rad2deg(found.offset_rad).tolist()},
        unit="deg",
        note="What is to be added to each reading; 0 where it is not told.",
    )
    return [offsets, *untold_sections(found.untold, "joint")]
