"""Rigid-body dynamics of a robot from its URDF: torques, and what they depend on, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pinocchio

from calibration.errors import CalibrationError
from calibration.signals import Float

PER_BODY = 10
"""Inertial parameters of a body: mass, mass times centre (3), and inertia about the joint's origin
as (xx, xy, yy, xz, yz, zz)."""


class RigidBody:
    """A robot whose root link stands still, upright; gravity points down along -z of that link.

    Args:
        urdf: the robot's URDF file.
        joint_names: its n moving joints, in the order of all arrays.
        held: positions of other joints, which do not move; zero where not given.

    Raises:
        CalibrationError: the file cannot be read, or lacks joints.
    """

    def __init__(
        self, urdf: Path, joint_names: Sequence[str], held: Mapping[str, float] | None = None
    ) -> None:
        try:
            whole = pinocchio.buildModelFromUrdf(str(urdf))
        except (ValueError, RuntimeError) as error:
            raise CalibrationError(
                f"expected a URDF file, but {urdf} cannot be read ({str(error).splitlines()[0]}); "
                "check the path"
            ) from None
        have = list(whole.names)[1:]
        missing = [name for name in joint_names if name not in have]
        if missing:
            raise CalibrationError(
                f"expected joints {', '.join(missing)} in {urdf}, but it has {', '.join(have)}; "
                "check the robot"
            )
        start = pinocchio.neutral(whole)
        for name, value in (held or {}).items():
            start[whole.joints[whole.getJointId(name)].idx_q] = value
        still = [whole.getJointId(name) for name in have if name not in joint_names]
        self._model = pinocchio.buildReducedModel(whole, still, start)
        if any(joint.nq != 1 for joint in list(self._model.joints)[1:]):
            raise CalibrationError(
                f"expected joints with one coordinate in {urdf}, got others; check the robot"
            )
        self._data = self._model.createData()
        self.joint_names = tuple(joint_names)
        self._order = np.array([self._model.getJointId(name) - 1 for name in joint_names])
        self._back = np.argsort(self._order)

    @cached_property
    def parameters(self) -> Float:
        """Inertial parameters of the URDF, one body a joint in its order, (10 n,)."""
        bodies = [self._model.inertias[int(joint) + 1] for joint in self._order]
        return np.concatenate([body.toDynamicParameters() for body in bodies])

    def torque(self, qpos: Float, qvel: Float, qacc: Float) -> Float:
        """Inverse dynamics, rows (T, n) -> torques (T, n), Nm."""
        q, v, a = (x[:, self._back] for x in (qpos, qvel, qacc))
        out = [pinocchio.rnea(self._model, self._data, *row) for row in zip(q, v, a, strict=True)]
        return np.array(out).reshape(len(qpos), -1)[:, self._order]

    def gravity(self, qpos: Float) -> Float:
        """Torques that hold the robot at rest, (T, n) -> (T, n), Nm."""
        still = np.zeros_like(qpos)
        return self.torque(qpos, still, still)

    def regressor(self, qpos: Float, qvel: Float, qacc: Float) -> Float:
        """Derivative of :meth:`torque` by :attr:`parameters`, (T, n, 10 n)."""
        n = len(self.joint_names)
        q, v, a = (x[:, self._back] for x in (qpos, qvel, qacc))
        out = np.zeros((len(qpos), n, n, PER_BODY))
        for i in range(len(qpos)):
            whole = pinocchio.computeJointTorqueRegressor(self._model, self._data, q[i], v[i], a[i])
            out[i] = whole.reshape(n, n, PER_BODY)[self._order][:, self._order]
        return out.reshape(len(qpos), n, n * PER_BODY)

    def body_of(self, link: str) -> tuple[int, Float]:
        """The moving body that a link belongs to.

        Returns:
            Its joint's place in ``joint_names``, and ``T_body_link`` (4, 4), m.

        Raises:
            CalibrationError: there is no such link, or it does not move.
        """
        if not self._model.existFrame(link, pinocchio.BODY):
            raise CalibrationError(f"expected a link of the robot, got {link!r}; check the name")
        frame = self._model.frames[self._model.getFrameId(link, pinocchio.BODY)]
        if frame.parentJoint == 0:
            raise CalibrationError(f"expected a link that moves, got {link!r}; choose another")
        place = int(np.flatnonzero(self._order == frame.parentJoint - 1)[0])
        return place, np.array(frame.placement.homogeneous)
