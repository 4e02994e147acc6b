"""What the numbers of a LeRobot checkpoint are: entry by entry with its unit, camera by camera.

A checkpoint knows sizes, not names: entry 3 of its state is whatever its dataset had there, in
whatever unit. A map file states it, and is turned into numbers when the checkpoint is imported.
LeRobot's own units of a joint are ``degrees``, or a part of the range that the calibration of the
arm saw: ``-100..100``, and ``0..100`` for a jaw. The angles at both ends of that range must be
given, or ``"limits"`` for the joint limits of the robot.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from policies.actor.config import Reader, read_json
from policies.actor.onnx_actor import pose_array
from policies.diffusion.chunk_policy import action_joints, state_index
from policies.errors import InputError
from policies.interface import Float, RobotSpec

_DEGREE = math.pi / 180.0
_ANGLES = {"rad": 1.0, "degrees": _DEGREE}
_SPEEDS = {"rad/s": 1.0, "degrees/s": _DEGREE}
_UNITS: dict[str, dict[str, float]] = {
    "qpos": _ANGLES,
    "position": _ANGLES,
    "qvel": _SPEEDS,
    "velocity": _SPEEDS,
    "effort": {"Nm": 1.0},
    "goal": {"m": 1.0},
}
_RANGES = {"-100..100": (-100.0, 100.0), "0..100": (0.0, 100.0)}
_RANGED = ("qpos", "position")
_PARTS = {
    "state": "observation.state",
    "environment_state": "observation.environment_state",
    "action": "action",
}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One number of a state or an action; SI value = scale x LeRobot's value + offset.

    Attributes:
        name: LeRobot's name of it, for people and for the comparison with a dataset.
        quantity: ours, such as ``qpos/shoulder_pan`` or ``position/shoulder_pan``.
        unit: LeRobot's unit of it.
        scale: SI units per LeRobot unit.
        offset: SI value at LeRobot's zero.
    """

    name: str
    quantity: str
    unit: str
    scale: float
    offset: float


@dataclass(frozen=True, kw_only=True)
class ValueMap:
    """A map file, resolved for a robot.

    Attributes:
        rate_hz: rate of the dataset that the policy was trained on, Hz.
        state, environment_state, action: entries of LeRobot's features, in order.
        cameras: LeRobot's feature -> name of the camera in ``Observation.images``.
        instruction: what the robot is told to do, or None.
        start_pose_rad: joint name -> position to start from.
    """

    rate_hz: float
    state: tuple[Entry, ...]
    environment_state: tuple[Entry, ...]
    action: tuple[Entry, ...]
    cameras: dict[str, str]
    instruction: str | None = None
    start_pose_rad: dict[str, float] = field(default_factory=dict)


def to_lerobot(values: Float, entries: Sequence[Entry]) -> Float:
    """SI values (..., D) of D entries -> LeRobot's values."""
    scale, offset = _affine(entries)
    out: Float = (values - offset) / scale
    return out


def to_si(values: Float, entries: Sequence[Entry]) -> Float:
    """LeRobot's values (..., D) of D entries -> SI values."""
    scale, offset = _affine(entries)
    out: Float = values * scale + offset
    return out


def _affine(entries: Sequence[Entry]) -> tuple[Float, Float]:
    return np.array([e.scale for e in entries]), np.array([e.offset for e in entries])


