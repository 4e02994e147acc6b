"""MuJoCo models of the robots, built from the URDFs of ``example-robot-data``.

The joint PD loop is part of the model: a MuJoCo actuator with gain kp, bias -kp q - kd qdot and a
force range is exactly ``torque = clip(kp (target - q) - kd qdot, +-limit)`` at every physics step,
and lets one C call run a whole control tick (and a thread pool run thousands of them).
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from sim2real.robot_data import robot_data_dir as robot_data_dir  # others import it from here
from sim2real.robot_data import robot_urdf
from sim2real.sim.gaps import Gap

# A finger weighs 15 g; without the inertia of its motor and gear the stiff loop would be unstable
# at the physics rate and shake the arm.
FINGER_KP_N_M = 2000.0
FINGER_KD_N_S_M = 60.0
FINGER_ARMATURE_KG = 0.5
FLOOR_FRICTION = 1.0
FLOOR_SOFTNESS_S = 0.02  # the default of MuJoCo
PAYLOAD_RADIUS_M = 0.03
_GEAR_STIFFNESS_S = 0.005


def build_spec(robot: RobotSpec, gap: Gap | None = None) -> mujoco.MjSpec:
    """MuJoCo spec of ``robot`` with PD actuators, floor and free joint, changed by ``gap``.

    Args:
        robot: the robot.
        gap: dynamics gap; None for the nominal model. ``gap.delay_s`` is not part of the model,
            the stepper applies it.

    Returns:
        A spec whose actuators ``i < robot.n`` are the robot's joints in canonical order; a
        gripper's two finger actuators follow.

    Raises:
        InputError: robot model not installed, or the gap names a body that the robot has not.
    """
    gap = gap or Gap()
    compiler = (
        '<mujoco><compiler strippath="false" discardvisual="true" fusestatic="false"/></mujoco>'
    )
    head, tag, tail = robot_urdf(robot).partition("<robot")
    attributes, close, rest = tail.partition(">")
    spec = mujoco.MjSpec.from_string(f"{head}{tag}{attributes}{close}{compiler}{rest}")
    spec.option.timestep = robot.physics_dt_s
    base = spec.body(robot.base_body)
    if robot.floating_base:
        base.add_freejoint()
        base.pos = [0.0, 0.0, robot.base_height_m]
        floor = spec.worldbody.add_geom(
            name="floor",
            type=mujoco.mjtGeom.mjGEOM_PLANE,
            size=[0.0, 0.0, 0.05],
            friction=[gap.floor_friction or FLOOR_FRICTION, 0.005, 0.0001],
            priority=1,  # the floor's parameters hold for the contact, whatever the foot's are
        )
        if gap.floor_softness_s is not None:
            floor.solref = [gap.floor_softness_s, 1.0]
    else:
        for geom in spec.geoms:  # an arm in free space: its own links must not collide
            geom.contype = geom.conaffinity = 0
    if robot.gravity_compensated:
        for body in spec.bodies[1:]:
            body.gravcomp = 1.0
    _add_joints(spec, robot, gap)
    if robot.gripper:
        for name in robot.gripper.finger_joints:
            spec.joint(name).armature = FINGER_ARMATURE_KG
            _pd_actuator(spec, name, FINGER_KP_N_M, FINGER_KD_N_S_M, robot.gripper.max_force_n)
    _couple(spec, robot)
    _change_masses(spec, robot, gap)
    return spec


def _couple(spec: mujoco.MjSpec, robot: RobotSpec) -> None:
    """Tie the joints without a motor to those whose gear moves them."""
    for follower, leader in robot.coupled:
        spec.joint(follower).armature = spec.joint(leader).armature
        equality = spec.add_equality(type=mujoco.mjtEq.mjEQ_JOINT, name1=follower, name2=leader)
        equality.data[:2] = 0.0, 1.0  # follower = 0 + 1 * leader
        equality.solref = [_GEAR_STIFFNESS_S, 1.0]


def _change_masses(spec: mujoco.MjSpec, robot: RobotSpec, gap: Gap) -> None:
    for name in {**gap.mass, **gap.payload_kg, **gap.payload_com_m}:
        if spec.body(name) is None:
            raise InputError(f"gap {gap.name}: robot {robot.name} has no body {name!r}")
    for name, factor in gap.mass.items():
        body = spec.body(name)
        body.mass *= factor
        body.inertia = factor * body.inertia
        body.fullinertia = factor * body.fullinertia
    for name, mass in gap.payload_kg.items():
        # A body of its own, so that the robot's gravity compensation does not know of it.
        load = spec.body(name).add_body(name=f"{name}_payload")
        load.explicitinertial = True
        load.mass = mass
        load.ipos = gap.payload_com_m.get(name, (0.0, 0.0, 0.0))
        load.inertia = [0.4 * mass * PAYLOAD_RADIUS_M**2] * 3


@dataclass(frozen=True, kw_only=True)
class JointParameters:
    """Motors and passive forces of a robot's joints with a gap, each (n,).

    Attributes:
        kp_nm_rad, kd_nm_s_rad: gains of the joint PD loop.
        limit_nm: torque limit.
        damping_nm_s_rad, armature_kg_m2, friction_nm: viscous friction, rotor inertia, Coulomb
            friction.
        spring_nm_rad: stiffness that pulls the joint to its default position.
        offset_rad: what the motor adds to its set-point.
    """

    kp_nm_rad: Float
    kd_nm_s_rad: Float
    limit_nm: Float
    damping_nm_s_rad: Float
    armature_kg_m2: Float
    friction_nm: Float
    spring_nm_rad: Float
    offset_rad: Float

    @classmethod
    def of(cls, robot: RobotSpec, gap: Gap) -> JointParameters:
        """Parameters of ``robot`` changed by ``gap``.

        Raises:
            InputError: the gap names a joint that the robot has not.
        """

        def table(values: dict[str, float], *, factor: bool = False) -> Float:
            return gap.per_joint(robot, values, factor=factor)

        strength = table(gap.strength, factor=True)
        return cls(
            kp_nm_rad=robot.kp_nm_rad * strength * table(gap.kp, factor=True),
            kd_nm_s_rad=robot.kd_nm_s_rad * strength * table(gap.kd, factor=True),
            limit_nm=robot.effort_limit_nm * strength * table(gap.torque_limit, factor=True),
            damping_nm_s_rad=robot.array("damping_nm_s_rad") + table(gap.damping_nm_s_rad),
            armature_kg_m2=robot.array("armature_kg_m2") + table(gap.armature_kg_m2),
            friction_nm=robot.array("friction_nm") + table(gap.friction_nm),
            spring_nm_rad=table(gap.spring_nm_rad),
            offset_rad=table(gap.offset_rad),
        )


def _add_joints(spec: mujoco.MjSpec, robot: RobotSpec, gap: Gap) -> None:
    parameters = JointParameters.of(robot, gap)
    for i, joint in enumerate(robot.joints):
        element = spec.joint(joint.name)
        element.armature = parameters.armature_kg_m2[i]
        element.damping = np.array([parameters.damping_nm_s_rad[i], 0.0, 0.0])
        element.frictionloss = parameters.friction_nm[i]
        element.stiffness = np.array([parameters.spring_nm_rad[i], 0.0, 0.0])
        element.springref = joint.default_rad
        # The actuator carries the limit; a second one on the joint would hide a weak motor.
        element.actfrclimited = mujoco.mjtLimited.mjLIMITED_FALSE
        kp, kd = parameters.kp_nm_rad[i], parameters.kd_nm_s_rad[i]
        actuator = _pd_actuator(spec, joint.name, kp, kd, parameters.limit_nm[i])
        actuator.biasprm[0] = kp * parameters.offset_rad[i]


def _pd_actuator(
    spec: mujoco.MjSpec, joint: str, kp: float, kd: float, limit: float
) -> mujoco.MjsActuator:
    actuator = spec.add_actuator(name=joint, target=joint, trntype=mujoco.mjtTrn.mjTRN_JOINT)
    actuator.gaintype = mujoco.mjtGain.mjGAIN_FIXED
    actuator.biastype = mujoco.mjtBias.mjBIAS_AFFINE
    actuator.gainprm[0] = kp
    actuator.biasprm[1] = -kp
    actuator.biasprm[2] = -kd
    actuator.forcelimited = mujoco.mjtLimited.mjLIMITED_TRUE
    actuator.forcerange = [-limit, limit]
    return actuator


def build_model(robot: RobotSpec, gap: Gap | None = None) -> mujoco.MjModel:
    """Compiled :func:`build_spec`."""
    return build_spec(robot, gap).compile()
