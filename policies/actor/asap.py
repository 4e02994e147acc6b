"""Importer for ASAP's motion-tracking policies (arXiv 2502.01143, github.com/LeCAR-Lab/ASAP).

Such a policy reads 380 values and writes 23 joint offsets. The metadata file lists the joints, the
default pose, the action scale, and for each policy the motion's length and its start pose.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.actor.config import ActionConfig, ActorConfig, Reader, read_json
from policies.actor.onnx_model import io_sizes, parse_onnx
from policies.checkpoint import save_checkpoint
from policies.checkpoint_files import check_writable
from policies.errors import InputError
from policies.interface import Float, RobotSpec, reorder_index
from policies.processors import HISTORY, TermConfig
from policies.robots import get_robot

ROBOT = "g1"
_ACTION_CLIP = 100.0
_HISTORY_TICKS = 4
_POSE_TOLERANCE_RAD = 1e-6


def asap_observation(policy_joints: tuple[str, ...]) -> tuple[TermConfig, ...]:
    """ASAP's motion-tracking observation: 380 values for its 23 joints."""
    action = TermConfig(term="last_action")
    ang_vel = TermConfig(term="base_ang_vel", scale=0.25)
    qpos = TermConfig(term="joint_pos", joints=policy_joints)
    qvel = TermConfig(term="joint_vel", scale=0.05, joints=policy_joints)
    gravity = TermConfig(term="projected_gravity")
    phase = TermConfig(term="motion_phase")
    past = TermConfig(
        term=HISTORY, history=_HISTORY_TICKS, terms=(action, ang_vel, qpos, qvel, gravity, phase)
    )
    return (action, ang_vel, qpos, qvel, past, gravity, phase)


def import_asap(
    onnx: Path, meta: Path, name: str, out: Path, *, overwrite: bool = False
) -> ActorConfig:
    """Turn an ASAP motion-tracking ONNX and its metadata into a checkpoint.

    Args:
        onnx: the network, one input of 380 values and one output of 23.
        meta: JSON with ``joint_names``, ``policy_joint_names``, ``default_joint_pos_rad``,
            ``action_scale``, ``control_rate_hz`` and ``policies``.
        name: which entry of ``policies`` it is.
        out: checkpoint directory to create.
        overwrite: replace an existing checkpoint.

    Returns:
        The checkpoint's configuration; ``source["note"]`` tells where the metadata's gains differ
        from the robot's.

    Raises:
        InputError: a file is missing or malformed, ``name`` is not in the metadata, the network
            has another layout, or the joints are not those of our G1.
    """
    robot = get_robot(ROBOT)
    check_writable(Path(out), overwrite=overwrite)
    model = _read_file(Path(onnx), "an ONNX file")
    where = str(meta)
    text = _read_file(Path(meta), "a JSON file").decode("utf-8", errors="replace")
    reader = Reader(read_json(text, where), where)
    entry = _policy_entry(reader, name, where)
    joints = reader.names("joint_names")
    policy_joints = reader.names("policy_joint_names")
    order = _check_joints(reader, robot, joints, policy_joints, where)
    _check_network(model, Path(onnx), policy_joints)
    rate_hz = reader.number("control_rate_hz", above=0.0)
    config = ActorConfig(
        name=name,
        robot=robot.name,
        robot_fingerprint=robot.fingerprint,
        rate_hz=rate_hz,
        action=ActionConfig(
            type="position_offset_from_default",
            joints=policy_joints,
            scale=reader.number("action_scale", above=0.0),
            clip=_ACTION_CLIP,
            dt_s=1.0 / rate_hz,
        ),
        hold_pose_rad={
            joint: float(robot.default_rad[i])
            for i, joint in enumerate(robot.joint_names)
            if joint not in policy_joints
        },
        observation=asap_observation(policy_joints),
        duration_s=entry.number("motion_length_s", above=0.0),
        start_pose_rad=_start_pose(entry, robot, where),
        source={
            "format": "asap",
            "file": Path(onnx).name,
            "origin": reader.text("source") if reader.has("source") else "unknown",
            "note": _gains_note(reader, robot, order),
        },
    )
    save_checkpoint(Path(out), config, model, overwrite=overwrite)
    return config


