"""The simulator linearised along a log: what each state and each delta does to the next state.

One pass of finite differences, on all threads, gives for each control tick

    error' = r + A error + B delta

with the error of the simulated against the logged state. Multi-step errors, their derivatives and
inverse labels then cost matrix products instead of simulations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.interface import Float, RobotSpec
from sim2real.replay.log import Log, Rows
from sim2real.sim.batch import BatchStepper
from sim2real.sim.tangent import difference, displaced, tangent_size

Progress = Callable[[float], None]
Float32 = NDArray[np.float32]

_SIMULATIONS_PER_CALL = 15_000  # bounds memory: a G1 state is 0.6 kB per physics step
_MAX_NORM = 3000.0

# Wide enough to average over the edge of a contact or of dry friction.
_STEP_POSITION, _STEP_BASE, _STEP_VELOCITY, _STEP_DELTA_RAD = 1e-3, 3e-4, 1e-2, 3e-3


@dataclass(frozen=True, kw_only=True)
class Linearisation:
    """Affine maps of one control tick, one for each of R rows of a log.

    Attributes:
        rows: rows of the log, ascending, (R,).
        residual: state after the tick minus logged next state, (R, x), see
            :func:`sim2real.sim.tangent.displaced`.
        by_state: derivative by the state before, (R, x, x).
        by_delta: derivative by the delta of each chosen joint, (R, x, m), per rad.
    """

    rows: Rows
    residual: Float32
    by_state: Float32
    by_delta: Float32


def linearise(
    stepper: BatchStepper, log: Log, joints: Rows, progress: Progress | None = None
) -> Linearisation:
    """Linearise the simulator around each logged state that has a successor.

    A hard contact that opens or closes can make a derivative of any size; maps with a norm above
    3000 are scaled down to it, or they would rule all that is summed over several ticks.

    Args:
        stepper: the simulator at the log's rate.
        log: episodes.
        joints: indices of the joints that may get a delta, (m,).
        progress: called with the share of the work that is done.
    """
    robot = stepper.robot
    size, many = tangent_size(robot), len(joints)
    steps = _steps(robot)
    # One undisturbed copy, one for each state coordinate, one for each delta.
    shift = np.zeros((1 + size + many, size))
    shift[1 : 1 + size] = np.diag(steps)
    delta = np.zeros((1 + size + many, robot.n))
    delta[1 + size + np.arange(many), joints] = _STEP_DELTA_RAD
    copies = len(shift)
    rows = log.steps()
    residual = np.empty((len(rows), size), np.float32)
    by_state = np.empty((len(rows), size, size), np.float32)
    by_delta = np.empty((len(rows), size, many), np.float32)
    chunk = max(_SIMULATIONS_PER_CALL // copies, 1)
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        repeated = np.repeat(rows[part], copies)
        count = len(rows[part])
        begin = displaced(log.state.map(lambda x, i=repeated: x[i]), np.tile(shift, (count, 1)))  # type: ignore[misc]
        after = stepper.step(
            begin,
            log.setpoint_rad[repeated][:, None],
            log.setpoint_rad[log.before(repeated, stepper.delay_ticks)],
            np.tile(delta, (count, 1))[:, None],
        )
        error = difference(
            after.map(lambda x: x[:, 0]),
            log.state.map(lambda x, i=repeated: x[i + 1]),  # type: ignore[misc]
        ).reshape(count, copies, size)
        residual[part] = error[:, 0]
        moved = (error[:, 1:] - error[:, :1]).transpose(0, 2, 1)
        by_state[part] = moved[:, :, :size] / steps
        by_delta[part] = moved[:, :, size:] / _STEP_DELTA_RAD
        if progress:
            progress(min(start + chunk, len(rows)) / len(rows))
    norm = np.linalg.norm(by_state, axis=(1, 2))
    by_state *= (_MAX_NORM / np.maximum(norm, _MAX_NORM))[:, None, None]
    return Linearisation(rows=rows, residual=residual, by_state=by_state, by_delta=by_delta)


def _steps(robot: RobotSpec) -> Float:
    """Finite-difference step of each state coordinate."""
    base = [_STEP_BASE] * (6 * robot.floating_base)
    rates = [_STEP_VELOCITY] * (robot.n + 6 * robot.floating_base)
    return np.array(base + [_STEP_POSITION] * robot.n + rates)
