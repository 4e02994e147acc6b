"""Sampled signals: even grids, smoothing without phase, derivatives, time shifts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError

Float = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class MotionLog:
    """Commands and joint states of a robot over time, joints in one order.

    Attributes:
        joint_names: names of the n joints.
        command_s: times from which the commands apply, ascending, (M,), s.
        command_rad: commanded positions, (M, n).
        command_vel_rad_s: commanded velocities, (M, n), or None.
        state_s: times of the states, ascending, (N,), s, on the same clock.
        qpos_rad: measured positions, (N, n).
        qvel_rad_s: measured velocities, (N, n).
        effort_nm: measured torques, (N, n), Nm, or None.
    """

    joint_names: tuple[str, ...]
    command_s: Float
    command_rad: Float
    command_vel_rad_s: Float | None = None
    state_s: Float
    qpos_rad: Float
    qvel_rad_s: Float
    effort_nm: Float | None = None

    def span_s(self) -> tuple[float, float]:
        """First and last time with both states and commands, s.

        Raises:
            CalibrationError: there is no such time.
        """
        some = len(self.command_s) and len(self.state_s)
        first = max(self.state_s[0], self.command_s[0]) if some else np.inf
        last = min(self.state_s[-1], self.command_s[-1]) if some else -np.inf
        if not last > first:
            raise CalibrationError(
                "expected commands and joint states at the same times, got none that overlap; "
                "record both, with stamps of one clock"
            )
        return float(first), float(last)

    def between(self, start_s: float, end_s: float) -> MotionLog:
        """The part from ``start_s`` to ``end_s``, and the command in force at its start."""
        states = slice(*np.searchsorted(self.state_s, [start_s, end_s]))
        low, high = np.searchsorted(self.command_s, [start_s, end_s], side="right")
        commands = slice(max(int(low) - 1, 0), high)

        def cut(values: Float | None, part: slice) -> Float | None:
            return None if values is None else values[part]

        return MotionLog(
            joint_names=self.joint_names,
            command_s=self.command_s[commands],
            command_rad=self.command_rad[commands],
            command_vel_rad_s=cut(self.command_vel_rad_s, commands),
            state_s=self.state_s[states],
            qpos_rad=self.qpos_rad[states],
            qvel_rad_s=self.qvel_rad_s[states],
            effort_nm=cut(self.effort_nm, states),
        )


def even_times(start_s: float, end_s: float, dt_s: float) -> Float:
    """Times from ``start_s`` to at most ``end_s`` every ``dt_s``, (T,), s."""
    count = int((end_s - start_s) / dt_s + 1e-9) + 1
    return np.asarray(start_s + dt_s * np.arange(count), float)


def at_times(time_s: Float, values: Float, wanted_s: Float) -> Float:
    """Linear interpolation of (N, n) at ``wanted_s`` (T,); the ends are held, (T, n)."""
    return np.stack([np.interp(wanted_s, time_s, column) for column in values.T], axis=1)


def held_at(time_s: Float, values: Float, wanted_s: Float) -> Float:
    """Zero-order hold of (M, n) at ``wanted_s`` (T,), (T, n)."""
    index = np.searchsorted(time_s, wanted_s + 1e-6, side="right") - 1
    return np.asarray(values[np.maximum(index, 0)], float)


def mean_held(time_s: Float, values: Float, wanted_s: Float, dt_s: float) -> Float:
    """Mean of what is held, over ``dt_s`` around each wanted time, (T, n).

    Exact: no part of a command between two samples is lost, as it would be by sampling.
    """
    steps = np.diff(time_s)
    integral = np.zeros_like(values)
    integral[1:] = np.cumsum(values[:-1] * steps[:, None], axis=0)

    def up_to(t: Float) -> Float:
        index = np.maximum(np.searchsorted(time_s, t, side="right") - 1, 0)
        return np.asarray(integral[index] + values[index] * (t - time_s[index])[:, None])

    return (up_to(wanted_s + dt_s / 2) - up_to(wanted_s - dt_s / 2)) / dt_s


def smooth(values: Float, dt_s: float, cutoff_hz: float, derivative: int = 0) -> Float:
    """Gaussian low-pass without phase, and derivatives of its output.

    Args:
        values: even samples, (T, n).
        dt_s: time between them, s.
        cutoff_hz: at which the gain is exp(-1/2).
        derivative: 0, 1 or 2.

    Returns:
        (T, n); the first and last :func:`margin_s` are affected by the ends.
    """
    pad = min(len(values) - 1, int(4 * margin_s(cutoff_hz) / dt_s) + 1)
    padded = np.concatenate(
        [2 * values[:1] - values[pad:0:-1], values, 2 * values[-1:] - values[-2 : -pad - 2 : -1]]
    )
    # a straight line is its own low-pass, and leaves no jump where the transform closes the circle
    ramp = np.linspace(0.0, 1.0, len(padded))[:, None]
    slope = padded[-1:] - padded[:1]
    level = padded - padded[:1] - ramp * slope
    hz = np.fft.rfftfreq(len(padded), dt_s)
    gain = np.exp(-0.5 * (hz / cutoff_hz) ** 2) * (2j * np.pi * hz) ** derivative
    out = np.fft.irfft(np.fft.rfft(level, axis=0) * gain[:, None], len(padded), axis=0)
    if derivative == 0:
        out = out + padded[:1] + ramp * slope
    elif derivative == 1:
        out = out + slope / (dt_s * (len(padded) - 1))
    return np.asarray(out[pad : pad + len(values)], float)


def margin_s(cutoff_hz: float) -> float:
    """How far :func:`smooth` reaches, s: three standard deviations of its kernel."""
    return 3.0 / (2.0 * np.pi * cutoff_hz)


def shifted(values: Float, steps: float, rows: NDArray[np.intp] | None = None) -> Float:
    """Even samples (T, n) as they were ``steps`` (any real number) samples earlier, cubic.

    Args:
        values: even samples, (T, n).
        steps: how much earlier, samples.
        rows: which of them are wanted, (R,); None for all.

    Returns:
        (R, n); the ends are held.
    """
    last = len(values) - 1
    place = np.clip((np.arange(last + 1) if rows is None else rows) - steps, 0.0, float(last))
    left = np.clip(place.astype(np.intp), 1, max(last - 2, 1))
    x = (place - left)[:, None]
    a, b, c, d = (values[np.minimum(left + k, last)] for k in (-1, 0, 1, 2))
    slope, later = (c - a) / 2, (d - b) / 2
    bend = 3 * (c - b) - 2 * slope - later
    twist = 2 * (b - c) + slope + later
    return np.asarray(b + x * (slope + x * (bend + x * twist)), float)


def highest_hz(values: Float, dt_s: float, share: float = 0.99) -> float:
    """Frequency below which ``share`` of the power of the derivative of (T, n) lies, Hz."""
    rate = np.diff(values, axis=0)
    window = np.hanning(len(rate))[:, None]
    power = (np.abs(np.fft.rfft((rate - rate.mean(axis=0)) * window, axis=0)) ** 2).sum(axis=1)
    total = np.cumsum(power)
    hz = np.fft.rfftfreq(len(rate), dt_s)
    return float(hz[np.searchsorted(total, share * total[-1])]) if total[-1] > 0.0 else 0.0


def blocks(length: int, size: int) -> NDArray[np.int64]:
    """Number of the block of ``size`` that each of ``length`` rows is in; the rest joins in."""
    return np.minimum(np.arange(length) // size, max(length // size - 1, 0))


def block_covariance(
    columns: Float, residual: Float, block: NDArray[np.int64], prior: Float | None = None
) -> Float:
    """Covariance of a least-squares estimate whose residuals are correlated within blocks.

    Args:
        columns: derivatives of the residuals by the unknowns, (N, p).
        residual: (N,).
        block: which rows belong together, (N,), 0 to B - 1.
        prior: information that the data do not bring, (p, p).

    Returns:
        (p, p), the cluster-robust estimate, widened for the number of blocks.
    """
    count = int(block.max()) + 1
    scores = np.zeros((count, columns.shape[1]))
    np.add.at(scores, block, columns * residual[:, None])
    information = columns.T @ columns + (0.0 if prior is None else prior)
    bread = np.linalg.pinv(information, hermitian=True)
    meat = scores.T @ scores * (count / max(count - 1, 1))
    if prior is not None:
        meat = meat + prior
    return np.asarray(bread @ meat @ bread)
