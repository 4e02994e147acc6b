"""The virtual robot: a stepper with sensors, faults, a task and a record of what happened to it.

Pure; the ROS package ``realign_mujoco_driver`` puts it on topics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from policies.rotation import rotate_inverse, tilt_rad
from policies.runtime.plausibility import GRAVITY_M_S2
from sim2real.sim.gaps import make_gap
from sim2real.sim.remote import open_robot
from sim2real.sim.scene import SceneObject
from sim2real.sim.stepper import SimState, Stepper, default_state
from sim2real.sim.timed_faults import TimedFault, Words, check_kind, parse_timed

START_NS = 1_000_000_000  # stamps start at 1 s: 0 means "no time" in ROS
FALL_HEIGHT_M = 0.4
FALL_TILT_RAD = np.pi / 4
FAULTS = ("drop_state", "nan_state", "freeze_state", "drop_imu")


class SensorFault(TimedFault):
    """A fault of a sensor, in robot time since the start."""


def parse_faults(text: str) -> tuple[SensorFault, ...]:
    """``"nan_state@1.0:0.2,drop_imu@2"`` -> faults: kind, start and optional duration in s.

    Raises:
        InputError: unknown kind or bad number.
    """
    return parse_timed(text, _fault, example="nan_state@1.0:0.2 (start and duration in s)")


def _fault(words: Words) -> SensorFault:
    check_kind(words.what, FAULTS)
    return SensorFault(kind=words.what, start_s=words.start_s, duration_s=words.duration_s)


@dataclass(kw_only=True)
class Sensors:
    """One reading of all sensors; a field that a fault has silenced is None."""

    stamp_ns: int
    qpos_rad: Float | None
    qvel_rad_s: Float | None
    effort_nm: Float | None
    base: SimState | None = None
    imu_quat_wxyz: Float | None = None
    imu_gyro_rad_s: Float | None = None
    imu_accel_m_s2: Float | None = None


class VirtualRobot:
    """A robot in a simulator that behaves like one on a bench.

    It hangs in its start pose until the first command, keeps the last command, and stops by itself
    (damping, or brakes for an arm) when commands stay away.

    Args:
        robot: the robot.
        engine: simulator that plays it, one of :data:`sim2real.sim.remote.SIMULATORS`.
        gap: name of the dynamics gap that it hides.
        seed: start pose noise.
        rate_hz: how often :meth:`step` is called, Hz.
        start_pose_rad: start pose in canonical order, default pose if None.
        faults: sensor faults.
        pose_noise_rad: standard deviation of the start pose noise; sliding joints have none.
        objects: things that it can grasp.
        places_m: centres of the objects at the start, (objects, 3), m.
    """

    def __init__(
        self,
        robot: RobotSpec,
        *,
        engine: str = "mujoco",
        gap: str = "none",
        seed: int = 0,
        rate_hz: float | None = None,
        start_pose_rad: Float | None = None,
        faults: tuple[SensorFault, ...] = (),
        pose_noise_rad: float = 0.01,
        objects: Sequence[SceneObject] = (),
        places_m: Float | None = None,
    ) -> None:
        self.robot = robot
        self.stepper = open_robot(
            engine, robot, make_gap(robot, gap), rate_hz=rate_hz, objects=objects
        )
        self._objects, self._places_m = tuple(objects), places_m
        self._highest_m = np.full(len(objects), -np.inf)
        if isinstance(self.stepper, Stepper) and places_m is not None:
            self.stepper.things.place(places_m)
        self.faults = faults
        pose = robot.default_rad if start_pose_rad is None else start_pose_rad
        noise = np.random.default_rng(seed).normal(0.0, pose_noise_rad, robot.n)
        noise *= [not joint.sliding for joint in robot.joints]
        pose = np.clip(pose + noise, robot.lower_rad, robot.upper_rad)
        self._start = default_state(robot, pose)
        self.stepper.reset(self._start)
        self._hangs = False
        self.steps = 0
        self.dt_ns = round(self.stepper.decimation * robot.physics_dt_s * 1e9)
        self.min_base_height_m = robot.base_height_m
        self.max_tilt_rad = 0.0
        self._target: Float | None = pose
        self._frozen: tuple[Float, Float] | None = None
        self._last_lin_vel: Float = np.zeros(3)

    @property
    def stamp_ns(self) -> int:
        """Robot time, ns."""
        return START_NS + self.steps * self.dt_ns

    @property
    def elapsed_s(self) -> float:
        """Robot time since the start, s."""
        return self.steps * self.dt_ns / 1e9

    def step(self, target_rad: Float | None) -> None:
        """Advance one tick under a command, (n,) rad; None stops (damping, brakes for an arm)."""
        self._hangs &= target_rad is None
        if self._hangs:
            self.steps += 1
            return
        if target_rad is None and self.robot.stop == "brake":
            target_rad = self._target
        if target_rad is None:
            self.stepper.step(self.robot.default_rad, damp=True)
        else:
            self._target = target_rad
            self.stepper.step(target_rad)
        self.steps += 1
        if self.objects is not None:
            self._highest_m = np.maximum(self._highest_m, self.objects[:, 2])
        if self.robot.floating_base:
            base = self.stepper.state
            assert base.base_pos_m is not None
            assert base.base_quat_wxyz is not None
            self.min_base_height_m = min(self.min_base_height_m, float(base.base_pos_m[2]))
            self.max_tilt_rad = max(self.max_tilt_rad, tilt_rad(base.base_quat_wxyz))

    def stand_up(self) -> None:
        """Hang the robot up in its start pose until a command moves it; time goes on."""
        self.stepper.reset(self._start)
        self._hangs = True
        self._target = self._start.qpos_rad
        self._last_lin_vel = np.zeros(3)

    def set_gripper(self, width_m: float) -> None:
        """Command the gripper opening, m.

        Raises:
            InputError: the engine that plays the robot does not move its gripper.
        """
        if not isinstance(self.stepper, Stepper):
            raise InputError(
                f"expected no gripper command for {self.robot.name} in another engine than mujoco, "
                f"got {width_m:g} m; run it with --engine mujoco"
            )
        self.stepper.set_gripper(width_m)

    def close(self) -> None:
        """End the engine."""
        self.stepper.close()

    @property
    def objects(self) -> Float | None:
        """Centre, m, and orientation, wxyz, of each object, (objects, 7); None without objects."""
        if not self._objects or not isinstance(self.stepper, Stepper):
            return None
        return self.stepper.things.poses

    @property
    def rise_m(self) -> dict[str, float]:
        """Object -> by how much it was above its start at most, m."""
        if self._places_m is None or not self.steps:
            return dict.fromkeys((thing.name for thing in self._objects), 0.0)
        rise = self._highest_m - self._places_m[:, 2]
        return {t.name: float(r) for t, r in zip(self._objects, rise, strict=True)}

    @property
    def fell(self) -> bool:
        """True once a legged robot's base was below half its height or tilted by 45 degrees."""
        if not self.robot.floating_base:
            return False
        lowest = min(FALL_HEIGHT_M, 0.5 * self.robot.base_height_m)
        return self.min_base_height_m < lowest or self.max_tilt_rad > FALL_TILT_RAD

    def read(self) -> Sensors:
        """Read all sensors, with the faults that are on."""
        on = {fault.kind for fault in self.faults if fault.active(self.elapsed_s)}
        state = self.stepper.state
        qpos, qvel = state.qpos_rad, state.qvel_rad_s
        if "freeze_state" in on:
            self._frozen = self._frozen or (qpos, qvel)
            qpos, qvel = self._frozen
        else:
            self._frozen = None
        if "nan_state" in on:
            qpos = np.full_like(qpos, np.nan)
        dropped = "drop_state" in on
        sensors = Sensors(
            stamp_ns=self.stamp_ns,
            qpos_rad=None if dropped else qpos,
            qvel_rad_s=None if dropped else qvel,
            effort_nm=None if dropped else self.stepper.effort_nm,
        )
        if self.robot.floating_base:
            sensors.base = state
            if "drop_imu" not in on:
                sensors.imu_quat_wxyz = state.base_quat_wxyz
                sensors.imu_gyro_rad_s = state.base_ang_vel_rad_s
                sensors.imu_accel_m_s2 = self._accelerometer(state)
        return sensors

    def _accelerometer(self, state: SimState) -> Float:
        """Specific force in the base frame from the change of velocity over a tick, (3,)."""
        assert state.base_lin_vel_m_s is not None
        assert state.base_quat_wxyz is not None
        change = (state.base_lin_vel_m_s - self._last_lin_vel) / (self.dt_ns / 1e9)
        self._last_lin_vel = state.base_lin_vel_m_s
        force = change if self.steps else np.zeros(3)
        return rotate_inverse(state.base_quat_wxyz, force + np.array([0.0, 0.0, GRAVITY_M_S2]))
