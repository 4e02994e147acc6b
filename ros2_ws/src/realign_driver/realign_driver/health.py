"""How a node is: the topic ``/diagnostics``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from policies import messages as wire


@dataclass(frozen=True, kw_only=True)
class Health:
    """How something is.

    Attributes:
        message: in a few words.
        values: figures by name.
        is_error: somebody must look after it.
        is_warning: somebody should, where it is no error.
    """

    message: str
    values: Mapping[str, object]
    is_error: bool = False
    is_warning: bool = False


class HealthPublisher:
    """Publishes the status of one thing.

    Args:
        node: who says so.
        name: what it is about, e.g. ``realign gripper``.
        hardware_id: the robot or device.
    """

    def __init__(self, node: Node, name: str, hardware_id: str) -> None:
        self._node, self._name, self._hardware_id = node, name, hardware_id
        self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 10)

    def publish(self, health: Health, stamp_ns: int | None = None) -> None:
        """Send how it is.

        Args:
            health: how it is.
            stamp_ns: time of what is said, ns; None for now.
        """
        level = DiagnosticStatus.WARN if health.is_warning else DiagnosticStatus.OK
        status = DiagnosticStatus(
            level=DiagnosticStatus.ERROR if health.is_error else level,
            name=self._name,
            message=health.message,
            hardware_id=self._hardware_id,
            values=[KeyValue(key=key, value=str(value)) for key, value in health.values.items()],
        )
        array = DiagnosticArray(status=[status])
        now = self._node.get_clock().now
        wire.set_stamp(array.header.stamp, now().nanoseconds if stamp_ns is None else stamp_ns)
        self._publisher.publish(array)
