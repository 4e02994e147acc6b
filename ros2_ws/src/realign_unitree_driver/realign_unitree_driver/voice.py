"""What a Unitree robot says, as ROS messages; and how its driver is, as diagnostics."""

from __future__ import annotations

from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Header

from policies import messages as wire
from policies.interface import RobotSpec
from realign_unitree_driver import channel
from realign_unitree_driver.core import Mode

QOS = QoSProfile(depth=100)
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Voice:
    """Publishers of the driver, and the messages they send."""

    def __init__(self, node: Node, robot: RobotSpec) -> None:
        self.robot = robot
        self._joint_states = node.create_publisher(JointState, "joint_states", QOS)
        self._imu = node.create_publisher(Imu, "imu", QOS)
        self._episode = node.create_publisher(Header, "episode", LATCHED)
        self._health = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._imu_message = Imu()
        self._imu_message.header.frame_id = robot.base_body
        self._state_message = JointState(name=list(robot.joint_names))
        self._state_message.header.frame_id = robot.base_body

    def publish(self, record: Any, stamp_ns: int) -> None:
        """Send the sensors of a state packet."""
        imu, state = self._imu_message, self._state_message  # made once: half the cost
        wire.set_stamp(imu.header.stamp, stamp_ns)
        wire.set_quat(imu.orientation, record["quat_wxyz"])
        wire.set_vector(imu.angular_velocity, record["gyro_rad_s"])
        wire.set_vector(imu.linear_acceleration, record["accel_m_s2"])
        self._imu.publish(imu)
        wire.set_stamp(state.header.stamp, stamp_ns)
        state.position = wire.doubles(channel.joints(self.robot, record, "q"))
        state.velocity = wire.doubles(channel.joints(self.robot, record, "dq"))
        state.effort = wire.doubles(channel.joints(self.robot, record, "tau"))
        self._joint_states.publish(state)

    def publish_episode(self, stamp_ns: int) -> None:
        """Mark the start of an episode."""
        marker = Header(frame_id=f"0 {self.robot.name} motion")
        wire.set_stamp(marker.stamp, stamp_ns)
        self._episode.publish(marker)

    def publish_health(self, stamp_ns: int, record: Any) -> None:
        """Send the driver's own state, from a state packet."""
        mode, stop = Mode(int(record["mode"])), record["stop"].decode()
        gap = record["gap_ms"]
        values = {
            "case_c": f"{record['case_c']:.0f}",
            "winding_c": f"{record['winding_c']:.0f}",
            "damaged_states": str(int(record["damaged"])),
            "missed_writes": str(int(record["missed_writes"])),
            "command_gap_ms": f"p50 {gap[0]:.2f}, p99 {gap[1]:.2f}, max {gap[2]:.2f}",
        }
        status = DiagnosticStatus(
            level=DiagnosticStatus.ERROR if mode is Mode.DAMP else DiagnosticStatus.OK,
            name="realign unitree driver",
            message=f"{mode.name.lower()}{': ' * bool(stop)}{stop}",
            hardware_id=self.robot.name,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        message = DiagnosticArray(status=[status])
        wire.set_stamp(message.header.stamp, stamp_ns)
        self._health.publish(message)
