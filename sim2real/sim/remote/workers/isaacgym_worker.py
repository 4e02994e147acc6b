"""Isaac Gym (Preview 4, Python 3.8 at most) as a worker, written against its public API.

PhysX on the GPU where PyTorch sees one, else on the CPU; either way many environments side by side.
The actuator law, joint damping and springs are torques that are computed here at each physics
step. Joint friction is such a torque as well: as large as it takes to stop the rotor within a step,
bounded by the Coulomb friction (that of PhysX is proportional to the load, and a drive, as the
worker for SAPIEN has it, excludes torques here). Velocities are those of centres of mass.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np

# Isaac Gym insists on being imported before PyTorch.
from isaacgym import gymapi, gymtorch  # type: ignore[import-not-found]  # isort: skip
import torch  # isort: skip

from .wire import Motors, Refused, Simulator, States, rotation, serve

_ENVIRONMENTS = {"cuda:0": 512, "cpu": 16}
_UNLIMITED = 1e4


def _sim_params(robot: dict[str, Any], device: str) -> Any:
    params = gymapi.SimParams()
    params.dt = robot["physics_dt_s"]
    params.substeps = 1
    params.up_axis = gymapi.UP_AXIS_Z
    params.gravity = gymapi.Vec3(*robot["gravity_m_s2"])
    params.use_gpu_pipeline = params.physx.use_gpu = device != "cpu"
    # As in the training of ASAP's policies.
    params.physx.solver_type = 1
    params.physx.num_position_iterations = 4
    params.physx.num_velocity_iterations = 0
    params.physx.contact_offset = 0.01
    params.physx.rest_offset = 0.0
    params.physx.bounce_threshold_velocity = 0.5
    params.physx.max_depenetration_velocity = 1.0
    return params


def _asset_options(robot: dict[str, Any]) -> Any:
    options = gymapi.AssetOptions()
    options.fix_base_link = not robot["floating_base"]
    options.disable_gravity = bool(robot["weightless"])
    options.collapse_fixed_joints = True  # else links beside a joint would collide
    options.default_dof_drive_mode = gymapi.DOF_MODE_EFFORT
    options.replace_cylinder_with_capsule = False
    options.linear_damping = options.angular_damping = options.armature = 0.0
    options.max_linear_velocity = options.max_angular_velocity = _UNLIMITED
    return options


class IsaacGymSimulator(Simulator):
    """As many environments as fit; a batch is played in parts of that size."""

    engine = "isaacgym"

    def __init__(self, robot: dict[str, Any]) -> None:
        self._check(robot)
        self._device = "cuda:0" if torch.cuda.is_available() else "cpu"
        self._count = _ENVIRONMENTS[self._device]
        self._gym = gymapi.acquire_gym()
        self._sim = self._gym.create_sim(0, -1, gymapi.SIM_PHYSX, _sim_params(robot, self._device))
        if self._sim is None:
            raise RuntimeError("Isaac Gym could not create a simulation")
        if robot["floor"]:
            self._add_floor(robot["floor"]["friction"])
        asset = self._load(robot)
        self._motors = Motors(robot, list(self._gym.get_asset_dof_names(asset)))
        self._add_robots(robot, asset)
        self._gym.prepare_sim(self._sim)
        self._floating, self._dt = robot["floating_base"], robot["physics_dt_s"]
        in_order = self._motors.index
        self._friction = np.array(robot["friction"])[in_order]
        self._stop = np.array(robot["armature"])[in_order] / self._dt
        joints = len(in_order)
        self._root_tensor = self._gym.acquire_actor_root_state_tensor(self._sim)
        self._root = gymtorch.wrap_tensor(self._root_tensor).view(self._count, 13)
        self._dof_tensor = self._gym.acquire_dof_state_tensor(self._sim)
        self._dof = gymtorch.wrap_tensor(self._dof_tensor).view(self._count, joints, 2)
        self._gym.refresh_actor_root_state_tensor(self._sim)
        self._gym.refresh_dof_state_tensor(self._sim)
        self._actors = torch.arange(self._count, dtype=torch.int32, device=self._device)
        self._unset = 0  # environments whose new states the engine has not got yet

    @staticmethod
    def _check(robot: dict[str, Any]) -> None:
        if robot["floor"] and robot["floor"]["softness_s"] is not None:
            raise Refused(
                "expected a gap without floor_softness_s for the engine isaacgym, whose contacts "
                f"are rigid, got {robot['floor']['softness_s']:g} s; use mujoco"
            )
        links = robot["urdf"].count("<link ")
        if robot["weightless"] and len(robot["weightless"]) != links:
            raise Refused(
                "expected gravity on all links or none for the engine isaacgym, got a payload on "
                f"{robot['name']}, which compensates its own weight alone; use mujoco or sapien"
            )
        friction, armature = np.array(robot["friction"]), np.array(robot["armature"])
        if ((friction > 0.0) & (armature <= 0.0)).any():
            raise Refused(
                f"expected an armature on each joint of {robot['name']} that has friction; set one"
            )

    def _add_floor(self, friction: float) -> None:
        plane = gymapi.PlaneParams()
        plane.normal = gymapi.Vec3(0.0, 0.0, 1.0)
        plane.distance = 0.0
        plane.static_friction = plane.dynamic_friction = friction
        plane.restitution = 0.0
        self._gym.add_ground(self._sim, plane)

    def _load(self, robot: dict[str, Any]) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "robot.urdf"), "w", encoding="utf-8") as file:
                file.write(robot["urdf"].replace('dont_collapse="true"', ""))
            asset = self._gym.load_asset(self._sim, folder, "robot.urdf", _asset_options(robot))
        if asset is None:
            raise Refused(f"Isaac Gym cannot read the URDF of {robot['name']}")
        if robot["floor"]:
            shapes = self._gym.get_asset_rigid_shape_properties(asset)
            for shape in shapes:
                shape.friction, shape.restitution = robot["floor"]["friction"], 0.0
            self._gym.set_asset_rigid_shape_properties(asset, shapes)
        return asset

    def _add_robots(self, robot: dict[str, Any], asset: Any) -> None:
        gym, motors = self._gym, self._motors
        properties = gym.get_asset_dof_properties(asset)
        properties["driveMode"].fill(gymapi.DOF_MODE_EFFORT)
        for name in ("stiffness", "damping", "friction"):
            properties[name].fill(0.0)
        for name in ("velocity", "effort"):
            properties[name].fill(_UNLIMITED)
        properties["armature"][:] = np.array(robot["armature"])[motors.index]
        pose = gymapi.Transform()
        pose.p = gymapi.Vec3(0.0, 0.0, robot["start_height_m"])
        nowhere = gymapi.Vec3(0.0, 0.0, 0.0)  # all in one place: the groups keep them apart
        for i in range(self._count):
            env = gym.create_env(self._sim, nowhere, nowhere, self._count)
            actor = gym.create_actor(env, asset, pose, robot["name"], i, 0)
            gym.set_actor_dof_properties(env, actor, properties)
        bodies = gym.get_actor_rigid_body_properties(env, actor)
        if gym.get_actor_rigid_body_names(env, actor)[0] != robot["base_link"]:
            raise Refused(
                f"expected the base link {robot['base_link']!r} as the root of the URDF of "
                f"{robot['name']}"
            )
        self.mass_kg = float(sum(body.mass for body in bodies))
        self._com = np.array([bodies[0].com.x, bodies[0].com.y, bodies[0].com.z])

    def reset(self, start: States, out: States) -> None:
        """Put the first environment into ``start``."""
        self._write(States(*[None if x is None else x[None] for x in start]))
        # What is set can be read back after a step only.
        out.qpos[:], out.qvel[:], out.effort[:] = start.qpos, start.qvel, 0.0
        if self._floating:
            out.base[:] = start.base

    def advance(self, setpoints: Any, steps: int, out: States) -> None:
        """Step the first environment (the others come along)."""
        self._play(setpoints[None], steps, States(*[None if x is None else x[None] for x in out]))

    def rollout(self, start: States, setpoints: Any, steps: int, out: States) -> None:
        """Play a batch in parts of as many robots as there are environments."""
        for first in range(0, len(setpoints), self._count):
            part = slice(first, first + self._count)
            self._write(States(*[None if x is None else x[part] for x in start]))
            self._play(
                setpoints[part], steps, States(*[None if x is None else x[part] for x in out])
            )

    def _write(self, start: States) -> None:
        """Put the first of the environments into the given states."""
        motors, many = self._motors, len(start.qpos)
        dof = np.zeros((many, len(motors.neutral), 2))
        dof[..., 0] = motors.neutral
        dof[:, motors.controlled, 0] = start.qpos
        dof[:, motors.controlled, 1] = start.qvel
        self._dof[:many] = torch.as_tensor(dof, dtype=torch.float32, device=self._device)
        if self._floating:
            root = np.zeros((many, 13))
            for i, base in enumerate(start.base):
                turn = rotation(base[3:7])
                spin = turn @ base[10:13]
                root[i, 0:3], root[i, 3:7] = base[0:3], np.roll(base[3:7], -1)
                root[i, 7:10] = base[7:10] + np.cross(spin, turn @ self._com)
                root[i, 10:13] = spin
            self._root[:many] = torch.as_tensor(root, dtype=torch.float32, device=self._device)
        self._unset = many

    def _apply(self) -> None:
        """Hand written states to the engine: once before a step, as it demands."""
        gym, actors = self._gym, gymtorch.unwrap_tensor(self._actors)
        if self._unset and self._floating:
            gym.set_actor_root_state_tensor_indexed(
                self._sim, self._root_tensor, actors, self._unset
            )
        if self._unset:
            gym.set_dof_state_tensor_indexed(self._sim, self._dof_tensor, actors, self._unset)
        self._unset = 0

    def _play(self, setpoints: Any, steps: int, out: States) -> None:
        gym, motors, many, ticks = self._gym, self._motors, len(setpoints), out.qpos.shape[1]
        goals = motors.setpoints(setpoints)
        each = goals.shape[1] // ticks
        forces = torch.zeros(self._dof.shape[:2], dtype=torch.float32, device=self._device)
        motor = np.zeros((many, len(motors.neutral)))
        self._apply()
        for k in range(goals.shape[1]):
            for _ in range(steps):
                qpos, qvel = self._joints(many)
                motor, total = motors.torques(goals[:, k], qpos, qvel)
                total -= np.clip(self._stop * qvel, -self._friction, self._friction)
                forces[:many] = torch.as_tensor(total, dtype=torch.float32, device=self._device)
                gym.set_dof_actuation_force_tensor(self._sim, gymtorch.unwrap_tensor(forces))
                gym.simulate(self._sim)
                if self._device == "cpu":
                    gym.fetch_results(self._sim, True)
                gym.refresh_dof_state_tensor(self._sim)
            if (k + 1) % each == 0:
                gym.refresh_actor_root_state_tensor(self._sim)
                self._read(many, k // each, out)
                out.effort[:, k // each] = motor[:, motors.controlled]

    def _joints(self, many: int) -> Any:
        """Joint positions and velocities of the first environments, each (many, joints)."""
        dof = self._dof[:many].cpu().numpy().astype(np.float64)
        return dof[..., 0], dof[..., 1]

    def _read(self, many: int, tick: int, out: States) -> None:
        qpos, qvel = self._joints(many)
        out.qpos[:, tick] = qpos[:, self._motors.controlled]
        out.qvel[:, tick] = qvel[:, self._motors.controlled]
        if self._floating:
            root = self._root[:many].cpu().numpy().astype(np.float64)
            for i, state in enumerate(root):
                quat = np.roll(state[3:7], 1)
                turn, spin = rotation(quat), state[10:13]
                base = out.base[i, tick]
                base[0:3], base[3:7] = state[0:3], quat
                base[7:10] = state[7:10] - np.cross(spin, turn @ self._com)
                base[10:13] = spin @ turn


def _version() -> str:
    version = gymapi.acquire_gym().get_version()
    return f"{version.major}.{version.minor}"


if __name__ == "__main__":
    IsaacGymSimulator.version = _version()
    serve(IsaacGymSimulator)
