"""How a node is: the topic ``/diagnostics``."""

from __future__ import annotations

from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

from policies import messages as wire


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

    def publish(
        self,
        message: str,
        *,
        is_error: bool,
        values: Mapping[str, object],
        stamp_ns: int | None = None,
    ) -> None:
        """Send how it is.

        Args:
            message: in a few words.
            is_error: somebody must look after it.
            values: figures by name.
            stamp_ns: time of what is said, ns; None for now.
        """
        status = DiagnosticStatus(
            level=DiagnosticStatus.ERROR if is_error else DiagnosticStatus.OK,
            name=self._name,
            message=message,
            hardware_id=self._hardware_id,
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        array = DiagnosticArray(status=[status])
        now = self._node.get_clock().now
        wire.set_stamp(array.header.stamp, now().nanoseconds if stamp_ns is None else stamp_ns)
        self._publisher.publish(array)
