"""Inverse labelling: the smallest change of the set-point that explains what the robot did.

For each logged step ``(s_t, a_t, s_t+1)`` the delta ``d`` solves

    min_d  |W (f(s_t, a_t + d) - s_t+1)|^2 + ridge^2 |d|^2     subject to |d| <= limit

where ``f`` is one control tick of the nominal simulator. All steps run side by side: an iteration
of Gauss-Newton is one batch of ``B (m + 1)`` one-tick simulations (finite differences in the ``m``
chosen joints) and one of ``B`` to accept or refuse the step. ASAP (arXiv 2502.01143) finds the same
deltas by reinforcement learning over whole episodes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.interface import Float
from policies.rotation import rotation_vector
from sim2real.replay.log import Log, Rows
from sim2real.sim.batch import BatchStepper
from sim2real.sim.stepper import SimState

Progress = Callable[[float], None]

_SIMULATIONS_PER_CALL = 20_000  # bounds memory: a G1 state is 0.6 kB per physics step

_BASE_RATES = ("base_lin_vel_m_s", "base_ang_vel_rad_s")


@dataclass(frozen=True, kw_only=True)
class LabelConfig:
    """How labels are found.

    Attributes:
        limit_rad: largest delta, rad.
        iterations: Gauss-Newton steps.
        ridge: cost of a delta against the errors below, (rad/s) / rad.
        position_weight: weight of position errors against velocity errors, per control tick: an
            error of position counts as the velocity that would make it in ``1 / weight`` ticks.
            Well below 1, replayed labels drift away from the log.
        base_weight: weight of base errors (m/s, rad/s) against joint errors (rad/s).
        probe_rad: step of the finite differences, rad.
        ticks: control ticks over which one delta is held and compared with the log; more than one
            averages the noise of measured velocities.
    """

    limit_rad: float
    iterations: int = 2
    ridge: float = 0.3
    position_weight: float = 5.0
    base_weight: float = 3.0
    probe_rad: float = 1e-3
    ticks: int = 1


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


def _errors(target: SimState, state: SimState, config: LabelConfig, rate_hz: float) -> Float:
    """Weighted differences in rad/s, (..., ticks, r) flattened to (..., ticks * r)."""
    near = config.position_weight * rate_hz
    parts = [
        target.qvel_rad_s - state.qvel_rad_s,
        near * (target.qpos_rad - state.qpos_rad),
    ]
    if target.base_pos_m is not None:
        want, have = vars(target), vars(state)
        parts += [config.base_weight * (want[k] - have[k]) for k in _BASE_RATES]
        parts.append(config.base_weight * near * (want["base_pos_m"] - have["base_pos_m"]))
        turn = rotation_vector(have["base_quat_wxyz"], want["base_quat_wxyz"])
        parts.append(config.base_weight * near * turn)
    joined = np.concatenate(parts, axis=-1)
    return joined.reshape(*joined.shape[:-2], -1)


def solve(
    stepper: BatchStepper,
    state: SimState,
    setpoint_rad: Float,
    previous_rad: Float,
    target: SimState,
    joints: Rows,
    config: LabelConfig,
    progress: Progress | None = None,
) -> tuple[Float, Float, Float]:
    """Find the deltas that lead from ``state`` to ``target``.

    Args:
        stepper: the simulator to correct.
        state: states to start from, arrays (B, ...).
        setpoint_rad: commanded set-points of the ticks ahead, (B, ticks, n), rad.
        previous_rad: those of the ticks before, which the actuator delay still holds back,
            (B, stepper.delay_ticks, n), rad.
        target: states after each of these ticks, arrays (B, ticks, ...).
        joints: indices of the joints that may get a delta, (m,).
        config: weights, bound and iterations.
        progress: called with the share of the work that is done.

    Returns:
        Deltas (B, n), rad, zero for the other joints; squared weighted errors before and after,
        each (B,), (rad/s)^2.
    """
    batch = len(setpoint_rad)
    chunk = max(_SIMULATIONS_PER_CALL // (config.ticks * (len(joints) + 1)), 1)
    parts = []
    for start in range(0, batch, chunk):
        part = slice(start, start + chunk)
        parts.append(
            _solve_chunk(
                stepper,
                state.map(lambda x, p=part: x[p]),  # type: ignore[misc]
                setpoint_rad[part],
                previous_rad[part],
                target.map(lambda x, p=part: x[p]),  # type: ignore[misc]
                joints,
                config,
            )
        )
        if progress:
            progress(min(start + chunk, batch) / batch)
    delta, before, after = (np.concatenate(x) for x in zip(*parts, strict=True))
    return delta, before, after


def _solve_chunk(
    stepper: BatchStepper,
    state: SimState,
    setpoint_rad: Float,
    previous_rad: Float,
    target: SimState,
    joints: Rows,
    config: LabelConfig,
) -> tuple[Float, Float, Float]:
    batch, ticks, n = setpoint_rad.shape
    many = len(joints)

    def errors(start: SimState, goal: SimState, command: Float, delta: Float) -> Float:
        held = np.repeat(delta[:, None], ticks, axis=1)
        before = np.repeat(previous_rad, len(command) // batch, axis=0)
        return _errors(goal, stepper.step(start, command, before, held), config, stepper.rate_hz)

    # The same states once for each joint that is probed, sample by sample.
    starts = state.map(lambda x: np.repeat(x, many, axis=0))
    goals = target.map(lambda x: np.repeat(x, many, axis=0))
    commands = np.repeat(setpoint_rad, many, axis=0)
    probe = np.zeros((many, n))
    probe[np.arange(many), joints] = config.probe_rad

    delta = np.zeros((batch, n))
    error = errors(state, target, setpoint_rad, delta)
    before = (error**2).sum(axis=1)
    cost = before.copy()
    size = np.ones(batch)
    for _ in range(config.iterations):
        probed = (delta[:, None] + probe).reshape(-1, n)
        shifted = errors(starts, goals, commands, probed).reshape(batch, many, -1)
        jacobian = (error[:, None] - shifted) / config.probe_rad  # of the state: minus the error's
        normal = jacobian @ jacobian.transpose(0, 2, 1) + config.ridge**2 * np.eye(many)
        slope = (jacobian @ error[..., None])[..., 0] - config.ridge**2 * delta[:, joints]
        step = np.linalg.solve(normal, slope[..., None])[..., 0]
        trial = delta.copy()
        trial[:, joints] += size[:, None] * step
        trial = np.clip(trial, -config.limit_rad, config.limit_rad)
        new_error = errors(state, target, setpoint_rad, trial)
        new_cost = (new_error**2).sum(axis=1) + config.ridge**2 * (trial**2).sum(axis=1)
        better = new_cost < cost
        delta[better], error[better], cost[better] = (
            trial[better],
            new_error[better],
            new_cost[better],
        )
        size = np.where(better, 1.0, 0.3 * size)  # contacts and friction can spoil a full step
    return delta, before, (error**2).sum(axis=1)


def label_log(
    stepper: BatchStepper,
    log: Log,
    joints: Rows,
    config: LabelConfig,
    progress: Progress | None = None,
) -> tuple[Rows, Float, LabelStats]:
    """Label every step of a log.

    Args:
        stepper: nominal simulator at the log's rate.
        log: episodes.
        joints: indices of the joints that may get a delta, (m,).
        config: weights, bound and iterations.
        progress: called with the share of the work that is done.

    Returns:
        Rows of the log that have a label (B,), their deltas (B, n) in rad, and statistics.
    """
    rows = log.steps(config.ticks)
    ahead = log.ahead(rows, config.ticks)
    delta, before, after = solve(
        stepper,
        log.state.map(lambda x: x[rows]),
        log.setpoint_rad[ahead[:, :-1]],
        log.setpoint_rad[log.before(rows, stepper.delay_ticks)],
        log.state.map(lambda x: x[ahead[:, 1:]]),
        joints,
        config,
        progress,
    )
    return rows, delta, stats(delta, before, after, joints, config)


def stats(
    delta: Float, before: Float, after: Float, joints: Rows, config: LabelConfig
) -> LabelStats:
    """Summarise labels as :func:`solve` returns them."""
    terms = config.ticks * delta.shape[1]
    bounded: NDArray[np.bool_] = np.abs(delta[:, joints]) >= config.limit_rad * (1.0 - 1e-9)
    return LabelStats(
        count=len(delta),
        error_before=float(np.sqrt(before.mean() / terms)),
        error_after=float(np.sqrt(after.mean() / terms)),
        rms_rad=np.sqrt((delta**2).mean(axis=0)),
        at_limit=float(bounded.mean()),
    )
