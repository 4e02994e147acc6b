"""Where the URDFs and meshes of the robots are; needs no simulator."""

from __future__ import annotations

import re
import sys
import sysconfig
from functools import cache
from pathlib import Path

from policies.errors import InputError
from policies.interface import RobotSpec


@cache
def robot_data_dir() -> Path:
    """Folder ``example-robot-data/robots`` of the PyPI package of that name.

    Raises:
        InputError: the package is not installed.
    """
    roots = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *sys.path]
    for root in roots:
        folder = Path(root) / "cmeel.prefix/share/example-robot-data/robots"
        if folder.is_dir():
            return folder
    raise InputError(
        "expected the PyPI package example-robot-data, but it is not installed; "
        "run: pip install example-robot-data"
    )


def robot_urdf(robot: RobotSpec) -> str:
    """URDF of ``robot`` under our names, with absolute paths of meshes.

    Raises:
        InputError: the package with the robots is not installed.
    """
    folder = robot_data_dir()
    text = (folder / robot.urdf).read_text(encoding="utf-8")
    text = text.replace("package://", f"{folder.parents[1]}/")
    if robot.urdf_prefixes is None:
        return text
    theirs, ours = robot.urdf_prefixes
    return re.sub(rf'\b(name|link|joint)="{theirs}', rf'\1="{ours}', text)
