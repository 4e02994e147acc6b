"""Joint refinement of hand-eye and board pose by reprojection, weighted by pixels and joints.

Unknown are X = ``T_mount_cam`` and Y = ``T_other_board``: the camera's mount is the tip (eye in
hand) or the base (eye to hand), the board stands on the other one. Each view says that
``T_cam_board = X^-1 A Y`` with A = ``T_mount_other`` from the joints. Joint errors move all corners
of a view together, so that a view's residuals have the covariance
``sigma_px^2 I + sigma_q^2 G G^T``, G being their derivative by the joints.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from calibration.camera import Camera
from calibration.detection import View
from calibration.transforms import Float, cross_matrix, inverse, transform

_TURNS = 30
_NOISE_TURNS = 3
_CONVERGED = 1e-9
_SIGMA_Q_RAD = (1e-7, 0.05)


@dataclass(frozen=True, kw_only=True)
class Posed:
    """A view with the robot's pose.

    Attributes:
        view: corners in the image.
        T_mount_other: from the camera's mount to what carries the board, (4, 4), m.
        by_joints: motion of the mount's frame of a point at p, that joint errors cause:
            ``rotation`` (3, n) and ``translation`` (3, n), stacked to (6, n), so that the point
            moves by ``translation - p x rotation``; in the frame of the mount.
        T_cam_board: pose of the board by this view alone, (4, 4), m.
        pnp_rms_px: how well that fits, px.
    """

    view: View
    T_mount_other: Float
    by_joints: Float
    T_cam_board: Float
    pnp_rms_px: float


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A solution.

    Attributes:
        T_mount_cam, T_other_board: the two transforms, (4, 4), m.
        covariance: of (rotation, translation) of both, each in its own child frame, (12, 12),
            rad and m.
        sigma_px: noise of the corners, px.
        sigma_q_rad: noise of the joints, rad; 0 if the data show none.
    """

    T_mount_cam: Float
    T_other_board: Float
    covariance: Float
    sigma_px: float
    sigma_q_rad: float


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A view's residuals (m,) and their derivatives: by X and Y (m, 12), joints, intrinsics."""

    residual: Float
    by_unknowns: Float
    by_joints: Float
    by_camera: Float


def board_pose(view: View, camera: Camera) -> tuple[Float, float]:
    """Pose of the board from one view, (4, 4), m, and its rms reprojection error, px."""
    _, rvecs, tvecs, _ = cv2.solvePnPGeneric(
        view.board_m, view.pixels, camera.matrix(), camera.distortion, flags=cv2.SOLVEPNP_IPPE
    )
    best, least = np.eye(4), np.inf
    for rvec, tvec in zip(rvecs, tvecs, strict=True):
        refined = cv2.solvePnPRefineLM(
            view.board_m, view.pixels, camera.matrix(), camera.distortion, rvec, tvec
        )
        pose = transform(np.asarray(refined[0], float), np.asarray(refined[1], float))
        points = view.board_m @ pose[:3, :3].T + pose[:3, 3]
        rms = _rms(camera.project(points)[0] - view.pixels)
        if points[:, 2].min() > 0 and rms < least:
            best, least = pose, rms
    return best, least


def linearise(posed: Posed, fit: Fit, camera: Camera) -> Linear:
    """Residuals of a view (pixels predicted minus seen) and their derivatives."""
    to_cam = inverse(fit.T_mount_cam)[:3, :3]
    board = posed.view.board_m
    other = board @ fit.T_other_board[:3, :3].T + fit.T_other_board[:3, 3]
    mount = other @ posed.T_mount_other[:3, :3].T + posed.T_mount_other[:3, 3]
    cam = (mount - fit.T_mount_cam[:3, 3]) @ to_cam.T
    pixels, by_point, by_camera = camera.project(cam)
    n = len(board)
    identity = np.broadcast_to(np.eye(3), (n, 3, 3))
    to_board = to_cam @ posed.T_mount_other[:3, :3] @ fit.T_other_board[:3, :3]
    by_x = np.concatenate([cross_matrix(cam), -identity], axis=2)
    by_y = np.concatenate([-to_board @ cross_matrix(board), to_board @ identity], axis=2)
    by_motion = to_cam @ np.concatenate([-cross_matrix(mount), identity], axis=2)
    unknowns = by_point @ np.concatenate([by_x, by_y], axis=2)
    return Linear(
        residual=(pixels - posed.view.pixels).ravel(),
        by_unknowns=unknowns.reshape(2 * n, 12),
        by_joints=(by_point @ by_motion @ posed.by_joints).reshape(2 * n, -1),
        by_camera=by_camera.reshape(2 * n, -1),
    )


