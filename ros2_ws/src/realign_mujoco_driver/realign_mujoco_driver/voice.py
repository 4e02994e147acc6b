"""What the virtual robot says: sensor readings, as ROS messages."""

from __future__ import annotations

from nav_msgs.msg import Odometry
from rclpy.node import Node
from rosgraph_msgs.msg import Clock

from policies import messages as wire
from policies.interface import RobotSpec
from policies.rotation import rotate_inverse
from realign_driver.qos import QOS
from realign_driver.sensors import ImuPublisher, JointStatePublisher
from sim2real.sim.virtual_robot import Sensors


class Voice:
    """Publishers of a virtual robot, and the messages they send."""

    def __init__(self, node: Node, robot: RobotSpec) -> None:
        self.robot = robot
        self._joint_states = JointStatePublisher(node, robot)
        self._clock = node.create_publisher(Clock, "/clock", 10)
        self._imu = ImuPublisher(node, robot)
        self._odom = node.create_publisher(Odometry, "odom", QOS)

    def publish(self, reading: Sensors) -> None:
        """Send all sensors that are not silenced by a fault."""
        stamp = reading.stamp_ns
        clock = Clock()
        wire.set_stamp(clock.clock, stamp)
        self._clock.publish(clock)
        if reading.imu_quat_wxyz is not None:
            self._imu.publish(
                stamp, reading.imu_quat_wxyz, reading.imu_gyro_rad_s, reading.imu_accel_m_s2
            )
        if reading.base is not None:
            self._publish_odometry(reading)
        if reading.qpos_rad is not None:
            self._joint_states.publish(
                stamp, reading.qpos_rad, reading.qvel_rad_s, reading.effort_nm
            )

    def _publish_odometry(self, reading: Sensors) -> None:
        base, odom = reading.base, Odometry()
        odom.header.frame_id, odom.child_frame_id = "odom", self.robot.base_body
        wire.set_stamp(odom.header.stamp, reading.stamp_ns)
        wire.set_vector(odom.pose.pose.position, base.base_pos_m)
        wire.set_quat(odom.pose.pose.orientation, base.base_quat_wxyz)
        # REP-105: the twist is in the child frame.
        linear = rotate_inverse(base.base_quat_wxyz, base.base_lin_vel_m_s)
        wire.set_vector(odom.twist.twist.linear, linear)
        wire.set_vector(odom.twist.twist.angular, base.base_ang_vel_rad_s)
        self._odom.publish(odom)
