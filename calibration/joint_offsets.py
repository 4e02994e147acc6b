"""Encoder offsets, signs and order of joints: from views of a board, or from mechanical stops.

An offset is what must be added to a reading. Some cannot be told by views, whatever the data: the
first joint turns all that follows like another place of the base would, the last one like another
mount of what the hand carries. What the views do not tell apart stays zero, and is named.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calibration.camera import Camera
from calibration.detection import View
from calibration.errors import CalibrationError
from calibration.hand_eye import closed_form, corner_noise, pose_views
from calibration.hand_eye_fit import Fit, Posed, board_pose, linearise, view_rms_px
from calibration.kinematics import Chain
from calibration.result import CalibrationResult, Parameter, Residual
from calibration.signals import Float
from calibration.transforms import transform

_FEWEST_VIEWS = 8
_PRIOR_RAD = 0.05
_TURNS = 20
_SETTLED_RAD = 1e-8
_BETTER = 0.25  # error of another order of the joints, over that of the given one
_BAD_PX = 3.0


@dataclass(frozen=True, kw_only=True)
class JointOffsets:
    """Offsets that were found.

    Attributes:
        joint_names: names of the n joints.
        offset_rad: to be added to the readings, (n,); zero where not told.
        covariance: (n, n), rad^2.
        told: False for what the data do not tell, (n,).
        untold: joint -> why.
        before: how far the readings were from fitting, in ``unit``.
        after: the same with the offsets.
        unit: of these two.
        method: ``views`` or ``stops``.
    """

    joint_names: tuple[str, ...]
    offset_rad: Float
    covariance: Float
    told: list[bool]
    untold: dict[str, str]
    before: float
    after: float
    unit: str
    method: str

    def to_result(self, details: dict[str, Any], data_sha256: str) -> CalibrationResult:
        """The versioned result, of what is told."""
        keep = np.flatnonzero(self.told)
        return CalibrationResult(
            kind="joints",
            parameters=tuple(
                Parameter(
                    name=f"offset.{self.joint_names[k]}",
                    value=float(self.offset_rad[k]),
                    unit="rad",
                )
                for k in keep
            ),
            covariance=self.covariance[np.ix_(keep, keep)],
            frames={},
            residuals={
                "before": Residual(value=self.before, unit=self.unit),
                "after": Residual(value=self.after, unit=self.unit),
            },
            details={"method": self.method, "untold": self.untold, **details},
            data_sha256=data_sha256,
        )


@dataclass(frozen=True, kw_only=True)
class ViewsConfig:
    """How offsets are found from views.

    Attributes:
        setup: ``eye_in_hand`` or ``eye_to_hand``.
        joint_noise_rad: standard deviation of a reading.
        largest_std_rad: what is less certain is not told.
    """

    setup: str = "eye_in_hand"
    joint_noise_rad: float = 2e-4
    largest_std_rad: float = 0.005


class _Scene:
    """Views, and the robot's pose at each for given offsets."""

    def __init__(
        self,
        views: Sequence[View],
        qpos_rad: Sequence[Float],
        chain: Chain,
        camera: Camera,
        setup: str,
    ) -> None:
        self._views, self._qpos, self._chain = views, np.array(qpos_rad), chain
        self._camera, self._setup = camera, setup
        self._boards = [board_pose(view, camera) for view in views]

    def _fresh(self, qpos_rad: Float) -> list[Posed]:
        rows = list(qpos_rad)
        return pose_views(self._views, rows, self._chain, self._camera, self._setup, self._boards)

    def reordered(self, change: Callable[[Float], Float]) -> list[Posed]:
        """Views with other readings."""
        return self._fresh(change(self._qpos))

    def at(self, offset_rad: Float) -> list[Posed]:
        """Views with the robot posed with offsets (n,)."""
        return self._fresh(self._qpos + offset_rad)


