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
        e_ee_mm: distance between end-effector positions, mm; None for a robot without one.
    """

    e_g_mpjpe_mm: Float
    e_mpjpe_mm: Float
    e_acc_mm_per_frame2: Float
    e_vel_mm_per_frame: Float
    qpos_rmse_rad: Float
    qpos_rmse_per_joint_rad: Float
    e_ee_mm: Float | None = None

    def to_json(self) -> dict[str, list[float] | list[list[float]]]:
        """Plain lists under the names of the command line's JSON, :data:`JSON_NAMES`."""
        values = {json: getattr(self, name) for name, json in JSON_NAMES.items()}
        return {name: value.tolist() for name, value in values.items() if value is not None}


JSON_NAMES = {
    "e_mpjpe_mm": "E_mpjpe_mm",
    "e_g_mpjpe_mm": "E_g_mpjpe_mm",
    "e_acc_mm_per_frame2": "E_acc_mm_per_frame2",
    "e_vel_mm_per_frame": "E_vel_mm_per_frame",
    "qpos_rmse_rad": "qpos_rmse_rad",
    "qpos_rmse_per_joint_rad": "qpos_rmse_per_joint_rad",
    "e_ee_mm": "E_ee_mm",
}
"""Attributes of :class:`Metrics` -> names in JSON files."""


@dataclass(frozen=True, kw_only=True)
class WindowErrors:
    """Errors of each of B windows for H horizons; NaN where a window is shorter than a horizon.

    Attributes:
        e_g_mpjpe_mm, e_mpjpe_mm, e_acc_mm_per_frame2, e_vel_mm_per_frame: as in
            :class:`Metrics`, (B, H).
        qpos_mse_rad2: squared joint position errors, mean over frames, (B, H, n), rad^2.
        e_ee_mm: (B, H) or None.
    """

    e_g_mpjpe_mm: Float
    e_mpjpe_mm: Float
    e_acc_mm_per_frame2: Float
    e_vel_mm_per_frame: Float
    qpos_mse_rad2: Float
    e_ee_mm: Float | None = None

    def __len__(self) -> int:
        return len(self.e_g_mpjpe_mm)

    def means(self, weights: Float) -> dict[str, Float]:
        """Means over windows for S sets of weights.

        Args:
            weights: how often each window counts, (S, B); each horizon needs one that counts.

        Returns:
            Attributes of :class:`Metrics` -> (S, H), per joint (S, H, n).
        """
        covered = np.isfinite(self.e_g_mpjpe_mm)
        total = weights @ covered

        def mean(values: Float) -> Float:
            filled = np.where(np.isfinite(values), values, 0.0)
            share = total.reshape(*total.shape, *(1,) * (values.ndim - 2))
            out: Float = np.tensordot(weights, filled, axes=1) / share
            return out

        per_joint = np.sqrt(mean(self.qpos_mse_rad2))
        out = {name: mean(value) for name, value in self._distances().items()}
        out["qpos_rmse_rad"] = np.sqrt((per_joint**2).mean(axis=2))
        out["qpos_rmse_per_joint_rad"] = per_joint
        return out

    def mean(self) -> Metrics:
        """Means over all windows."""
        return Metrics(**{k: v[0] for k, v in self.means(np.ones((1, len(self)))).items()})

    def _distances(self) -> dict[str, Float]:
        names = ("e_g_mpjpe_mm", "e_mpjpe_mm", "e_acc_mm_per_frame2", "e_vel_mm_per_frame")
        return {n: getattr(self, n) for n in names} | (
            {} if self.e_ee_mm is None else {"e_ee_mm": self.e_ee_mm}
        )

    @classmethod
    def average(cls, samples: Sequence[WindowErrors]) -> WindowErrors:
        """Mean of several simulations of the same windows."""
        names = [name for name, value in vars(samples[0]).items() if value is not None]
        return cls(**{name: np.mean([getattr(s, name) for s in samples], axis=0) for name in names})


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


def evaluate(
    body_pos_m: Float,
    logged_body_pos_m: Float,
    qpos_rad: Float,
    logged_qpos_rad: Float,
    *,
    root: int,
    ticks: Sequence[int] | NDArray[np.intp],
    frames: Sequence[int],
    ee: int | None = None,
) -> WindowErrors:
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
        ee: index of the end effector's body, if there is one.

    Raises:
        InputError: no window covers a horizon, or a horizon has too few frames.
    """
    _check_covered(ticks, frames)
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
        "qpos_mse_rad2": ((qpos_rad - logged_qpos_rad) ** 2)[:, 1:],
    }
    if ee is not None:
        one = slice(ee, ee + 1)
        per_frame["e_ee_mm"] = distance_mm(body_pos_m[:, :, one], logged_body_pos_m[:, :, one])[
            :, 1:
        ]
    out: dict[str, Float] = {}
    for name, values in per_frame.items():
        short = name == "e_acc_mm_per_frame2"
        means = np.stack([values[:, : count - short].mean(axis=1) for count in frames], axis=1)
        means[np.asarray(ticks)[:, None] < np.asarray(frames)] = np.nan
        out[name] = means
    return WindowErrors(**out)


def _check_covered(ticks: Sequence[int] | NDArray[np.intp], frames: Sequence[int]) -> None:
    for count in frames:
        if count < MIN_FRAMES:
            raise InputError(
                f"expected horizons of at least {MIN_FRAMES} frames, got {count}; "
                "a second difference needs them: give a longer horizon"
            )
        if not (np.asarray(ticks) >= count).any():
            raise InputError(
                f"expected an episode of at least {count + 1} samples for this horizon, the "
                f"longest has {int(np.max(ticks, initial=-1)) + 1}; "
                "record longer or give shorter horizons"
            )
