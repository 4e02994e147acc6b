"""The URDF that the control box gives its clients, from which libfranka makes its model."""

from __future__ import annotations

from xml.etree import ElementTree

from policies.errors import InputError
from policies.interface import RobotSpec
from realign_franka_driver.limits import BoxLimits
from sim2real.sim.model import robot_data_dir

PREFIX = "fr3_"
_LINKS, _JOINTS = 9, 8


def robot_model(robot: RobotSpec) -> str:
    """URDF of the arm without its hand: link0 to 8, fr3_joint1 to 8, masses, limits.

    libfranka looks links up by these very names, and crashes where it does not find them.

    Args:
        robot: a Franka arm; its limits replace those of the model file.

    Raises:
        InputError: the model file is not that of a Franka arm.
    """
    source = ElementTree.parse(robot_data_dir() / robot.urdf).getroot()
    model = ElementTree.Element("robot", name="fr3")
    for i in range(_LINKS):
        link = ElementTree.SubElement(model, "link", name=f"link{i}")
        link.extend(_find(source, "link", f"link{i}").findall("inertial"))
    limits = BoxLimits.of(robot)
    for i in range(1, _JOINTS + 1):
        original = _find(source, "joint", f"joint{i}")
        attributes = {"name": f"{PREFIX}joint{i}", "type": original.get("type", "")}
        joint = ElementTree.SubElement(model, "joint", attributes)
        joint.extend(e for tag in ("origin", "axis") for e in original.findall(tag))
        ElementTree.SubElement(joint, "parent", link=f"link{i - 1}")
        ElementTree.SubElement(joint, "child", link=f"link{i}")
        if i > robot.n:  # the flange is fixed
            continue
        ElementTree.SubElement(
            joint,
            "limit",
            lower=f"{limits.lower_rad[i - 1]:.6f}",
            upper=f"{limits.upper_rad[i - 1]:.6f}",
            velocity=f"{limits.velocity_rad_s[i - 1]:.6f}",
            effort=f"{limits.effort_nm[i - 1]:.6f}",
        )
        ElementTree.SubElement(
            joint,
            "position_based_velocity_limits",
            velocity_offset=f"{limits.offset_rad_s[i - 1]:.6f}",
            deceleration_limit=f"{limits.deceleration_rad_s2[i - 1]:.6f}",
        )
    return ElementTree.tostring(model, encoding="unicode")


def _find(source: ElementTree.Element, tag: str, ending: str) -> ElementTree.Element:
    for element in source.findall(tag):
        if element.get("name", "").endswith(f"_{ending}"):
            return element
    raise InputError(
        f"expected the model of a Franka arm, but it has no {tag} ..._{ending}; "
        "use --robot panda or fr3"
    )
