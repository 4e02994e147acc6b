"""One simulated robot: reset to a state, step a control tick, read the state back."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import mujoco
import numpy as np

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from sim2real.sim.gaps import Gap
from sim2real.sim.model import JointParameters, build_model
from sim2real.sim.scene import OBJECT_PREFIX, SceneObject, Things, build_scene


@dataclass(frozen=True, kw_only=True)
class SimState:
    """State of a robot at one instant; joint arrays in canonical order.

    Attributes:
        qpos_rad, qvel_rad_s: joint positions (n,) and velocities (n,).
        base_pos_m: base position in the world, (3,), or None for a fixed base.
        base_quat_wxyz: base orientation in the world, (4,), or None.
        base_lin_vel_m_s: base velocity in the world frame, (3,), or None.
        base_ang_vel_rad_s: base angular velocity in the base frame, (3,), or None.
    """

    qpos_rad: Float
    qvel_rad_s: Float
    base_pos_m: Float | None = None
    base_quat_wxyz: Float | None = None
    base_lin_vel_m_s: Float | None = None
    base_ang_vel_rad_s: Float | None = None

    def map(self, change: Callable[[Float], Float]) -> SimState:
        """The state with ``change`` applied to each array that it has (index, repeat, ...)."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        changed: dict[str, Any] = {k: change(v) for k, v in arrays.items() if v is not None}
        return SimState(**changed)


def stack(states: Sequence[SimState]) -> SimState:
    """States of B robots at successive instants, arrays (B, ...) -> one of arrays (B, T, ...)."""
    arrays: dict[str, Any] = {
        f.name: np.stack([getattr(s, f.name) for s in states], axis=1)
        for f in fields(SimState)
        if getattr(states[0], f.name) is not None
    }
    return SimState(**arrays)


class Layout:
    """Where the robot's joints, base and bodies lie in a model's arrays."""

    def __init__(self, robot: RobotSpec, model: mujoco.MjModel) -> None:
        joints = [model.joint(name) for name in robot.joint_names]
        self.qpos = np.array([j.qposadr[0] for j in joints])
        self.qvel = np.array([j.dofadr[0] for j in joints])
        self.ctrl = np.array([model.actuator(name).id for name in robot.joint_names])
        coupled = [model.joint(name) for name, _ in robot.coupled]
        self._coupled_qpos = np.array([j.qposadr[0] for j in coupled], dtype=int)
        self._coupled_qvel = np.array([j.dofadr[0] for j in coupled], dtype=int)
        self._leaders = np.array([robot.joint_names.index(b) for _, b in robot.coupled], dtype=int)
        self.base_qpos = 0 if robot.floating_base else None
        # The robot's own bodies: a payload or the world is not part of a pose error.
        own = [
            i
            for i in range(1, model.nbody)
            if not model.body(i).name.endswith("_payload")
            and not model.body(i).name.startswith(OBJECT_PREFIX)
            and model.body(i).name != "world"
        ]
        self.bodies = np.array(own)
        self.body_names = [model.body(i).name for i in own]
        self.fingers = (
            [model.actuator(name).id for name in robot.gripper.finger_joints]
            if robot.gripper
            else []
        )
        self.finger_qpos = (
            [int(model.joint(name).qposadr[0]) for name in robot.gripper.finger_joints]
            if robot.gripper
            else []
        )

    def write(self, state: SimState, qpos: Float, qvel: Float) -> None:
        """Put ``state`` into full arrays qpos (..., nq) and qvel (..., nv), in place."""
        qpos[..., self.qpos] = state.qpos_rad
        qvel[..., self.qvel] = state.qvel_rad_s
        qpos[..., self._coupled_qpos] = state.qpos_rad[..., self._leaders]
        qvel[..., self._coupled_qvel] = state.qvel_rad_s[..., self._leaders]
        if self.base_qpos is not None:
            if state.base_pos_m is None or state.base_quat_wxyz is None:
                raise InputError(
                    "expected a base pose for a legged robot, got none; "
                    "record /odom together with /joint_states"
                )
            qpos[..., 0:3] = state.base_pos_m
            qpos[..., 3:7] = state.base_quat_wxyz
            qvel[..., 0:3] = 0.0 if state.base_lin_vel_m_s is None else state.base_lin_vel_m_s
            qvel[..., 3:6] = 0.0 if state.base_ang_vel_rad_s is None else state.base_ang_vel_rad_s

    def read(self, qpos: Float, qvel: Float) -> SimState:
        """The robot's part of full arrays qpos (..., nq) and qvel (..., nv), copied."""
        joints = qpos[..., self.qpos].copy(), qvel[..., self.qvel].copy()
        if self.base_qpos is None:
            return SimState(qpos_rad=joints[0], qvel_rad_s=joints[1])
        return SimState(
            qpos_rad=joints[0],
            qvel_rad_s=joints[1],
            base_pos_m=qpos[..., 0:3].copy(),
            base_quat_wxyz=qpos[..., 3:7].copy(),
            base_lin_vel_m_s=qvel[..., 0:3].copy(),
            base_ang_vel_rad_s=qvel[..., 3:6].copy(),
        )