def offsets_from_views(
    views: Sequence[View],
    qpos_rad: Sequence[Float],
    chain: Chain,
    camera: Camera,
    config: ViewsConfig,
    mount: tuple[Float, Float] | None = None,
) -> JointOffsets:
    """Find offsets from views of a board whose place is not known.

    Args:
        views: the board in images.
        qpos_rad: readings at each, (n,), rad.
        chain: the robot's joints.
        camera: the camera.
        config: how.
        mount: ``T_mount_cam`` (4, 4), m, as measured by other means, and its covariance (6, 6)
            as in a hand-eye result; None: not known.

    Raises:
        CalibrationError: too few views, joints that turn the other way or are exchanged, or
            nothing that the views tell.
    """
    if len(views) < _FEWEST_VIEWS:
        raise CalibrationError(
            f"expected at least {_FEWEST_VIEWS} good views of the board, got {len(views)}; take "
            "more, with the robot at rest and the board in sight"
        )
    scene = _Scene(views, qpos_rad, chain, camera, config.setup)
    poses = scene.at(np.zeros(len(chain.joint_names)))
    sigma = corner_noise(poses)
    start, _, rms = closed_form(poses, camera, sigma)
    _check_order(scene, chain.joint_names, camera, sigma, rms)
    if mount is not None:
        start = replace(start, T_mount_cam=mount[0])
        start = replace(start, T_other_board=_board_place(poses, start))
    start = replace(start, sigma_q_rad=config.joint_noise_rad)
    offset, fit, information, chi2 = _refine(scene, camera, start, mount)
    whole = information + np.eye(len(offset)) / _PRIOR_RAD**2
    covariance = np.asarray(np.linalg.inv(whole) * max(1.0, chi2), float)
    std = np.sqrt(np.diag(covariance))
    told = [bool(s <= config.largest_std_rad) for s in std]
    if not any(told):
        raise CalibrationError(
            f"expected views that tell offsets to {np.rad2deg(config.largest_std_rad):.2g} deg, "
            f"but the best is known to {np.rad2deg(std.min()):.2g} deg; take more views, and "
            "move every joint"
        )
    after = scene.at(offset)
    return JointOffsets(
        joint_names=chain.joint_names,
        offset_rad=np.where(told, offset, 0.0),
        covariance=covariance,
        told=told,
        untold=_reasons(chain.joint_names, information, std, told),
        before=rms,
        after=float(np.median([view_rms_px(posed, fit, camera) for posed in after])),
        unit="px",
        method="views",
    )


