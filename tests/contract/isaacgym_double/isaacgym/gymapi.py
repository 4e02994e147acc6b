"""Double of ``isaacgym.gymapi``: the calls that the worker makes, with MuJoCo behind them.

It follows the documentation of Preview 4 where a worker could go wrong: joints come in an order of
its own, quaternions as xyzw, root velocities are those of the centre of mass in the world, forces
act in effort mode only and for one step, each setter may be called once a step, indices are int32.
"""

import types
from pathlib import Path

import mujoco
import numpy as np
import torch

UP_AXIS_Z, SIM_PHYSX, DOF_MODE_EFFORT = 1, 0, 3
_DOF = np.dtype(
    [
        (name, np.int32 if name == "driveMode" else np.float32)
        for name in ("driveMode", "stiffness", "damping", "friction", "armature", "velocity")
    ]
    + [("effort", np.float32), ("lower", np.float32), ("upper", np.float32)]
)


class Vec3:
    def __init__(self, x=0.0, y=0.0, z=0.0):
        self.x, self.y, self.z = x, y, z


class Tensor:
    def __init__(self, values):
        self.torch = values


class Transform:
    def __init__(self):
        self.p = Vec3()


class SimParams:
    def __init__(self):
        self.physx = types.SimpleNamespace()


class AssetOptions:
    def __init__(self):
        self.angular_damping, self.armature = 0.5, 0.0  # the documented default damps


class PlaneParams:
    pass


