"""Unit quaternions, wxyz, for any number of leading dimensions."""

from __future__ import annotations

import math

import numpy as np

from policies.interface import Float


def rotate(quat_wxyz: Float, vector: Float) -> Float:
    """Rotate vectors (..., 3) by unit quaternions (..., 4): body frame -> world frame."""
    w, u = quat_wxyz[..., :1], quat_wxyz[..., 1:]
    t = 2.0 * np.cross(u, vector)
    rotated: Float = vector + w * t + np.cross(u, t)
    return rotated


def rotate_inverse(quat_wxyz: Float, vector: Float) -> Float:
    """Rotate vectors (..., 3) by the inverse of quaternions (..., 4): world -> body frame."""
    w, u = quat_wxyz[..., :1], quat_wxyz[..., 1:]
    t = 2.0 * np.cross(u, vector)
    rotated: Float = vector - w * t + np.cross(u, t)
    return rotated


def rotation_vector(quat_wxyz: Float, target_wxyz: Float) -> Float:
    """Rotation from ``quat`` to ``target`` as a vector in the body frame of ``quat``.

    Args:
        quat_wxyz: unit quaternions to start from, (..., 4).
        target_wxyz: unit quaternions to reach, (..., 4).

    Returns:
        Axis times angle, (..., 3), rad, the shorter way round.
    """
    w, v = quat_wxyz[..., :1], -quat_wxyz[..., 1:]
    tw, tv = target_wxyz[..., :1], target_wxyz[..., 1:]
    real = w * tw - (v * tv).sum(axis=-1, keepdims=True)
    vector = w * tv + tw * v + np.cross(v, tv)
    sine = np.linalg.norm(vector, axis=-1, keepdims=True)
    angle = 2.0 * np.arctan2(sine, np.abs(real)) * np.where(real < 0.0, -1.0, 1.0)
    return vector * np.where(sine > 1e-12, angle / np.maximum(sine, 1e-12), 2.0)


def tilt_rad(quat_wxyz: Float) -> float:
    """Angle between the z axis of a body with orientation (4,) and the vertical, rad."""
    w, x, y, z = (float(v) for v in quat_wxyz)
    norm = w * w + x * x + y * y + z * z
    cosine = 1.0 - 2.0 * (x * x + y * y) / max(norm, 1e-12)
    return math.acos(min(max(cosine, -1.0), 1.0))


def multiply(a_wxyz: Float, b_wxyz: Float) -> Float:
    """Hamilton product of quaternions (..., 4): the rotation ``b`` seen in the frame of ``a``."""
    aw, ax, ay, az = np.moveaxis(a_wxyz, -1, 0)
    bw, bx, by, bz = np.moveaxis(b_wxyz, -1, 0)
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        axis=-1,
    )


def to_quat(vector: Float) -> Float:
    """Unit quaternion of a rotation vector (..., 3), rad -> (..., 4), wxyz."""
    angle = np.linalg.norm(vector, axis=-1, keepdims=True)
    share = 0.5 * np.sinc(0.5 * angle / np.pi)  # sin(angle / 2) / angle, also at zero
    return np.concatenate([np.cos(0.5 * angle), share * vector], axis=-1)
