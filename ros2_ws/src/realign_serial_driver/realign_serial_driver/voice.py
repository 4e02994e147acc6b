"""What an arm of bus servos says, as ROS messages; and how its bus is, as diagnostics."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Header

from policies import messages as wire
from policies.interface import Float, RobotSpec
from realign_serial_driver.arm import Arm, Reading
from realign_serial_driver.core import ArmCore, Mode

QOS = QoSProfile(depth=100)
LATCHED = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Voice:
    """Publishers of the driver, and the messages they send."""

    def __init__(self, node: Node, robot: RobotSpec) -> None:
        self.robot = robot
        self._joint_states = node.create_publisher(JointState, "joint_states", QOS)
        self._episode = node.create_publisher(Header, "episode", LATCHED)
        self._goal = node.create_publisher(PoseStamped, "goal", LATCHED)
        self._health = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._message = JointState(name=list(robot.joint_names))
        self._message.header.frame_id = robot.base_body

    def publish(self, reading: Reading, stamp_ns: int) -> None:
        """Send joint states."""
        message = self._message
        wire.set_stamp(message.header.stamp, stamp_ns)
        message.position = wire.doubles(reading.qpos_rad)
        message.velocity = wire.doubles(reading.qvel_rad_s)
        message.effort = wire.doubles(reading.effort_nm)
        self._joint_states.publish(message)

    def publish_episode(self, stamp_ns: int, index: int, task: str) -> None:
        """Mark the start of an episode."""
        marker = Header(frame_id=f"{index} {task}")
        wire.set_stamp(marker.stamp, stamp_ns)
        self._episode.publish(marker)

    def publish_goal(self, stamp_ns: int, goal_m: Float) -> None:
        """Send a goal position in the base frame, (3,), m."""
        goal = PoseStamped()
        goal.header.frame_id = self.robot.base_body
        wire.set_stamp(goal.header.stamp, stamp_ns)
        wire.set_vector(goal.pose.position, goal_m)
        goal.pose.orientation.w = 1.0
        self._goal.publish(goal)

    def publish_health(self, stamp_ns: int, arm: Arm, core: ArmCore) -> None:
        """Send the state of the bus, the servos and the watchdog."""
        bus = arm.bus.statistics
        values = {
            "requests": bus.requests,
            "missing_replies": bus.missing,
            "damaged_replies": arm.bus.bad_checksums,
            "incomplete_cycles": arm.incomplete,
            "hottest_c": arm.hottest_c,
            "voltage_v": arm.voltage_v,
            "current_a": round(float(arm.current_a.sum()), 3),
        }
        stopped = core.mode in (Mode.STOPPED, Mode.LIMP)
        status = DiagnosticStatus(
            level=DiagnosticStatus.ERROR if stopped else DiagnosticStatus.OK,
            name="realign serial driver",
            message=f"{core.mode.name.lower()}{': ' * stopped}{core.stopped_by.value}",
            hardware_id=self.robot.name,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        message = DiagnosticArray(status=[status])
        wire.set_stamp(message.header.stamp, stamp_ns)
        self._health.publish(message)