class Gym:
    """One simulation with one kind of robot."""

    def get_version(self):
        return types.SimpleNamespace(major=1, minor=0)

    # ---- set-up

    def create_sim(self, compute_device, graphics_device, kind, params):
        assert (kind, params.up_axis, params.substeps) == (SIM_PHYSX, UP_AXIS_Z, 1)
        assert not params.use_gpu_pipeline
        self.params, self.plane, self.envs = params, None, 0
        return self

    def add_ground(self, sim, plane):
        assert (plane.normal.x, plane.normal.y, plane.normal.z) == (0.0, 0.0, 1.0)
        self.plane = plane

    def load_asset(self, sim, root, name, options):
        assert options.angular_damping == options.linear_damping == options.armature == 0.0
        assert options.collapse_fixed_joints
        text = (Path(root) / name).read_text()
        assert "dont_collapse" not in text
        head, tag, rest = text.partition(">")
        # Links that are fixed to each other become one, as they do there.
        fuse = "false" if options.fix_base_link else "true"
        flags = f'strippath="false" discardvisual="true" fusestatic="{fuse}"'
        try:
            spec = mujoco.MjSpec.from_string(
                f"{head}{tag}<mujoco><compiler {flags}/></mujoco>{rest}"
            )
        except ValueError:
            return None
        self.base = spec.bodies[1].name
        if not options.fix_base_link:
            spec.bodies[1].add_freejoint()
        for body in spec.bodies[1:]:
            body.gravcomp = float(options.disable_gravity)
        self.spec, self.fixed = spec, options.fix_base_link
        hinges = [j for j in spec.joints if j.type != mujoco.mjtJoint.mjJNT_FREE]
        self.joints = [j.name for j in hinges][::-1]
        self.shapes = [types.SimpleNamespace(friction=1.0, restitution=0.0) for _ in spec.geoms]
        return self

    def get_asset_dof_names(self, asset):
        return list(self.joints)

    def get_asset_dof_properties(self, asset):
        properties = np.zeros(len(self.joints), _DOF)
        properties["damping"] = properties["friction"] = 0.1  # as a URDF might have it
        return properties

    def get_asset_rigid_shape_properties(self, asset):
        return self.shapes

    def set_asset_rigid_shape_properties(self, asset, shapes):
        self.shapes = shapes

    def create_env(self, sim, lower, upper, per_row):
        self.envs += 1
        return self.envs - 1

    def create_actor(self, env, asset, pose, name, group, mask):
        assert (group, mask) == (env, 0)
        self.height = pose.p.z
        return 0

    def set_actor_dof_properties(self, env, actor, properties):
        self.properties = properties.copy()

    def get_actor_rigid_body_properties(self, env, actor):
        model = self.spec.copy().compile()
        bodies = range(1, model.nbody)
        return [
            types.SimpleNamespace(mass=model.body_mass[i], com=Vec3(*model.body_ipos[i]))
            for i in bodies
        ]

    def get_actor_rigid_body_names(self, env, actor):
        return [body.name for body in self.spec.bodies[1:]]

    def prepare_sim(self, sim):
        if self.plane is not None:
            friction = (self.plane.dynamic_friction + self.shapes[0].friction) / 2.0
            self.spec.worldbody.add_geom(
                type=mujoco.mjtGeom.mjGEOM_PLANE,
                size=[0.0, 0.0, 0.05],
                friction=[friction, 0.005, 0.0001],
                priority=1,
            )
        self.model = model = self.spec.compile()
        model.opt.timestep = self.params.dt
        gravity = self.params.gravity
        model.opt.gravity[:] = gravity.x, gravity.y, gravity.z
        joints = [model.joint(name) for name in self.joints]
        self.q = np.array([j.qposadr[0] for j in joints])
        self.v = np.array([j.dofadr[0] for j in joints])
        model.dof_damping[:] = model.dof_frictionloss[:] = 0.0
        model.jnt_actfrclimited[:] = 0
        model.dof_armature[self.v] = self.properties["armature"]
        for name in ("damping", "stiffness", "friction"):
            assert (self.properties[name] == 0.0).all(), "adds to the torques of the worker"
        self.com = model.body_ipos[model.body(self.base).id].copy()
        self.data = [mujoco.MjData(model) for _ in range(self.envs)]
        self.root = torch.zeros(self.envs, 13)
        self.dof = torch.zeros(self.envs * len(joints), 2)
        self.forces, self.set, self.fetched = np.zeros((self.envs, len(joints))), set(), True
        return True

    # ---- tensors

    def acquire_actor_root_state_tensor(self, sim):
        return Tensor(self.root)

    def acquire_dof_state_tensor(self, sim):
        return Tensor(self.dof)

    def refresh_dof_state_tensor(self, sim):
        assert self.fetched
        states = [(d.qpos[self.q], d.qvel[self.v]) for d in self.data]
        self.dof[:] = torch.as_tensor(np.array(states).transpose(0, 2, 1).reshape(-1, 2))

    def refresh_actor_root_state_tensor(self, sim):
        assert self.fetched
        if self.fixed:
            return
        for i, data in enumerate(self.data):
            spin = self._turn(data.qpos[3:7], data.qvel[3:6])
            arm = self._turn(data.qpos[3:7], self.com)
            linear = data.qvel[0:3] + np.cross(spin, arm)
            quat = np.roll(data.qpos[3:7], -1)
            row = np.concatenate([data.qpos[0:3], quat, linear, spin])
            self.root[i] = torch.as_tensor(row)

    def set_actor_root_state_tensor_indexed(self, sim, states, actors, count):
        for i in self._once("root", actors, count):
            row = states.torch.reshape(self.envs, 13)[i].double().numpy()
            quat = np.roll(row[3:7], 1)
            data = self.data[i]
            data.qpos[0:3], data.qpos[3:7] = row[0:3], quat / np.linalg.norm(quat)
            data.qvel[0:3] = row[7:10] - np.cross(row[10:13], self._turn(quat, self.com))
            data.qvel[3:6] = self._turn(quat * [1, -1, -1, -1], row[10:13])

    def set_dof_state_tensor_indexed(self, sim, states, actors, count):
        values = states.torch.reshape(self.envs, -1, 2).double().numpy()
        for i in self._once("dof", actors, count):
            self.data[i].qpos[self.q], self.data[i].qvel[self.v] = values[i].T
            self.data[i].qacc_warmstart[:] = 0.0

    def set_dof_actuation_force_tensor(self, sim, forces):
        assert forces.torch.dtype == torch.float32
        assert forces.torch.numel() == self.envs * len(self.joints)
        self._once("force")
        if (self.properties["driveMode"] == DOF_MODE_EFFORT).all():
            self.forces = forces.torch.reshape(self.envs, -1).double().numpy()

    def simulate(self, sim):
        for data, force in zip(self.data, self.forces, strict=True):
            data.qfrc_applied[self.v] = force
            mujoco.mj_step(self.model, data)
        self.forces, self.fetched = np.zeros_like(self.forces), False
        self.set.clear()

    def fetch_results(self, sim, wait):
        self.fetched = wait

    def _once(self, setter, actors=None, count=0):
        assert setter not in self.set, "a setter may be called once a step"
        self.set.add(setter)
        if actors is None:
            return []
        assert actors.torch.dtype == torch.int32
        return actors.torch[:count].tolist()

    @staticmethod
    def _turn(quat, vector):
        out = np.zeros(3)
        mujoco.mju_rotVecQuat(out, np.asarray(vector, float), np.asarray(quat, float))
        return out


_GYM = Gym()


def acquire_gym():
    return _GYM
