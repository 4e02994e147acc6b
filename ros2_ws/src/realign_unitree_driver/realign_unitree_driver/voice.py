"""What a Unitree robot says, as ROS messages; and how its driver is, as diagnostics."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node

from policies.interface import RobotSpec
from realign_driver.health import Health, HealthPublisher
from realign_driver.sensors import ImuPublisher, JointStatePublisher
from realign_unitree_driver import channel
from realign_unitree_driver.core import Mode


class Voice:
    """Publishers of the driver, and the messages they send."""

    def __init__(self, node: Node, robot: RobotSpec) -> None:
        self.robot = robot
        self._joint_states = JointStatePublisher(node, robot)
        self._imu = ImuPublisher(node, robot)
        self._health = HealthPublisher(node, "realign unitree driver", robot.name)

    def publish(self, record: Any, stamp_ns: int) -> None:
        """Send the sensors of a state packet."""
        self._imu.publish(stamp_ns, record["quat_wxyz"], record["gyro_rad_s"], record["accel_m_s2"])
        joints = (channel.joints(self.robot, record, name) for name in ("q", "dq", "tau"))
        self._joint_states.publish(stamp_ns, *joints)

    def publish_health(self, record: Any, stamp_ns: int) -> None:
        """Send the driver's own state, from a state packet."""
        mode, stop = Mode(int(record["mode"])), record["stop"].decode()
        gap = record["gap_ms"]
        values = {
            "case_c": f"{record['case_c']:.0f}",
            "winding_c": f"{record['winding_c']:.0f}",
            "damaged_states": int(record["damaged"]),
            "missed_writes": int(record["missed_writes"]),
            "command_gap_ms": f"p50 {gap[0]:.2f}, p99 {gap[1]:.2f}, max {gap[2]:.2f}",
        }
        text = f"{mode.name.lower()}{': ' * bool(stop)}{stop}"
        health = Health(message=text, values=values, is_error=mode is Mode.DAMP)
        self._health.publish(health, stamp_ns)
