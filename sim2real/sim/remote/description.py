"""A robot and its gap as plain data: what a simulator worker is told (``workers/wire.py``)."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import numpy as np

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from policies.runtime.plausibility import GRAVITY_M_S2
from sim2real.robot_data import robot_urdf
from sim2real.sim import model
from sim2real.sim.gaps import Gap


def describe(robot: RobotSpec, gap: Gap | None = None) -> dict[str, Any]:
    """Describe ``robot`` to a simulator worker; the same model as :func:`model.build_model`.

    Args:
        robot: the robot.
        gap: how it differs from its nominal model; its delay is not part of the description, the
            client applies it.

    Returns:
        Plain values for JSON, as ``workers/wire.py`` lists them.

    Raises:
        InputError: robot model not installed, the robot has coupled joints, or the gap names a
            joint or body that is not there.
    """
    if robot.coupled:
        raise InputError(
            f"expected a robot whose joints all have a motor in another engine than mujoco, got "
            f"{robot.name}, which couples {robot.coupled[0][0]} to another; use --engine mujoco"
        )
    gap = gap or Gap()
    urdf = _read_urdf(robot)
    links = [link.get("name", "") for link in urdf.findall("link")]
    floor = None
    if robot.floating_base:
        friction = gap.floor_friction or model.FLOOR_FRICTION
        floor = {"friction": friction, "softness_s": gap.floor_softness_s}
    joints = _joints(robot, gap, urdf)
    _change_masses(robot, gap, urdf)
    return {
        "name": robot.name,
        "urdf": ElementTree.tostring(urdf, encoding="unicode"),
        "base_link": robot.base_body,
        "floating_base": robot.floating_base,
        "start_height_m": robot.base_height_m,
        "gravity_m_s2": [0.0, 0.0, -GRAVITY_M_S2],
        # The robot's own controller does not know of a payload, which is no link of the robot.
        "weightless": links if robot.gravity_compensated else [],
        "floor": floor,
        "physics_dt_s": robot.physics_dt_s,
        **joints,
    }


def _read_urdf(robot: RobotSpec) -> ElementTree.Element:
    """The robot's URDF with absolute mesh paths, without what no worker needs."""
    urdf = ElementTree.fromstring(robot_urdf(robot))
    for link in urdf.findall("link"):
        drop = ["visual"] if robot.floating_base else ["visual", "collision"]
        for tag in drop:  # an arm in free space collides with nothing
            for element in link.findall(tag):
                link.remove(element)
    for joint in urdf.findall("joint"):
        for tag in ("mimic", "safety_controller"):  # fingers have a motor each
            for element in joint.findall(tag):
                joint.remove(element)
    return urdf


def _joints(robot: RobotSpec, gap: Gap, urdf: ElementTree.Element) -> dict[str, Any]:
    own = model.JointParameters.of(robot, gap)
    fingers = robot.gripper.finger_joints if robot.gripper else ()
    half_open = robot.gripper.max_width_m / 2.0 if robot.gripper else 0.0
    force = robot.gripper.max_force_n if robot.gripper else 0.0
    effort = [min(force, _in_urdf(urdf, name, "limit", "effort")) for name in fingers]
    viscous = [_in_urdf(urdf, name, "dynamics", "damping") for name in fingers]

    def joined(values: Float, finger: float | list[float]) -> list[float]:
        return [*np.asarray(values).tolist(), *np.broadcast_to(finger, len(fingers)).tolist()]

    return {
        "joints": [*robot.joint_names, *fingers],
        "controlled": robot.n,
        "hold": [half_open] * len(fingers),
        "kp": joined(own.kp_nm_rad, model.FINGER_KP_N_M),
        "kd": joined(own.kd_nm_s_rad, model.FINGER_KD_N_S_M),
        "limit": joined(own.limit_nm, effort),
        "damping": joined(own.damping_nm_s_rad, viscous),
        "armature": joined(own.armature_kg_m2, model.FINGER_ARMATURE_KG),
        "friction": joined(own.friction_nm, 0.0),
        "stiffness": joined(own.spring_nm_rad, 0.0),
        "spring_ref": joined(robot.default_rad, 0.0),
        "offset": joined(own.offset_rad, 0.0),
    }


def _in_urdf(urdf: ElementTree.Element, joint: str, tag: str, attribute: str) -> float:
    element = urdf.find(f"joint[@name='{joint}']/{tag}")
    return 0.0 if element is None else float(element.get(attribute, 0.0))


def _change_masses(robot: RobotSpec, gap: Gap, urdf: ElementTree.Element) -> None:
    for name in {**gap.mass, **gap.payload_kg, **gap.payload_com_m}:
        if urdf.find(f"link[@name='{name}']") is None:
            raise InputError(f"gap {gap.name}: robot {robot.name} has no body {name!r}")
    for name, factor in gap.mass.items():
        for tag in ("mass", "inertia"):
            for element in urdf.findall(f"link[@name='{name}']/inertial/{tag}"):
                for key, value in element.attrib.items():
                    element.set(key, repr(float(value) * factor))
    for name, mass in gap.payload_kg.items():
        _add_payload(urdf, name, mass, gap.payload_com_m.get(name, (0.0, 0.0, 0.0)))


def _add_payload(
    urdf: ElementTree.Element, body: str, mass_kg: float, com_m: tuple[float, float, float]
) -> None:
    """A link of its own: a small sphere, fixed to ``body``."""
    link = ElementTree.SubElement(urdf, "link", name=f"{body}_payload")
    inertial = ElementTree.SubElement(link, "inertial")
    ElementTree.SubElement(inertial, "origin", xyz=" ".join(map(repr, map(float, com_m))))
    ElementTree.SubElement(inertial, "mass", value=repr(float(mass_kg)))
    inertia = repr(0.4 * mass_kg * model.PAYLOAD_RADIUS_M**2)
    ball = {"ixx": inertia, "iyy": inertia, "izz": inertia, "ixy": "0", "ixz": "0", "iyz": "0"}
    ElementTree.SubElement(inertial, "inertia", ball)
    joint = ElementTree.SubElement(urdf, "joint", name=f"{body}_payload_joint", type="fixed")
    ElementTree.SubElement(joint, "parent", link=body)
    ElementTree.SubElement(joint, "child", link=f"{body}_payload")