class Stepper:
    """A robot in MuJoCo.

    Args:
        robot: the robot.
        gap: dynamics gap, None for nominal.
        rate_hz: control rate, default ``robot.control_rate_hz``; a control tick is a whole number
            of physics steps.
        objects: things that lie on the floor and can be grasped; they stay where they are in
            :meth:`reset`.

    Attributes:
        things: the objects; none if there are none.

    Raises:
        InputError: the rate does not divide into physics steps, or objects beside a robot with a
            floating base.
    """

    def __init__(
        self,
        robot: RobotSpec,
        gap: Gap | None = None,
        *,
        rate_hz: float | None = None,
        objects: Sequence[SceneObject] = (),
    ) -> None:
        self.robot = robot
        self.gap = gap or Gap()
        self.model = build_scene(robot, objects, gap) if objects else build_model(robot, gap)
        self.data = mujoco.MjData(self.model)
        self.things = Things(self.model, self.data, objects)
        self.layout = Layout(robot, self.model)
        self.decimation = decimation(robot, rate_hz or robot.control_rate_hz)
        self.delay_steps = round(self.gap.delay_s / robot.physics_dt_s)
        nominal, actual = JointParameters.of(robot, Gap()), JointParameters.of(robot, self.gap)
        self._kp_share = actual.kp_nm_rad / nominal.kp_nm_rad
        self._kd_share = actual.kd_nm_s_rad / nominal.kd_nm_s_rad
        self._offset_rad = actual.offset_rad
        self._queue: deque[Float] = deque()
        self._neutral = self._neutral_qpos()
        self.reset(default_state(robot))

    def _neutral_qpos(self) -> Float:
        qpos = self.model.qpos0.copy()
        if self.robot.gripper:
            qpos[self.layout.finger_qpos] = self.robot.gripper.max_width_m / 2.0
        return qpos

    def reset(self, state: SimState, previous_targets: Float | None = None) -> None:
        """Start from ``state`` at time 0.

        Args:
            state: the state.
            previous_targets: commands of the control ticks before this one, newest last, (k, n):
                what is still on its way through the actuator delay. Default: the joint positions.
        """
        places_m = self.things.poses[:, :3]
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = self._neutral
        self.things.place(places_m)
        self.layout.write(state, self.data.qpos, self.data.qvel)
        for i, actuator in enumerate(self.layout.fingers):
            self.data.ctrl[actuator] = self._neutral[self.layout.finger_qpos[i]]
        self._queue.clear()
        if self.delay_steps:
            ticks = -(-self.delay_steps // self.decimation)
            if previous_targets is None or len(previous_targets) == 0:
                previous_targets = np.asarray(state.qpos_rad)[None]
            rows = [
                previous_targets[max(len(previous_targets) - ticks + i, 0)] for i in range(ticks)
            ]
            steps = [np.array(row) for row in rows for _ in range(self.decimation)]
            self._queue.extend(steps[-self.delay_steps :])
        mujoco.mj_forward(self.model, self.data)

    def close(self) -> None:
        """Nothing to free: MuJoCo's memory goes with this object."""

    def set_gripper(self, width_m: float) -> None:
        """Command the gripper opening, m (clipped to its range); no effect without a gripper."""
        if self.robot.gripper:
            half = float(np.clip(width_m, 0.0, self.robot.gripper.max_width_m)) / 2.0
            self.data.ctrl[self.layout.fingers] = half

    def set_motors(self, kp_nm_rad: Float, kd_nm_s_rad: Float, feedforward_nm: Float) -> None:
        """Change the joint PD loops, for a robot whose commands carry gains; the gap stays.

        torque = kp (target - q) - kd qdot + feedforward, clipped at the motors' limits.

        Args:
            kp_nm_rad: position gains, (n,).
            kd_nm_s_rad: velocity gains, (n,).
            feedforward_nm: torque, (n,), Nm; kd times a commanded speed belongs here too.
        """
        index, kp = self.layout.ctrl, kp_nm_rad * self._kp_share
        self.model.actuator_gainprm[index, 0] = kp
        self.model.actuator_biasprm[index, 0] = kp * self._offset_rad + feedforward_nm
        self.model.actuator_biasprm[index, 1] = -kp
        self.model.actuator_biasprm[index, 2] = -kd_nm_s_rad * self._kd_share

    def step(self, target_rad: Float, *, damp: bool = False) -> None:
        """Run one control tick.

        Args:
            target_rad: joint set-points, (n,), rad.
            damp: True for torque = -kd qdot instead of the PD loop.
        """
        if damp:
            self._damp()
            return
        data, index = self.data, self.layout.ctrl
        if not self.delay_steps:
            data.ctrl[index] = target_rad
            mujoco.mj_step(self.model, data, self.decimation)
            return
        new = np.array(target_rad, dtype=np.float64)
        left = self.decimation
        self._queue.extend([new] * left)
        while left:  # consecutive equal set-points run in one call
            head = self._queue.popleft()
            run = 1
            while run < left and self._queue[0] is head:
                self._queue.popleft()
                run += 1
            data.ctrl[index] = head
            mujoco.mj_step(self.model, data, run)
            left -= run

    def _damp(self) -> None:
        for _ in range(self.decimation):  # a set-point at the present position leaves -kd qdot
            self.data.ctrl[self.layout.ctrl] = self.data.qpos[self.layout.qpos]
            mujoco.mj_step(self.model, self.data)

    @property
    def state(self) -> SimState:
        """The present state, copied."""
        return self.layout.read(self.data.qpos, self.data.qvel)

    @property
    def effort_nm(self) -> Float:
        """Actuator torques of the last physics step, (n,), Nm."""
        return self.data.actuator_force[self.layout.ctrl].copy()

    @property
    def body_pos_m(self) -> Float:
        """Positions of the robot's bodies in the world, (bodies, 3), m, at the present state."""
        mujoco.mj_kinematics(self.model, self.data)
        return self.data.xpos[self.layout.bodies].copy()


def decimation(robot: RobotSpec, rate_hz: float) -> int:
    """Physics steps in a control tick at ``rate_hz``.

    Raises:
        InputError: the tick is not a whole number of physics steps.
    """
    steps = 1.0 / (rate_hz * robot.physics_dt_s) if rate_hz > 0.0 else 0.0
    if abs(steps - round(steps)) > 1e-6 or round(steps) < 1:
        raise InputError(
            f"expected a rate that divides {1 / robot.physics_dt_s:g} Hz (the physics rate of "
            f"{robot.name}), got {rate_hz:g} Hz"
        )
    return round(steps)


def default_state(robot: RobotSpec, pose_rad: Float | None = None) -> SimState:
    """The robot at rest in ``pose_rad`` (default pose if None), base at its start height."""
    pose = np.array(robot.default_rad if pose_rad is None else pose_rad, dtype=np.float64)
    if not robot.floating_base:
        return SimState(qpos_rad=pose, qvel_rad_s=np.zeros(robot.n))
    return SimState(
        qpos_rad=pose,
        qvel_rad_s=np.zeros(robot.n),
        base_pos_m=np.array([0.0, 0.0, robot.base_height_m]),
        base_quat_wxyz=np.array([1.0, 0.0, 0.0, 0.0]),
        base_lin_vel_m_s=np.zeros(3),
        base_ang_vel_rad_s=np.zeros(3),
    )
