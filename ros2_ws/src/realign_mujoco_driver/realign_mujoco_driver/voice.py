"""What the virtual robot says: sensor readings and the task, as ROS messages."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Header

from policies import messages as wire
from policies.interface import RobotSpec
from policies.rotation import rotate_inverse
from sim2real.sim.virtual_robot import Sensors

QOS = QoSProfile(depth=100)
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Voice:
    """Publishers of a virtual robot, and the messages they send."""

    def __init__(self, node: Node, robot: RobotSpec) -> None:
        self.robot = robot
        self._joint_states = node.create_publisher(JointState, "joint_states", QOS)
        self._clock = node.create_publisher(Clock, "/clock", 10)
        self._imu = node.create_publisher(Imu, "imu", QOS)
        self._odom = node.create_publisher(Odometry, "odom", QOS)
        self._goal = node.create_publisher(PoseStamped, "goal", LATCHED)
        self._episode = node.create_publisher(Header, "episode", LATCHED)

    def publish(self, reading: Sensors) -> None:
        """Send all sensors that are not silenced by a fault."""
        stamp = reading.stamp_ns
        clock = Clock()
        wire.set_stamp(clock.clock, stamp)
        self._clock.publish(clock)
        if reading.imu_quat_wxyz is not None:
            imu = Imu()
            imu.header.frame_id = self.robot.base_body
            wire.set_stamp(imu.header.stamp, stamp)
            wire.set_quat(imu.orientation, reading.imu_quat_wxyz)
            wire.set_vector(imu.angular_velocity, reading.imu_gyro_rad_s)
            wire.set_vector(imu.linear_acceleration, reading.imu_accel_m_s2)
            self._imu.publish(imu)
        if reading.base is not None:
            self._publish_odometry(reading)
        if reading.qpos_rad is not None:
            state = JointState(name=list(self.robot.joint_names))
            state.header.frame_id = self.robot.base_body
            wire.set_stamp(state.header.stamp, stamp)
            state.position = wire.doubles(reading.qpos_rad)
            state.velocity = wire.doubles(reading.qvel_rad_s)
            state.effort = wire.doubles(reading.effort_nm)
            self._joint_states.publish(state)

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

    def publish_goal(self, stamp_ns: int, goal_m: np.ndarray) -> None:
        """Send the end effector's goal, (3,) m in the base frame."""
        goal = PoseStamped()
        goal.header.frame_id = self.robot.base_body
        wire.set_stamp(goal.header.stamp, stamp_ns)
        wire.set_vector(goal.pose.position, goal_m)
        goal.pose.orientation.w = 1.0
        self._goal.publish(goal)

    def publish_episode(self, stamp_ns: int, index: int, task: str) -> None:
        """Mark the start of an episode."""
        marker = Header(frame_id=f"{index} {task}")
        wire.set_stamp(marker.stamp, stamp_ns)
        self._episode.publish(marker)
