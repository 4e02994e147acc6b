"""Hand-eye calibration: where a camera sits on a robot's hand, or beside the robot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from calibration.camera import Camera
from calibration.compare import Comparison, judge
from calibration.detection import View
from calibration.errors import CalibrationError
from calibration.hand_eye_fit import Fit, Posed, board_pose, refine, view_rms_px
from calibration.kinematics import Chain
from calibration.result import CalibrationResult, Parameter, Residual
from calibration.transforms import Float, distance, inverse, rotation_vector

SETUPS = ("eye_in_hand", "eye_to_hand")
METHODS = {
    "Tsai": cv2.CALIB_HAND_EYE_TSAI,
    "Park": cv2.CALIB_HAND_EYE_PARK,
    "Horaud": cv2.CALIB_HAND_EYE_HORAUD,
    "Andreff": cv2.CALIB_HAND_EYE_ANDREFF,
    "Daniilidis": cv2.CALIB_HAND_EYE_DANIILIDIS,
}
_LEAST_SECOND_AXIS_RAD = np.deg2rad(4.0)
_LARGEST_STD = (np.deg2rad(0.5), 0.02)
_OUTLIER_RATIO = 4.0
_OUTLIER_FLOOR_PX = 0.5
_MOST_REJECTED = 0.3
_FOLDS = 4


@dataclass(frozen=True, kw_only=True)
class HandEyeConfig:
    """How hand and eye are calibrated.

    Attributes:
        setup: ``eye_in_hand``: the camera moves with the tip, the board stands in the base;
            ``eye_to_hand``: the camera stands in the base, the board moves with the tip.
        fewest_views: fewer good views than these are refused.
    """

    setup: str = "eye_in_hand"
    fewest_views: int = 8


@dataclass(frozen=True, kw_only=True)
class HandEye:
    """A calibrated hand-eye pair.

    Attributes:
        setup: one of :data:`SETUPS`.
        fit: transforms, covariance, noise.
        method: closed-form method that the refinement started from.
        start_rms_px: reprojection error of that start, px.
        view_rms_px: error of each view that was used, px.
        rms_px: over all of them, px.
        held_out_rms_px: error on views that were left out of the fit, px.
        held_out_rad, held_out_m: the same as median angle, rad, and distance, m, of the board.
        second_axis_rad: how far the hand turned about its second axis, rms, rad.
        rejected: name -> why an image was not used.
    """

    setup: str
    fit: Fit
    method: str
    start_rms_px: float
    view_rms_px: dict[str, float]
    rms_px: float
    held_out_rms_px: float
    held_out_rad: float
    held_out_m: float
    second_axis_rad: float
    rejected: dict[str, str]

    def names(self) -> tuple[str, str]:
        """Names of the two transforms."""
        if self.setup == "eye_in_hand":
            return "T_tip_cam", "T_base_board"
        return "T_base_cam", "T_tip_board"

    def to_result(self, base: str, tip: str, data_sha256: str) -> CalibrationResult:
        """The versioned result; ``base`` and ``tip`` are the robot's links."""
        poses = (self.fit.T_mount_cam, self.fit.T_other_board)
        transforms = dict(zip(self.names(), poses, strict=True))
        parameters = [
            Parameter(name=f"{name}.{kind}_{axis}", value=float(value), unit=unit)
            for name, pose in transforms.items()
            for kind, unit, vector in (
                ("rotation", "rad", rotation_vector(pose[:3, :3])),
                ("translation", "m", pose[:3, 3]),
            )
            for axis, value in zip("xyz", vector, strict=True)
        ]
        details: dict[str, Any] = {
            "setup": self.setup,
            "method": self.method,
            "views": self.view_rms_px,
            "rejected": self.rejected,
            "second_axis_deg": float(np.rad2deg(self.second_axis_rad)),
            "covariance_of": "small rotation and translation in each transform's child frame: "
            "T_true = T [Exp(rotation), translation]",
        }
        return CalibrationResult(
            kind="hand_eye",
            parameters=tuple(parameters),
            covariance=self.fit.covariance,
            frames={
                "base": f"link {base} of the robot",
                "tip": f"link {tip} of the robot",
                "cam": "optical frame: x right, y down, z forward",
                "board": "upper left corner of the print, x right, y down, z into the board",
            },
            transforms=transforms,
            residuals={
                "reprojection_rms": Residual(value=self.rms_px, unit="px"),
                "closed_form_rms": Residual(value=self.start_rms_px, unit="px"),
                "held_out_rms": Residual(value=self.held_out_rms_px, unit="px"),
                "held_out_angle": Residual(value=self.held_out_rad, unit="rad"),
                "held_out_distance": Residual(value=self.held_out_m, unit="m"),
                "corner_noise": Residual(value=self.fit.sigma_px, unit="px"),
                "joint_noise": Residual(value=self.fit.sigma_q_rad, unit="rad"),
            },
            details=details,
            data_sha256=data_sha256,
        )


