"""Body positions of many states at once (forward kinematics of the nominal model)."""

from __future__ import annotations

import mujoco
import numpy as np

from policies.interface import Float, RobotSpec
from sim2real.sim.model import build_model
from sim2real.sim.stepper import Layout, SimState


class BodyPositions:
    """World positions of all bodies of a robot's nominal model; a gripper is half open.

    Args:
        robot: the robot.

    Attributes:
        names: the robot's bodies, in the order of the results.
        root: index of the base body in ``names``.
    """

    def __init__(self, robot: RobotSpec) -> None:
        self._model = build_model(robot)
        self._data = mujoco.MjData(self._model)
        self._layout = Layout(robot, self._model)
        if robot.gripper:
            self._data.qpos[self._layout.finger_qpos] = robot.gripper.max_width_m / 2.0
        self.names = tuple(self._layout.body_names)
        self.root = self.names.index(robot.base_body)

    def __call__(self, state: SimState) -> Float:
        """Positions at ``state``, arrays (..., n) -> (..., bodies, 3), m."""
        model, data, bodies = self._model, self._data, self._layout.bodies
        lead = state.qpos_rad.shape[:-1]
        qpos = np.tile(data.qpos, (*lead, 1))
        self._layout.write(state, qpos, np.zeros((*lead, model.nv)))
        out = np.empty((int(np.prod(lead)), len(bodies), 3))
        for i, row in enumerate(qpos.reshape(-1, model.nq)):
            data.qpos[:] = row
            mujoco.mj_kinematics(model, data)
            out[i] = data.xpos[bodies]
        return out.reshape(*lead, len(bodies), 3)
