"""Camera intrinsics from views of a board, with what they are worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.camera import DISTORTION, PINHOLE, Camera
from calibration.detection import Detections, View
from calibration.errors import CalibrationError
from calibration.result import CalibrationResult, Parameter, Residual
from calibration.transforms import Float, rotation

_OUTLIER_RATIO = 3.0
_OUTLIER_FLOOR_PX = 0.2
_MOST_REJECTED = 0.3
_LEAST_TILT_RAD = np.deg2rad(15.0)
_LARGEST_FOCAL_STD = 0.01
GRID = (8, 6)


@dataclass(frozen=True, kw_only=True)
class IntrinsicsConfig:
    """How intrinsics are found.

    Attributes:
        model: distortion model, ``plumb_bob`` or ``rational_polynomial``.
        fewest_views: fewer good views than these are refused.
        most_views: of more, the most different ones are taken.
    """

    model: str = "plumb_bob"
    fewest_views: int = 8
    most_views: int = 60


@dataclass(frozen=True, kw_only=True)
class Intrinsics:
    """A calibrated camera.

    Attributes:
        camera: the camera, with covariance.
        rms_px: total reprojection error: root of the mean squared distance, px.
        view_rms_px: the same for each view that was used, by name.
        rejected: name -> why an image was not used.
        coverage: number of corners in each cell of the image, (rows, columns) = (6, 8).
        detections: what it rests on.
    """

    camera: Camera
    rms_px: float
    view_rms_px: dict[str, float]
    rejected: dict[str, str]
    coverage: NDArray[np.int64]
    detections: Detections

    def covered(self) -> float:
        """Share of the image's cells that hold corners."""
        return float((self.coverage > 0).mean())

    def to_result(self) -> CalibrationResult:
        """The versioned result."""
        names = PINHOLE + DISTORTION[self.camera.model]
        values = np.concatenate([self.camera.pinhole, self.camera.distortion])
        units = ["px"] * len(PINHOLE) + ["1"] * len(self.camera.distortion)
        covariance = self.camera.covariance
        return CalibrationResult(
            kind="camera",
            parameters=tuple(
                Parameter(name=name, value=float(value), unit=unit)
                for name, value, unit in zip(names, values, units, strict=True)
            ),
            covariance=np.zeros((0, 0)) if covariance is None else covariance,
            frames={"camera": "optical frame: x right, y down, z forward; pixel centres are whole"},
            residuals={"reprojection_rms": Residual(value=self.rms_px, unit="px")},
            details={
                "image_width": self.camera.width,
                "image_height": self.camera.height,
                "distortion_model": self.camera.model,
                "views": self.view_rms_px,
                "rejected": self.rejected,
                "coverage": self.coverage.tolist(),
                "covered": self.covered(),
            },
            data_sha256=self.detections.sha256,
        )


def calibrate_camera(detections: Detections, config: IntrinsicsConfig) -> Intrinsics:
    """Find intrinsics by bundle adjustment (Zhang 2000, as OpenCV does it).

    Views that fit much worse than the others are removed one by one, the worst first.

    Raises:
        CalibrationError: too few views, views that disagree, or views that do not determine the
            camera (the board was hardly tilted).
    """
    rejected = dict(detections.without)
    views, skipped = most_different(detections.views, config.most_views)
    rejected |= {view.name: "much like another view" for view in skipped}
    count = len(views)
    while True:
        if len(views) < config.fewest_views:
            raise CalibrationError(
                f"expected at least {config.fewest_views} good views of the board, got "
                f"{len(views)} ({_most_frequent(rejected)}); take more images, sharp and with the "
                "whole board"
            )
        camera, poses, rms = _solve(views, detections, config.model)
        worst = int(np.argmax(rms))
        limit = max(_OUTLIER_RATIO * float(np.median(rms)), _OUTLIER_FLOOR_PX)
        if rms[worst] <= limit:
            break
        rejected[views[worst].name] = (
            f"reprojection error of {rms[worst]:.2f} px, more than {_OUTLIER_RATIO:g} times the "
            f"median of {np.median(rms):.2f} px"
        )
        views = views[:worst] + views[worst + 1 :]
        if len(views) < (1 - _MOST_REJECTED) * count:
            raise CalibrationError(
                f"expected views that agree, but more than {_MOST_REJECTED:.0%} of {count} do not "
                "fit the others; check that the board is flat and the focus was not changed"
            )
    _require_tilt(poses)
    covariance = _covariance(camera, views, poses)
    _require_focal(camera, covariance)
    sizes = np.array([len(view.ids) for view in views])
    return Intrinsics(
        camera=replace(camera, covariance=covariance),
        rms_px=float(np.sqrt(np.sum(rms**2 * sizes) / sizes.sum())),
        view_rms_px={view.name: float(r) for view, r in zip(views, rms, strict=True)},
        rejected=rejected,
        coverage=_coverage(views, camera),
        detections=detections,
    )


def _most_frequent(reasons: dict[str, str]) -> str:
    if not reasons:
        return "nothing was rejected"
    values = [reason.partition(" of ")[0] for reason in reasons.values()]
    most = max(values, key=values.count)
    return f"{len(reasons)} others rejected, most often: {most}"


def _coverage(views: list[View], camera: Camera) -> NDArray[np.int64]:
    """Number of corners in each cell of the image, (rows, columns)."""
    corners = np.concatenate([view.pixels for view in views])
    cells = (corners + 0.5) / (camera.width, camera.height) * GRID
    x, y = np.clip(cells.astype(int), 0, np.array(GRID) - 1).T
    coverage = np.zeros(GRID[::-1], np.int64)
    np.add.at(coverage, (y, x), 1)
    return coverage