def read_map(path: Path, robot: RobotSpec) -> ValueMap:
    """Read a map file.

    Args:
        path: JSON file.
        robot: the robot that the policy shall run on.

    Raises:
        InputError: not readable, a key is missing or unknown, or the robot has no such quantity.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: expected a map file (JSON), got none that is readable"
        ) from error
    return resolve(read_json(text, str(path)), robot, str(path))


def resolve(data: dict[str, Any], robot: RobotSpec, where: str) -> ValueMap:
    """A map from the content of a map file.

    Args:
        data: the JSON object.
        robot: the robot that the policy shall run on.
        where: name of the file in error texts.

    Raises:
        InputError: as :func:`read_map`.
    """
    reader = Reader(data, where)
    reader.only("rate_hz", *_PARTS, "cameras", "instruction", "start_pose_rad")
    parts = {part: _entries(reader, part, robot, where) for part in _PARTS}
    if not parts["state"] + parts["environment_state"] or not parts["action"]:
        raise InputError(f"{where}: expected at least one entry in 'state' and in 'action'")
    state_index([e.quantity for e in parts["state"] + parts["environment_state"]], robot, where)
    action_joints([e.quantity for e in parts["action"]], robot, where)
    pose = dict(zip(robot.joint_names, robot.default_rad.tolist(), strict=True))
    if reader.has("start_pose_rad"):
        pose |= reader.by_name("start_pose_rad")
    pose_array(pose, robot, f"{where}, 'start_pose_rad'")
    return ValueMap(
        rate_hz=reader.number("rate_hz", above=0.0),
        **parts,
        cameras=_cameras(reader, where),
        instruction=reader.text("instruction") if reader.has("instruction") else None,
        start_pose_rad=pose,
    )


def _cameras(reader: Reader, where: str) -> dict[str, str]:
    if not reader.has("cameras"):
        return {}
    cameras = Reader(reader.value("cameras"), f"{where}, 'cameras'")
    named = {key: cameras.text(key) for key in reader.value("cameras")}
    if len(set(named.values())) != len(named):
        raise InputError(f"{where}: expected another camera for each feature, got {named}")
    return named


def _entries(reader: Reader, part: str, robot: RobotSpec, where: str) -> tuple[Entry, ...]:
    if not reader.has(part):
        return ()
    listed = reader.value(part)
    if not isinstance(listed, list):
        raise InputError(f"{where}: expected a list of entries in {part!r}")
    entries = tuple(
        _entry(Reader(entry, f"{where}, {part}[{i}]"), robot, f"{where}, {part}[{i}]")
        for i, entry in enumerate(listed)
    )
    quantities = [entry.quantity for entry in entries]
    if len(set(quantities)) != len(quantities):
        raise InputError(f"{where}: expected each quantity once in {part!r}, got {quantities}")
    return entries


def _entry(reader: Reader, robot: RobotSpec, where: str) -> Entry:
    reader.only("name", "is", "unit", "sign", "zero_rad", "range_rad")
    quantity, unit = reader.text("is"), reader.text("unit")
    kind, _, joint = quantity.partition("/")
    if kind not in _UNITS:
        raise InputError(
            f"{where}: expected 'is' to be one of {sorted(_UNITS)} with a joint or axis, such as "
            f"'qpos/{robot.joint_names[0]}', got {quantity!r}"
        )
    known = [*_UNITS[kind], *(_RANGES if kind in _RANGED else ())]
    if unit not in known:
        raise InputError(f"{where}: expected a unit of {kind} out of {known}, got {unit!r}")
    if (unit in _RANGES) != reader.has("range_rad"):
        raise InputError(
            f"{where}: expected 'range_rad' for the units {list(_RANGES)} and for no other, got "
            f"{unit!r} {'with' if reader.has('range_rad') else 'without'} it"
        )
    if unit in _RANGES:
        scale, offset = _of_range(reader, unit, robot, joint, where)
    else:
        sign = reader.integer("sign", -1, 1) if reader.has("sign") else 1
        if sign == 0 or (reader.has("zero_rad") and kind not in _RANGED):
            raise InputError(
                f"{where}: expected a 'sign' of 1 or -1, and 'zero_rad' for angles only"
            )
        scale = sign * _UNITS[kind][unit]
        offset = reader.number("zero_rad") if reader.has("zero_rad") else 0.0
    name = reader.text("name") if reader.has("name") else quantity
    return Entry(name=name, quantity=quantity, unit=unit, scale=scale, offset=offset)


def _of_range(
    reader: Reader, unit: str, robot: RobotSpec, joint: str, where: str
) -> tuple[float, float]:
    """Scale and offset of a part of a joint's range."""
    if reader.has("sign") or reader.has("zero_rad"):
        raise InputError(
            f"{where}: expected no 'sign' and no 'zero_rad' with the unit {unit!r}; give the "
            "angles at both ends in 'range_rad' in their order"
        )
    if joint not in robot.joint_names:
        raise InputError(f"{where}: expected a joint of {robot.name}, got {joint!r}")
    if reader.value("range_rad") == "limits":
        i = robot.joint_names.index(joint)
        ends = [float(robot.lower_rad[i]), float(robot.upper_rad[i])]
    else:
        ends = reader.numbers("range_rad")
    if len(ends) != 2 or ends[0] == ends[1]:
        raise InputError(
            f"{where}: expected two different angles or 'limits' in 'range_rad', got {ends}"
        )
    low, high = _RANGES[unit]
    scale = (ends[1] - ends[0]) / (high - low)
    return scale, ends[0] - scale * low


def parse_entries(data: Any, where: str) -> tuple[Entry, ...]:
    """Entries out of the config.json of an imported checkpoint.

    Raises:
        InputError: a key is missing, unknown, or of the wrong kind.
    """
    if not isinstance(data, list):
        raise InputError(f"{where}: expected a list of entries")
    out = []
    for i, item in enumerate(data):
        reader = Reader(item, f"{where}[{i}]")
        reader.only(*Entry.__dataclass_fields__)
        entry = Entry(
            name=reader.text("name"),
            quantity=reader.text("quantity"),
            unit=reader.text("unit"),
            scale=reader.number("scale"),
            offset=reader.number("offset"),
        )
        if entry.scale == 0.0:
            raise InputError(f"{where}[{i}]: expected a 'scale' other than 0")
        out.append(entry)
    return tuple(out)


def check_dataset(value_map: ValueMap, info: Path) -> None:
    """Compare the names of a map with those of the dataset that a policy was trained on.

    Args:
        value_map: the map.
        info: ``meta/info.json`` of the dataset.

    Raises:
        InputError: a name is at another place, or the rate is another.
    """
    try:
        data = Reader(read_json(info.read_text(encoding="utf-8"), str(info)), str(info))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{info}: expected the meta/info.json of a dataset") from error
    rate = data.number("fps", above=0.0)
    if abs(rate - value_map.rate_hz) > 1e-6 * rate:
        raise InputError(
            f"{info}: expected the rate of the map, {value_map.rate_hz:g} Hz, got {rate:g} Hz; "
            "correct 'rate_hz' of the map"
        )
    features = Reader(data.value("features"), f"{info}, 'features'")
    for part, feature in _PARTS.items():
        entries: tuple[Entry, ...] = getattr(value_map, part)
        if not entries:
            continue
        found = _dataset_names(Reader(features.value(feature), f"{info}, {feature!r}"))
        wanted = [entry.name for entry in entries]
        if found != wanted:
            raise InputError(
                f"{info}: expected the names {wanted} in {feature!r}, as the map has them, got "
                f"{found}; put the entries of the map in the order of the dataset"
            )


def _dataset_names(feature: Reader) -> list[str]:
    names = feature.value("names")
    if isinstance(names, dict) and len(names) == 1:  # {"motors": [...]} in older datasets
        names = next(iter(names.values()))
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return []
    return list(names)
