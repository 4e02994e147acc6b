"""Inverse labels: the smallest change of the set-point that explains one tick of the log.

For each step ``(s_t, a_t, s_t+1)`` the delta ``d`` solves

    min_d  |W (f(s_t, a_t + d) - s_t+1)|^2 + ridge^2 |d|^2     subject to |d| <= limit

where ``f`` is one control tick of the simulator. All steps run side by side: the Jacobian comes
from :mod:`sim2real.delta.linear`, each Gauss-Newton step is accepted or refused by a batch of real
simulations, sample by sample. ASAP (arXiv 2502.01143) finds such deltas by reinforcement learning
over whole episodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.interface import Float, RobotSpec
from sim2real.delta.linear import Float32, Linearisation
from sim2real.replay.log import Log, Rows
from sim2real.sim.engine import Engine
from sim2real.sim.stepper import SimState
from sim2real.sim.tangent import difference

Progress = Callable[[float], None]

_OUTLIER = 5.0  # errors of this many typical ones begin to count less: impacts, lost samples


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """How labels are found.

    Attributes:
        limit_rad: largest delta, rad.
        iterations: Gauss-Newton steps.
        ridge: cost of a delta against the errors below, (rad/s) / rad.
        position_weight: weight of position errors against velocity errors, per control tick: an
            error of position counts as the velocity that would make it in ``1 / weight`` ticks.
            Well below 1, replayed labels drift away from the log; noisy velocities want more.
        base_weight: weight of base errors (m/s, rad/s) against joint errors (rad/s).
    """

    limit_rad: float
    iterations: int = 3
    ridge: float = 0.3
    position_weight: float = 5.0
    base_weight: float = 3.0


@dataclass(frozen=True, kw_only=True)
class LabelStats:
    """What the labels look like.

    Attributes:
        count: labelled steps.
        error_before, error_after: weighted error of the next state without and with the delta,
            root mean square per joint, rad/s.
        rms_rad: size of the delta of each joint, root mean square, (n,), rad.
        at_limit: share of deltas that sit on the bound.
    """

    count: int
    error_before: float
    error_after: float
    rms_rad: Float
    at_limit: float


def _weights(robot: RobotSpec, config: LabelConfig, rate_hz: float) -> Float:
    """Weights of the coordinates of a state difference, so that errors are in rad/s, (x,)."""
    base = [config.base_weight] * (6 * robot.floating_base)
    rates = np.array(base + [1.0] * robot.n)
    return np.concatenate([config.position_weight * rate_hz * rates, rates])


def solve(
    stepper: Engine,
    state: SimState,
    setpoint_rad: Float,
    previous_rad: Float,
    target: SimState,
    by_delta: Float32,
    joints: Rows,
    config: LabelConfig,
    *,
    base_rad: Float | None = None,
) -> tuple[Float, Float, Float]:
    """Find the deltas that lead from ``state`` to ``target`` in one control tick.

    Args:
        stepper: the simulator to correct.
        state: states to start from, arrays (B, ...).
        setpoint_rad: commanded set-points, (B, n), rad.
        previous_rad: those of the ticks before, which the actuator delay still holds back,
            (B, stepper.delay_ticks, n), rad.
        target: states to reach, arrays (B, ...).
        by_delta: derivative of the reached state by the deltas, (B, x, m), per rad.
        joints: indices of the joints that may get a delta, (m,).
        config: weights, bound and iterations.
        base_rad: deltas that act anyway, (B, n); the labels come on top, and the bound is on the
            sum.

    Returns:
        Deltas (B, n), rad, zero for the other joints; squared weighted errors before and after,
        each (B,), (rad/s)^2.
    """
    robot, many = stepper.robot, len(joints)
    base = np.zeros_like(setpoint_rad) if base_rad is None else base_rad
    weights = _weights(robot, config, stepper.rate_hz)

    def errors(delta: Float) -> Float:
        after = stepper.step(
            state, setpoint_rad[:, None], previous_rad, (base + delta)[:, None]
        ).map(lambda x: x[:, 0])
        return difference(target, after) * weights

    delta = np.zeros_like(setpoint_rad)
    error = errors(delta)
    typical = np.median(np.abs(error), axis=0) + 1e-3
    trust = 1.0 / np.sqrt(1.0 + (error / (_OUTLIER * typical)) ** 2)
    before = (error**2).sum(axis=1)
    jacobian = by_delta * (weights * trust)[:, :, None]
    normal = jacobian.transpose(0, 2, 1) @ jacobian + config.ridge**2 * np.eye(many)
    cost = ((trust * error) ** 2).sum(axis=1)
    size = np.ones(len(delta))
    for _ in range(config.iterations):
        slope = (jacobian * (trust * error)[:, :, None]).sum(axis=1)
        slope -= config.ridge**2 * delta[:, joints]
        step = np.linalg.solve(normal, slope[..., None])[..., 0]
        trial = delta.copy()
        trial[:, joints] += size[:, None] * step
        trial = np.clip(base + trial, -config.limit_rad, config.limit_rad) - base
        trial[:, np.setdiff1d(np.arange(robot.n), joints)] = 0.0
        new_error = errors(trial)
        new_cost = ((trust * new_error) ** 2).sum(axis=1)
        new_cost += config.ridge**2 * (trial**2).sum(axis=1)
        better = new_cost < cost
        delta[better], error[better], cost[better] = (
            trial[better],
            new_error[better],
            new_cost[better],
        )
        size = np.where(better, 1.0, 0.3 * size)  # contacts and friction can spoil a full step
    return delta, before, (error**2).sum(axis=1)


def label_log(
    stepper: Engine,
    log: Log,
    linear: Linearisation,
    joints: Rows,
    config: LabelConfig,
    *,
    base_rad: Float | None = None,
) -> tuple[Float, LabelStats]:
    """Label every step of a log.

    Args:
        stepper: the simulator at the log's rate.
        log: episodes.
        linear: the simulator along the log; its rows are labelled.
        joints: indices of the joints that may get a delta, (m,).
        config: weights, bound and iterations.
        base_rad: deltas that act anyway at these rows, (R, n).

    Returns:
        Deltas of ``linear.rows`` (R, n) in rad, and statistics.
    """
    rows = linear.rows
    delta, before, after = solve(
        stepper,
        log.state.map(lambda x: x[rows]),
        log.setpoint_rad[rows],
        log.setpoint_rad[log.before(rows, stepper.delay_ticks)],
        log.state.map(lambda x: x[rows + 1]),
        linear.by_delta,
        joints,
        config,
        base_rad=base_rad,
    )
    return delta, stats(delta, before, after, joints, config)


def stats(
    delta: Float, before: Float, after: Float, joints: Rows, config: LabelConfig
) -> LabelStats:
    """Summarise labels as :func:`solve` returns them."""
    terms = delta.shape[1]
    bounded: NDArray[np.bool_] = np.abs(delta[:, joints]) >= config.limit_rad * (1.0 - 1e-9)
    return LabelStats(
        count=len(delta),
        error_before=float(np.sqrt(before.mean() / terms)),
        error_after=float(np.sqrt(after.mean() / terms)),
        rms_rad=np.sqrt((delta**2).mean(axis=0)),
        at_limit=float(bounded.mean()),
    )
