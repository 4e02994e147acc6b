"""By how much one signal follows another; NumPy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calibration.signals import Float, block_covariance, blocks, shifted

_LEAST_CORRELATION = 0.5
_TURNS = 20
_BLOCK_S = 0.5
_APART_S = 0.005


@dataclass(frozen=True, kw_only=True)
class Lag:
    """A delay: value and standard deviation, s; ``share`` of the motion that it explains."""

    value_s: float
    std_s: float
    share: float


def lag_s(command: Float, motion: Float, dt_s: float, *, max_lag_s: float = 0.3) -> float | None:
    """How long one signal follows another, by normalised cross-correlation.

    Args:
        command: the signal that leads, (T,).
        motion: the signal that follows, (T,).
        dt_s: time between samples, s.
        max_lag_s: longest lag that is looked for, s.

    Returns:
        Lag with sub-sample resolution (parabola through the peak), s; None where the signals do not
        move, do not resemble each other (correlation below 0.5), or peak at the end of the range.
    """
    lags = min(int(max_lag_s / dt_s) + 2, len(command) // 2)
    if lags < 4 or min(np.std(command), np.std(motion)) < 1e-9:
        return None
    # one lag before zero, so that a peak at zero has two neighbours
    scores = np.array([_correlation(command, motion, lag) for lag in range(-1, lags)])
    peak = int(np.argmax(scores))
    if scores[peak] < _LEAST_CORRELATION or peak in (0, len(scores) - 1):
        return None
    before, top, after = scores[peak - 1 : peak + 2]
    curvature = before - 2.0 * top + after
    shift = 0.0 if curvature == 0.0 else 0.5 * (before - after) / curvature
    return float((peak - 1 + shift) * dt_s)


def _correlation(command: Float, motion: Float, lag: int) -> float:
    total = len(command)
    a = command[max(0, -lag) : total - max(0, lag)]
    b = motion[max(0, lag) : total - max(0, -lag)]
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / norm if norm > 0.0 else 0.0


def fit_lag(lead: Float, follow: Float, dt_s: float, *, reach_s: float = 0.2) -> Lag | None:
    """The lag with which ``gain * lead + constant`` best explains ``follow``, least squares.

    Args:
        lead: even samples of a smooth signal, (T,).
        follow: those of the one that comes later, (T,).
        dt_s: time between them, s.
        reach_s: largest lag either way, s.

    Returns:
        The lag, with a standard deviation that holds for residuals that are correlated within half
        a second; None where the signals do not resemble each other.
    """
    edge = int(np.ceil(reach_s / dt_s)) + 2
    apart = max(1, round(_APART_S / dt_s))
    inner = slice(edge, len(lead) - edge, apart)
    rows = np.arange(edge, len(lead) - edge, apart)
    if len(lead) < 3 * edge or np.std(follow[inner]) < 1e-12 or np.std(lead) < 1e-12:
        return None
    # leading by the reach, so that lags of both signs are positive ones
    coarse = lag_s(np.roll(lead, -edge)[inner], follow[inner], apart * dt_s, max_lag_s=2 * reach_s)
    if coarse is None:
        return None
    lag = coarse - edge * dt_s
    slope = np.gradient(lead, dt_s)
    both = np.stack([lead, slope], axis=1)
    columns, residual = np.zeros((0, 3)), np.zeros(0)
    for _ in range(_TURNS):
        now, rate = shifted(both, lag / dt_s, rows).T
        straight = np.stack([now, np.ones_like(now)], axis=1)
        gain = float(np.linalg.lstsq(straight, follow[inner], rcond=None)[0][0])
        columns = np.column_stack([straight, -gain * rate])
        solution = np.linalg.lstsq(columns, follow[inner], rcond=None)[0]
        residual = follow[inner] - columns @ solution
        step = float(np.clip(solution[2], -0.01, 0.01))
        lag += step
        if abs(step) < 1e-8:
            break
    share = 1.0 - float(np.var(residual) / np.var(follow[inner]))
    if share < _LEAST_CORRELATION**2 or abs(lag) > reach_s:
        return None
    block = blocks(len(residual), max(1, round(_BLOCK_S / (apart * dt_s))))
    std = float(np.sqrt(block_covariance(columns, residual, block)[2, 2]))
    return Lag(value_s=float(lag), std_s=std, share=share)
