"""MuJoCo as a worker: the reference for the others, and for comparing versions of MuJoCo.

Only what MuJoCo has had since 3.2 (the last version for Python 3.8) is used, with the threaded
rollout where there is one.
"""

from __future__ import annotations

import os
from typing import Any

import mujoco
import numpy as np
from mujoco import rollout

from .wire import Refused, Simulator, States, serve

_COMPILER = '<mujoco><compiler strippath="false" discardvisual="true" fusestatic="false"/></mujoco>'


def _spec(robot: dict[str, Any]) -> Any:
    head, tag, tail = robot["urdf"].partition("<robot")
    attributes, close, rest = tail.partition(">")
    spec = mujoco.MjSpec()
    try:  # fills the spec in 3.2, gives a new one later
        text = head + tag + attributes + close + _COMPILER + rest
        spec = spec.from_string(text) or spec
    except ValueError as error:
        raise Refused(f"MuJoCo cannot read the URDF of {robot['name']}: {error}") from None
    return spec


def _build(robot: dict[str, Any]) -> Any:
    spec = _spec(robot)
    find = getattr(spec, "find_body", None) or spec.body  # renamed in 3.3
    for name in [*robot["weightless"], robot["base_link"]]:
        if find(name) is None:
            raise Refused(f"expected a link {name!r} in the URDF of {robot['name']}")
    if robot["floating_base"]:
        base = find(robot["base_link"])
        base.add_freejoint()
        base.pos = [0.0, 0.0, robot["start_height_m"]]
    for name in robot["weightless"]:
        find(name).gravcomp = 1.0
    if robot["floor"]:
        _add_floor(spec, robot["floor"])
    for i, name in enumerate(robot["joints"]):
        _add_motor(spec, name, robot["kp"][i], robot["kd"][i], robot["limit"][i])
    try:
        model = spec.compile()
    except ValueError as error:
        raise Refused(f"MuJoCo cannot build {robot['name']}: {error}") from None
    model.opt.timestep = robot["physics_dt_s"]
    model.opt.gravity[:] = robot["gravity_m_s2"]
    _set_joints(model, robot)
    return model


def _add_floor(spec: Any, floor: dict[str, Any]) -> None:
    geom = spec.worldbody.add_geom()
    geom.name = "floor"
    geom.type = mujoco.mjtGeom.mjGEOM_PLANE
    geom.size = [0.0, 0.0, 0.05]
    geom.friction = [floor["friction"], 0.005, 0.0001]
    geom.priority = 1  # the floor's parameters hold for the contact, whatever the foot's are
    if floor["softness_s"] is not None:
        geom.solref = [floor["softness_s"], 1.0]


def _add_motor(spec: Any, joint: str, kp: float, kd: float, limit: float) -> None:
    motor = spec.add_actuator()
    motor.name = motor.target = joint
    motor.trntype = mujoco.mjtTrn.mjTRN_JOINT
    motor.gaintype = mujoco.mjtGain.mjGAIN_FIXED
    motor.biastype = mujoco.mjtBias.mjBIAS_AFFINE
    motor.gainprm[0] = kp
    motor.biasprm[1] = -kp
    motor.biasprm[2] = -kd
    motor.forcelimited = int(mujoco.mjtLimited.mjLIMITED_TRUE)
    motor.forcerange = [-limit, limit]


def _set_joints(model: Any, robot: dict[str, Any]) -> None:
    for i, name in enumerate(robot["joints"]):
        joint = model.joint(name)
        dof, index = joint.dofadr[0], joint.id
        model.dof_armature[dof] = robot["armature"][i]
        model.dof_damping[dof] = robot["damping"][i]
        model.dof_frictionloss[dof] = robot["friction"][i]
        model.jnt_stiffness[index] = robot["stiffness"][i]
        model.qpos_spring[joint.qposadr[0]] = robot["spring_ref"][i]
        model.jnt_actfrclimited[index] = 0  # the motor carries the limit
        model.actuator_biasprm[i, 0] = robot["kp"][i] * robot["offset"][i]
    mujoco.mj_setConst(model, mujoco.MjData(model))


