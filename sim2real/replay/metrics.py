"""Errors between a replayed and a logged motion, as in ASAP (arXiv 2502.01143).

Frame 0 is the reset to the logged state, where both agree; the mean over a horizon of ``K`` frames
takes frames 1 to K. Differences are taken between consecutive frames at the control rate and start
at frame 0, so that E_vel has K and E_acc K - 1 terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.interface import Float

MIN_FRAMES = 2
"""Fewest frames after the reset for which a second difference exists."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """Mean errors, one entry per horizon (H,).

    Attributes:
        e_g_mpjpe_mm: distance between world body positions, mean over bodies and frames, mm.
        e_mpjpe_mm: the same with the root's position removed from both, mm.
        e_acc_mm_per_frame2: distance between second differences of body positions, mm/frame^2.
        e_vel_mm_per_frame: distance between first differences of body positions, mm/frame.
        qpos_rmse_rad: joint position error, root mean square over joints and frames, rad.
        qpos_rmse_per_joint_rad: the same for each joint, (H, n), rad.
    """

    e_g_mpjpe_mm: Float
    e_mpjpe_mm: Float
    e_acc_mm_per_frame2: Float
    e_vel_mm_per_frame: Float
    qpos_rmse_rad: Float
    qpos_rmse_per_joint_rad: Float

    def to_json(self) -> dict[str, list[float] | list[list[float]]]:
        """Plain lists under the names of the command line's JSON."""
        return {
            "E_mpjpe_mm": self.e_mpjpe_mm.tolist(),
            "E_g_mpjpe_mm": self.e_g_mpjpe_mm.tolist(),
            "E_acc_mm_per_frame2": self.e_acc_mm_per_frame2.tolist(),
            "E_vel_mm_per_frame": self.e_vel_mm_per_frame.tolist(),
            "qpos_rmse_rad": self.qpos_rmse_rad.tolist(),
            "qpos_rmse_per_joint_rad": self.qpos_rmse_per_joint_rad.tolist(),
        }


def distance_mm(a_m: Float, b_m: Float) -> Float:
    """Distance between points (..., 3) in m, averaged over the second last axis, in mm."""
    return 1e3 * np.linalg.norm(a_m - b_m, axis=-1).mean(axis=-1)


def horizon_frames(horizons_s: Sequence[float], rate_hz: float) -> tuple[int, ...]:
    """Frames in each horizon.

    Raises:
        InputError: no horizon, or one too short for a second difference.
    """
    if not horizons_s:
        raise InputError("expected at least one horizon in seconds, got none; give e.g. 0.25 0.5 1")
    frames = []
    for horizon in horizons_s:
        if not np.isfinite(horizon) or round(horizon * rate_hz) < MIN_FRAMES:
            raise InputError(
                f"expected horizons of at least {MIN_FRAMES} control ticks "
                f"({MIN_FRAMES / rate_hz:g} s at {rate_hz:g} Hz), got {horizon:g} s; "
                "give longer ones"
            )
        frames.append(round(horizon * rate_hz))
    return tuple(frames)


def _mean(per_frame: Float, frames: int) -> float:
    return float(per_frame[:, :frames].mean())


def evaluate(
    body_pos_m: Float,
    logged_body_pos_m: Float,
    qpos_rad: Float,
    logged_qpos_rad: Float,
    *,
    root: int,
    ticks: Sequence[int] | NDArray[np.intp],
    frames: Sequence[int],
) -> Metrics:
    """Errors of B windows for each horizon.

    Args:
        body_pos_m: world body positions, (B, K + 1, bodies, 3), m; frame 0 is the reset.
        logged_body_pos_m: the same from the log.
        qpos_rad: joint positions, (B, K + 1, n), rad.
        logged_qpos_rad: the same from the log.
        root: index of the root body.
        ticks: frames after the reset that each window really has, (B,); a window counts for the
            horizons that it covers in full.
        frames: frames of each horizon, each at least :data:`MIN_FRAMES`, (H,).

    Raises:
        InputError: no window covers a horizon, or a horizon has too few frames.
    """
    per_frame = {
        "e_g_mpjpe_mm": distance_mm(body_pos_m, logged_body_pos_m)[:, 1:],
        "e_mpjpe_mm": distance_mm(
            body_pos_m - body_pos_m[:, :, root : root + 1],
            logged_body_pos_m - logged_body_pos_m[:, :, root : root + 1],
        )[:, 1:],
        "e_vel_mm_per_frame": distance_mm(
            np.diff(body_pos_m, axis=1), np.diff(logged_body_pos_m, axis=1)
        ),
        "e_acc_mm_per_frame2": distance_mm(
            np.diff(body_pos_m, n=2, axis=1), np.diff(logged_body_pos_m, n=2, axis=1)
        ),
    }
    squared = ((qpos_rad - logged_qpos_rad) ** 2)[:, 1:]
    out: dict[str, list[float]] = {name: [] for name in per_frame}
    joints = []
    for count in frames:
        if count < MIN_FRAMES:
            raise InputError(
                f"expected horizons of at least {MIN_FRAMES} frames, got {count}; "
                "a second difference needs them: give a longer horizon"
            )
        full = np.asarray(ticks) >= count
        if not full.any():
            raise InputError(
                f"expected an episode of at least {count + 1} samples for this horizon, the "
                f"longest has {int(np.max(ticks, initial=-1)) + 1}; "
                "record longer or give shorter horizons"
            )
        for name, values in per_frame.items():
            terms = count - 1 if name == "e_acc_mm_per_frame2" else count
            out[name].append(_mean(values[full], terms))
        joints.append(np.sqrt(squared[full, :count].mean(axis=(0, 1))))
    per_joint = np.array(joints)
    return Metrics(
        **{name: np.array(values) for name, values in out.items()},
        qpos_rmse_rad=np.sqrt((per_joint**2).mean(axis=1)),
        qpos_rmse_per_joint_rad=per_joint,
    )
