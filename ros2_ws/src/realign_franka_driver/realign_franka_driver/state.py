"""The state record that the control box sends a thousand times a second."""

from __future__ import annotations

from typing import Any

import numpy as np

from policies.interface import Float
from realign_franka_driver import layout
from realign_franka_driver.control_box import ControlBox
from realign_franka_driver.generators import CartesianGenerator

# The hand as Franka configures it: mass, centre in the flange, inertia; flange to fingertips.
HAND_KG, HAND_CENTRE_M = 0.73, (-0.01, 0.0, 0.03)
HAND_INERTIA = np.diag([0.001, 0.0025, 0.0017]).ravel()
_C = np.sqrt(0.5)
FLANGE_TO_TOOL = np.array([[_C, _C, 0, 0], [-_C, _C, 0, 0], [0, 0, 1, 0.1034], [0, 0, 0, 1]])


class StateRecord:
    """What a :class:`ControlBox` says of itself; one record, filled anew by :meth:`read`.

    Args:
        box: the control box.
    """

    def __init__(self, box: ControlBox) -> None:
        self.box = box
        self._record = np.zeros((), dtype=layout.ROBOT_STATE)
        # Views of the fields: finding a field by its name takes longer than writing it.
        self._view: dict[str, Any] = {n: self._record[n] for n in self._record.dtype.names or ()}
        self._held: Float | None = None
        self._held_pose: Float = np.zeros(16)
        self._view["O_ddP_O"][:] = 0.0, 0.0, -9.81
        self._view["F_T_NE"][:] = FLANGE_TO_TOOL.T.ravel()
        self._view["m_ee"][...] = HAND_KG
        self._view["F_x_Cee"][:], self._view["I_ee"][:] = HAND_CENTRE_M, HAND_INERTIA
        self.refresh()

    def refresh(self) -> None:
        """Take over what clients have set."""
        box, view = self.box, self._view
        view["NE_T_EE"][:] = box.tool.T.ravel()
        view["F_T_EE"][:] = (FLANGE_TO_TOOL @ box.tool).T.ravel()
        view["EE_T_K"][:] = box.stiffness_frame.T.ravel()
        view["m_load"][...], view["F_x_Cload"][:], view["I_load"][:] = box.load
        self._held = None

    def read(self) -> Any:
        """State of this moment; the same record every time."""
        box, arm, view = self.box, self.box.arm, self._view
        q, dq = arm.qpos_rad, arm.qvel_rad_s
        view["message_id"][...] = box.ticks
        view["q"][:] = view["theta"][:] = q
        view["dq"][:] = view["dtheta"][:] = dq
        view["q_d"][:], view["dq_d"][:] = box.hold, box.hold_rate
        view["tau_J"][:] = arm.stepper.effort_nm + arm.gravity_nm
        view["tau_J_d"][:], view["dtau_J"][:] = box.torque, box.torque_rate
        generator = box.generator
        view["ddq_d"][:] = 0.0 if generator is None else generator.ddq
        measured = self._pose_of(q)
        view["O_T_EE"][:] = measured
        view["elbow"][:] = q[2], np.sign(q[3])
        if isinstance(generator, CartesianGenerator):
            view["O_T_EE_d"][:] = view["O_T_EE_c"][:] = generator.pose.T.ravel()
            view["O_dP_EE_d"][:] = view["O_dP_EE_c"][:] = generator.twist
            view["O_ddP_EE_c"][:] = generator.change
            view["elbow_d"][:] = view["elbow_c"][:] = generator.elbow
        else:
            view["O_T_EE_d"][:] = view["O_T_EE_c"][:] = self._desired(measured)
            view["O_dP_EE_d"][:] = view["O_dP_EE_c"][:] = view["O_ddP_EE_c"][:] = 0.0
            view["elbow_d"][:] = view["elbow_c"][:] = box.hold[2], np.sign(box.hold[3])
        self._read_modes()
        return self._record

    def _pose_of(self, q: Float) -> Float:
        """Pose of the end effector, column by column, (16,)."""
        pose = np.zeros((4, 4))
        pose[3, 3] = 1.0
        pose[:3, 3], pose[:3, :3] = self.box.arm.kinematics.end_effector(q)
        columns: Float = (pose @ self.box.tool).T.ravel()
        return columns

    def _desired(self, measured: Float) -> Float:
        """Pose at the joint set-points; while torques rule, the measured one."""
        if self.box.moving:
            return measured
        if self._held is None or not np.array_equal(self._held, self.box.hold):
            self._held, self._held_pose = self.box.hold, self._pose_of(self.box.hold)
        return self._held_pose

    def _read_modes(self) -> None:
        box, view = self.box, self._view
        kind, controller = box.generator_kind, box.controller
        view["generator"][...] = (
            layout.IDLE_GENERATOR if kind is None else layout.GENERATOR_IN_STATE[kind]
        )
        view["controller"][...] = layout.OTHER_CONTROLLER if controller is None else controller
        for name, errors in (("errors", box.errors), ("reflex_reason", box.reflex_reason)):
            view[name][:] = 0
            if errors:
                view[name][list(errors)] = 1
        view["robot_mode"][...] = box.mode
        view["control_command_success_rate"][...] = box.success_rate