def pose_views(
    views: Sequence[View],
    qpos_rad: Sequence[Float],
    chain: Chain,
    camera: Camera,
    setup: str,
    boards: Sequence[tuple[Float, float]] | None = None,
) -> list[Posed]:
    """Views with the robot's pose and the board's by itself.

    Args:
        views: corners in images.
        qpos_rad: joint positions at each image, in the chain's order, (n,), rad.
        chain: from the base to the tip.
        camera: the camera.
        setup: one of :data:`SETUPS`.
        boards: pose of the board in each view by itself and its error, where they are known.
    """
    out = []
    if boards is None:
        boards = [board_pose(view, camera) for view in views]
    for view, qpos, (pose, rms) in zip(views, qpos_rad, boards, strict=True):
        T_base_tip, jacobian = chain.pose(qpos)
        turn, shift = jacobian[:3], jacobian[3:]
        if setup == "eye_in_hand":
            # a point that stands in the base moves against the tip
            mount_other, by_joints = inverse(T_base_tip), -np.vstack([turn, shift])
        else:
            # the tip's twist at its own origin, as one of the base's frame at the base's origin
            turn = T_base_tip[:3, :3] @ turn
            shift = T_base_tip[:3, :3] @ shift - np.cross(turn, T_base_tip[:3, 3], axis=0)
            mount_other, by_joints = T_base_tip, np.vstack([turn, shift])
        out.append(
            Posed(
                view=view,
                T_mount_other=mount_other,
                by_joints=by_joints,
                T_cam_board=pose,
                pnp_rms_px=rms,
            )
        )
    return out


def calibrate_hand_eye(
    poses: Sequence[Posed],
    camera: Camera,
    config: HandEyeConfig,
    rejected: dict[str, str] | None = None,
) -> HandEye:
    """Find where the camera is mounted and where the board stands.

    Args:
        poses: views of :func:`pose_views`.
        camera: the camera.
        config: how.
        rejected: images that gave no view, name -> why.

    Raises:
        CalibrationError: too few views; motion that does not determine the transforms (rotation
            about one axis only); or views and joints that disagree.
    """
    reasons = dict(rejected or {})
    used = list(poses)
    while True:
        _require_count(len(used), config, reasons)
        second = _require_diversity(used)
        sigma = corner_noise(used)
        start, method, start_rms = closed_form(used, camera, sigma)
        fit = refine(used, start, camera)
        rms = np.array([view_rms_px(posed, fit, camera) for posed in used])
        worst, median = int(np.argmax(rms)), float(np.median(rms))
        if not rms[worst] > max(_OUTLIER_RATIO * median, _OUTLIER_FLOOR_PX):
            break
        reasons[used[worst].view.name] = (
            f"reprojection error of {rms[worst]:.2f} px, more than {_OUTLIER_RATIO:g} times the "
            f"median of {median:.2f} px: image and joints do not belong together"
        )
        del used[worst]
        if len(used) < (1 - _MOST_REJECTED) * len(poses):
            raise CalibrationError(
                f"expected views and joints that agree, but more than {_MOST_REJECTED:.0%} of "
                f"{len(poses)} do not fit the others; check the setup (--setup), links and stamps"
            )
    _require_certain(fit)
    held_out = _held_out(used, fit, camera)
    sizes = np.array([len(posed.view.ids) for posed in used])
    return HandEye(
        setup=config.setup,
        fit=fit,
        method=method,
        start_rms_px=start_rms,
        view_rms_px={p.view.name: float(r) for p, r in zip(used, rms, strict=True)},
        rms_px=float(np.sqrt(np.sum(rms**2 * sizes) / sizes.sum())),
        held_out_rms_px=held_out[0],
        held_out_rad=held_out[1],
        held_out_m=held_out[2],
        second_axis_rad=second,
        rejected=reasons,
    )


