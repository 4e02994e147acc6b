"""Forward kinematics of a chain from a URDF, joints by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pinocchio

from calibration.errors import CalibrationError
from calibration.transforms import Float, inverse


class Chain:
    """The joints between two links of a robot.

    Args:
        urdf: the robot's URDF file.
        base, tip: links at both ends; the base must be nearer to the robot's root.

    Attributes:
        joint_names: joints between them, from base to tip; all have one degree of freedom.

    Raises:
        CalibrationError: the file cannot be read, or there are no such links or joints.
    """

    def __init__(self, urdf: Path, base: str, tip: str) -> None:
        try:
            self._model = pinocchio.buildModelFromUrdf(str(urdf))
        except (ValueError, RuntimeError) as error:
            raise CalibrationError(
                f"expected a URDF file, but {urdf} cannot be read ({str(error).splitlines()[0]}); "
                "check the path"
            ) from None
        self._data = self._model.createData()
        self._base, self._tip = (self._frame(name) for name in (base, tip))
        above = self._supports(self._base)
        chain = self._supports(self._tip)
        if chain[: len(above)] != above or chain == above:
            raise CalibrationError(
                f"expected joints that lead from link {base} to link {tip}, got none; "
                "choose a base nearer to the robot's root and a tip beyond it"
            )
        self._joints = chain[len(above) :]
        self.joint_names = tuple(self._model.names[joint] for joint in self._joints)
        if any(self._model.joints[joint].nv != 1 for joint in self._joints):
            raise CalibrationError(
                f"expected joints with one degree of freedom from {base} to {tip}, got others "
                f"among {', '.join(self.joint_names)}; choose another chain"
            )

    def _frame(self, name: str) -> int:
        if not self._model.existFrame(name, pinocchio.BODY):
            links = [f.name for f in self._model.frames if f.type == pinocchio.BODY]
            raise CalibrationError(
                f"expected a link of {self._model.name}, got {name!r}; it has {', '.join(links)}"
            )
        return int(self._model.getFrameId(name, pinocchio.BODY))

    def _supports(self, frame: int) -> list[int]:
        """Joints from the root to a frame, without the root."""
        return list(self._model.supports[self._model.frames[frame].parentJoint])[1:]

    def order(self, names: Sequence[str]) -> list[int]:
        """Where in ``names`` each joint of the chain is.

        Raises:
            CalibrationError: a joint is missing.
        """
        missing = [name for name in self.joint_names if name not in names]
        if missing:
            raise CalibrationError(
                f"expected positions of the joints {', '.join(self.joint_names)}, but "
                f"{', '.join(missing)} are not among {', '.join(names)}; check the robot, or name "
                "other links"
            )
        return [list(names).index(name) for name in self.joint_names]

    def pose(self, qpos_rad: Float) -> tuple[Float, Float]:
        """Pose of the tip.

        Args:
            qpos_rad: positions in the order of ``joint_names``, (n,), rad or m.

        Returns:
            ``T_base_tip`` (4, 4), m; and the Jacobian (6, n) in the frame of the tip: angular
            velocity first, then linear, for each joint.
        """
        q = pinocchio.neutral(self._model)
        columns = []
        for joint, value in zip(self._joints, np.asarray(qpos_rad, float), strict=True):
            at = self._model.joints[joint]
            if at.nq == 2:  # a continuous joint: cosine and sine
                q[at.idx_q : at.idx_q + 2] = np.cos(value), np.sin(value)
            else:
                q[at.idx_q] = value
            columns.append(at.idx_v)
        pinocchio.forwardKinematics(self._model, self._data, q)
        pinocchio.updateFramePlacements(self._model, self._data)
        T_root_base, T_root_tip = (
            np.array(self._data.oMf[frame].homogeneous) for frame in (self._base, self._tip)
        )
        jacobian = pinocchio.computeFrameJacobian(
            self._model, self._data, q, self._tip, pinocchio.LOCAL
        )
        return inverse(T_root_base) @ T_root_tip, np.array(jacobian)[[3, 4, 5, 0, 1, 2]][:, columns]