def most_different(views: Sequence[View], most: int) -> tuple[list[View], list[View]]:
    """Choose views by farthest-point sampling over where and how the board lies in the image.

    Returns:
        Those that are chosen, in order, and the others.
    """
    if len(views) <= most:
        return list(views), []
    features = []
    for view in views:
        board = view.board_m[:, :2]
        homography, _ = cv2.findHomography(board / np.ptp(board), view.pixels)
        size = np.ptp(view.pixels, axis=0).mean()
        scale = np.array([1 / size, 1 / size, 1.0])
        features.append(
            np.concatenate(
                [view.pixels.mean(axis=0) / size, (homography * scale[:, None])[:, :2].ravel()]
            )
        )
    points = np.array(features)
    points /= np.maximum(points.std(axis=0), 1e-9)
    chosen = [int(np.argmax([len(view.ids) for view in views]))]
    away = np.linalg.norm(points - points[chosen[0]], axis=1)
    while len(chosen) < most:
        chosen.append(int(np.argmax(away)))
        away = np.minimum(away, np.linalg.norm(points - points[chosen[-1]], axis=1))
    keep = set(chosen)
    return (
        [view for i, view in enumerate(views) if i in keep],
        [view for i, view in enumerate(views) if i not in keep],
    )


def _solve(
    views: list[View], detections: Detections, model: str
) -> tuple[Camera, list[tuple[Float, Float]], Float]:
    """Camera, pose (rotation vector, translation) and rms error, px, of each view."""
    flags = cv2.CALIB_RATIONAL_MODEL if model == "rational_polynomial" else 0
    size = (detections.width, detections.height)
    try:
        _, matrix, distortion, rvecs, tvecs = cv2.calibrateCamera(
            [view.board_m.astype(np.float32) for view in views],
            [view.pixels.astype(np.float32) for view in views],
            size,
            None,
            None,
            flags=flags,
            criteria=(cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-12),
        )
    except cv2.error:
        matrix = np.full((3, 3), np.nan)
    if not np.isfinite(matrix).all():
        raise CalibrationError(
            f"expected {len(views)} views that determine a camera, but no solution was found; "
            "take images with the board tilted, at different places and distances"
        )
    camera = Camera(
        width=size[0],
        height=size[1],
        pinhole=np.asarray(matrix, float)[[0, 1, 0, 1], [0, 1, 2, 2]],
        distortion=np.asarray(distortion, float).ravel()[: len(DISTORTION[model])],
        model=model,
    )
    poses = [
        (np.asarray(r, float).ravel(), np.asarray(t, float).ravel())
        for r, t in zip(rvecs, tvecs, strict=True)
    ]
    rms = [
        np.sqrt(np.mean(np.sum((_project(camera, view, pose)[0] - view.pixels) ** 2, axis=1)))
        for view, pose in zip(views, poses, strict=True)
    ]
    return camera, poses, np.array(rms)


def _project(camera: Camera, view: View, pose: tuple[Float, Float]) -> tuple[Float, Float, Float]:
    """Pixels (N, 2), derivatives by the pose (2 N, 6) and by the intrinsics (2 N, 4 + d)."""
    pixels, jacobian = cv2.projectPoints(view.board_m, *pose, camera.matrix(), camera.distortion)
    jacobian = np.asarray(jacobian, float)
    return pixels.reshape(-1, 2), jacobian[:, :6], jacobian[:, 6 : 10 + len(camera.distortion)]


def _covariance(camera: Camera, views: list[View], poses: list[tuple[Float, Float]]) -> Float:
    """Covariance of the intrinsics, the poses marginalised, scaled by the residuals."""
    n = 4 + len(camera.distortion)
    information = np.zeros((n, n))
    squares, count = 0.0, 0
    for view, pose in zip(views, poses, strict=True):
        pixels, by_pose, by_camera = _project(camera, view, pose)
        squares += float(np.sum((pixels - view.pixels) ** 2))
        count += 2 * len(view.ids) - 6
        basis, _ = np.linalg.qr(by_pose)
        free = by_camera - basis @ (basis.T @ by_camera)
        information += free.T @ free
    scale = 1 / np.sqrt(np.diag(information))
    inverse = np.linalg.pinv(information * np.outer(scale, scale), hermitian=True)
    return inverse * np.outer(scale, scale) * squares / max(1, count - n)


def _require_tilt(poses: list[tuple[Float, Float]]) -> None:
    normals = np.array([rotation(rvec)[:, 2] for rvec, _ in poses])
    between = float(np.arccos(np.clip(normals @ normals.T, -1, 1)).max())
    if between < _LEAST_TILT_RAD:
        raise CalibrationError(
            f"expected views whose tilts differ by {np.rad2deg(_LEAST_TILT_RAD):.0f} deg or more, "
            f"got {np.rad2deg(between):.1f} deg; the focal length cannot be told from the "
            "distance: tilt the board by 20 to 45 deg in several directions"
        )


def _require_focal(camera: Camera, covariance: Float) -> None:
    relative = float(np.sqrt(np.diag(covariance)[:2]).max() / camera.pinhole[:2].min())
    if not relative <= _LARGEST_FOCAL_STD:
        raise CalibrationError(
            f"expected views that determine the focal length to {_LARGEST_FOCAL_STD:.0%}, but its "
            f"standard deviation is {relative:.1%}; take more images, closer and more tilted"
        )
