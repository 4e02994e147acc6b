"""Joint motion for calibration, from a bag: commands, states, clocks, and the robot's model."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from policies.errors import InputError
from policies.interface import RobotSpec
from sim2real.bags.batch import NS
from sim2real.bags.reader import Bag, read_bag
from sim2real.episodes.streams import read_streams

if TYPE_CHECKING:
    from calibration.clocks import Clock
    from calibration.dynamics import RigidBody
    from calibration.signals import MotionLog


def read_motion(
    bag: Bag, robot: RobotSpec, state_topic: str | None, command_topic: str | None
) -> tuple[MotionLog, tuple[str, str]]:
    """Commands and states of a robot, by header stamps from the first state on.

    Args:
        bag: an opened bag.
        robot: whose joints are wanted.
        state_topic: None for ``/joint_states``.
        command_topic: None for the first of ``/joint_command``, ``/joint_commands``.

    Returns:
        The log, and the topics of states and commands.

    Raises:
        InputError: topics, joints or values are not as they must be.
    """
    from calibration.signals import MotionLog

    # the base is looked at by nobody here: a robot on a stand has no odometry
    streams = read_streams(bag, replace(robot, floating_base=False), state_topic, command_topic)
    states, commands = streams.states, streams.commands
    at, rows = np.unique(states.stamp_ns, return_index=True)
    sent, of = np.unique(commands.stamp_ns[commands.usable], return_index=True)
    of = np.flatnonzero(commands.usable)[of]
    if len(at) < 2:
        raise InputError(
            f"topic {streams.state_topic}: expected states over some seconds, got {len(at)}; "
            "record longer"
        )

    log = MotionLog(
        joint_names=robot.joint_names,
        command_s=(sent - at[0]) / NS,
        command_rad=commands.qpos_rad[of],
        command_vel_rad_s=None if commands.qvel_rad_s is None else commands.qvel_rad_s[of],
        state_s=(at - at[0]) / NS,
        qpos_rad=states.qpos_rad[rows],
        qvel_rad_s=states.qvel_rad_s[rows],
        effort_nm=None if states.effort_nm is None else states.effort_nm[rows],
    )
    return log, (streams.state_topic, streams.command_topic)


def read_clocks(bag: Bag, topics: tuple[str, ...]) -> dict[str, Clock]:
    """Clocks of topics with enough messages."""
    from calibration.clocks import measure_clock

    found = {}
    for name, columns in bag.columns_of(dict.fromkeys(topics)).items():
        clock = measure_clock(columns.stamp_ns, columns.log_ns)
        if clock is not None:
            found[name] = clock
    return found


def open_bag(path: Path, robot: RobotSpec) -> Bag:
    """Open a bag that was recorded with this robot, as far as it says.

    Raises:
        InputError: no bag, a damaged one, or one of another robot.
    """
    bag = read_bag(path)
    recorded = bag.info.provenance.get("robot", robot.name)
    if recorded != robot.name:
        raise InputError(
            f"bag {path}: expected robot {robot.name}, but it was recorded with {recorded}; "
            "use the robot that it was recorded with"
        )
    return bag


def digest(bag: Bag) -> str:
    """One hash of all data files of a bag."""
    parts = sorted(bag.info.sha256.items())
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def rigid_body(robot: RobotSpec) -> RigidBody:
    """The robot's model with its base held, a gripper open."""
    from calibration.dynamics import RigidBody
    from sim2real.robot_data import robot_data_dir

    held: dict[str, float] = {}
    if robot.gripper is not None:
        held = dict.fromkeys(robot.gripper.finger_joints, robot.gripper.max_width_m / 2.0)
    return RigidBody(robot_data_dir() / robot.urdf, robot.joint_names, held)
