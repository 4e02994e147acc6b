"""Homing of a servo arm: which pose is zero, how far each joint goes, stored as a calibration.

    python -m realign_serial_driver.homing --robot so101 --port /dev/ttyACM0

The arm goes limp. It is moved by hand into its middle pose, where every joint is at its zero; the
servos store that (Homing_Offset), so that they read 2048 there. Then every joint is moved by hand
from end to end, once each way. Nothing is written before the operator says so.
"""

from __future__ import annotations

import argparse
import math
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from policies.actor.config import read_json
from policies.errors import InputError
from policies.interface import RobotSpec
from policies.robots import get_robot
from realign_serial_driver import sts
from realign_serial_driver.arm_calibration import (
    RAD_PER_STEP,
    ArmCalibration,
    ServoCalibration,
    Steps,
    default_path,
    from_lerobot,
    load_calibration,
    nominal_calibration,
)
from realign_serial_driver.bus import Bus, NoReply
from realign_serial_driver.port import PortLost, open_port

BAUD = 1_000_000
_TRIES = 5
# A range that is this much narrower than the robot's has not been gone through.
_LEAST_SHARE = 0.7
_SWEEP_PERIOD_S = 0.01


class Homing:
    """The steps of homing, one method each.

    Args:
        robot: the arm.
        bus: its servos.
    """

    def __init__(self, robot: RobotSpec, bus: Bus) -> None:
        self.robot, self.bus = robot, bus
        self.ids = nominal_calibration(robot).ids
        self._lowest = np.full(robot.n, sts.STEPS_PER_TURN, dtype=np.int64)
        self._highest = np.full(robot.n, -sts.STEPS_PER_TURN, dtype=np.int64)

    def go_limp(self) -> None:
        """Switch all torque off: **the arm sinks**.

        Raises:
            InputError: a servo does not answer.
        """
        for servo in self.ids:
            self._patient(partial(self.bus.write, servo, sts.TORQUE_ENABLE, 0))

    def set_middle(self) -> Steps:
        """Make the present pose the one that reads 2048; the homing offsets, (n,) steps.

        Raises:
            InputError: a servo does not answer, or its encoder is where no offset reaches.
        """
        offsets = []
        for servo, joint in zip(self.ids, self.robot.joint_names, strict=True):
            old = self._read(servo, sts.HOMING_OFFSET)
            encoder = self._read(servo, sts.POSITION) + old
            offset = encoder - sts.MIDDLE_STEPS
            if abs(offset) >= 1 << (sts.HOMING_OFFSET.sign_bit or 0):
                raise InputError(
                    f"servo {servo} ({joint}): expected its encoder between 1 and 4095 steps in "
                    f"the middle pose, got {encoder}; put its horn on a quarter turn further"
                )
            offsets.append(offset)
        for servo, offset in zip(self.ids, offsets, strict=True):
            self.write_offset(servo, offset)
        return np.array(offsets, dtype=np.int64)

    def write_offset(self, servo: int, offset: int) -> None:
        """Store a homing offset in a servo.

        Raises:
            InputError: it does not answer, or does not take it.
        """
        self._store(servo, sts.HOMING_OFFSET, offset)

    def watch_range(self) -> None:
        """Look where the joints are now; called many times while they are moved by hand."""
        blocks = self.bus.sync_read(self.ids, sts.POSITION.address, sts.POSITION.size)
        for i, servo in enumerate(self.ids):
            if servo in blocks:
                position = sts.POSITION.decode(blocks[servo])
                self._lowest[i] = min(self._lowest[i], position)
                self._highest[i] = max(self._highest[i], position)

    def calibration(self, offsets: Steps, directions: Steps) -> ArmCalibration:
        """What was found.

        Args:
            offsets: homing offsets, (n,) steps.
            directions: 1 or -1 for each joint, (n,).

        Raises:
            InputError: a joint was not moved through its range, or beyond the encoder's end.
        """
        servos = []
        for i, joint in enumerate(self.robot.joints):
            low, high = int(self._lowest[i]), int(self._highest[i])
            way_rad = (high - low) * RAD_PER_STEP
            range_rad = joint.upper_rad - joint.lower_rad
            if way_rad < _LEAST_SHARE * range_rad:
                raise InputError(
                    f"{joint.name}: expected to be moved through about "
                    f"{math.degrees(range_rad):.0f} degrees, but it moved "
                    f"{math.degrees(max(way_rad, 0.0)):.0f}; start again and go from end to end"
                )
            if low < 0 or high >= sts.STEPS_PER_TURN or high - low > sts.STEPS_PER_TURN - 50:
                raise InputError(
                    f"{joint.name}: expected positions within 0 and {sts.STEPS_PER_TURN - 1} "
                    f"steps, got {low} to {high}; was the arm in its middle pose? Start again"
                )
            servos.append(
                ServoCalibration(
                    id=self.ids[i],
                    direction=int(directions[i]),
                    zero_steps=sts.MIDDLE_STEPS,
                    homing_offset_steps=int(offsets[i]),
                    lower_steps=low,
                    upper_steps=high,
                )
            )
        return ArmCalibration(robot=self.robot.name, servos=tuple(servos))

    def store_limits(self, calibration: ArmCalibration) -> None:
        """Write the ranges into the servos, which then refuse goals beyond them by themselves.

        Raises:
            InputError: a servo does not answer, or does not take them.
        """
        for servo in calibration.servos:
            for register, value in (
                (sts.LOWER_LIMIT, servo.lower_steps),
                (sts.UPPER_LIMIT, servo.upper_steps),
            ):
                self._store(servo.id, register, value)

    def reply_fast(self) -> None:
        """Make the servos reply without a pause.

        Raises:
            InputError: a servo does not answer, or does not take it.
        """
        for servo in self.ids:
            self._store(servo, sts.RETURN_DELAY, 0)

    def _store(self, servo: int, register: sts.Register, value: int) -> None:
        self._patient(lambda: self.bus.write_eeprom(servo, register, value))

    def _read(self, servo: int, register: sts.Register) -> int:
        found: list[int] = []
        self._patient(lambda: found.append(self.bus.read(servo, register)))
        return found[-1]

    def _patient(self, deed: Callable[[], None]) -> None:
        for left in reversed(range(_TRIES)):
            try:
                return deed()
            except NoReply as error:
                if not left:
                    raise InputError(f"{error}; check the cable to it, and its id") from None