class MujocoSimulator(Simulator):
    """One model, one state that is kept, and as many others as there are threads."""

    engine = "mujoco"
    version = mujoco.__version__

    def __init__(self, robot: dict[str, Any]) -> None:
        self.model = _build(robot)
        self.mass_kg = float(self.model.body_mass.sum())
        joints = [self.model.joint(name) for name in robot["joints"]]
        controlled = robot["controlled"]
        self._qpos = np.array([j.qposadr[0] for j in joints[:controlled]])
        self._qvel = np.array([j.dofadr[0] for j in joints[:controlled]])
        self._controlled, self._floating = controlled, robot["floating_base"]
        self._hold = np.array(robot["hold"], dtype=np.float64)
        self._kept = mujoco.MjData(self.model)
        mujoco.mj_resetData(self.model, self._kept)
        self._kept.qpos[[j.qposadr[0] for j in joints[controlled:]]] = self._hold
        self._neutral = self._kept.qpos.copy()
        spec = mujoco.mjtState.mjSTATE_FULLPHYSICS
        self._base = np.zeros(mujoco.mj_stateSize(self.model, spec))
        mujoco.mj_getState(self.model, self._kept, self._base, spec)
        threads = len(os.sched_getaffinity(0)) if hasattr(rollout, "Rollout") else 1
        self._data = [mujoco.MjData(self.model) for _ in range(threads)]
        self._pool = rollout.Rollout(nthread=threads) if hasattr(rollout, "Rollout") else None

    def reset(self, start: States, out: States) -> None:
        """Put the kept state into ``start``."""
        mujoco.mj_resetData(self.model, self._kept)
        self._kept.qpos[:] = self._neutral
        self._kept.ctrl[self._controlled :] = self._hold
        self._write(start, self._kept.qpos, self._kept.qvel)
        mujoco.mj_forward(self.model, self._kept)
        self._read(self._kept.qpos, self._kept.qvel, out)

    def advance(self, setpoints: Any, steps: int, out: States) -> None:
        """Step the kept state."""
        data = self._kept
        each = len(setpoints) // len(out.qpos)
        for tick in range(len(out.qpos)):
            for setpoint in setpoints[tick * each : (tick + 1) * each]:
                data.ctrl[: self._controlled] = setpoint
                mujoco.mj_step(self.model, data, steps)
            self._read(data.qpos, data.qvel, out.row(tick))
            out.effort[tick] = data.actuator_force[: self._controlled]

    def rollout(self, start: States, setpoints: Any, steps: int, out: States) -> None:
        """Play a batch on all cores."""
        model, (batch, ticks) = self.model, out.qpos.shape[:2]
        full = np.tile(self._base, (batch, 1))
        self._write(start, full[:, 1 : 1 + model.nq], full[:, 1 + model.nq :][:, : model.nv])
        control = np.empty((batch, setpoints.shape[1] * steps, model.nu))
        control[..., self._controlled :] = self._hold
        control[..., : self._controlled] = np.repeat(setpoints, steps, axis=1)
        if self._pool is not None:
            states, _ = self._pool.rollout(model, self._data, full, control)
        else:
            states, _ = rollout.rollout(model, self._data[0], full, control)
        each = control.shape[1] // ticks
        ends = states[:, each - 1 :: each]
        self._read(ends[..., 1 : 1 + model.nq], ends[..., 1 + model.nq :][..., : model.nv], out)
        out.effort[...] = np.nan  # not among what a rollout returns

    def _write(self, start: States, qpos: Any, qvel: Any) -> None:
        qpos[..., self._qpos] = start.qpos
        qvel[..., self._qvel] = start.qvel
        if self._floating:
            qpos[..., 0:7] = start.base[..., 0:7]
            qvel[..., 0:6] = start.base[..., 7:13]

    def _read(self, qpos: Any, qvel: Any, out: States) -> None:
        out.qpos[...] = qpos[..., self._qpos]
        out.qvel[...] = qvel[..., self._qvel]
        if self._floating:
            out.base[..., 0:7] = qpos[..., 0:7]
            out.base[..., 7:13] = qvel[..., 0:6]


if __name__ == "__main__":
    serve(MujocoSimulator)
