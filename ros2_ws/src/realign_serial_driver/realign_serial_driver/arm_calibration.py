"""Which servo is which joint, which way it turns, and where its zero lies.

A calibration is a JSON file of one arm, made by :mod:`realign_serial_driver.homing` or imported
from LeRobot. It also holds what is stored in the servos themselves, so that the file of another
arm, or an exchanged servo, is noticed.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.actor.config import read_json
from policies.errors import InputError
from policies.interface import Float, RobotSpec
from realign_serial_driver.sts import MIDDLE_STEPS, STEPS_PER_TURN

RAD_PER_STEP = 2.0 * math.pi / STEPS_PER_TURN
SERVO_IDS = {"so101": (1, 2, 3, 4, 5, 6)}
FORMAT = "realign-servo-calibration-1"
Steps = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class ServoCalibration:
    """One joint.

    Attributes:
        id: its servo.
        direction: 1 where the joint's positive direction is the servo's, else -1.
        zero_steps: Present_Position at the joint's zero.
        homing_offset_steps: what the servo subtracts from its encoder, as stored in the servo.
        lower_steps, upper_steps: smallest and largest Present_Position.
    """

    id: int
    direction: int
    zero_steps: int
    homing_offset_steps: int
    lower_steps: int
    upper_steps: int


@dataclass(frozen=True, kw_only=True)
class ArmCalibration:
    """All joints of an arm, in the robot's order.

    Attributes:
        robot: robot name.
        servos: one for each joint.
    """

    robot: str
    servos: tuple[ServoCalibration, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """Servo of each joint."""
        return tuple(servo.id for servo in self.servos)

    def array(self, attribute: str) -> Steps:
        """One attribute of all joints, (n,)."""
        return np.array([getattr(servo, attribute) for servo in self.servos], dtype=np.int64)

    def to_rad(self, steps: Steps) -> Float:
        """Present positions, (n,) steps -> joint positions, (n,) rad."""
        return self.array("direction") * (steps - self.array("zero_steps")) * RAD_PER_STEP

    def to_steps(self, positions_rad: Float) -> Steps:
        """Joint positions, (n,) rad -> goal positions within the calibrated range, (n,) steps."""
        turned = self.array("direction") * np.asarray(positions_rad) / RAD_PER_STEP
        steps = np.rint(turned).astype(np.int64) + self.array("zero_steps")
        return np.clip(steps, self.array("lower_steps"), self.array("upper_steps"))

    def limits_rad(self, robot: RobotSpec) -> tuple[Float, Float]:
        """Range that both the calibration and the robot allow, (n,) each, rad."""
        ends = np.sort([self.to_rad(self.array(f"{end}_steps")) for end in ("lower", "upper")], 0)
        return np.maximum(ends[0], robot.lower_rad), np.minimum(ends[1], robot.upper_rad)

    def save(self, path: Path, robot: RobotSpec) -> None:
        """Write JSON.

        Raises:
            InputError: the file cannot be written.
        """
        joints = dict(zip(robot.joint_names, map(asdict, self.servos), strict=True))
        content = {"format": FORMAT, "robot": self.robot, "joints": joints}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; choose another file") from None


def nominal_calibration(robot: RobotSpec) -> ArmCalibration:
    """An arm whose servos were homed in the middle pose and all turn the joint's way.

    Raises:
        InputError: no arm of bus servos.
    """
    ids = _servo_ids(robot)
    ends = np.rint(np.array([robot.lower_rad, robot.upper_rad]) / RAD_PER_STEP) + MIDDLE_STEPS
    return ArmCalibration(
        robot=robot.name,
        servos=tuple(
            ServoCalibration(
                id=servo,
                direction=1,
                zero_steps=MIDDLE_STEPS,
                homing_offset_steps=0,
                lower_steps=int(lower),
                upper_steps=int(upper),
            )
            for servo, lower, upper in zip(ids, *ends, strict=True)
        ),
    )


def default_path(robot: RobotSpec) -> Path:
    """Where the calibration of this computer's arm lies unless told otherwise."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "realign" / f"{robot.name}.json"


