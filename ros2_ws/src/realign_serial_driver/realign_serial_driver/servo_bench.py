"""The emulated arm without its wire: STS servos whose joints are those of the virtual robot."""

from __future__ import annotations

import numpy as np

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from realign_serial_driver import sts
from realign_serial_driver.arm import FULL_SCALE
from realign_serial_driver.arm_calibration import (
    RAD_PER_STEP,
    ArmCalibration,
    ServoCalibration,
    nominal_calibration,
)
from realign_serial_driver.servo_faults import WITH_SERVO, BusFault
from realign_serial_driver.servo_model import Servo
from realign_serial_driver.sts import Packet
from sim2real.sim.stepper import Stepper
from sim2real.sim.virtual_robot import VirtualRobot

NS = 1_000_000_000
PHYSICS_HZ = 1000
_CATCH_UP_S = 0.1
_HOT_C = 72
_LOW_SUPPLY = 42
_P_FACTORY = 32
_BITS = {name: bit for bit, name in sts.ERRORS.items()}


class ServoBench:
    """An arm that is held up until its servos are told to hold it themselves.

    Args:
        robot: the arm.
        seed: start pose noise, and how the servos sit on their joints.
        gap: dynamics gap that it hides.
        start_pose_rad: start pose, (n,), default pose if None.
        faults: what goes wrong.
        homed: False for servos as they come from the factory.

    Raises:
        InputError: no arm of bus servos, unknown gap, or a fault of a servo that it has not.
    """

    def __init__(
        self,
        robot: RobotSpec,
        *,
        seed: int = 0,
        gap: str = "none",
        start_pose_rad: Float | None = None,
        faults: tuple[BusFault, ...] = (),
        homed: bool = True,
    ) -> None:
        unknown = {f.value for f in faults if f.kind in WITH_SERVO} - set(
            nominal_calibration(robot).ids
        )
        if unknown:
            raise InputError(
                f"expected a fault of a servo out of {list(nominal_calibration(robot).ids)}, got "
                f"one of {sorted(map(int, unknown))}"
            )
        self.robot, self.faults = robot, faults
        self.sim = VirtualRobot(
            robot, gap=gap, seed=seed, rate_hz=PHYSICS_HZ, start_pose_rad=start_pose_rad
        )
        assert isinstance(self.sim.stepper, Stepper)  # no other engine was asked for
        self.stepper = self.sim.stepper
        rng = np.random.default_rng([seed, 1])
        nominal = nominal_calibration(robot)
        self._mount_steps = rng.integers(1500, 2600, robot.n)  # encoder at the joint's zero
        self._direction = rng.choice([-1, 1], robot.n)
        self.servos = {
            servo.id: Servo(
                servo.id,
                homing_offset=int(self._mount_steps[i]) - sts.MIDDLE_STEPS if homed else 0,
            )
            for i, servo in enumerate(nominal.servos)
        }
        self._ids = nominal.ids
        self.time_ns: int | None = None
        self.started_ns: int | None = None
        self.moved_steps = 0
        self.lost_s = 0.0
        self._limits_nm = self.stepper.model.actuator_forcerange.copy()
        self._measure()

    @property
    def calibration(self) -> ArmCalibration:
        """What homing this arm must find; for servos that are homed."""
        nominal = nominal_calibration(self.robot)
        servos = []
        for i, servo in enumerate(nominal.servos):
            ends = (servo.lower_steps, servo.upper_steps)
            if self._direction[i] < 0:
                ends = (2 * sts.MIDDLE_STEPS - ends[1], 2 * sts.MIDDLE_STEPS - ends[0])
            servos.append(
                ServoCalibration(
                    id=servo.id,
                    direction=int(self._direction[i]),
                    zero_steps=sts.MIDDLE_STEPS,
                    homing_offset_steps=int(self._mount_steps[i]) - sts.MIDDLE_STEPS,
                    lower_steps=ends[0],
                    upper_steps=ends[1],
                )
            )
        return ArmCalibration(robot=self.robot.name, servos=tuple(servos))

    # ---- instructions -------------------------------------------------------------------------

    def obey(self, packet: Packet) -> list[tuple[Servo, Packet]]:
        """Carry out an instruction; replies in the order in which they go on the wire."""
        if packet.id == sts.BROADCAST:
            return self._broadcast(packet)
        servo = next((s for s in self.servos.values() if s.id == packet.id), None)
        reply = servo.obey(packet) if servo else None
        return [(servo, reply)] if servo and reply else []

    def _broadcast(self, packet: Packet) -> list[tuple[Servo, Packet]]:
        by_id = {servo.id: servo for servo in self.servos.values()}
        given = packet.parameters
        if packet.code == sts.PING:  # each waits for those with a lower id
            return [(by_id[i], by_id[i].reply()) for i in sorted(by_id)]
        if packet.code == sts.SYNC_READ and len(given) > 2:
            asked = [by_id[i] for i in given[2:] if i in by_id]
            return [(servo, servo.reply(servo.read(given[0], given[1]))) for servo in asked]
        if packet.code == sts.SYNC_WRITE and len(given) > 2:
            address, size = given[0], given[1]
            for at in range(2, len(given) - size, size + 1):
                if given[at] in by_id:
                    by_id[given[at]].write(address, given[at + 1 : at + 1 + size])
        return []

    # ---- physics ------------------------------------------------------------------------------

    def advance(self, now_ns: int) -> None:
        """Let time pass up to ``now_ns`` (steady time)."""
        self._fail()
        if self.time_ns is None:
            self.time_ns = now_ns
        behind_s = (now_ns - self.time_ns) / NS
        if behind_s > _CATCH_UP_S:  # time that the host did not give is lost to a robot
            self.lost_s += behind_s - _CATCH_UP_S
            self.time_ns = now_ns - round(_CATCH_UP_S * NS)
        steps = (now_ns - self.time_ns) * PHYSICS_HZ // NS
        if not steps:
            return
        self.time_ns += steps * NS // PHYSICS_HZ
        torque = np.array([bool(self.servos[i].get(sts.TORQUE_ENABLE)) for i in self._ids])
        if self.started_ns is None and torque.all():
            self.started_ns = now_ns
        if self.started_ns is None:
            return
        target = self._follow(torque)
        for _ in range(steps):
            self.sim.step(target)
        self.moved_steps += int(steps)
        self._measure()

    def _follow(self, torque: np.ndarray) -> Float:
        """Set the motors as the servos' memory says; their set-points, (n,), rad."""
        servos = [self.servos[i] for i in self._ids]
        share = np.array([s.get(sts.P_GAIN) for s in servos]) / _P_FACTORY
        limit = np.array([s.get(sts.TORQUE_LIMIT) for s in servos]) / FULL_SCALE
        kp, kd = self.robot.kp_nm_rad * share * torque, self.robot.kd_nm_s_rad * torque
        self.stepper.set_motors(kp, kd, np.zeros(self.robot.n))
        index = self.stepper.layout.ctrl
        ranges = self._limits_nm[index] * np.clip(limit, 0.0, 1.0)[:, None]
        self.stepper.model.actuator_forcerange[index] = ranges
        return self.goal_rad

    @property
    def goal_rad(self) -> Float:
        """Goal positions, (n,), rad."""
        steps = np.array(
            [
                servo.get(sts.GOAL_POSITION) + servo.get(sts.HOMING_OFFSET)
                for servo in (self.servos[i] for i in self._ids)
            ]
        )
        goal: Float = self._direction * (steps - self._mount_steps) * RAD_PER_STEP
        return goal

    @property
    def torque(self) -> bool:
        """True while all servos hold."""
        return all(servo.get(sts.TORQUE_ENABLE) for servo in self.servos.values())

    def move_to(self, qpos_rad: Float) -> None:
        """Somebody moves the arm by hand, (n,), rad; for servos without torque."""
        self.stepper.data.qpos[self.stepper.layout.qpos] = qpos_rad
        self.stepper.data.qvel[self.stepper.layout.qvel] = 0.0
        self._measure()

    def _measure(self) -> None:
        state = self.stepper.state
        encoder = np.rint(self._direction * state.qpos_rad / RAD_PER_STEP) + self._mount_steps
        speed = np.rint(self._direction * state.qvel_rad_s / RAD_PER_STEP)
        duty = self.stepper.effort_nm / self.robot.effort_limit_nm * FULL_SCALE
        load = np.rint(self._direction * duty)
        for i, servo in enumerate(self._ids):
            self.servos[servo].set_position(int(encoder[i]), int(speed[i]), int(load[i]))

    # ---- faults -------------------------------------------------------------------------------

    def active(self, kind: str) -> list[BusFault]:
        """Faults of a kind that are on now."""
        now_s = 0.0
        if self.started_ns is not None and self.time_ns is not None:
            now_s = (self.time_ns - self.started_ns) / NS
        elif not any(fault.start_s == 0.0 for fault in self.faults):
            return []
        return [fault for fault in self.faults if fault.kind == kind and fault.active(now_s)]

    def is_dead(self, servo: Servo) -> bool:
        """True where a servo does not answer."""
        dead = [int(fault.value) for fault in self.active("dead")]
        return servo.id in dead or bool(self.active("silent"))

    def _fail(self) -> None:
        for servo in self.servos.values():
            servo.errors = 0
            servo.set(sts.TEMPERATURE, 31)
            servo.set(sts.VOLTAGE, 74)
        for fault in self.active("hot"):
            self.servos[int(fault.value)].set(sts.TEMPERATURE, _HOT_C)
            self.servos[int(fault.value)].errors |= _BITS["overheated"]
        for fault in self.active("overload"):
            self.servos[int(fault.value)].errors |= _BITS["overload"]
        if self.active("undervoltage"):
            for servo in self.servos.values():
                servo.set(sts.VOLTAGE, _LOW_SUPPLY)
                servo.errors |= _BITS["voltage"]