def home(
    homing: Homing,
    *,
    ask: Callable[[str], object],
    directions: Steps,
    fast_replies: bool = False,
    limits: bool = False,
) -> ArmCalibration:
    """The whole procedure.

    Args:
        homing: the arm.
        ask: shows a text and waits for the operator.
        directions: 1 or -1 for each joint, (n,).
        fast_replies: store a return delay of 0 in the servos.
        limits: store the ranges in the servos.

    Raises:
        InputError: servos that do not answer, or joints that were not moved.
    """
    ask("The arm goes limp now: hold it, then press Enter.")
    homing.go_limp()
    ask(
        "Move it into the middle pose, every joint in the middle of its range, the jaw open by 10 "
        "degrees of its motor; hold it there and press Enter: this is stored in the servos."
    )
    offsets = homing.set_middle()
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(homing, over))
    watcher.start()
    try:
        ask("Move every joint from one end to the other by hand, then press Enter.")
    finally:
        over.set()
        watcher.join()
    calibration = homing.calibration(offsets, directions)
    if fast_replies:
        homing.reply_fast()
    if limits:
        homing.store_limits(calibration)
    return calibration


def _watch(homing: Homing, over: threading.Event) -> None:
    while not over.wait(_SWEEP_PERIOD_S):
        try:
            homing.watch_range()
        except PortLost:
            return


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="homing", description=__doc__)
    add = parser.add_argument
    add("--robot", default="so101", help="arm of bus servos")
    add("--port", default="", help="serial port, e.g. /dev/ttyACM0; not needed to import")
    add("--out", type=Path, default=None, help="file to write; default: this computer's arm")
    add("--overwrite", action="store_true", help="replace the file if it exists")
    add("--reversed", default="", help="joints whose servos turn the other way, with commas")
    add("--lerobot", type=Path, default=None, help="import LeRobot's calibration; writes no servo")
    add("--fast-replies", action="store_true", help="store a return delay of 0 in the servos")
    add("--limits", action="store_true", help="store the ranges in the servos")
    return parser.parse_args()


def _directions(robot: RobotSpec, names: str) -> Steps:
    reverse = set(filter(None, names.replace(" ", "").split(",")))
    if unknown := sorted(reverse - set(robot.joint_names)):
        raise InputError(
            f"--reversed: expected joints out of {list(robot.joint_names)}, got {unknown}"
        )
    return np.array([-1 if name in reverse else 1 for name in robot.joint_names])


def _run(given: argparse.Namespace) -> None:
    robot = get_robot(given.robot)
    out = given.out or default_path(robot)
    if out.exists() and not given.overwrite:
        raise InputError(f"{out} exists already; choose another file, or use --overwrite")
    if given.lerobot is not None:
        calibration = _import(given.lerobot, robot)
    elif not given.port:
        raise InputError("expected --port, e.g. /dev/ttyACM0; `ls /dev/serial/by-id` names them")
    else:
        bus = Bus(open_port(given.port, BAUD), slack_s=0.02)
        try:
            calibration = home(
                Homing(robot, bus),
                ask=input,
                directions=_directions(robot, given.reversed),
                fast_replies=given.fast_replies,
                limits=given.limits,
            )
        finally:
            bus.close()
    calibration.save(out, robot)
    print(f"{out}: calibration of {robot.name}")


def _import(path: Path, robot: RobotSpec) -> ArmCalibration:
    try:
        content = read_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, ValueError):
        return load_calibration(path, robot)  # which says what is wrong with it
    return from_lerobot(content, robot, str(path))


def main() -> None:
    """Home an arm, or import what LeRobot found."""
    try:
        _run(_arguments())
    except PortLost as error:
        print(f"realign: {error} went away; plug it in and start again", file=sys.stderr)
        raise SystemExit(3) from None
    except InputError as error:
        print(f"realign: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except (KeyboardInterrupt, EOFError):
        print("realign: homing was broken off", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