def _read_file(path: Path, kind: str) -> bytes:
    if not path.is_file():
        raise InputError(f"expected {kind}, got {path}, which is not a file; check the path")
    return path.read_bytes()


def _policy_entry(reader: Reader, name: str, where: str) -> Reader:
    policies = reader.value("policies")
    if not isinstance(policies, dict) or name not in policies:
        known = sorted(policies) if isinstance(policies, dict) else []
        raise InputError(
            f"{where}: expected --name to be one of its motion-tracking policies {known}, "
            f"got {name!r}; choose one, or add its motion length and start pose to 'policies'"
        )
    return Reader(policies[name], f"{where}, policy {name!r}")


def _check_joints(
    reader: Reader,
    robot: RobotSpec,
    joints: tuple[str, ...],
    policy_joints: tuple[str, ...],
    where: str,
) -> NDArray[np.intp]:
    """Same joints and default pose as our robot; returns their index in the metadata's lists."""
    order = reorder_index(joints, robot.joint_names, f"{where}, 'joint_names'")
    if len(joints) != robot.n:
        unknown = sorted(set(joints) - set(robot.joint_names))
        raise InputError(f"{where}: expected the joints of {robot.name}, got also {unknown}")
    reorder_index(policy_joints, (), f"{where}, 'policy_joint_names'")
    reorder_index(joints, policy_joints, f"{where}, 'joint_names' for 'policy_joint_names'")
    default = _values(reader, "default_joint_pos_rad", robot.n, where)[order]
    off = np.abs(default - robot.default_rad)
    if off.max() > _POSE_TOLERANCE_RAD:
        i = int(off.argmax())
        raise InputError(
            f"{where}: expected the default pose of {robot.name} ({robot.joint_names[i]} at "
            f"{robot.default_rad[i]:g} rad), got {default[i]:g}; the policy was trained around "
            "another pose"
        )
    return order


def _values(reader: Reader, key: str, size: int, where: str) -> Float:
    values = reader.numbers(key)
    if len(values) != size:
        raise InputError(f"{where}: expected {size} numbers in {key!r}, got {len(values)}")
    return np.array(values)


def _check_network(model: bytes, path: Path, policy_joints: tuple[str, ...]) -> None:
    n = len(policy_joints)
    per_tick = 3 * n + 7  # last action, joint positions and velocities; 3 + 3 + 1 for the base
    want = per_tick * (1 + _HISTORY_TICKS), n
    have = io_sizes(parse_onnx(model, str(path)), str(path))
    if have != want:
        raise InputError(
            f"{path}: expected an ASAP motion-tracking policy with {want[0]} inputs and {want[1]} "
            f"outputs, got {have[0]} and {have[1]}; other kinds of policy (such as ASAP's "
            "locomotion) cannot be imported"
        )


def _start_pose(entry: Reader, robot: RobotSpec, where: str) -> dict[str, float]:
    """Default legs, and the motion's first frame for the waist and arms."""
    upper = entry.numbers("start_upper_body_pos_rad")
    legs = robot.n - 17
    if len(upper) != robot.n - legs:
        raise InputError(
            f"{where}: expected {robot.n - legs} values in 'start_upper_body_pos_rad' (waist and "
            f"arms), got {len(upper)}"
        )
    pose = [*robot.default_rad[:legs].tolist(), *upper]
    return dict(zip(robot.joint_names, pose, strict=True))


def _gains_note(reader: Reader, robot: RobotSpec, order: NDArray[np.intp]) -> str:
    """Which PD gains of the metadata are not the robot's; the policy runs on the robot's."""
    parts = []
    for key, ours in (("kp_Nm_per_rad", robot.kp_nm_rad), ("kd_Nm_s_per_rad", robot.kd_nm_s_rad)):
        if not reader.has(key):
            parts.append(f"no {key} in the metadata")
            continue
        theirs = _values(reader, key, robot.n, "metadata")[order]
        parts += [
            f"{key} of {robot.joint_names[i]} is {theirs[i]:g} in the metadata, {ours[i]:g} here"
            for i in np.flatnonzero(np.abs(theirs - ours) > 1e-9)
        ]
    return "; ".join(parts) or "gains as in the metadata"
