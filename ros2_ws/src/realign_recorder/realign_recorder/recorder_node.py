"""Recorder: topics to a rosbag2 MCAP bag as they are on the wire, never deserialised."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from sim2real.bags.writer import BagWriter

QOS = QoSProfile(depth=1000)
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TOPICS: dict[str, tuple[Any, str, QoSProfile]] = {
    "joint_states": (JointState, "sensor_msgs/msg/JointState", QOS),
    "imu": (Imu, "sensor_msgs/msg/Imu", QOS),
    "odom": (Odometry, "nav_msgs/msg/Odometry", QOS),
    "goal": (PoseStamped, "geometry_msgs/msg/PoseStamped", LATCHED),
    "episode": (Header, "std_msgs/msg/Header", LATCHED),
    "action_chunk": (JointTrajectory, "trajectory_msgs/msg/JointTrajectory", QOS),
    "joint_command": (JointTrajectory, "trajectory_msgs/msg/JointTrajectory", QOS),
    "/diagnostics": (DiagnosticArray, "diagnostic_msgs/msg/DiagnosticArray", QOS),
}


class RecorderNode(Node):
    """Raw subscriptions into a :class:`BagWriter`."""

    def __init__(self) -> None:
        super().__init__("recorder")
        out = self.declare_parameter("out", "").value
        provenance = self.declare_parameter("provenance", "{}").value
        topics = self.declare_parameter("topics", list(TOPICS)).value
        self.writer = BagWriter(Path(out), provenance=json.loads(provenance))
        for topic in topics:
            kind, type_name, qos = TOPICS[topic]
            name = self.resolve_topic_name(topic)
            self.writer.add_topic(name, type_name)
            self.create_subscription(kind, topic, self._recorder_of(name), qos, raw=True)

    def _recorder_of(self, name: str) -> Any:
        def record(data: bytes, info: dict[str, int]) -> None:
            self.writer.write(name, data, info["received_timestamp"], info["source_timestamp"])

        return record


def main() -> None:
    """Record until told to stop, then close the bag."""
    rclpy.init()
    node = RecorderNode()
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not cut the bag
        node.writer.close()
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