def mount_change(
    stored: CalibrationResult, found: HandEye, tolerance_rad: float, tolerance_m: float
) -> Comparison:
    """How far the camera has moved on its mount; the board may lie elsewhere than it did.

    Args:
        stored: result of :meth:`HandEye.to_result`.
        found: from new views.
        tolerance_rad: smallest turn about an axis of the camera that matters, rad.
        tolerance_m: smallest shift along an axis that matters, m.

    Raises:
        CalibrationError: the stored result is of the other setup.
    """
    name = found.names()[0]
    if name not in stored.transforms:
        raise CalibrationError(
            f"expected a stored {name}, got {', '.join(stored.transforms)}; give the setup "
            "(--setup) of the stored result"
        )
    between = inverse(stored.transforms[name]) @ found.fit.T_mount_cam
    change = np.concatenate([rotation_vector(between[:3, :3]), between[:3, 3]])
    kinds = (("rotation", "rad", tolerance_rad), ("translation", "m", tolerance_m))
    return judge(
        [(f"{name}.{kind}_{axis}", unit) for kind, unit, _ in kinds for axis in "xyz"],
        np.zeros(6),
        change,
        stored.covariance[:6, :6] + found.fit.covariance[:6, :6],
        np.repeat([tolerance for _, _, tolerance in kinds], 3),
    )


def _require_count(count: int, config: HandEyeConfig, reasons: dict[str, str]) -> None:
    if count < config.fewest_views:
        why = f" ({len(reasons)} rejected: {list(reasons.values())[-1]})" if reasons else ""
        raise CalibrationError(
            f"expected at least {config.fewest_views} good views of the board, got {count}{why}; "
            "take more, with the robot at rest and the board in sight"
        )


def _require_diversity(poses: Sequence[Posed]) -> float:
    """How far the hand turned about its second axis, rms over all pairs of views, rad."""
    turns = [
        rotation_vector(a.T_mount_other[:3, :3].T @ b.T_mount_other[:3, :3])
        for i, a in enumerate(poses)
        for b in poses[:i]
    ]
    vectors = np.array(turns)
    spread = np.sqrt(np.maximum(np.linalg.eigvalsh(vectors.T @ vectors / len(turns))[::-1], 0))
    if spread[1] < _LEAST_SECOND_AXIS_RAD:
        first, second = np.rad2deg(spread[:2])
        how = "hardly turned" if spread[0] < _LEAST_SECOND_AXIS_RAD else "turned about one axis"
        raise CalibrationError(
            f"expected a hand that turns about two axes, but it {how} ({first:.1f} deg rms about "
            f"the first, {second:.1f} deg about the second, {np.rad2deg(_LEAST_SECOND_AXIS_RAD):g} "
            "needed), which leaves the result undetermined; tilt the wrist in several directions"
        )
    return float(spread[1])


