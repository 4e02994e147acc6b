"""Robots by name."""

from policies.errors import InputError
from policies.interface import RobotSpec
from policies.robots.fr3 import FR3
from policies.robots.g1 import G1
from policies.robots.go2 import GO2
from policies.robots.panda import PANDA
from policies.robots.panda_hand import PANDA_HAND
from policies.robots.so101 import SO101

ROBOTS: dict[str, RobotSpec] = {
    spec.name: spec for spec in (FR3, G1, GO2, PANDA, PANDA_HAND, SO101)
}


def get_robot(name: str) -> RobotSpec:
    """Return the robot called ``name``.

    Raises:
        InputError: no such robot.
    """
    if name not in ROBOTS:
        raise InputError(f"expected a robot out of {sorted(ROBOTS)}, got {name!r}")
    return ROBOTS[name]
