"""What a policy says: action chunks, and on ``/diagnostics`` how it is."""

from __future__ import annotations

import json
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from policies import messages as wire
from policies.interface import ActionChunk, RobotSpec
from policies.runtime.failure import PolicyFailure
from realign_policy.sensing import QOS


class PolicyVoice:
    """Publishers of a policy, and its last chunk."""

    def __init__(self, node: Node, robot: RobotSpec) -> None:
        self._node, self._robot = node, robot
        self._health = node.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._chunks: Any = None
        self._last: tuple[int, JointTrajectory] | None = None

    def open(self) -> None:
        """Be ready to publish chunks."""
        self._chunks = self._node.create_publisher(JointTrajectory, "action_chunk", QOS)

    def close(self) -> None:
        """Publish chunks no more."""
        self._node.destroy_publisher(self._chunks)

    def forget(self) -> None:
        """Nothing has been said."""
        self._last = None

    @property
    def silent(self) -> bool:
        """True until the first chunk."""
        return self._last is None

    def say(self, chunk: ActionChunk) -> None:
        """Publish a chunk."""
        message = wire.fill_trajectory(
            JointTrajectory(),
            JointTrajectoryPoint,
            stamp_ns=chunk.stamp_ns,
            names=self._robot.joint_names,
            dt_s=chunk.dt_s,
            positions_rad=chunk.positions_rad,
        )
        self._chunks.publish(message)
        self._last = chunk.stamp_ns, message

    def repeat(self, stamp_ns: int, *, older: bool = False) -> bool:
        """Publish the last chunk again if it is for this stamp; False if it is not.

        Args:
            stamp_ns: stamp of the observation, ns.
            older: also if it is for an older stamp.
        """
        if self._last is None or not (older or self._last[0] == stamp_ns):
            return False
        self._chunks.publish(self._last[1])
        return True

    def tell(self, *, active: bool, report: dict[str, Any], failure: PolicyFailure | None) -> None:
        """Publish state and figures; an error while the policy has failed.

        Args:
            active: the policy answers.
            report: figures of its engine, JSON-ready.
            failure: why it stopped answering, or None.
        """
        status = DiagnosticStatus(
            level=DiagnosticStatus.OK if failure is None else DiagnosticStatus.ERROR,
            name="realign policy",
            message=failure.text if failure else ("active" if active else "inactive"),
            hardware_id=self._robot.name,
            values=[KeyValue(key=key, value=json.dumps(value)) for key, value in report.items()],
        )
        message = DiagnosticArray(status=[status])
        message.header.stamp = self._node.get_clock().now().to_msg()
        self._health.publish(message)
