"""Windows of a log as a least-squares problem: what a simulator should have done, and did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.interface import Float, RobotSpec
from policies.rotation import rotation_vector
from sim2real.replay.log import Log, Rows
from sim2real.sim.gaps import Gap
from sim2real.sim.parameters import Variants
from sim2real.sim.stepper import SimState

_COMPARED_TICKS = 25  # of a window at a high rate, evenly spread
_DELAY_TICKS_S = 0.1
_VARIANTS = 8  # simulated before their states are thinned out

# Errors that no sensor would show: rad, rad/s; m, rad, m/s, rad/s of the base.
_JOINT_FLOOR = (2e-4, 5e-3)
_BASE_FLOOR = (5e-4, 5e-4, 5e-3, 5e-3)


@dataclass(frozen=True, kw_only=True)
class Windows:
    """B windows of T control ticks, from logged states.

    Attributes:
        start: states to start from, arrays (B, ...).
        targets_rad: set-points of each tick, (B, T, n).
        previous_rad: set-points of the ticks before, newest last, (B, k, n).
        goal: logged states at the ticks that are compared, arrays (B, K, ...).
        compared: those ticks, (K,), 0 for the state after the first.
    """

    start: SimState
    targets_rad: Float
    previous_rad: Float
    goal: SimState
    compared: Rows

    def __len__(self) -> int:
        return len(self.targets_rad)

    @classmethod
    def of(cls, log: Log, rows: Rows, ticks: int) -> Windows:
        """Windows of ``ticks`` from ``rows`` of a log."""
        ahead = log.ahead(rows, ticks)
        count = min(ticks, _COMPARED_TICKS)
        compared = np.unique(np.linspace(ticks / count, ticks, count).round().astype(int)) - 1
        before = log.before(rows, max(round(_DELAY_TICKS_S * log.rate_hz), 1) + 1)
        return cls(
            start=log.state.map(lambda x: x[rows]),
            targets_rad=log.setpoint_rad[ahead[:, :-1]],
            previous_rad=log.setpoint_rad[before],
            goal=log.state.map(lambda x: x[ahead[:, 1 + compared]]),
            compared=compared,
        )

    def errors(self, variants: Variants, gaps: Sequence[Gap]) -> Float:
        """What each of V simulators gets wrong, (V, B, K, C), in the order of :func:`signals`."""
        parts = []
        for first in range(0, len(gaps), _VARIANTS):
            some = gaps[first : first + _VARIANTS]
            end = variants.play(some, self.start, self.targets_rad, self.previous_rad)
            parts.append(_difference(end.map(lambda x: x[:, :, self.compared]), self.goal))
        return np.concatenate(parts)


def _difference(state: SimState, goal: SimState) -> Float:
    parts = [state.qpos_rad - goal.qpos_rad, state.qvel_rad_s - goal.qvel_rad_s]
    if goal.base_pos_m is not None:
        have, want = vars(state), vars(goal)
        parts.append(have["base_pos_m"] - want["base_pos_m"])
        want_quat = np.broadcast_to(want["base_quat_wxyz"], have["base_quat_wxyz"].shape)
        parts.append(rotation_vector(want_quat, have["base_quat_wxyz"]))
        parts += [have[k] - want[k] for k in ("base_lin_vel_m_s", "base_ang_vel_rad_s")]
    return np.concatenate(parts, axis=-1)


def signals(robot: RobotSpec) -> tuple[Float, Rows]:
    """Smallest believable noise (C,) and kind (C,) of each signal of :meth:`Windows.errors`."""
    sizes = [(robot.n, value) for value in _JOINT_FLOOR]
    sizes += [(3, value) for value in _BASE_FLOOR] if robot.floating_base else []
    floor = np.concatenate([np.full(count, value) for count, value in sizes])
    return floor, np.repeat(np.arange(len(sizes)), [count for count, _ in sizes])