def corner_noise(poses: Sequence[Posed]) -> float:
    """Noise of the corners from the views by themselves, px each way."""
    squares = sum(posed.pnp_rms_px**2 * len(posed.view.ids) for posed in poses)
    free = sum(2 * len(posed.view.ids) - 6 for posed in poses)
    return max(float(np.sqrt(squares / free)), 1e-4)


def closed_form(poses: Sequence[Posed], camera: Camera, sigma_px: float) -> tuple[Fit, str, float]:
    """The best of OpenCV's closed-form solutions, its name, and its median error, px."""
    mounts = [inverse(posed.T_mount_other) for posed in poses]
    boards = [posed.T_cam_board for posed in poses]
    best: tuple[Fit, str, float] | None = None
    for name, method in METHODS.items():
        try:
            turn, shift = cv2.calibrateHandEye(
                [pose[:3, :3] for pose in mounts],
                [pose[:3, 3] for pose in mounts],
                [pose[:3, :3] for pose in boards],
                [pose[:3, 3] for pose in boards],
                method=method,
            )
        except cv2.error:
            continue
        X = np.eye(4)
        X[:3, :3], X[:3, 3] = turn, np.ravel(shift)
        if not np.isfinite(X).all():
            continue
        X = _nearest_rigid(X)
        Y = _average([a @ X @ b for a, b in zip(mounts, boards, strict=True)])
        fit = Fit(
            T_mount_cam=X,
            T_other_board=Y,
            covariance=np.zeros((12, 12)),
            sigma_px=sigma_px,
            sigma_q_rad=0.0,
        )
        rms = float(np.median([view_rms_px(posed, fit, camera) for posed in poses]))
        if np.isfinite(rms) and (best is None or rms < best[2]):
            best = fit, name, rms
    if best is None:
        raise CalibrationError(
            f"expected {len(poses)} views that determine the camera's mount, but no closed-form "
            "method finds it; tilt the wrist in several directions and check the setup"
        )
    return best


def _nearest_rigid(matrix: Float) -> Float:
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    out = matrix.copy()
    out[:3, :3] = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    return out


def _average(poses: Sequence[Float]) -> Float:
    """Mean rotation (chordal) and median translation."""
    mean = np.eye(4)
    mean[:3, :3] = np.mean([pose[:3, :3] for pose in poses], axis=0)
    mean[:3, 3] = np.median([pose[:3, 3] for pose in poses], axis=0)
    return _nearest_rigid(mean)


def _require_certain(fit: Fit) -> None:
    """Refuse what the views do not determine, whatever the reason."""
    std = np.sqrt(np.diag(fit.covariance))
    angle, length = float(std[:3].max()), float(std[3:6].max())
    if not (angle <= _LARGEST_STD[0] and length <= _LARGEST_STD[1]):
        raise CalibrationError(
            f"expected views that determine the camera's mount, but its standard deviation is "
            f"{np.rad2deg(angle):.2g} deg and {length * 1e3:.2g} mm; take more views, tilt the "
            "wrist more, and check that joints and images belong together"
        )


def _held_out(poses: Sequence[Posed], fit: Fit, camera: Camera) -> tuple[float, float, float]:
    """Errors on views that a fit has not seen: rms, px; median angle, rad; and distance, m."""
    squares, corners = 0.0, 0
    angles, lengths = [], []
    for fold in range(_FOLDS):
        rest = [posed for i, posed in enumerate(poses) if i % _FOLDS != fold]
        other = refine(rest, fit, camera, find_noise=False)
        for posed in poses[fold::_FOLDS]:
            n = len(posed.view.ids)
            squares += n * view_rms_px(posed, other, camera) ** 2
            corners += n
            predicted = inverse(other.T_mount_cam) @ posed.T_mount_other @ other.T_other_board
            angle, length = distance(predicted, posed.T_cam_board)
            angles.append(angle)
            lengths.append(length)
    return float(np.sqrt(squares / corners)), float(np.median(angles)), float(np.median(lengths))
