"""A generative model as the policy of a robot: observations by name in, joint commands out."""

from __future__ import annotations

import numpy as np

from policies.datasets.demonstrations import Demonstrations
from policies.diffusion.config import RobotBinding
from policies.errors import InputError
from policies.interface import RobotSpec

_AXES = ("x", "y", "z")
_QUANTITIES = ("qpos", "qvel", "effort", "command", "command_velocity", "goal")


def state_joints(names: tuple[str, ...], robot: RobotSpec, what: str) -> None:
    """Check that the robot can tell every entry of a state.

    Args:
        names: such as ``qpos/panda_joint1`` or ``goal/x``.
        robot: the robot.
        what: whose names they are, for the error text.

    Raises:
        InputError: it cannot.
    """
    for name in names:
        quantity, _, of = name.partition("/")
        known = _AXES if quantity == "goal" else robot.joint_names
        if quantity not in _QUANTITIES or of not in known:
            raise InputError(
                f"{what}: expected states such as 'qpos/{robot.joint_names[0]}' or 'goal/x', out "
                f"of {list(_QUANTITIES)} and joints of {robot.name}, got {name!r}"
            )


def action_joints(names: tuple[str, ...], robot: RobotSpec, what: str) -> tuple[str, ...]:
    """Joints that the actions command.

    Args:
        names: such as ``position/panda_joint1``.
        robot: the robot.
        what: whose names they are, for the error text.

    Raises:
        InputError: a name is not of this kind, or the robot has no such joint.
    """
    joints = []
    for name in names:
        quantity, _, joint = name.partition("/")
        if quantity != "position" or joint not in robot.joint_names:
            raise InputError(
                f"{what}: expected actions such as 'position/{robot.joint_names[0]}' of joints of "
                f"{robot.name}, got {name!r}"
            )
        joints.append(joint)
    return tuple(joints)


def bind_robot(demonstrations: Demonstrations, robot: RobotSpec) -> RobotBinding:
    """Check that demonstrations are of a robot.

    The pose to start from is the mean of the poses in which the demonstrations start.

    Args:
        demonstrations: what a model is trained on.
        robot: the robot.

    Raises:
        InputError: a name is not one that the robot knows.
    """
    state_joints(tuple(demonstrations.state_names), robot, "demonstrations")
    action_joints(tuple(demonstrations.action_names), robot, "demonstrations")
    pose = dict(zip(robot.joint_names, robot.default_rad.tolist(), strict=True))
    for i, name in enumerate(demonstrations.state_names):
        quantity, _, joint = name.partition("/")
        if quantity == "qpos":
            pose[joint] = float(np.mean([rows[0, i] for rows in demonstrations.state]))
    return RobotBinding(name=robot.name, fingerprint=robot.fingerprint, start_pose_rad=pose)
