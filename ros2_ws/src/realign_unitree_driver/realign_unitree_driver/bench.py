"""The emulated robot without its network: motors that follow LowCmd, sensors that fill LowState."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from policies.interface import Float, RobotSpec
from policies.rotation import tilt_rad
from realign_unitree_driver import remote
from realign_unitree_driver.layout import HG_LOW_STATE, Message
from realign_unitree_driver.wiring import ENABLED, Wiring, get_wiring
from sim2real.sim.stepper import Stepper
from sim2real.sim.timed_faults import TimedFault, Words, check_kind, parse_timed
from sim2real.sim.virtual_robot import FALL_TILT_RAD, VirtualRobot

RATE_HZ = 500
_COLD_C = 35
_VERSION = (1, 0)
FAULTS = ("silent", "bad_crc", "hot", "other_type", "keys", "hanging_keys")


@dataclass(frozen=True, kw_only=True)
class BenchFault(TimedFault):
    """Something that goes wrong, or that the operator does, at a time of the emulator.

    Attributes:
        kind: ``silent`` (no LowState), ``bad_crc``, ``hot`` (a motor), ``other_type``
            (``mode_machine``), ``keys`` (keys of the remote are down), or ``hanging_keys`` (the
            same, while the robot still hangs).
        start_s, duration_s: when, seconds since the first command that moves; for
            ``hanging_keys`` since the robot was switched on.
        keys: which keys.
    """

    keys: tuple[str, ...] = ()


def parse_faults(text: str) -> tuple[BenchFault, ...]:
    """``"silent@2:0.05,keys=L2+B@3"`` -> faults: kind, start and optional duration in s.

    Raises:
        InputError: unknown kind or key, or bad number.
    """
    return parse_timed(text, _fault, example="silent@2:0.05 (start and duration in s)")


def _fault(words: Words) -> BenchFault:
    kind, _, keys = words.what.partition("=")
    check_kind(kind, FAULTS)
    names = tuple(filter(None, keys.split("+")))
    remote.remote_bytes(names)  # which refuses keys that there are not
    return BenchFault(kind=kind, start_s=words.start_s, duration_s=words.duration_s, keys=names)


class Bench:
    """A robot that hangs until its motors are told to move, and then stands on its own.

    Args:
        robot: the robot.
        gap: dynamics gap that it hides.
        seed: start pose noise.
        start_pose_rad: start pose in canonical order, default pose if None.
        mode_machine: robot type that it reports; None for the right one.
        motor_timeout_s: time without a command after which the motors damp by themselves; None for
            motors that go on following the last one, the worst that a real robot might do.
        faults: what goes wrong.
    """

    def __init__(
        self,
        robot: RobotSpec,
        *,
        gap: str = "none",
        seed: int = 0,
        start_pose_rad: Float | None = None,
        mode_machine: int | None = None,
        motor_timeout_s: float | None = None,
        faults: tuple[BenchFault, ...] = (),
    ) -> None:
        self.wiring: Wiring = get_wiring(robot)
        # One physics step a message: the robot's own rate does not divide 500 Hz.
        fine = replace(robot, physics_dt_s=1.0 / RATE_HZ)
        self.sim = VirtualRobot(
            fine, gap=gap, seed=seed, rate_hz=RATE_HZ, start_pose_rad=start_pose_rad
        )
        assert isinstance(self.sim.stepper, Stepper)  # no other engine was asked for
        self.stepper = self.sim.stepper
        self.robot = fine
        self.index = self.wiring.index(robot, "pr")
        self.faults = faults
        self.motor_timeout_s = motor_timeout_s
        self.mode_machine = (
            self.wiring.mode_machine if mode_machine is None else mode_machine
        ) or 0
        self.mode_pr = 0
        self.hanging = True
        self.ticks = 0
        self.moved_ticks = 0
        self.refused: dict[str, int] = {}
        self.min_base_height_m = robot.base_height_m
        self.max_tilt_rad = 0.0
        self._command: Message | None = None
        self._silent_ticks = 0
        self._state = self.wiring.low_state.new()

    # ---- commands -----------------------------------------------------------------------------

    def on_command(self, message: Message) -> bool:
        """Take a LowCmd whose checksum is right; False (and counted) if the motors refuse it."""
        data, hg = message.data, self.wiring.low_state is HG_LOW_STATE
        why = None
        if hg and int(data["mode_machine"]) != self.mode_machine:
            why = "mode_machine"
        elif hg and int(data["mode_pr"]) != 0:
            why = "single ankle motors are not emulated"
        elif not hg and (tuple(data["head"]) != (0xFE, 0xEF) or data["level_flag"] != 0xFF):
            why = "not a low-level command"
        elif not all(np.isfinite(data["motor_cmd"][f][self.index]).all() for f in _SET_POINT):
            why = "not finite"
        if why is not None:
            self.refused[why] = self.refused.get(why, 0) + 1
            return False
        self._command = message
        self._silent_ticks = 0
        return True

    @property
    def is_following(self) -> bool:
        """True while a command with position gains is in force."""
        if self._command is None:
            return False
        return bool(np.any(self._command.data["motor_cmd"]["kp"][self.index] > 0.0))

    @property
    def target_rad(self) -> Float:
        """Commanded positions, (n,), rad; zeros before the first command."""
        if self._command is None:
            return np.zeros(self.robot.n)
        target: Float = self._command.data["motor_cmd"]["q"][self.index].astype(np.float64)
        return target

    def step(self) -> None:
        """Advance one period of 2 ms under the newest command."""
        self.ticks += 1
        self._silent_ticks += 1
        self.hanging = self.hanging and not self.is_following
        if self.hanging:
            return
        limit = self.motor_timeout_s
        if limit is not None and self._silent_ticks > limit * RATE_HZ:
            self._command = None
        self._drive()
        self.moved_ticks += 1
        if self.is_following and self.robot.floating_base:
            qpos = self.stepper.data.qpos
            self.min_base_height_m = min(self.min_base_height_m, float(qpos[2]))
            self.max_tilt_rad = max(self.max_tilt_rad, tilt_rad(qpos[3:7]))

    def _drive(self) -> None:
        if self._command is None:
            self.sim.step(None)
            return
        motors = self._command.data["motor_cmd"][self.index]
        enabled = motors["mode"] == ENABLED
        kp, kd, tau, dq, q = (
            np.where(enabled, motors[name], 0.0).astype(np.float64)
            for name in ("kp", "kd", "tau", "dq", "q")
        )
        self.stepper.set_motors(kp, kd, tau + kd * dq)
        self.sim.step(q)

    @property
    def moved_s(self) -> float:
        """Time since the first command that moves, s."""
        return self.moved_ticks / RATE_HZ

    @property
    def fell(self) -> bool:
        """True once the base was too low or too tilted while a position command was in force."""
        low = self.min_base_height_m < 0.5 * self.robot.base_height_m
        return self.robot.floating_base and (low or self.max_tilt_rad > FALL_TILT_RAD)

    # ---- sensors ------------------------------------------------------------------------------

    def read(self) -> Message | None:
        """LowState of this moment, sealed; None while a fault silences it."""
        now_s = self.ticks / RATE_HZ if self.hanging else self.moved_s
        on = [
            f for f in self.faults if (f.kind == "hanging_keys") == self.hanging and f.active(now_s)
        ]
        kinds = {fault.kind for fault in on}
        if "silent" in kinds:
            return None
        sensors, data = self.sim.read(), self._state.data
        motors = data["motor_state"]
        assert sensors.qpos_rad is not None
        motors["mode"][self.index] = ENABLED
        motors["q"][self.index] = sensors.qpos_rad
        motors["dq"][self.index] = sensors.qvel_rad_s
        motors["tau_est"][self.index] = sensors.effort_nm
        motors["temperature"][self.index] = _COLD_C
        if "hot" in kinds:
            motors["temperature"][self.index[0]] = 125
        imu = data["imu_state"]
        imu["quaternion"] = sensors.imu_quat_wxyz
        imu["gyroscope"] = sensors.imu_gyro_rad_s
        imu["accelerometer"] = sensors.imu_accel_m_s2
        data["version"] = _VERSION
        data["tick"] = self.ticks * 1000 // RATE_HZ
        keys = [key for fault in on for key in fault.keys]
        data["wireless_remote"] = np.frombuffer(remote.remote_bytes(keys), dtype=np.uint8)
        if self.wiring.low_state is HG_LOW_STATE:
            data["mode_pr"] = self.mode_pr
            data["mode_machine"] = self.mode_machine + ("other_type" in kinds)
        else:
            data["head"] = (0xFE, 0xEF)
            data["level_flag"] = 0xFF
            data["bms_state"]["soc"] = 80
        self._state.seal()
        if "bad_crc" in kinds:
            data["crc"] ^= 1
        return self._state


_SET_POINT = ("q", "dq", "tau", "kp", "kd")
