"""Where the URDFs and meshes of the robots are; needs no simulator."""

from __future__ import annotations

import sys
import sysconfig
from functools import cache
from pathlib import Path

from policies.errors import InputError


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
