"""Many control ticks from many states at once, on all cores (MuJoCo's threaded rollout)."""

from __future__ import annotations

import os
from collections.abc import Sequence

import mujoco
import numpy as np
from mujoco import rollout

from policies.interface import Float, RobotSpec
from sim2real.sim.delay import actuator_delay
from sim2real.sim.gaps import Gap
from sim2real.sim.model import build_model
from sim2real.sim.stepper import Layout, SimState, decimation


class BatchStepper:
    """Steps B copies of a robot by one or several control ticks in one call.

    Args:
        robot: the robot.
        gap: dynamics gap, None for nominal.
        rate_hz: control rate, default ``robot.control_rate_hz``.
        threads: worker threads, default the number of cores.
    """

    def __init__(
        self,
        robot: RobotSpec,
        gap: Gap | None = None,
        *,
        rate_hz: float | None = None,
        threads: int | None = None,
    ) -> None:
        self.robot = robot
        self.model = build_model(robot, gap)
        self.layout = Layout(robot, self.model)
        self.rate_hz = rate_hz or robot.control_rate_hz
        self.decimation = decimation(robot, self.rate_hz)
        self._delay = actuator_delay(robot, gap, self.decimation)
        threads = threads or len(os.sched_getaffinity(0))
        self._data = [mujoco.MjData(self.model) for _ in range(threads)]
        self._rollout = rollout.Rollout(nthread=threads)
        self._spec = mujoco.mjtState.mjSTATE_FULLPHYSICS
        self._size = mujoco.mj_stateSize(self.model, self._spec)
        self._base = np.zeros(self._size)
        mujoco.mj_resetData(self.model, self._data[0])
        if robot.gripper:
            self._data[0].qpos[self.layout.finger_qpos] = robot.gripper.max_width_m / 2.0
        mujoco.mj_getState(self.model, self._data[0], self._base, self._spec)

    def __enter__(self) -> BatchStepper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the worker threads."""
        self._rollout.close()

    @property
    def delay_ticks(self) -> int:
        """Set-points before the present one that can still be on their way to the motors."""
        return self._delay.ticks

    def at_motor(self, targets_rad: Float, previous_rad: Float) -> Float:
        """Set-points as the motors see them after the actuator delay, mean over each tick.

        Args:
            targets_rad: set-points as sent, (B, ticks, n).
            previous_rad: set-points of the ticks before, newest last, (B, k, n).

        Returns:
            (B, ticks, n), rad; ``targets_rad`` itself without a delay.
        """
        return self._delay.at_motor(targets_rad, previous_rad)

    def step(
        self,
        state: SimState,
        targets_rad: Float,
        previous_rad: Float | None = None,
        delta_rad: Float | None = None,
    ) -> SimState:
        """Advance by ``ticks`` control ticks.

        Args:
            state: B states, arrays (B, ...).
            targets_rad: set-points held over each tick, (B, ticks, n).
            previous_rad: set-points of the ticks before, newest last, (B, k, n): what is still in
                the actuator delay of a gap. Default: the joint positions.
            delta_rad: added to the set-points behind the delay, at the motors, (B, ticks, n).

        Returns:
            The states after each tick, arrays (B, ticks, ...).
        """
        applied = self._delay.applied(targets_rad, previous_rad, delta_rad, state.qpos_rad)
        steps = targets_rad.shape[1] * self.decimation
        return self.run(state, np.repeat(applied, steps // applied.shape[1], axis=1))

    def run(
        self, state: SimState, at_motor_rad: Float, models: Sequence[mujoco.MjModel] | None = None
    ) -> SimState:
        """Advance with a set-point at the motors for each physics step.

        Args:
            state: B states, arrays (B, ...).
            at_motor_rad: set-points as they reach the motors, (B, physics steps, n), rad.
            models: a model for each of the B states, of the same structure as :attr:`model`;
                that one for all if not given.

        Returns:
            The states after each control tick, arrays (B, ticks, ...).
        """
        batch, steps, _ = at_motor_rad.shape
        model = self.model
        start = np.tile(self._base, (batch, 1))
        self.layout.write(
            state, start[:, 1 : 1 + model.nq], start[:, 1 + model.nq :][:, : model.nv]
        )
        control = np.zeros((batch, steps, model.nu))
        if self.layout.fingers:
            control[:, :, self.layout.fingers] = self.robot.gripper.max_width_m / 2.0  # type: ignore[union-attr]
        control[:, :, self.layout.ctrl] = at_motor_rad
        states, _sensors = self._rollout.rollout(models or model, self._data, start, control)
        ends = states[:, self.decimation - 1 :: self.decimation]
        qpos = ends[..., 1 : 1 + model.nq]
        qvel = ends[..., 1 + model.nq : 1 + model.nq + model.nv]
        return self.layout.read(qpos, qvel)
