"""Forward kinematics and Jacobian of an arm's end effector, and what holds it up."""

from __future__ import annotations

import mujoco
import numpy as np

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from sim2real.sim.model import build_model
from sim2real.sim.stepper import Layout


class Kinematics:
    """Position of ``robot.ee_body`` in the base frame of a robot with a fixed base.

    Args:
        robot: the robot.

    Raises:
        InputError: the robot has no end effector or a floating base.
    """

    def __init__(self, robot: RobotSpec) -> None:
        if robot.ee_body is None or robot.floating_base:
            raise InputError(
                f"expected an arm with an end effector and a fixed base, got {robot.name}"
            )
        self.robot = robot
        self._model = build_model(robot)
        self._data = mujoco.MjData(self._model)
        self._layout = Layout(robot, self._model)
        self._body = self._model.body(robot.ee_body).id
        self._base = self._model.body(robot.base_body).id
        self._jacobian = np.zeros((2, 3, self._model.nv))

    def end_effector(self, qpos_rad: Float) -> tuple[Float, Float]:
        """Position (3,), m, and rotation matrix (3, 3) in the base frame at ``qpos_rad`` (n,)."""
        self._data.qpos[self._layout.qpos] = qpos_rad
        mujoco.mj_kinematics(self._model, self._data)
        base = self._data.xmat[self._base].reshape(3, 3)
        offset = self._data.xpos[self._body] - self._data.xpos[self._base]
        return base.T @ offset, base.T @ self._data.xmat[self._body].reshape(3, 3)

    def jacobian(self, qpos_rad: Float) -> tuple[Float, Float]:
        """Translational and rotational Jacobian at ``qpos_rad``, (3, n) each, base frame."""
        self.end_effector(qpos_rad)
        mujoco.mj_comPos(self._model, self._data)
        linear, angular = self._jacobian
        mujoco.mj_jacBody(self._model, self._data, linear, angular, self._body)
        base = self._data.xmat[self._base].reshape(3, 3)
        index = self._layout.qvel
        return base.T @ linear[:, index], base.T @ angular[:, index]

    def gravity_nm(self, qpos_rad: Float) -> Float:
        """Torques that the joints' position loops bear at rest at ``qpos_rad``, (n,), Nm."""
        if self.robot.gravity_compensated:
            return np.zeros(self.robot.n)
        self._data.qpos[self._layout.qpos] = qpos_rad
        self._data.qvel[:] = 0.0
        mujoco.mj_forward(self._model, self._data)
        return np.asarray(self._data.qfrc_bias[self._layout.qvel].copy())
