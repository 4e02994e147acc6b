"""Delays between command and motion, and between sensors, from commands and joint states.

Two delays of a joint are told apart. The *tracking lag* is by how much the measured motion follows
the commanded one: the whole chain, the reaction of the joint's own controller included. The *dead
time* is what a command waits before it has any effect: with the dead time d the joint's torque is
``kp (command(t - d) - q) - kd qdot``, and that d is taken with which this explains the torque best.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calibration.dynamics import RigidBody
from calibration.errors import CalibrationError
from calibration.lag import Lag, fit_lag
from calibration.result import Parameter
from calibration.signals import (
    Float,
    MotionLog,
    at_times,
    block_covariance,
    blocks,
    even_times,
    highest_hz,
    margin_s,
    mean_held,
    shifted,
    smooth,
)

_DT_S = 0.002
_LEAST_SPEED_RAD_S = 0.02  # rms; a joint below it does not move
_LEAST_S = 3.0
_REACH_S = 0.2
_STILL_RAD_S = 0.02
_LEAST_SHARE = {True: 0.9, False: 0.98}  # of a torque that was measured, of one by the model
FAST_STATES_S = 0.005
_COARSE = 2  # samples between the delays that are tried first
_BEFORE_S = 0.01
_TURNS = 20
_WIDER, _LOWEST_HZ = 3.0, 0.5  # cut-off over the motion's highest frequency, and the least
_BLOCK_S = 0.5
# What a sampled loop leaves open, beside noise: measured on simulated robots at 50 to 1000 Hz.
_RESOLUTION = {True: 0.25, False: 0.08}  # of a sample; with efforts, with the model's torque
_FINEST_S = {True: 0.0005, False: np.inf}


@dataclass(frozen=True, kw_only=True)
class LatencyConfig:
    """How delays are found.

    Attributes:
        cutoff_hz: motion above it is not looked at; at most a fifth of the rate of the states.
        longest_s: longest dead time that is looked for, s.
        largest_std_s: a delay that is less certain than this is not told, s.
        gravity_compensated: True where the robot's own controller cancels gravity.
    """

    cutoff_hz: float = 8.0
    longest_s: float = 0.15
    largest_std_s: float = 0.002
    gravity_compensated: bool = False


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Delays of a robot; what the log does not tell is named in ``untold``.

    Attributes:
        tables: kind -> joint -> delay. Kinds: ``tracking_lag``, measured behind commanded motion,
            both from positions; ``velocity_lag``, measured behind commanded velocity;
            ``velocity_stamp_offset``, measured velocity behind the derivative of the measured
            position: what the robot's estimate of it, or its stamp, is late by; ``dead_time``,
            between a command and its first effect.
        untold: kind and joint -> why.
        duration_s: of the log, s.
        dead_time_from: ``effort`` or ``model``: whose torque the dead time was found in.
    """

    tables: dict[str, dict[str, Lag]]
    untold: dict[str, str]
    duration_s: float
    dead_time_from: str

    def overall(self, kind: str) -> Lag | None:
        """One kind of delay for the whole robot; None where no joint tells it.

        The median over the joints, each counted by its certainty. Its standard deviation is at
        least what the spread of the joints shows.
        """
        lags = list(self.tables[kind].values())
        if not lags:
            return None
        values, std = (np.array([getattr(lag, k) for lag in lags]) for k in ("value_s", "std_s"))
        weight = 1.0 / std**2
        order = np.argsort(values)
        middle = np.searchsorted(np.cumsum(weight[order]), weight.sum() / 2.0)
        value = float(values[order][middle])
        spread = float(np.sqrt(np.average((values - value) ** 2, weights=weight) / len(lags)))
        share = float(np.median([lag.share for lag in lags]))
        return Lag(value_s=value, std_s=max(float(std.min()), spread), share=share)

    def parameters(self) -> tuple[list[Parameter], list[float]]:
        """All delays as parameters of a result, and their standard deviations."""
        found = [
            (f"{kind}.{joint}", lag)
            for kind, table in self.tables.items()
            for joint, lag in table.items()
        ]
        whole = self.overall("dead_time")
        if whole is not None:  # the only one that a robot has one of
            found.append(("dead_time.robot", whole))
        values = [Parameter(name=name, value=lag.value_s, unit="s") for name, lag in found]
        return values, [lag.std_s for _, lag in found]