def refine(poses: Sequence[Posed], start: Fit, camera: Camera, *, find_noise: bool = True) -> Fit:
    """Best X and Y, and the noise of joints, by Gauss-Newton and restricted maximum likelihood.

    Args:
        poses: the views.
        start: about where; its ``sigma_px`` is kept.
        camera: the camera; where it has a covariance, that adds to the one of the result.
        find_noise: find the noise of joints too, or keep that of ``start``.
    """
    fit = start
    for turn in range(_TURNS):
        rows = [linearise(posed, fit, camera) for posed in poses]
        if find_noise and turn < _NOISE_TURNS:
            fit = replace(fit, sigma_q_rad=_joint_noise(rows, fit.sigma_px))
        step, _ = _solve(rows, fit.sigma_px, fit.sigma_q_rad)
        fit = replace(
            fit,
            T_mount_cam=fit.T_mount_cam @ transform(step[:3], step[3:6]),
            T_other_board=fit.T_other_board @ transform(step[6:9], step[9:]),
        )
        if np.abs(step).max() < _CONVERGED and (not find_noise or turn >= _NOISE_TURNS):
            break
    return replace(fit, covariance=_covariance(poses, fit, camera))


def _solve(rows: Sequence[Linear], sigma_px: float, sigma_q: float) -> tuple[Float, Float]:
    """Gauss-Newton step (12,) and information matrix (12, 12)."""
    information, gradient = np.zeros((12, 12)), np.zeros(12)
    for row in rows:
        weighted = _weigh(row, sigma_px, sigma_q, row.by_unknowns)
        information += row.by_unknowns.T @ weighted
        gradient += weighted.T @ row.residual
    step = np.asarray(np.linalg.lstsq(information, gradient, rcond=1e-14)[0], float)
    return -step, information


def _weigh(row: Linear, sigma_px: float, sigma_q: float, columns: Float) -> Float:
    """``C^-1 columns`` with the covariance C of the residuals, by Woodbury's identity."""
    g = row.by_joints * (sigma_q / sigma_px)
    small = np.eye(g.shape[1]) + g.T @ g
    return (columns - g @ np.linalg.solve(small, g.T @ columns)) / sigma_px**2


def _joint_noise(rows: Sequence[Linear], sigma_px: float) -> float:
    """Noise of the joints with the greatest restricted likelihood, rad; 0 for none."""
    plain = np.zeros((13, 13))  # of the unknowns and, last, the residual
    parts, squares = [], []
    for row in rows:
        columns = np.column_stack([row.by_unknowns, row.residual])
        plain += columns.T @ columns
        basis, singular, _ = np.linalg.svd(row.by_joints, full_matrices=False)
        parts.append(basis.T @ columns)
        squares.append(singular**2)
    along, strength = np.concatenate(parts), np.concatenate(squares)

    def cost(sigma_q: float) -> float:
        ratio = strength * (sigma_q / sigma_px) ** 2
        weight = ratio / (1 + ratio)
        joint = (plain - along.T @ (weight[:, None] * along)) / sigma_px**2
        information, gradient = joint[:12, :12], joint[:12, 12]
        step = np.linalg.lstsq(information, gradient, rcond=1e-14)[0]
        fitted = float(joint[12, 12] - gradient @ step)
        return fitted + float(np.linalg.slogdet(information)[1] + np.log1p(ratio).sum())

    grid = np.geomspace(*_SIGMA_Q_RAD, 18)
    costs = [cost(float(sigma)) for sigma in grid]
    best = int(np.argmin(costs))
    low, high = np.log(grid[max(0, best - 1)]), np.log(grid[min(len(grid) - 1, best + 1)])
    for _ in range(12):  # golden section
        a, b = high - 0.618 * (high - low), low + 0.618 * (high - low)
        low, high = (low, b) if cost(float(np.exp(a))) < cost(float(np.exp(b))) else (a, high)
    found = float(np.exp((low + high) / 2))
    return found if cost(found) < cost(0.0) else 0.0


def _covariance(poses: Sequence[Posed], fit: Fit, camera: Camera) -> Float:
    rows = [linearise(posed, fit, camera) for posed in poses]
    _, information = _solve(rows, fit.sigma_px, fit.sigma_q_rad)
    scale = 1 / np.sqrt(np.maximum(np.diag(information), 1e-300))
    scaled = information * np.outer(scale, scale)
    covariance = np.linalg.pinv(scaled, rcond=1e-15, hermitian=True) * np.outer(scale, scale)
    if camera.covariance is not None:
        slope = np.zeros((12, len(camera.covariance)))
        for row in rows:
            weighted = _weigh(row, fit.sigma_px, fit.sigma_q_rad, row.by_unknowns)
            slope += weighted.T @ row.by_camera
        slope = covariance @ slope
        covariance = covariance + slope @ camera.covariance @ slope.T
    return (covariance + covariance.T) / 2


def _rms(differences: Float) -> float:
    return float(np.sqrt(np.mean(np.sum(differences**2, axis=1))))


def view_rms_px(posed: Posed, fit: Fit, camera: Camera) -> float:
    """Reprojection error of a view: root of the mean squared distance, px."""
    return _rms(linearise(posed, fit, camera).residual.reshape(-1, 2))
