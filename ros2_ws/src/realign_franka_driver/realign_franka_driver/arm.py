"""The emulated arm without its control box: joints that follow set-points or torques, a hand."""

from __future__ import annotations

import numpy as np

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from realign_franka_driver.layout import PERIOD_S
from sim2real.sim.gaps import make_gap
from sim2real.sim.kinematics import Kinematics
from sim2real.sim.stepper import Stepper
from sim2real.sim.virtual_robot import VirtualRobot

RATE_HZ = 1000.0


class Arm:
    """A virtual robot stepped at 1 kHz; gravity is compensated, torques end at their limits.

    Args:
        robot: a Franka arm.
        gap: dynamics gap that it hides.
        seed: start pose noise.
        start_pose_rad: start pose, (7,), default pose if None.

    Raises:
        InputError: no Franka arm, or a gap with an actuator delay, which this robot has not.
    """

    def __init__(
        self,
        robot: RobotSpec,
        *,
        gap: str = "none",
        seed: int = 0,
        start_pose_rad: Float | None = None,
    ) -> None:
        if robot.n != 7 or robot.gripper is None or robot.physics_dt_s != PERIOD_S:
            raise InputError(
                f"expected a Franka arm (panda or fr3), got {robot.name}; use another driver"
            )
        difference = make_gap(robot, gap)
        if difference.delay_s:
            raise InputError(
                f"expected a gap without actuator delay for a robot that is commanded at 1 kHz, "
                f"got {gap} ({1000 * difference.delay_s:g} ms); use --driver mujoco for it"
            )
        self.robot = robot
        self.sim = VirtualRobot(
            robot, gap=gap, seed=seed, rate_hz=RATE_HZ, start_pose_rad=start_pose_rad
        )
        assert isinstance(self.sim.stepper, Stepper)  # no other engine was asked for
        self.stepper = self.sim.stepper
        self.kinematics = Kinematics(robot)
        self._strength = difference.per_joint(robot, difference.strength, factor=True)
        self._qpos, self._qvel = self.stepper.layout.qpos, self.stepper.layout.qvel
        self._fingers = self.stepper.layout.finger_qpos
        self._motors = self.stepper.layout.ctrl
        self._bias = self.stepper.model.actuator_biasprm  # a view: attributes of models are slow
        self._limp = np.zeros(robot.n)
        self._told: Float | None = None  # speed for which the impedance is set, if it is
        self._is_limp = False
        self.set_impedance(robot.kp_nm_rad, robot.kd_nm_s_rad)

    def set_impedance(self, kp_nm_rad: Float, kd_nm_s_rad: Float) -> None:
        """Gains of the internal controller, (7,) each."""
        self._kp, self._kd = kp_nm_rad, kd_nm_s_rad
        self._told = None

    @property
    def qpos_rad(self) -> Float:
        """Joint positions, (7,), rad."""
        values: Float = self.stepper.data.qpos[self._qpos]
        return values

    @property
    def qvel_rad_s(self) -> Float:
        """Joint velocities, (7,), rad/s."""
        values: Float = self.stepper.data.qvel[self._qvel]
        return values

    @property
    def gravity_nm(self) -> Float:
        """Torques that carry the arm's own weight, (7,), Nm."""
        values: Float = self.stepper.data.qfrc_gravcomp[self._qvel]
        return values

    @property
    def width_m(self) -> float:
        """Opening of the hand, m."""
        return float(self.stepper.data.qpos[self._fingers].sum())

    def set_width(self, width_m: float) -> None:
        """Set-point of the hand's opening, m."""
        self.stepper.set_gripper(width_m)

    def follow(self, qpos_rad: Float, qvel_rad_s: Float) -> None:
        """Run one cycle of the internal joint impedance around a moving set-point, (7,) each."""
        if self._told is None or not np.array_equal(self._told, qvel_rad_s):
            self.stepper.set_motors(self._kp, self._kd, self._kd * qvel_rad_s)
            self._told, self._is_limp = qvel_rad_s, False
        self.sim.step(qpos_rad)

    def push(self, torque_nm: Float) -> None:
        """Run one cycle under joint torques, (7,), Nm; gravity is compensated besides."""
        if not self._is_limp:
            self.stepper.set_motors(self._limp, self._limp, self._limp)
            self._told, self._is_limp = None, True
        self._bias[self._motors, 0] = self._strength * torque_nm
        self.sim.step(self._limp)  # without gains the set-point means nothing
