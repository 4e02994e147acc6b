"""What a Franka arm says, as ROS messages; and how its driver is, as diagnostics."""

from __future__ import annotations

from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import JointState

from policies import messages as wire
from policies.interface import RobotSpec
from realign_driver.health import Health, HealthPublisher
from realign_driver.qos import QOS
from realign_driver.sensors import JointStatePublisher
from realign_franka_driver.core import Mode


class Voice:
    """Publishers of the driver, and the messages they send."""

    def __init__(self, node: Node, robot: RobotSpec) -> None:
        self.robot = robot
        self._joint_states = JointStatePublisher(node, robot)
        self._gripper = node.create_publisher(JointState, "gripper_state", QOS)
        self._health = HealthPublisher(node, "realign franka driver", robot.name)

    def publish(self, record: Any, stamp_ns: int) -> None:
        """Send the joints of a state packet."""
        self._joint_states.publish(stamp_ns, record["q"], record["dq"], record["tau"])

    def publish_gripper(self, record: Any, stamp_ns: int) -> None:
        """Send the fingers of a packet of the hand's process."""
        assert self.robot.gripper is not None
        half = float(record["width_m"]) / 2.0
        message = JointState(name=list(self.robot.gripper.finger_joints), position=[half, half])
        wire.set_stamp(message.header.stamp, stamp_ns)
        self._gripper.publish(message)

    def publish_health(self, record: Any, hand_error: str, stamp_ns: int) -> None:
        """Send the driver's own state, from a state packet."""
        mode, stop = Mode(int(record["mode"])), record["stop"].decode(errors="replace")
        took = record["cycle_us"]
        values = {
            "control_command_success_rate": f"{record['success_rate']:.3f}",
            "skipped_periods": int(record["skipped"]),
            "cycle_us": f"p50 {took[0]:.0f}, p99 {took[1]:.0f}, max {took[2]:.0f}",
            "tau_external_nm": " ".join(f"{v:.1f}" for v in record["tau_external"]),
            "gripper": hand_error,
        }
        text = f"{mode.name.lower()}{': ' * bool(stop)}{stop}"
        self._health.publish(Health(message=text, values=values, is_error=bool(stop)), stamp_ns)