def estimate_latency(
    log: MotionLog, config: LatencyConfig, body: RigidBody | None = None
) -> Latency:
    """Find the delays of a robot from a log in which its joints move.

    Args:
        log: commands and states.
        config: how.
        body: the robot's model, for the torques of a log without efforts, or with states so slow
            that efforts show one moment of each command only.

    Raises:
        CalibrationError: too short, or no joint moves.
    """
    start, end = log.span_s()
    if end - start < _LEAST_S:
        raise CalibrationError(
            f"expected at least {_LEAST_S:g} s of motion, got {end - start:.2f} s; record more"
        )
    signals = _Signals(log, config, even_times(start, end, _DT_S))
    moves = np.sqrt(np.mean(signals.speed**2, axis=0)) >= _LEAST_SPEED_RAD_S
    if not moves.any():
        raise CalibrationError(
            f"expected joints that move, but none does by more than {_LEAST_SPEED_RAD_S:g} rad/s "
            "rms; record motion, e.g. that of `realign calibrate excite`"
        )
    torque, source = signals.torque(body)
    kinds = ("tracking_lag", "velocity_lag", "velocity_stamp_offset", "dead_time")
    tables: dict[str, dict[str, Lag]] = {kind: {} for kind in kinds}
    untold: dict[str, str] = {}
    for j, joint in enumerate(log.joint_names):
        if not moves[j]:
            untold[joint] = "does not move"
            continue
        for kind, lag in signals.lags(j, torque).items():
            why = _doubt(kind, lag, config)
            if why:
                untold[f"{kind}.{joint}"] = why
            elif lag is not None:
                tables[kind][joint] = lag
    return Latency(tables=tables, untold=untold, duration_s=end - start, dead_time_from=source)


def _doubt(kind: str, lag: Lag | None, config: LatencyConfig) -> str:
    """Why a delay is not told; empty for a good one."""
    if lag is None and kind == "dead_time":
        return "no PD loop on the command explains the torque"
    if lag is None:
        return "the signals do not resemble each other"
    if lag.std_s > config.largest_std_s:
        return f"known to {lag.std_s * 1e3:.1f} ms only; let the joint move faster"
    return ""