def _board_place(poses: Sequence[Posed], fit: Fit) -> Float:
    """Where the board is by the middle view, given the mount, (4, 4), m."""
    posed = poses[len(poses) // 2]
    turn = posed.T_mount_other
    return np.asarray(np.linalg.inv(turn) @ fit.T_mount_cam @ posed.T_cam_board)


def _refine(
    scene: _Scene, camera: Camera, start: Fit, mount: tuple[Float, Float] | None
) -> tuple[Float, Fit, Float, float]:
    """Gauss-Newton over offsets and both transforms.

    Returns:
        Offsets (n,), the transforms, the information on the offsets with the transforms
        marginalised (n, n), and the mean squared residual over its expectation.
    """
    poses = scene.at(np.zeros(1))
    n = poses[0].by_joints.shape[1]
    offset, fit = np.zeros(n), start
    prior = np.zeros((12 + n, 12 + n))
    prior[12:, 12:] = np.eye(n) / _PRIOR_RAD**2
    known = np.zeros((6, 6)) if mount is None else np.linalg.inv(mount[1] + 1e-14 * np.eye(6))
    prior[:6, :6] = known
    moved = np.zeros(6)
    total, squares, count = np.zeros((12 + n, 12 + n)), 0.0, 0
    for _ in range(_TURNS):
        total, gradient, squares, count = np.zeros((12 + n, 12 + n)), np.zeros(12 + n), 0.0, 0
        for posed in scene.at(offset):
            row = linearise(posed, fit, camera)
            columns = np.column_stack([row.by_unknowns, row.by_joints])
            # a reading's noise moves all corners of its view together
            spread = row.by_joints * (fit.sigma_q_rad / fit.sigma_px)
            small = np.eye(n) + spread.T @ spread
            both = np.column_stack([columns, row.residual])
            weighted = (both - spread @ np.linalg.solve(small, spread.T @ both)) / fit.sigma_px**2
            total += columns.T @ weighted[:, :-1]
            gradient += columns.T @ weighted[:, -1]
            squares += float(row.residual @ weighted[:, -1])
            count += len(row.residual)
        pull = prior @ np.concatenate([moved, np.zeros(6), offset])
        step = -np.linalg.lstsq(total + prior, gradient + pull, rcond=1e-15)[0]
        moved = moved + step[:6]
        offset = offset + step[12:]
        fit = replace(
            fit,
            T_mount_cam=fit.T_mount_cam @ transform(step[:3], step[3:6]),
            T_other_board=fit.T_other_board @ transform(step[6:9], step[9:12]),
        )
        if np.abs(step).max() < _SETTLED_RAD:
            break
    own, cross = total[12:, 12:], total[12:, :12]
    rest = np.linalg.pinv(total[:12, :12] + prior[:12, :12], hermitian=True)
    return offset, fit, own - cross @ rest @ cross.T, squares / max(count - 12 - n, 1)


def _check_order(
    scene: _Scene, names: tuple[str, ...], camera: Camera, sigma_px: float, rms_px: float
) -> None:
    """Refuse readings that fit far better with a sign turned, or with two joints exchanged."""
    if rms_px < _BAD_PX:
        return
    n = len(names)
    found: list[tuple[float, str]] = []

    def attempt(what: str, signs: Float, order: list[int]) -> None:
        poses = scene.reordered(lambda q: q[:, order] * signs)
        found.append((closed_form(poses, camera, sigma_px)[2], what))

    for j in range(n):
        signs = np.ones(n)
        signs[j] = -1.0
        attempt(f"{names[j]} turning the other way", signs, list(range(n)))
        for k in range(j):
            order = list(range(n))
            order[j], order[k] = k, j
            attempt(f"{names[k]} and {names[j]} exchanged", np.ones(n), order)
    best, what = min(found)
    if best < _BETTER * rms_px:
        raise CalibrationError(
            f"expected joints as in the URDF, but the images fit {what} far better ({best:.2f} px "
            f"instead of {rms_px:.1f} px); correct the driver or the names"
        )


def _reasons(
    names: tuple[str, ...], information: Float, std: Float, told: list[bool]
) -> dict[str, str]:
    """Why a joint is not told: what it cannot be told apart from, or how little is known."""
    out = {}
    values, vectors = np.linalg.eigh(information * _PRIOR_RAD**2)
    for j, name in enumerate(names):
        if told[j]:
            continue
        free = [k for k in np.flatnonzero(values < 1.0) if abs(vectors[j, k]) > 0.3]
        others = {
            names[i] for k in free for i in np.flatnonzero(np.abs(vectors[:, k]) > 0.3) if i != j
        }
        if j == 0 and free:
            out[name] = "turns everything like another place of the base's side"
        elif j == len(names) - 1 and free:
            out[name] = "turns like another mount of what the hand carries"
        elif others:
            out[name] = f"cannot be told apart from {', '.join(sorted(others))}"
        else:
            out[name] = f"known to {np.rad2deg(std[j]):.2g} deg only; move it more"
    return out


@dataclass(frozen=True, kw_only=True)
class StopsConfig:
    """How offsets are found from mechanical stops.

    Attributes:
        still_rad: a joint that moves less is at rest.
        hold_s: how long it must be at a stop, s.
        largest_misfit_rad: most that the range may differ from the description's.
        stop_std_rad: how well the place of a stop is known.
    """

    still_rad: float = 0.003
    hold_s: float = 0.3
    largest_misfit_rad: float = 0.03
    stop_std_rad: float = 0.002


def offsets_from_stops(
    names: tuple[str, ...],
    time_s: Float,
    qpos_rad: Float,
    lower_rad: Float,
    upper_rad: Float,
    config: StopsConfig,
) -> JointOffsets:
    """Find offsets from a log in which joints were moved to both ends and held there.

    Args:
        names: the joints.
        time_s: ascending, (T,), s.
        qpos_rad: readings, (T, n).
        lower_rad: place of the stops by the robot's description, (n,).
        upper_rad: that of the upper ones, (n,).
        config: how.

    Raises:
        CalibrationError: no joint rested at both of its stops.
    """
    n = len(names)
    offset, variance, misfits = np.zeros(n), np.full(n, _PRIOR_RAD**2), np.zeros(n)
    untold: dict[str, str] = {}
    for j, name in enumerate(names):
        ends = [_plateau(time_s, side * qpos_rad[:, j], config) for side in (1.0, -1.0)]
        if None in ends:
            untold[name] = "did not rest at both ends of its motion"
            continue
        low, high = float(ends[0] or 0.0), -float(ends[1] or 0.0)
        misfit = (high - low) - (upper_rad[j] - lower_rad[j])
        if abs(misfit) > config.largest_misfit_rad:
            untold[name] = (
                f"moved over {high - low:.3f} rad instead of {upper_rad[j] - lower_rad[j]:.3f} "
                "between its stops: one was not reached, or the scale is wrong"
            )
            continue
        offset[j] = ((lower_rad[j] - low) + (upper_rad[j] - high)) / 2.0
        variance[j] = (config.stop_std_rad**2) / 2.0 + (misfit / 2.0) ** 2
        misfits[j] = misfit
    told = [name not in untold for name in names]
    if not any(told):
        raise CalibrationError(
            f"expected joints that rest at both stops, got none ({names[0]}: {untold[names[0]]}); "
            f"move each to both ends and hold it there for {config.hold_s:g} s"
        )
    return JointOffsets(
        joint_names=names,
        offset_rad=offset,
        covariance=np.diag(variance),
        told=told,
        untold=untold,
        before=float(np.abs(offset[told]).max()),
        after=float(np.abs(misfits[told]).max() / 2.0),
        unit="rad",
        method="stops",
    )


def _plateau(time_s: Float, values: Float, config: StopsConfig) -> float | None:
    """Lowest level at which a signal rests, or None."""
    low = float(np.min(values))
    near = np.flatnonzero(values <= low + config.still_rad)
    runs = np.split(near, np.flatnonzero(np.diff(near) > 1) + 1)
    long = [run for run in runs if time_s[run[-1]] - time_s[run[0]] >= config.hold_s]
    return float(np.median(np.concatenate([values[run] for run in long]))) if long else None
