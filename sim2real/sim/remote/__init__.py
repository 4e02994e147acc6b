"""Simulators by name: MuJoCo in this process, or an engine in an interpreter of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from policies.errors import InputError
from policies.interface import RobotSpec
from sim2real.sim.batch import BatchStepper
from sim2real.sim.gaps import Gap
from sim2real.sim.remote.stepper import RemoteRobot, RemoteStepper
from sim2real.sim.scene import SceneObject
from sim2real.sim.stepper import Stepper

if TYPE_CHECKING:
    from sim2real.sim.engine import Engine, OneRobot

SIMULATORS = ("mujoco", "mujoco-remote", "sapien", "isaacgym")
"""Names of simulators; ``mujoco`` runs in this process, the others in a worker."""


def simulator_python(name: str, python: str | None = None) -> str:
    """Interpreter for the worker of simulator ``name``.

    Args:
        name: one of :data:`SIMULATORS`.
        python: its path, or None for ``REALIGN_SAPIEN_PYTHON`` (``REALIGN_ISAACGYM_PYTHON``,
            ``REALIGN_MUJOCO_PYTHON``) in the environment, and this interpreter without it.
    """
    return python or os.environ.get(f"REALIGN_{_engine(name).upper()}_PYTHON") or sys.executable


def open_engine(
    name: str,
    robot: RobotSpec,
    gap: Gap | None = None,
    *,
    rate_hz: float | None = None,
    python: str | None = None,
) -> Engine:
    """A batched simulator.

    Args:
        name: one of :data:`SIMULATORS`.
        robot: the robot.
        gap: dynamics gap, None for nominal.
        rate_hz: control rate, default ``robot.control_rate_hz``.
        python: interpreter of a worker, see :func:`simulator_python`.

    Raises:
        InputError: unknown simulator, or its worker cannot start or cannot build the robot.
    """
    _check(name, python)
    if name == "mujoco":
        return BatchStepper(robot, gap, rate_hz=rate_hz)
    return RemoteStepper(
        _engine(name), robot, gap, rate_hz=rate_hz, python=simulator_python(name, python)
    )


def open_robot(
    name: str,
    robot: RobotSpec,
    gap: Gap | None = None,
    *,
    rate_hz: float | None = None,
    python: str | None = None,
    objects: Sequence[SceneObject] = (),
) -> OneRobot:
    """One robot for a closed loop: :class:`sim2real.sim.virtual_robot.VirtualRobot`, or
    :func:`sim2real.tasks.closed_loop.roll_out`.

    Args: as :func:`open_engine`, and ``objects``: things beside it that it can grasp.

    Raises:
        InputError: as :func:`open_engine`, or objects in another engine than mujoco.
    """
    _check(name, python)
    if name == "mujoco":
        return Stepper(robot, gap, rate_hz=rate_hz, objects=objects)
    if objects:
        raise InputError(
            f"expected the simulator mujoco for {robot.name}, which has things to grasp, got "
            f"{name}; use --engine mujoco"
        )
    return RemoteRobot(
        _engine(name), robot, gap, rate_hz=rate_hz, python=simulator_python(name, python)
    )


def _engine(name: str) -> str:
    return name.removesuffix("-remote")


def _check(name: str, python: str | None) -> None:
    if name not in SIMULATORS:
        raise InputError(f"expected a simulator out of {list(SIMULATORS)}, got {name!r}")
    if name == "mujoco" and python is not None:
        raise InputError(
            f"expected no interpreter for the simulator mujoco, which runs in this process, got "
            f"{python}; use mujoco-remote to run it there"
        )
