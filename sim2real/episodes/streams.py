"""State, command and base streams of one robot, checked and in canonical joint order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from policies.rotation import rotate
from sim2real.bags.batch import NS
from sim2real.bags.columns import Columns
from sim2real.bags.reader import Bag
from sim2real.episodes.align import Int

JOINT_STATE = "sensor_msgs/msg/JointState"
JOINT_TRAJECTORY = "trajectory_msgs/msg/JointTrajectory"
ODOMETRY = "nav_msgs/msg/Odometry"
HEADER = "std_msgs/msg/Header"
STRING = "std_msgs/msg/String"
STATE_TOPIC = "/joint_states"
COMMAND_TOPICS = ("/joint_command", "/joint_commands")
ODOM_TOPIC = "/odom"
EPISODE_TOPIC = "/episode"
INSTRUCTION_TOPICS = ("/policy/instruction", "/instruction")
_MARGIN_RAD = 0.2
_SHARE = 0.2


@dataclass(frozen=True, kw_only=True)
class States:
    """Joint states in the order of the bag.

    Attributes:
        stamp_ns, sequence: header stamps, ns, and places in the bag, (N,).
        qpos_rad, qvel_rad_s: (N, n).
        effort_nm: (N, n), or None where not measured.
    """

    stamp_ns: Int
    sequence: Int
    qpos_rad: Float
    qvel_rad_s: Float
    effort_nm: Float | None


@dataclass(frozen=True, kw_only=True)
class Commands:
    """Commands in the order of the bag.

    Attributes:
        stamp_ns, sequence: from when each applies, ns, and places in the bag, (M,).
        qpos_rad: commanded positions, (M, n), NaN where not usable.
        qvel_rad_s: commanded velocities, (M, n), or None where no command has any.
        usable: False for a damping command (no positions), (M,).
    """

    stamp_ns: Int
    sequence: Int
    qpos_rad: Float
    qvel_rad_s: Float | None
    usable: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Base:
    """Base motion in the order of the bag.

    Attributes:
        stamp_ns, sequence: header stamps, ns, and places in the bag, (N,).
        pos_m: position in the world, (N, 3).
        quat_wxyz: orientation in the world, (N, 4).
        lin_vel_m_s: velocity in the world frame, (N, 3).
        ang_vel_rad_s: angular velocity in the base frame, (N, 3).
    """

    stamp_ns: Int
    sequence: Int
    pos_m: Float
    quat_wxyz: Float
    lin_vel_m_s: Float
    ang_vel_rad_s: Float


@dataclass(frozen=True, kw_only=True)
class Streams:
    """Everything that episodes of one bag are cut from."""

    state_topic: str
    command_topic: str
    states: States
    commands: Commands
    base: Base | None
    markers: Columns | None
    instructions: Columns | None


def read_streams(
    bag: Bag, robot: RobotSpec, state_topic: str | None, command_topic: str | None
) -> Streams:
    """Read and check all streams in one pass over the bag.

    Args:
        bag: an opened bag.
        robot: whose joints are wanted; other joints in the messages are ignored.
        state_topic: None for ``/joint_states``.
        command_topic: None for the first of ``/joint_command``, ``/joint_commands``.

    Raises:
        InputError: a topic is missing or of another type, joints are missing, values are not
            finite or cannot be rad.
    """
    state = state_topic or STATE_TOPIC
    command = command_topic or next(
        (name for name in COMMAND_TOPICS if _recorded(bag, name)), COMMAND_TOPICS[0]
    )
    wanted = {state: (JOINT_STATE,), command: (JOINT_STATE, JOINT_TRAJECTORY)}
    if robot.floating_base:
        wanted[ODOM_TOPIC] = (ODOMETRY,)
    if _recorded(bag, EPISODE_TOPIC):
        wanted[EPISODE_TOPIC] = (HEADER,)
    told = next((name for name in INSTRUCTION_TOPICS if _recorded(bag, name)), None)
    if told is not None:
        wanted[told] = (STRING,)
    _require(bag, wanted, command_topic is None)
    joints = (state, command)
    columns = bag.columns_of({t: robot.joint_names if t in joints else None for t in wanted})
    for topic in joints:
        if not len(columns[topic]):
            raise InputError(
                f"topic {topic}: expected joints {list(robot.joint_names)}, got "
                f"{list(bag.columns(topic).names)}; use the robot whose joints these are or rename "
                "them in the bag"
            )
        if not columns[topic].stamp_ns.any():
            raise InputError(
                f"topic {topic}: expected header stamps, but all are zero; "
                "fix the publisher, times of reception are not good enough"
            )
    base = _base(columns[ODOM_TOPIC]) if robot.floating_base else None
    return Streams(
        state_topic=state,
        command_topic=command,
        states=_states(columns[state], robot),
        commands=_commands(columns[command], robot),
        base=base,
        markers=columns.get(EPISODE_TOPIC),
        instructions=None if told is None else columns[told],
    )


def _recorded(bag: Bag, topic: str) -> bool:
    """True if there are messages: a recorder declares topics before any comes."""
    info = bag.info.topic(topic)
    return info is not None and info.count > 0


def _require(bag: Bag, wanted: dict[str, tuple[str, ...]], any_command: bool) -> None:
    have = {topic.name: topic for topic in bag.info.topics if topic.count}
    missing = [name for name in wanted if name not in have]
    if missing:
        listed = ", ".join(f"{name} ({topic.type})" for name, topic in have.items()) or "none"
        shown = " and ".join(
            " or ".join(COMMAND_TOPICS) if any_command and name == COMMAND_TOPICS[0] else name
            for name in missing
        )
        raise InputError(
            f"bag {bag.info.path}: expected messages on {shown}, but the topics with messages are: "
            f"{listed}; record the missing ones or name the topics to use"
        )
    for name, types in wanted.items():
        if have[name].type not in types:
            raise InputError(
                f"topic {name}: expected {' or '.join(types)}, got {have[name].type}; "
                "name another topic"
            )


def _states(columns: Columns, robot: RobotSpec) -> States:
    arrays = columns.arrays
    for name in ("position", "velocity"):
        absent = np.flatnonzero(~arrays[f"has_{name}"])
        if len(absent):
            raise InputError(
                f"topic {columns.topic}: expected a {name} for each joint, but "
                f"{len(absent)} of {len(columns)} messages have none (the first: {absent[0]}); "
                "the driver must publish positions and velocities"
            )
        _require_finite(columns, robot, name, arrays[name])
    _require_radians(columns, robot, arrays["position"])
    effort: Float | None = None
    # NaN for every torque is how drivers without torque sensors fill the field
    if arrays["has_effort"].all() and not np.isnan(arrays["effort"]).all():
        _require_finite(columns, robot, "effort", arrays["effort"])
        effort = arrays["effort"]
    return States(
        stamp_ns=columns.stamp_ns,
        sequence=columns.sequence,
        qpos_rad=arrays["position"],
        qvel_rad_s=arrays["velocity"],
        effort_nm=effort,
    )


def _commands(columns: Columns, robot: RobotSpec) -> Commands:
    arrays = dict(columns.arrays)
    stamp_ns = columns.stamp_ns
    if columns.msgtype == JOINT_TRAJECTORY:
        most = int(arrays["n_points"].max())
        if most > 1:
            raise InputError(
                f"topic {columns.topic}: expected commands of one point, got a chunk of {most}; "
                "name the topic on which the guard sends commands to the driver"
            )
        if most == 1:
            stamp_ns = stamp_ns + arrays["time_from_start_ns"][:, 0]
            arrays = {name: values[:, 0] for name, values in arrays.items() if values.ndim > 1}
    usable = arrays["has_position"]
    if not usable.any():
        raise InputError(
            f"topic {columns.topic}: expected commanded positions, but no message has any; "
            "name a topic with position commands"
        )
    position = np.where(usable[:, None], arrays["position"], 0.0)
    _require_finite(columns, robot, "position", position)
    if robot.command == "position":
        _require_radians(columns, robot, position[usable])
    velocity: Float | None = None
    given = arrays["has_velocity"] & usable
    if given.any():
        # a command without velocity among others with one asks for none
        velocity = np.where(given[:, None], arrays["velocity"], 0.0)
        _require_finite(columns, robot, "velocity", velocity)
    return Commands(
        stamp_ns=stamp_ns,
        sequence=columns.sequence,
        qpos_rad=position,
        qvel_rad_s=velocity,
        usable=usable,
    )


def _base(columns: Columns) -> Base:
    arrays = columns.arrays
    for name in ("position", "orientation_wxyz", "linear_velocity", "angular_velocity"):
        bad = np.flatnonzero(~np.isfinite(arrays[name]).all(axis=1))
        if len(bad):
            raise InputError(
                f"topic {columns.topic}: expected finite values, but {name} of message {bad[0]} "
                f"(stamp {columns.stamp_ns[bad[0]] / NS:.6f} s) is not; cut it out or record again"
            )
    quat = arrays["orientation_wxyz"]
    norm = np.linalg.norm(quat, axis=1)
    bad = np.flatnonzero(np.abs(norm - 1.0) > 0.01)
    if len(bad):
        raise InputError(
            f"topic {columns.topic}: expected unit quaternions, but message {bad[0]} has norm "
            f"{norm[bad[0]]:.4f}; fix the publisher"
        )
    return Base(
        stamp_ns=columns.stamp_ns,
        sequence=columns.sequence,
        pos_m=arrays["position"],
        quat_wxyz=quat,
        # REP-105: the twist is in child_frame_id, the base
        lin_vel_m_s=rotate(quat, arrays["linear_velocity"]),
        ang_vel_rad_s=arrays["angular_velocity"],
    )


def _require_finite(columns: Columns, robot: RobotSpec, name: str, values: Float) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        row, joint = bad[0]
        raise InputError(
            f"topic {columns.topic}: expected finite values, got {name} {values[row, joint]} of "
            f"joint {robot.joint_names[joint]} in message {row} (stamp "
            f"{columns.stamp_ns[row] / NS:.6f} s) and {len(bad) - 1} more; cut it out or record "
            "again"
        )


def _require_radians(columns: Columns, robot: RobotSpec, qpos: Float) -> None:
    outside = (qpos < robot.lower_rad - _MARGIN_RAD) | (qpos > robot.upper_rad + _MARGIN_RAD)
    share = float(outside.any(axis=1).mean())
    if share < _SHARE:
        return
    joint = robot.joint_names[int(np.argmax(outside.mean(axis=0)))]
    largest = float(np.abs(qpos).max())
    guess = "these look like degrees" if largest > 2.0 * np.pi else "this looks like another robot"
    raise InputError(
        f"topic {columns.topic}: expected positions in rad within the limits of {robot.name}, but "
        f"{share:.0%} of the messages are outside (most often {joint}, largest value "
        f"{largest:.2f}): {guess}; publish rad, with the zero of the URDF"
    )
