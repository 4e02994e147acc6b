"""The Franka Control Interface on the wire: packed little-endian records, commands, error bits.

Version 10 of the robot's protocol (system 5.9 and newer) and version 3 of the gripper's. Commands
go over TCP, states and motion commands over UDP. Nothing here opens a socket.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

ROBOT_PORT, GRIPPER_PORT = 1337, 1338
ROBOT_VERSION, GRIPPER_VERSION = 10, 3
PERIOD_S = 0.001


class Command(IntEnum):
    """What a client asks of the robot over TCP."""

    CONNECT = 0
    MOVE = 1
    STOP_MOVE = 2
    SET_COLLISION_BEHAVIOR = 3
    SET_JOINT_IMPEDANCE = 4
    SET_CARTESIAN_IMPEDANCE = 5
    SET_GUIDING_MODE = 6
    SET_EE_TO_K = 7
    SET_NE_TO_EE = 8
    SET_LOAD = 9
    AUTOMATIC_ERROR_RECOVERY = 10
    GET_ROBOT_MODEL = 11


class MoveStatus(IntEnum):
    """Answers to :attr:`Command.MOVE`: one when the motion starts, one when it has ended."""

    SUCCESS = 0
    MOTION_STARTED = 1
    PREEMPTED = 2
    NOT_POSSIBLE_REJECTED = 5
    INVALID_ARGUMENT_REJECTED = 7
    REFLEX_ABORTED = 8
    EMERGENCY_ABORTED = 9


class Generator(IntEnum):
    """Motion generator of a Move request."""

    JOINT_POSITION = 0
    JOINT_VELOCITY = 1
    CARTESIAN_POSITION = 2
    CARTESIAN_VELOCITY = 3
    NONE = 4


class Controller(IntEnum):
    """Controller of a Move request."""

    JOINT_IMPEDANCE = 0
    CARTESIAN_IMPEDANCE = 1
    EXTERNAL = 2


class RobotMode(IntEnum):
    """What the robot says that it does."""

    OTHER = 0
    IDLE = 1
    MOVE = 2
    GUIDING = 3
    REFLEX = 4
    USER_STOPPED = 5
    RECOVERY = 6


# The same generators and controllers have other numbers in the state.
IDLE_GENERATOR, OTHER_CONTROLLER = 0, 3
GENERATOR_IN_STATE = {
    Generator.JOINT_POSITION: 1,
    Generator.JOINT_VELOCITY: 2,
    Generator.CARTESIAN_POSITION: 3,
    Generator.CARTESIAN_VELOCITY: 4,
    Generator.NONE: 5,
}

HEADER = np.dtype([("command", "<u4"), ("id", "<u4"), ("size", "<u4")])
CONNECT = np.dtype([("version", "<u2"), ("udp_port", "<u2")])
MOVE = np.dtype(
    [
        ("controller", "<u4"),
        ("generator", "<u4"),
        ("path_deviation", "<f8", 3),
        ("goal_deviation", "<f8", 3),
        ("is_asynchronous", "u1"),
        ("maximum_velocities", "<f8", 7),
    ]
)
ROBOT_COMMAND = np.dtype(
    [
        ("message_id", "<u8"),
        ("q", "<f8", 7),
        ("dq", "<f8", 7),
        ("O_T_EE", "<f8", 16),
        ("O_dP_EE", "<f8", 6),
        ("elbow", "<f8", 2),
        ("has_elbow", "u1"),
        ("motion_finished", "u1"),
        ("tau", "<f8", 7),
        ("torque_finished", "u1"),
    ]
)

_FLOATS = (
    *((name, 16) for name in ("O_T_EE", "O_T_EE_d", "F_T_EE", "EE_T_K", "F_T_NE", "NE_T_EE")),
    ("m_ee", 1),
    ("I_ee", 9),
    ("F_x_Cee", 3),
    ("m_load", 1),
    ("I_load", 9),
    ("F_x_Cload", 3),
    *((name, 2) for name in ("elbow", "elbow_d")),
    *((name, 7) for name in ("tau_J", "tau_J_d", "dtau_J", "q", "q_d", "dq", "dq_d", "ddq_d")),
    ("joint_contact", 7),
    ("cartesian_contact", 6),
    ("joint_collision", 7),
    ("cartesian_collision", 6),
    ("tau_ext_hat_filtered", 7),
    ("O_F_ext_hat_K", 6),
    ("K_F_ext_hat_K", 6),
    ("O_dP_EE_d", 6),
    ("O_ddP_O", 3),
    *((name, 2) for name in ("elbow_c", "delbow_c", "ddelbow_c")),
    ("O_T_EE_c", 16),
    ("O_dP_EE_c", 6),
    ("O_ddP_EE_c", 6),
    ("theta", 7),
    ("dtheta", 7),
    ("accelerometer_top", 18),
    ("accelerometer_bottom", 18),
)
ERROR_BITS = 41
ROBOT_STATE = np.dtype(
    [
        ("message_id", "<u8"),
        *((name, "<f4", size) if size > 1 else (name, "<f4") for name, size in _FLOATS),
        ("generator", "u1"),
        ("controller", "u1"),
        ("errors", "u1", ERROR_BITS),
        ("reflex_reason", "u1", ERROR_BITS),
        ("robot_mode", "u1"),
        ("control_command_success_rate", "<f4"),
    ]
)


class GripperCommand(IntEnum):
    """What a client asks of the gripper."""

    CONNECT = 0
    HOMING = 1
    GRASP = 2
    MOVE = 3
    STOP = 4


class GripperStatus(IntEnum):
    """Answers of the gripper."""

    SUCCESS = 0
    FAIL = 1
    UNSUCCESSFUL = 2
    ABORTED = 3


GRIPPER_HEADER = np.dtype([("command", "<u2"), ("id", "<u4"), ("size", "<u4")])
GRASP = np.dtype(
    [
        ("width", "<f8"),
        ("epsilon_inner", "<f8"),
        ("epsilon_outer", "<f8"),
        ("speed", "<f8"),
        ("force", "<f8"),
    ]
)
GRIPPER_MOVE = np.dtype([("width", "<f8"), ("speed", "<f8")])
GRIPPER_STATE = np.dtype(
    [
        ("message_id", "<u4"),
        ("width", "<f8"),
        ("max_width", "<f8"),
        ("is_grasped", "u1"),
        ("temperature", "<u2"),
    ]
)


def pack(dtype: np.dtype[Any], **fields: Any) -> bytes:
    """Bytes of one record; fields that are not given are zero."""
    record = np.zeros((), dtype=dtype)
    for name, value in fields.items():
        record[name] = value
    return record.tobytes()


def message(header: np.dtype[Any], command: int, identity: int, payload: bytes) -> bytes:
    """A TCP message: header with the total size, then the payload."""
    size = header.itemsize + len(payload)
    return pack(header, command=command, id=identity, size=size) + payload