class _Signals:
    """Smoothed signals on an even grid, (T, n), and delays between them."""

    def __init__(self, log: MotionLog, config: LatencyConfig, grid: Float) -> None:
        self._log, self._config, self._grid = log, config, grid
        self._dt_s = float(np.median(np.diff(log.state_s)))
        command = mean_held(log.command_s, log.command_rad, grid, _DT_S)
        # above the motion there is noise only
        line = at_times(log.command_s, log.command_rad, grid)
        asked_for = _WIDER * max(highest_hz(line, _DT_S), _LOWEST_HZ)
        cutoff = min(config.cutoff_hz, 0.2 / self._dt_s, asked_for)
        self._cutoff_hz = cutoff
        self.command, self.command_rate = (smooth(command, _DT_S, cutoff, k) for k in (0, 1))
        self._raw = at_times(log.state_s, log.qpos_rad, grid)
        self.position, self.speed, self._acceleration = (
            smooth(self._raw, _DT_S, cutoff, k) for k in range(3)
        )
        self.velocity = smooth(at_times(log.state_s, log.qvel_rad_s, grid), _DT_S, cutoff)
        self.asked: Float | None = None
        if log.command_vel_rad_s is not None:
            asked = mean_held(log.command_s, log.command_vel_rad_s, grid, _DT_S)
            self.asked = smooth(asked, _DT_S, cutoff)
        self._fine_hz = min(2.0 * cutoff, 0.25 / self._dt_s)
        turning = np.tanh(smooth(self._raw, _DT_S, self._fine_hz, 1) / _STILL_RAD_S)
        self._direction = smooth(turning, _DT_S, cutoff)

    def torque(self, body: RigidBody | None) -> tuple[Float | None, str]:
        """Torques of the joints, and where they come from: ``effort``, ``model`` or nowhere."""
        effort = self._log.effort_nm
        if effort is not None and (self._dt_s <= FAST_STATES_S or body is None):
            measured = at_times(self._log.state_s, effort, self._grid)
            return smooth(measured, _DT_S, self._cutoff_hz), "effort"
        if body is None:
            return None, ""
        thin = max(1, int(1.0 / (12.0 * self._fine_hz * _DT_S)))
        q, v, a = (smooth(self._raw, _DT_S, self._fine_hz, k)[::thin] for k in range(3))
        torque = body.torque(q, v, a)
        if self._config.gravity_compensated:
            torque = torque - body.gravity(q)
        even = at_times(self._grid[::thin], torque, self._grid)
        return smooth(even, _DT_S, self._cutoff_hz), "model"

    def lags(self, j: int, torque: Float | None) -> dict[str, Lag | None]:
        """Every delay of joint ``j``."""
        edge = int(np.ceil(margin_s(self._cutoff_hz) / _DT_S))
        inner = slice(edge, len(self._grid) - edge)

        def lag(lead: Float, follow: Float) -> Lag | None:
            return fit_lag(lead[inner, j], follow[inner, j], _DT_S, reach_s=_REACH_S)

        found = {
            "tracking_lag": lag(self.command_rate, self.speed),
            "velocity_stamp_offset": lag(self.speed, self.velocity),
        }
        if self.asked is not None and np.std(self.asked[:, j]) > 0.0:
            found["velocity_lag"] = lag(self.asked, self.velocity)
        if torque is not None:
            asked = float(np.sqrt(np.mean(self.command_rate[:, j] ** 2)))
            moves = asked >= _LEAST_SPEED_RAD_S
            found["dead_time"] = self._dead_time(j, torque[:, j]) if moves else None
        return found

    def _dead_time(self, j: int, torque: Float) -> Lag | None:
        """The delay with which a PD loop on the command explains the torque best."""
        longest = self._config.longest_s
        edge = int(np.ceil((margin_s(self._cutoff_hz) + longest) / _DT_S))
        apart = max(1, int(1 / (8 * self._cutoff_hz * _DT_S)))
        rows = np.arange(edge, len(torque) - edge, apart)
        if len(rows) < 40:
            return None
        passive = np.stack(
            [self.speed[:, j], np.ones_like(torque), self._acceleration[:, j]]
            + ([] if self._fast else [self._direction[:, j]]),
            axis=1,
        )[rows]
        both = np.stack([self.command[:, j], self.command_rate[:, j]], axis=1)

        def fit(delay: float) -> tuple[float, Float, Float, Float]:
            command, rate = shifted(both, delay / _DT_S, rows).T
            columns = np.column_stack([command - self.position[rows, j], passive])
            solution = np.linalg.lstsq(columns, torque[rows], rcond=None)[0]
            residual = torque[rows] - columns @ solution
            by_delay = -solution[0] * rate
            return float(residual @ residual), np.column_stack([columns, by_delay]), residual, rate

        steps = np.arange(-round(_BEFORE_S / _DT_S), round(longest / _DT_S), _COARSE)
        delay = _DT_S * float(steps[np.argmin([fit(_DT_S * int(k))[0] for k in steps])])
        for _ in range(_TURNS):
            _, columns, residual, _ = fit(delay)
            step = float(np.linalg.lstsq(columns, residual, rcond=None)[0][-1])
            delay += float(np.clip(step, -_COARSE * _DT_S, _COARSE * _DT_S))
            if abs(step) < 1e-7:
                break
        _, columns, residual, _ = fit(delay)
        share = 1.0 - float(np.var(residual) / np.var(torque[rows]))
        if share < _LEAST_SHARE[self._fast] or not -_BEFORE_S <= delay < longest:
            return None
        size = max(1, round(_BLOCK_S / (_DT_S * apart)))
        covariance = block_covariance(columns, residual, blocks(len(residual), size))
        floor = min(_RESOLUTION[self._fast] * self._dt_s, _FINEST_S[self._fast])
        return Lag(
            value_s=delay - (0.5 * self._dt_s if self._fast else 0.0),
            std_s=float(np.hypot(np.sqrt(covariance[-1, -1]), floor)),
            share=share,
        )

    @property
    def _fast(self) -> bool:
        """True where efforts are used; one is that of the step before its stamp."""
        return self._log.effort_nm is not None and self._dt_s <= FAST_STATES_S
