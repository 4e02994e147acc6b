"""What robots feel, as ROS messages."""

from __future__ import annotations

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import Imu, JointState

from policies import messages as wire
from policies.interface import Float, RobotSpec
from realign_driver.qos import QOS
from realign_driver.records import OutgoingRecord

_XYZW = [1, 2, 3, 0]  # from wxyz


class JointStatePublisher:
    """The topic ``joint_states``.

    Args:
        node: driver node.
        robot: whose joints they are.
    """

    def __init__(self, node: Node, robot: RobotSpec) -> None:
        zeros = wire.doubles(np.zeros(robot.n))
        message = JointState(
            name=list(robot.joint_names), position=zeros, velocity=zeros, effort=zeros
        )
        message.header.frame_id = robot.base_body
        self._record = OutgoingRecord(message, "sensor_msgs/msg/JointState")
        self._publisher = node.create_publisher(JointState, "joint_states", QOS)

    def publish(self, stamp_ns: int, qpos_rad: Float, qvel_rad_s: Float, effort_nm: Float) -> None:
        """Send positions, velocities and torques, each (n,); rad, rad/s, Nm."""
        fields = self._record.fields
        fields["position"], fields["velocity"] = qpos_rad, qvel_rad_s
        fields["effort"] = effort_nm
        self._publisher.publish(self._record.stamped(stamp_ns))


class ImuPublisher:
    """The topic ``imu``, in the frame of the robot's base.

    Args:
        node: driver node.
        robot: whose base it is.
    """

    def __init__(self, node: Node, robot: RobotSpec) -> None:
        message = Imu()
        message.header.frame_id = robot.base_body
        self._record = OutgoingRecord(message, "sensor_msgs/msg/Imu")
        self._publisher = node.create_publisher(Imu, "imu", QOS)

    def publish(
        self, stamp_ns: int, quat_wxyz: Float, gyro_rad_s: Float, accel_m_s2: Float
    ) -> None:
        """Send orientation (4,), turn rate (3,), rad/s, and specific force (3,), m/s^2."""
        fields = self._record.fields
        fields["orientation"] = quat_wxyz[_XYZW]
        fields["angular_velocity"], fields["linear_acceleration"] = gyro_rad_s, accel_m_s2
        self._publisher.publish(self._record.stamped(stamp_ns))
