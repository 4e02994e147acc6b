"""What a virtual robot that is being calibrated says and is told, as serialised ROS messages."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.interface import Float, RobotSpec
from sim2real.bags.batch import NS
from sim2real.bags.definitions import typestore
from sim2real.bags.images import RAW
from sim2real.bags.joints import JOINT_STATE, TRAJECTORY


class MessageWriter:
    """Messages of one robot.

    Args:
        robot: whose joints they speak of.
    """

    def __init__(self, robot: RobotSpec) -> None:
        self._names = list(robot.joint_names)
        self._store = typestore()
        kinds = self._store.types.items()
        self._new: dict[str, Any] = {name.rsplit("/", 1)[1]: kind for name, kind in kinds}

    def joint_state(
        self, stamp_ns: int, qpos_rad: Float, qvel_rad_s: Float, effort_nm: Float
    ) -> bytes:
        """Positions, velocities and torques, each (n,); rad, rad/s, Nm."""
        message = self._new["JointState"](
            header=self._header(stamp_ns),
            name=self._names,
            position=qpos_rad,
            velocity=qvel_rad_s,
            effort=effort_nm,
        )
        return bytes(self._store.serialize_cdr(message, JOINT_STATE))

    def command(self, stamp_ns: int, target_rad: Float) -> bytes:
        """Set-points for now, (n,), rad."""
        nothing = np.zeros(0)
        point = self._new["JointTrajectoryPoint"](
            positions=target_rad,
            velocities=nothing,
            accelerations=nothing,
            effort=nothing,
            time_from_start=self._new["Duration"](sec=0, nanosec=0),
        )
        message = self._new["JointTrajectory"](
            header=self._header(stamp_ns), joint_names=self._names, points=[point]
        )
        return bytes(self._store.serialize_cdr(message, TRAJECTORY))

    def image(self, stamp_ns: int, image: NDArray[np.uint8], camera: str) -> bytes:
        """Gray values, (H, W), that a camera of this name saw."""
        height, width = image.shape
        message = self._new["Image"](
            header=self._header(stamp_ns, camera),
            height=height,
            width=width,
            encoding="mono8",
            is_bigendian=0,
            step=width,
            data=image.ravel(),
        )
        return bytes(self._store.serialize_cdr(message, RAW))

    def _header(self, stamp_ns: int, frame_id: str = "") -> Any:
        stamp = self._new["Time"](sec=stamp_ns // NS, nanosec=stamp_ns % NS)
        return self._new["Header"](stamp=stamp, frame_id=frame_id)