def load_calibration(path: Path, robot: RobotSpec) -> ArmCalibration:
    """Read our own format, or LeRobot's.

    Raises:
        InputError: no such file, no calibration, or one of another arm.
    """
    try:
        content = read_json(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InputError(
            f"expected the calibration of this {robot.name} at {path}, but: {error.strerror}; make "
            f"it with `python -m realign_serial_driver.homing --robot {robot.name} --port PORT`"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected JSON, got {error}; make it again") from None
    if content.get("format") == FORMAT:
        if content.get("robot") != robot.name:
            raise InputError(
                f"{path}: expected a calibration of {robot.name}, got one of "
                f"{content.get('robot')!r}; use that arm's own"
            )
        return _of_joints(path, robot, content.get("joints"))
    return from_lerobot(content, robot, str(path))


def _of_joints(path: Path, robot: RobotSpec, joints: Any) -> ArmCalibration:
    _check_joints(joints, robot, str(path))
    servos = []
    for name in robot.joint_names:
        numbers = _numbers(joints[name], tuple(ServoCalibration.__annotations__), f"{path}: {name}")
        servos.append(ServoCalibration(**numbers))
    return _checked(ArmCalibration(robot=robot.name, servos=tuple(servos)), robot, str(path))


def from_lerobot(content: Any, robot: RobotSpec, what: str) -> ArmCalibration:
    """A calibration as LeRobot stores it: homing offset, range and drive mode by motor name.

    Its zero is the middle of a joint's range; a gripper is closed at the lower end of it.

    Args:
        content: parsed JSON.
        robot: the arm.
        what: its name in error texts.

    Raises:
        InputError: another format, or other joints.
    """
    _check_joints(content, robot, what)
    servos = []
    keys = ("id", "drive_mode", "homing_offset", "range_min", "range_max")
    for joint in robot.joints:
        given = _numbers(content[joint.name], keys, f"{what}: {joint.name}")
        direction = -1 if given["drive_mode"] else 1
        zero = (given["range_min"] + given["range_max"]) // 2
        if joint.name == "gripper":
            closed = given["range_max"] if given["drive_mode"] else given["range_min"]
            zero = closed - direction * round(joint.lower_rad / RAD_PER_STEP)
        servos.append(
            ServoCalibration(
                id=given["id"],
                direction=direction,
                zero_steps=zero,
                homing_offset_steps=given["homing_offset"],
                lower_steps=given["range_min"],
                upper_steps=given["range_max"],
            )
        )
    return _checked(ArmCalibration(robot=robot.name, servos=tuple(servos)), robot, what)


def _servo_ids(robot: RobotSpec) -> tuple[int, ...]:
    if robot.name not in SERVO_IDS:
        raise InputError(
            f"expected an arm of bus servos out of {sorted(SERVO_IDS)}, got {robot.name!r}; "
            "use another driver"
        )
    return SERVO_IDS[robot.name]


def _check_joints(joints: Any, robot: RobotSpec, what: str) -> None:
    _servo_ids(robot)
    if not isinstance(joints, dict) or set(joints) != set(robot.joint_names):
        got = sorted(joints) if isinstance(joints, dict) else type(joints).__name__
        raise InputError(
            f"{what}: expected the joints {list(robot.joint_names)}, got {got}; "
            "use a calibration of this arm"
        )


def _numbers(values: Any, keys: tuple[str, ...], what: str) -> dict[str, int]:
    if not isinstance(values, dict) or not set(keys) <= set(values):
        raise InputError(f"{what}: expected the numbers {list(keys)}; make the calibration again")
    for key in keys:
        if not isinstance(values[key], int) or isinstance(values[key], bool):
            raise InputError(f"{what}: expected a whole number as {key}, got {values[key]!r}")
    return {key: values[key] for key in keys}


def _checked(calibration: ArmCalibration, robot: RobotSpec, what: str) -> ArmCalibration:
    ids = calibration.ids
    if len(set(ids)) != len(ids) or not all(1 <= servo < 0xFD for servo in ids):
        raise InputError(f"{what}: expected different servo ids from 1 to 252, got {list(ids)}")
    for joint, servo in zip(robot.joints, calibration.servos, strict=True):
        if servo.direction not in (-1, 1):
            raise InputError(f"{what}: {joint.name}: expected direction 1 or -1")
        if not 0 <= servo.lower_steps < servo.upper_steps < STEPS_PER_TURN:
            raise InputError(
                f"{what}: {joint.name}: expected a range within 0 and {STEPS_PER_TURN - 1} steps, "
                f"got {servo.lower_steps} to {servo.upper_steps}; make the calibration again"
            )
    return calibration
