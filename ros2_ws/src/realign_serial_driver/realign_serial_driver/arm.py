"""An arm of bus servos: opened with care, read and told once a cycle."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

import numpy as np

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from realign_serial_driver import sts
from realign_serial_driver.arm_calibration import RAD_PER_STEP, ArmCalibration
from realign_serial_driver.bus import Bus, NoReply
from realign_serial_driver.core import ArmCore, Order

FULL_SCALE = 1000.0  # of loads and torque limits
_LAST_ID = 20
_TRIES, _PATIENCE_S = 5, 0.02
_BLOCK = sts.LOAD.address + sts.LOAD.size - sts.POSITION.address
_HEALTH = sts.CURRENT.address + sts.CURRENT.size - sts.VOLTAGE.address
_HEALTH_EVERY = 4  # cycles
_ACCELERATION = 254  # no slower than the set-points: they are limited already
_AMPERE = 0.0065


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Sensors of all joints at one instant, arrays (n,).

    Attributes:
        stamp_ns: steady time in the middle of the reading, ns.
        qpos_rad, qvel_rad_s: positions and speeds.
        effort_nm: torque from the servos' duty cycle and their stall torque: rough.
    """

    stamp_ns: int
    qpos_rad: Float
    qvel_rad_s: Float
    effort_nm: Float


@dataclass(frozen=True, kw_only=True)
class TorqueLimits:
    """Shares of the stall torque that the servos may use, 0 to 1.

    Attributes:
        joints: of all joints but the gripper.
        gripper: of the gripper, which has nothing to carry.
    """

    joints: float = 0.8
    gripper: float = 0.5

    def of(self, joint: str) -> int:
        """The register of a joint, per mille."""
        return round(FULL_SCALE * (self.gripper if joint == "gripper" else self.joints))


