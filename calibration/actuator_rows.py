"""What torques depend on: smoothed columns of a log, joint by joint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.dynamics import PER_BODY, RigidBody
from calibration.errors import CalibrationError
from calibration.signals import (
    Float,
    MotionLog,
    at_times,
    even_times,
    margin_s,
    mean_held,
    shifted,
    smooth,
)

_FINE_HZ = 20.0
_LEAST_S = {False: 4.0, True: 0.5}  # to calibrate from, to look at
_TURNING_RAD_S = 0.01
_STICKING = (0.35, 0.02)  # of a joint's rms speed, and at least, rad/s
_MOST_STICKING = 0.1  # of the time that a row is made of
_CHUNK = 256


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Smoothed samples of T times, far enough apart to be nearly independent.

    Attributes:
        time_s: (T,).
        qpos_rad, qvel_rad_s, qacc_rad_s2: motion, (T, n).
        direction: of motion, -1 to 1, (T, n).
        near_still: direction times how close to rest, for each Stribeck speed, (S, T, n).
        moving: False where a joint is slow: there it may stick, (T, n).
        torque_nm: measured, (T, n), or None.
        command_rad: set-points as they take effect, (T, n).
        command_rate_rad_s: their rate of change, (T, n).
        torque_rate_nm_s: rate of change of the measured torques, (T, n), or None.
        urdf_nm: torques by the URDF, (T, n), Nm.
        gravity_nm: the part of gravity in them, (T, n), Nm.
        bodies: places of the bodies whose inertia may differ.
        regressor: derivative of the torques by their inertial parameters, (T, n, 10 bodies).
    """

    time_s: Float
    qpos_rad: Float
    qvel_rad_s: Float
    qacc_rad_s2: Float
    direction: Float
    near_still: Float
    moving: NDArray[np.bool_]
    torque_nm: Float | None
    command_rad: Float
    command_rate_rad_s: Float
    torque_rate_nm_s: Float | None
    urdf_nm: Float
    gravity_nm: Float
    bodies: tuple[int, ...]
    regressor: Float

    def __len__(self) -> int:
        return len(self.time_s)


def make_rows(
    log: MotionLog,
    body: RigidBody,
    *,
    cutoff_hz: float,
    delay_s: float,
    stribeck_rad_s: tuple[float, ...],
    bodies: tuple[int, ...],
    dense: bool = False,
) -> Rows:
    """Columns of a log: products are made of the motion first and smoothed then, like torques.

    Positions alone say how the robot moved: measured velocities may be late. What is made of
    several signals is made at four times the cut-off, so that smoothing commutes with it. A
    torque reading is that of the sample before its stamp: it is what moved the robot there.

    Args:
        log: the log.
        body: the robot's model.
        cutoff_hz: of the rows; at most a tenth of the rate of the states.
        delay_s: between a command and its effect.
        stribeck_rad_s: speeds below which friction rises, to choose from.
        bodies: places of the bodies whose inertia may differ.
        dense: all samples instead of those that are nearly independent.

    Raises:
        CalibrationError: the log is too short.
    """
    start, end = log.span_s()
    rate_hz = 1.0 / float(np.median(np.diff(log.state_s)))
    cutoff = min(cutoff_hz, rate_hz / 10.0)
    fine_hz = min(_FINE_HZ, 4.0 * cutoff, rate_hz / 4.0)
    edge_s = margin_s(cutoff) + margin_s(fine_hz) + max(delay_s, 0.0)
    least_s = 2 * edge_s + _LEAST_S[dense]
    if end - start < least_s:
        raise CalibrationError(
            f"expected at least {least_s:.1f} s of motion, got {end - start:.2f} s; record more"
        )
    dt = min(1.0 / rate_hz, 0.002)
    grid = even_times(start, end, dt)
    thin = max(1, int(1.0 / (8.0 * fine_hz * dt)))
    raw = at_times(log.state_s, log.qpos_rad, grid)
    motion = [smooth(raw, dt, fine_hz, k)[::thin] for k in range(3)]
    step = dt * thin
    edge = int(np.ceil(edge_s / step))
    apart = 1 if dense else max(1, round(1.0 / (2.0 * cutoff * step)))
    pick = slice(edge, len(motion[0]) - edge, apart)

    def slow(values: Float, derivative: int = 0) -> Float:
        flat = smooth(values.reshape(len(values), -1), step, cutoff, derivative)[pick]
        return flat.reshape(len(flat), *values.shape[1:])

    def from_log(values: Float, derivative: int = 0) -> Float:
        return slow(smooth(values, dt, fine_hz, derivative)[::thin])

    command = shifted(mean_held(log.command_s, log.command_rad, grid, dt), delay_s / dt)
    effort = log.effort_nm
    if effort is not None:
        effort = at_times(log.state_s - 1.0 / rate_hz, effort, grid)
    q, v, _ = motion
    part, least = _STICKING
    slower = np.abs(v) < np.maximum(part * np.sqrt(np.mean(v**2, axis=0)), least)
    turning = np.tanh(v / _TURNING_RAD_S)
    return Rows(
        time_s=grid[::thin][pick],
        qpos_rad=slow(q),
        qvel_rad_s=slow(v),
        qacc_rad_s2=slow(motion[2]),
        direction=slow(turning),
        near_still=np.stack([slow(turning * np.exp(-((v / s) ** 2))) for s in stribeck_rad_s]),
        moving=slow(slower.astype(float)) < _MOST_STICKING,
        torque_nm=None if effort is None else from_log(effort),
        command_rad=from_log(command),
        command_rate_rad_s=from_log(command, 1),
        torque_rate_nm_s=None if effort is None else from_log(effort, 1),
        urdf_nm=slow(body.torque(*motion)),
        gravity_nm=slow(body.gravity(q)),
        bodies=bodies,
        regressor=_smooth_regressor(body, motion, bodies, slow),
    )


def _smooth_regressor(
    body: RigidBody, motion: list[Float], bodies: tuple[int, ...], slow: Callable[[Float], Float]
) -> Float:
    """Regressor rows, smoothed joint by joint so that a humanoid's fit into memory."""
    pick = (PER_BODY * np.array(bodies, int)[:, None] + np.arange(PER_BODY)).ravel()
    if not len(pick):
        return slow(np.zeros((*motion[0].shape, 0)))
    whole = np.concatenate(
        [
            body.regressor(*(x[i : i + _CHUNK] for x in motion))[:, :, pick].astype(np.float32)
            for i in range(0, len(motion[0]), _CHUNK)
        ]
    )
    joints = [slow(whole[:, j].astype(float)) for j in range(whole.shape[1])]
    return np.stack(joints, axis=1)
