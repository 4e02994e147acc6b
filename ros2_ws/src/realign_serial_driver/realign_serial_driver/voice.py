"""What an arm of bus servos says, as ROS messages; and how its bus is, as diagnostics."""

from __future__ import annotations

from rclpy.node import Node

from policies.interface import RobotSpec
from realign_driver.health import Health, HealthPublisher
from realign_driver.sensors import JointStatePublisher
from realign_serial_driver.arm import Arm, Reading
from realign_serial_driver.core import ArmCore, Mode


class Voice:
    """Publishers of the driver, and the messages they send."""

    def __init__(self, node: Node, robot: RobotSpec) -> None:
        self._joint_states = JointStatePublisher(node, robot)
        self._health = HealthPublisher(node, "realign serial driver", robot.name)

    def publish(self, reading: Reading, stamp_ns: int) -> None:
        """Send joint states."""
        self._joint_states.publish(
            stamp_ns, reading.qpos_rad, reading.qvel_rad_s, reading.effort_nm
        )

    def publish_health(self, arm: Arm, core: ArmCore, stamp_ns: int) -> None:
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
        text = f"{core.mode.name.lower()}{': ' * stopped}{core.stopped_by.value}"
        self._health.publish(Health(message=text, values=values, is_error=stopped), stamp_ns)
