"""What a Franka arm says, as ROS messages; the task; and how its driver is, as diagnostics."""

from __future__ import annotations

from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Header

from policies import messages as wire
from policies.interface import Float, RobotSpec
from realign_franka_driver.core import Mode

QOS = QoSProfile(depth=100)
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Voice:
    """Publishers of the driver, and the messages they send."""

    def __init__(self, node: Node, robot: RobotSpec) -> None:
        self.robot = robot
        self._joint_states = node.create_publisher(JointState, "joint_states", QOS)
        self._gripper = node.create_publisher(JointState, "gripper_state", QOS)
        self._goal = node.create_publisher(PoseStamped, "goal", LATCHED)
        self._episode = node.create_publisher(Header, "episode", LATCHED)
        self._health = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._state_message = JointState(name=list(robot.joint_names))
        self._state_message.header.frame_id = robot.base_body

    def publish(self, record: Any, stamp_ns: int) -> None:
        """Send the joints of a state packet."""
        state = self._state_message  # made once: half the cost
        wire.set_stamp(state.header.stamp, stamp_ns)
        state.position = wire.doubles(record["q"])
        state.velocity = wire.doubles(record["dq"])
        state.effort = wire.doubles(record["tau"])
        self._joint_states.publish(state)

    def publish_gripper(self, record: Any, stamp_ns: int) -> None:
        """Send the fingers of a packet of the hand's process."""
        assert self.robot.gripper is not None
        half = float(record["width_m"]) / 2.0
        message = JointState(name=list(self.robot.gripper.finger_joints), position=[half, half])
        wire.set_stamp(message.header.stamp, stamp_ns)
        self._gripper.publish(message)

    def publish_goal(self, stamp_ns: int, goal_m: Float) -> None:
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

    def publish_health(self, stamp_ns: int, record: Any, hand_error: str) -> None:
        """Send the driver's own state, from a state packet."""
        mode, stop = Mode(int(record["mode"])), record["stop"].decode(errors="replace")
        took = record["cycle_us"]
        values = {
            "control_command_success_rate": f"{record['success_rate']:.3f}",
            "skipped_periods": str(int(record["skipped"])),
            "cycle_us": f"p50 {took[0]:.0f}, p99 {took[1]:.0f}, max {took[2]:.0f}",
            "tau_external_nm": " ".join(f"{v:.1f}" for v in record["tau_external"]),
            "gripper": hand_error,
        }
        status = DiagnosticStatus(
            level=DiagnosticStatus.ERROR if stop else DiagnosticStatus.OK,
            name="realign franka driver",
            message=f"{mode.name.lower()}{': ' * bool(stop)}{stop}",
            hardware_id=self.robot.name,
            values=[KeyValue(key=key, value=value) for key, value in values.items()],
        )
        message = DiagnosticArray(status=[status])
        wire.set_stamp(message.header.stamp, stamp_ns)
        self._health.publish(message)