class Arm:
    """Servos of one arm.

    Args:
        robot: the arm.
        bus: its servos.
        calibration: which is which.
        limits: torque limits.
    """

    def __init__(
        self,
        robot: RobotSpec,
        bus: Bus,
        calibration: ArmCalibration,
        limits: TorqueLimits | None = None,
    ) -> None:
        self.robot, self.bus, self.calibration = robot, bus, calibration
        self.limits = limits or TorqueLimits()
        self.torque: bool | None = None
        self.incomplete = 0
        self.hottest_c = 0.0
        self.voltage_v = 0.0
        self.current_a = np.zeros(robot.n)
        self._direction = calibration.array("direction")
        self._temperature_c = np.zeros(robot.n)
        self._cycles = 0

    # ---- start --------------------------------------------------------------------------------

    def greet(self) -> None:
        """See that the right servos are there, as they were calibrated; nothing moves.

        Raises:
            InputError: servos are missing, unknown, of another type or otherwise calibrated.
        """
        wanted = self.calibration.ids
        there = [i for i in range(1, max(_LAST_ID, *wanted) + 1) if self._answers(i, i in wanted)]
        where = f"on {self.bus.port.port} at {self.bus.port.baudrate} baud"
        if not there:
            raise InputError(
                f"expected the servos {list(wanted)} {where}, but none answers; check the arm's "
                "power supply, the cable of the first servo and the port"
            )
        missing = [f"{i} ({self._joint(i)})" for i in wanted if i not in there]
        if missing:
            raise InputError(
                f"expected the servos {list(wanted)} {where}, but {', '.join(missing)} "
                f"{'does' if len(missing) == 1 else 'do'} not answer; check the cable to it, or "
                "its id"
            )
        unknown = [i for i in there if i not in wanted]
        if unknown:
            raise InputError(
                f"expected only the servos {list(wanted)} {where}, but {unknown} answer too; "
                "take them off the bus, or give them their ids"
            )
        for servo in self.calibration.servos:
            try:
                self._check_servo(servo.id, servo.homing_offset_steps)
            except NoReply as error:
                raise InputError(f"{error} any more {where}; check its cable") from None

    def _answers(self, servo: int, wanted: bool) -> bool:
        if not wanted:
            return self.bus.ping(servo)
        return any(self.bus.ping(servo, patience_s=_PATIENCE_S) for _ in range(_TRIES))

    def _joint(self, servo: int) -> str:
        return self.robot.joint_names[self.calibration.ids.index(servo)]

    def _check_servo(self, servo: int, homing_offset: int) -> None:
        name = f"servo {servo} ({self._joint(servo)})"
        model = self._read(servo, sts.MODEL)
        if model != sts.STS3215:
            raise InputError(
                f"{name}: expected an STS3215 (model {sts.STS3215}), got model {model}; "
                "this driver knows no other servo"
            )
        mode = self._read(servo, sts.OPERATING_MODE)
        if mode != 0:
            raise InputError(
                f"{name}: expected position mode (0), got mode {mode}; set it back with "
                "the tool that changed it"
            )
        offset = self._read(servo, sts.HOMING_OFFSET)
        if offset != homing_offset:
            raise InputError(
                f"{name}: expected the homing offset {homing_offset} of the calibration, but the "
                f"servo has {offset}; use this arm's own calibration, or make a new one"
            )
        delay = self._read(servo, sts.RETURN_DELAY)
        if delay:
            print(
                f"{name} waits {2 * delay} us before each reply; homing with --fast-replies "
                "stores 0",
                file=sys.stderr,
                flush=True,
            )

    def _read(self, servo: int, register: sts.Register) -> int:
        """A register, with patience: a reply may get lost."""
        for _ in range(_TRIES - 1):
            try:
                return self.bus.read(servo, register)
            except NoReply:
                continue
        return self.bus.read(servo, register)

    # ---- cycles -------------------------------------------------------------------------------

    def cycle(self, core: ArmCore) -> Reading | None:
        """Read all servos, decide, tell them; None where one did not answer, even asked again.

        Raises:
            PortLost: the port went away.
        """
        start = time.monotonic_ns()
        ids = self.calibration.ids
        self.bus.errors.clear()
        blocks = self.bus.sync_read(ids, sts.POSITION.address, _BLOCK)
        stamp = (start + time.monotonic_ns()) // 2
        for servo in [i for i in ids if i not in blocks]:
            blocks |= self.bus.sync_read([servo], sts.POSITION.address, _BLOCK)
        self._cycles += 1
        if self._cycles % _HEALTH_EVERY == 0:
            self._read_health(core, self._cycles // _HEALTH_EVERY % len(ids))
        now = time.monotonic_ns()
        core.on_replies(self.bus.errors, now)
        reading = self._reading(stamp, blocks) if len(blocks) == len(ids) else None
        if reading is not None:
            core.on_state(reading.qpos_rad)
        else:
            self.incomplete += 1
        self.obey(core.tick(now))
        return reading

    def _reading(self, stamp_ns: int, blocks: dict[int, bytes]) -> Reading:
        rows = [blocks[servo] for servo in self.calibration.ids]
        position, velocity, load = (
            np.array([r.decode(row[at : at + 2]) for row in rows], dtype=np.int64)
            for at, r in ((0, sts.POSITION), (2, sts.VELOCITY), (4, sts.LOAD))
        )
        return Reading(
            stamp_ns=stamp_ns,
            qpos_rad=self.calibration.to_rad(position),
            qvel_rad_s=self._direction * velocity * RAD_PER_STEP,
            effort_nm=self._direction * load / FULL_SCALE * self.robot.effort_limit_nm,
        )

    def _read_health(self, core: ArmCore, k: int) -> None:
        servo = self.calibration.ids[k]
        try:
            block = self.bus.read_block(servo, sts.VOLTAGE.address, _HEALTH)
        except NoReply:
            return
        self.voltage_v = block[0] / 10.0
        self._temperature_c[k] = block[sts.TEMPERATURE.address - sts.VOLTAGE.address]
        self.current_a[k] = _AMPERE * sts.CURRENT.decode(block[-sts.CURRENT.size :])
        self.hottest_c = float(self._temperature_c.max())
        core.on_temperature(self.hottest_c)

    def obey(self, order: Order) -> None:
        """Tell the servos."""
        if order.torque is False:
            if self.torque is not False:
                self.bus.sync_write(sts.TORQUE_ENABLE, dict.fromkeys(self.calibration.ids, 0))
                self._confirm(False)
            return
        if order.goal_rad is None:
            return
        goals = self.calibration.to_steps(order.goal_rad)
        # The goal first: torque with an old goal is a jump.
        self.bus.sync_write(
            sts.GOAL_POSITION, dict(zip(self.calibration.ids, goals.tolist(), strict=True))
        )
        if self.torque is not True:
            self._prepare()
            self.bus.sync_write(sts.TORQUE_ENABLE, dict.fromkeys(self.calibration.ids, 1))
            self._confirm(True)

    def _prepare(self) -> None:
        names = dict(zip(self.calibration.ids, self.robot.joint_names, strict=True))
        limits = {servo: self.limits.of(name) for servo, name in names.items()}
        self.bus.sync_write(sts.TORQUE_LIMIT, limits)
        self.bus.sync_write(sts.ACCELERATION, dict.fromkeys(names, _ACCELERATION))
        self.bus.sync_write(sts.GOAL_VELOCITY, dict.fromkeys(names, 0))  # none: as fast as it can

    def _confirm(self, torque: bool) -> None:
        """A broadcast has no answer: believe it when all servos say so, else say it again."""
        ids = self.calibration.ids
        replies = self.bus.sync_read(ids, sts.TORQUE_ENABLE.address, sts.TORQUE_ENABLE.size)
        done = len(replies) == len(ids) and all(bool(r[0]) is torque for r in replies.values())
        self.torque = torque if done else None
