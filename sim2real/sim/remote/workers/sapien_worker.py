"""PhysX 5 on a CPU as a worker, through SAPIEN 3.

The actuator law and joint damping are torques that are computed here at each physics step, the
same as in MuJoCo. Coulomb friction is a velocity drive towards zero whose force limit is the
friction torque: the solver then holds the joint, or brakes it with just that torque (PhysX's own
joint friction is proportional to the load). Armature, limits and contacts are PhysX's.

PhysX calculates in single precision, and its velocities are those of centres of mass.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from typing import Any

import numpy as np

warnings.filterwarnings("ignore", module="sapien")  # it looks for a renderer, which is not used
import sapien  # type: ignore[import-not-found]  # noqa: E402

from .wire import Motors, Refused, Simulator, States, rotation, serve  # noqa: E402

_FRICTION_DRIVE = 1e4  # slips by friction / this, rad/s: a hundredth of a milliradian a second
_UNLIMITED = 1e6
_MAX_BITS = 31  # bits of a collision group


def _load(robot: dict[str, Any], scene: Any) -> Any:
    loader = scene.create_urdf_loader()
    loader.fix_root_link = not robot["floating_base"]
    if robot["floor"]:  # PhysX takes the mean of both materials
        friction = robot["floor"]["friction"]
        loader.set_material(friction, friction, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "robot.urdf")
        with open(path, "w", encoding="utf-8") as file:
            file.write(robot["urdf"])
        try:
            return loader.load(path)
        except Exception as error:
            raise Refused(
                f"SAPIEN cannot read the URDF of {robot['name']}: {type(error).__name__}: {error}"
            ) from None


class SapienSimulator(Simulator):
    """One robot in one scene; a batch is played one after another."""

    engine = "sapien"
    version = sapien.__version__

    def __init__(self, robot: dict[str, Any]) -> None:
        if robot["floor"] and robot["floor"]["softness_s"] is not None:
            raise Refused(
                "expected a gap without floor_softness_s for the engine sapien, whose contacts are "
                f"rigid, got {robot['floor']['softness_s']:g} s; use mujoco"
            )
        self._config = {"gravity": robot["gravity_m_s2"]}
        self._timestep = robot["physics_dt_s"]
        self._scene = self._new_scene()
        self._robot = _load(robot, self._scene)
        if self._robot is None or self._robot.root.name != robot["base_link"]:
            raise Refused(
                f"expected the base link {robot['base_link']!r} as the root of the URDF of "
                f"{robot['name']}"
            )
        self.mass_kg = float(sum(link.mass for link in self._robot.links))
        joints = self._robot.active_joints
        self._motors = Motors(robot, [joint.name for joint in joints])
        self._controlled = self._motors.controlled
        self._set_up(robot)
        _ignore_neighbours(self._robot)
        if robot["floor"]:
            friction = robot["floor"]["friction"]
            material = sapien.physx.PhysxMaterial(friction, friction, 0.0)
            self._scene.add_ground(0.0, render=False, material=material)
        self._floating = robot["floating_base"]
        self._com = np.array(self._robot.root.cmass_local_pose.p, dtype=np.float64)
        self._effort = np.zeros(robot["controlled"])

    def _set_up(self, robot: dict[str, Any]) -> None:
        self._robot.set_sleep_threshold(0.0)
        for link in self._robot.links:
            link.set_linear_damping(0.0)
            link.set_angular_damping(0.0)
            link.set_max_linear_velocity(_UNLIMITED)
            link.set_max_angular_velocity(_UNLIMITED)
            link.disable_gravity = link.name in robot["weightless"]
        for joint in self._robot.active_joints:
            i = robot["joints"].index(joint.name)
            joint.set_friction(0.0)
            joint.set_max_velocity(_UNLIMITED)
            joint.set_armature([robot["armature"][i]])
            if robot["friction"][i] > 0.0:
                joint.set_drive_properties(0.0, _FRICTION_DRIVE, robot["friction"][i], "force")
            else:
                joint.set_drive_properties(0.0, 0.0)

    def _new_scene(self) -> Any:
        sapien.physx.set_scene_config(**self._config)
        self._physics = sapien.physx.PhysxCpuSystem()
        scene = sapien.Scene([self._physics])
        scene.set_timestep(self._timestep)
        return scene

    def _forget(self) -> None:
        """Move everything to a new scene, at the price of one physics step.

        PhysX remembers contacts, and solves them in the order in which they came up: in the old
        scene the same state would not always move the same way.
        """
        old, entities = self._scene, self._scene.entities
        for entity in entities:
            old.remove_entity(entity)
        self._scene = self._new_scene()
        for entity in entities:
            self._scene.add_entity(entity)

    def reset(self, start: States, out: States) -> None:
        """Put the robot into ``start``, without memory of what it did before."""
        self._forget()
        body = self._robot
        qpos, qvel = self._motors.neutral.copy(), np.zeros_like(self._motors.neutral)
        qpos[self._controlled], qvel[self._controlled] = start.qpos, start.qvel
        body.set_qpos(qpos)
        body.set_qvel(qvel)
        if self._floating:
            turn = rotation(start.base[3:7])
            spin = turn @ start.base[10:13]
            body.set_root_pose(sapien.Pose(start.base[0:3], start.base[3:7]))
            body.set_root_linear_velocity(start.base[7:10] + np.cross(spin, turn @ self._com))
            body.set_root_angular_velocity(spin)
        body.set_qf(np.zeros_like(qvel))
        self._effort[:] = 0.0
        self._read(out)

    def advance(self, setpoints: Any, steps: int, out: States) -> None:
        """Step the robot, with torques at each physics step."""
        body, motors, physics = self._robot, self._motors, self._physics
        goals = motors.setpoints(setpoints)
        each = len(goals) // len(out.qpos)
        motor = np.zeros(len(motors.neutral))
        for tick in range(len(out.qpos)):
            for goal in goals[tick * each : (tick + 1) * each]:
                for _ in range(steps):
                    motor, total = motors.torques(goal, body.qpos, body.qvel)
                    body.set_qf(total)
                    physics.step()
            self._effort[:] = motor[self._controlled]
            self._read(out.row(tick))

    def _read(self, out: States) -> None:
        body = self._robot
        out.qpos[:] = body.qpos[self._controlled]
        out.qvel[:] = body.qvel[self._controlled]
        out.effort[:] = self._effort
        if self._floating:
            pose = body.root_pose
            turn = rotation(pose.q.astype(np.float64))
            spin = body.root_angular_velocity.astype(np.float64)
            out.base[0:3], out.base[3:7] = pose.p, pose.q
            out.base[7:10] = body.root_linear_velocity - np.cross(spin, turn @ self._com)
            out.base[10:13] = spin @ turn


def _ignore_neighbours(articulation: Any) -> None:
    """Let links that one joint connects not collide, also by way of links fixed to them.

    PhysX knows this of a link and its parent only.
    """
    group: dict[str, str] = {}
    edges: list[tuple[str, str]] = []
    for link in articulation.links:  # parents come first
        parent = link.parent
        if parent is None:
            group[link.name] = link.name
        elif link.joint.type == "fixed":
            group[link.name] = group[parent.name]
        else:
            group[link.name] = link.name
            edges.append((group[parent.name], link.name))
    members: dict[str, list[Any]] = {}
    for link in articulation.links:
        if link.collision_shapes:
            members.setdefault(group[link.name], []).append(link)
    bit = 0
    for pair in edges:
        links = [link for name in pair for link in members.get(name, [])]
        if len({link.name for link in links}) < 2 or _only_parent(links):
            continue
        if bit >= _MAX_BITS:
            raise Refused(f"expected at most {_MAX_BITS} joints between fixed links")
        for shape in (s for link in links for s in link.collision_shapes):
            groups = shape.collision_groups
            shape.set_collision_groups([groups[0], groups[1], groups[2] | (1 << bit), groups[3]])
        bit += 1


def _only_parent(links: list[Any]) -> bool:
    """Two links of which one is the other's parent: PhysX ignores them anyway."""
    names: set[str] = {link.name for link in links}
    return len(names) == 2 and any(
        link.parent is not None and link.parent.name in names for link in links
    )


if __name__ == "__main__":
    serve(SapienSimulator)
