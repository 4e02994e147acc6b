"""Rigid transforms as matrices (4, 4): ``T_a_b`` takes coordinates in frame b to frame a."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]


def rotation(rotvec_rad: Float) -> Float:
    """Rotation matrix (3, 3) of a rotation vector (3,), rad."""
    return np.asarray(cv2.Rodrigues(np.asarray(rotvec_rad, float))[0], float)


def rotation_vector(matrix: Float) -> Float:
    """Rotation vector (3,), rad, of a rotation matrix (3, 3); exact for small angles too."""
    # cv2.Rodrigues returns zero below 1e-5 rad
    turn = np.asarray(matrix, float)
    odd = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]]) / 2
    sine, cosine = float(np.linalg.norm(odd)), (float(np.trace(turn)) - 1) / 2
    angle = float(np.arctan2(sine, cosine))
    if cosine > -0.99:
        return odd * (angle / sine) if sine > 1e-12 else odd
    # near half a turn the axis is the eigenvector of the even part
    axis = np.linalg.eigh((turn + turn.T) / 2)[1][:, -1]
    return np.asarray(axis * (angle if axis @ odd >= 0 else -angle))


def transform(rotvec_rad: Float, translation_m: Float) -> Float:
    """Transform (4, 4) of a rotation vector (3,), rad, and a translation (3,), m."""
    out = np.eye(4)
    out[:3, :3] = rotation(rotvec_rad)
    out[:3, 3] = np.asarray(translation_m, float).ravel()
    return out


def inverse(matrix: Float) -> Float:
    """Inverse of a rigid transform (4, 4)."""
    out = np.eye(4)
    out[:3, :3] = matrix[:3, :3].T
    out[:3, 3] = -matrix[:3, :3].T @ matrix[:3, 3]
    return out


def cross_matrix(vectors: Float) -> Float:
    """Matrices (N, 3, 3) with ``M @ v = vectors x v`` of vectors (N, 3)."""
    out = np.zeros((len(vectors), 3, 3))
    x, y, z = vectors.T
    out[:, 0, 1], out[:, 0, 2], out[:, 1, 2] = -z, y, -x
    out[:, 1, 0], out[:, 2, 0], out[:, 2, 1] = z, -y, x
    return out


def distance(a: Float, b: Float) -> tuple[float, float]:
    """Angle, rad, and distance, m, between two transforms (4, 4)."""
    between = inverse(a) @ b
    return float(np.linalg.norm(rotation_vector(between[:3, :3]))), float(
        np.linalg.norm(between[:3, 3])
    )


def quaternion_wxyz(matrix: Float) -> Float:
    """Unit quaternion (4,), scalar first and not negative, of a rotation matrix (3, 3)."""
    vector = rotation_vector(matrix)
    angle = float(np.linalg.norm(vector))
    scale = 0.5 if angle < 1e-12 else np.sin(angle / 2) / angle
    return np.concatenate([[np.cos(angle / 2)], scale * vector])
