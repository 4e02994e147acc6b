"""Simulators in other processes behind the interfaces of those in this one."""

from __future__ import annotations

import os
import sys

import numpy as np

from policies.errors import FaultError, InputError
from policies.interface import Float, RobotSpec
from sim2real.sim.delay import actuator_delay
from sim2real.sim.gaps import Gap
from sim2real.sim.remote.description import describe
from sim2real.sim.remote.process import Limits, Worker
from sim2real.sim.remote.workers.wire import States
from sim2real.sim.stepper import SimState, decimation, default_state

PLAYS_BATCHES = ("mujoco", "isaacgym")
"""Engines that play a batch in one process; of the others there are as many as there are cores."""


class RemoteStepper:
    """Steps B copies of a robot in workers (an :class:`sim2real.sim.engine.Engine`).

    Args:
        engine: ``mujoco``, ``sapien`` or ``isaacgym``.
        robot: the robot.
        gap: dynamics gap, None for nominal.
        rate_hz: control rate, default ``robot.control_rate_hz``.
        python: interpreter that has the engine, default this one.
        processes: workers that share a batch; default as :data:`PLAYS_BATCHES` says. They start
            when a batch first needs them.
        limits: time limits.

    Raises:
        InputError: the worker cannot be started, or cannot build the robot.
    """

    def __init__(
        self,
        engine: str,
        robot: RobotSpec,
        gap: Gap | None = None,
        *,
        rate_hz: float | None = None,
        python: str | None = None,
        processes: int | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.engine, self.robot = engine, robot
        self.rate_hz = rate_hz or robot.control_rate_hz
        self.decimation = decimation(robot, self.rate_hz)
        self._delay = actuator_delay(robot, gap, self.decimation)
        self._description = describe(robot, gap)
        self._python = python or sys.executable
        self._limits = limits
        if processes is None:
            processes = 1 if engine in PLAYS_BATCHES else len(os.sched_getaffinity(0))
        self._processes = processes
        self._workers = [self._start()]

    def _start(self) -> Worker:
        return Worker(self.engine, self._python, self._description, limits=self._limits)

    def __enter__(self) -> RemoteStepper:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.close()

    @property
    def version(self) -> str:
        """Engine, its version and that of its Python, for provenance."""
        hello = self._workers[0].hello
        return f"{hello['engine']} {hello['version']} (Python {hello['python']})"

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that have been started."""
        return [worker.pid for worker in self._workers]

    @property
    def mass_kg(self) -> float:
        """Mass of the robot as the engine built it, kg."""
        return self._workers[0].mass_kg

    @property
    def delay_ticks(self) -> int:
        """Set-points before the present one that can still be on their way to the motors."""
        return self._delay.ticks

    def at_motor(self, targets_rad: Float, previous_rad: Float) -> Float:
        """Set-points (B, ticks, n) as the motors see them, mean over each tick, (B, ticks, n)."""
        return self._delay.at_motor(targets_rad, previous_rad)

    def step(
        self,
        state: SimState,
        targets_rad: Float,
        previous_rad: Float | None = None,
        delta_rad: Float | None = None,
    ) -> SimState:
        """Advance by control ticks, as :meth:`sim2real.sim.engine.Engine.step` describes it.

        Raises:
            InputError: arrays of a wrong shape or with values that are not finite.
            FaultError: a worker died or took too long.
        """
        targets = np.asarray(targets_rad)
        n = self.robot.n
        if targets.ndim != 3 or targets.shape[2] != n or 0 in targets.shape:
            raise InputError(
                f"expected set-points of shape (robots, ticks, {n}) for {self.robot.name}, got "
                f"{targets.shape}; give all joints, in canonical order"
            )
        batch, ticks, _ = targets.shape
        rows = _rows(self.robot, state, batch)
        applied = self._delay.applied(targets, previous_rad, delta_rad, rows.qpos)
        if not np.isfinite(applied).all():
            raise InputError(
                f"expected finite set-points for {self.robot.name}, got NaN or infinity; "
                "drop the samples or the policy that they come from"
            )
        while len(self._workers) < min(self._processes, batch):
            self._workers.append(self._start())
        try:
            return self._rollout(rows, applied, ticks)
        except InputError:
            raise
        except BaseException:  # some workers may still have an answer to give
            self.close()
            raise

    def _rollout(self, rows: States, applied: Float, ticks: int) -> SimState:
        """Share the robots among the workers, and put their answers together."""
        batch, count = applied.shape[:2]
        many = min(len(self._workers), batch)
        edges = [i * batch // many for i in range(many + 1)]
        shares = list(zip(self._workers, edges[:-1], edges[1:], strict=False))
        for worker, first, last in shares:
            call = worker.arrays(last - first, ticks, count)
            _fill(call.start, rows, slice(first, last))
            call.setpoints[:] = applied[first:last]
            worker.send("rollout", last - first, ticks, count, ticks * self.decimation // count)
        parts, refused = [], []
        for worker, first, last in shares:
            try:
                worker.wait()
            except InputError as error:  # only after all have answered
                refused.append(error)
            else:
                parts.append(_state(worker.arrays(last - first, ticks, count).out))
        if refused:
            raise refused[0]
        return _joined(parts)


class RemoteRobot:
    """One robot that keeps its state inside the engine, stepped like :class:`Stepper`.

    Unlike :class:`RemoteStepper`, which starts every call from states, it keeps what an engine
    remembers beside the state (PhysX: contacts and the friction that has built up in them).

    Args: as :class:`RemoteStepper`.
    """

    def __init__(
        self,
        engine: str,
        robot: RobotSpec,
        gap: Gap | None = None,
        *,
        rate_hz: float | None = None,
        python: str | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.robot = robot
        self.decimation = decimation(robot, rate_hz or robot.control_rate_hz)
        self._delay = actuator_delay(robot, gap, self.decimation)
        self._worker = Worker(engine, python or sys.executable, describe(robot, gap), limits=limits)
        self._sent: Float = np.zeros((1, 0, robot.n))
        self.reset(default_state(robot))

    def __enter__(self) -> RemoteRobot:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worker."""
        self._worker.close()

    def reset(self, state: SimState, previous_targets: Float | None = None) -> None:
        """Start from ``state``, arrays (n,).

        Args:
            state: the state.
            previous_targets: commands of the control ticks before this one, newest last, (k, n).
                Default: the joint positions.

        Raises:
            InputError: arrays of a wrong shape or with values that are not finite.
        """
        rows = _rows(self.robot, state.map(lambda x: np.asarray(x)[None]), 1)
        if previous_targets is None or len(previous_targets) == 0:
            previous_targets = rows.qpos
        self._sent = np.asarray(previous_targets)[None]
        call = self._worker.arrays(1, 1, 1)
        _fill(call.start, rows, slice(None))
        self._call("reset", 1, 1)

    def step(self, target_rad: Float, *, damp: bool = False) -> None:
        """Hold the set-point (n,), rad, for one control tick.

        Args:
            target_rad: joint set-points, (n,), rad.
            damp: True for torque = -kd qdot instead of the PD loop.

        Raises:
            InputError: a wrong shape or values that are not finite.
            FaultError: the worker died or took too long.
        """
        if damp:
            self._damp()
            return
        target = np.asarray(target_rad, dtype=np.float64)
        if target.shape != (self.robot.n,) or not np.isfinite(target).all():
            raise InputError(
                f"expected {self.robot.n} finite joint set-points for {self.robot.name}, got "
                f"{target}; correct the command"
            )
        target = target[None, None]
        applied = self._delay.applied(target, self._sent, None, self._sent[:, -1])
        if self._delay.ticks:
            self._sent = np.concatenate([self._sent, target], axis=1)[:, -self._delay.ticks :]
        count = applied.shape[1]
        self._worker.arrays(1, 1, count).setpoints[:] = applied
        self._call("advance", count, self.decimation // count)

    def _damp(self) -> None:
        for _ in range(self.decimation):  # a set-point at the present position leaves -kd qdot
            self._worker.arrays(1, 1, 1).setpoints[:] = self._state.qpos_rad
            self._call("advance", 1, 1)

    def _call(self, op: str, setpoints: int, steps: int) -> None:
        self._worker.send(op, 1, 1, setpoints, steps)
        self._worker.wait()
        out = self._worker.arrays(1, 1, setpoints).out.row(0).row(0)
        self._state, self._effort = _state(out), np.array(out.effort)
        if not np.isfinite(self._state.qpos_rad).all():
            raise FaultError(
                f"the simulation of {self.robot.name} in {self._worker.engine} diverged: joint "
                "positions are not finite; lower the gains or the commands"
            )

    @property
    def state(self) -> SimState:
        """The present state, arrays (n,)."""
        return self._state

    @property
    def effort_nm(self) -> Float:
        """Motor torques of the last physics step, (n,), Nm; zero after a reset."""
        return self._effort


def _rows(robot: RobotSpec, state: SimState, batch: int) -> States:
    """Check B states and give them as the wire has them."""
    base = None
    if robot.floating_base:
        zero = np.zeros((batch, 3))
        if state.base_pos_m is None or state.base_quat_wxyz is None:
            raise InputError(
                f"expected a base pose for the legged robot {robot.name}, got none; "
                "record /odom together with /joint_states"
            )
        lin, ang = state.base_lin_vel_m_s, state.base_ang_vel_rad_s
        parts = [
            state.base_pos_m,
            state.base_quat_wxyz,
            zero if lin is None else lin,
            zero if ang is None else ang,
        ]
        widths = [np.shape(part) for part in parts]
        if widths != [(batch, 3), (batch, 4), (batch, 3), (batch, 3)]:
            raise InputError(
                f"expected {batch} base poses (3 and 4 values) and velocities (3 and 3) for "
                f"{robot.name}, got arrays of shapes {widths}; give one row for each robot"
            )
        base = np.concatenate(parts, axis=1)
    qpos, qvel = np.asarray(state.qpos_rad), np.asarray(state.qvel_rad_s)
    if qpos.shape != (batch, robot.n) or qvel.shape != (batch, robot.n):
        raise InputError(
            f"expected joint states of shape {(batch, robot.n)} for {robot.name}, got "
            f"{qpos.shape} and {qvel.shape}; give all joints, one row for each robot"
        )
    for values in (qpos, qvel, base):
        if values is not None and not np.isfinite(values).all():
            raise InputError(
                f"expected finite states of {robot.name} to start from, got NaN or infinity; "
                "drop the samples"
            )
    return States(qpos, qvel, base, None)


def _fill(start: States, rows: States, part: slice) -> None:
    start.qpos[:], start.qvel[:] = rows.qpos[part], rows.qvel[part]
    if rows.base is not None:
        start.base[:] = rows.base[part]


def _state(out: States) -> SimState:
    """Copy of the arrays that a worker has filled."""
    joints = np.array(out.qpos), np.array(out.qvel)
    if out.base is None:
        return SimState(qpos_rad=joints[0], qvel_rad_s=joints[1])
    base = np.array(out.base)
    return SimState(
        qpos_rad=joints[0],
        qvel_rad_s=joints[1],
        base_pos_m=base[..., 0:3],
        base_quat_wxyz=base[..., 3:7],
        base_lin_vel_m_s=base[..., 7:10],
        base_ang_vel_rad_s=base[..., 10:13],
    )


def _joined(parts: list[SimState]) -> SimState:
    if len(parts) == 1:
        return parts[0]
    arrays = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name, value in vars(parts[0]).items()
        if value is not None
    }
    return SimState(**arrays)
