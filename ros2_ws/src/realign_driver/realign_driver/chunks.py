"""What a policy, or who plays its part, tells the guard: the topic ``action_chunk``."""

from __future__ import annotations

from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from policies import messages as wire
from policies.interface import ActionChunk, RobotSpec
from realign_driver.qos import QOS


class ChunkPublisher:
    """Publishes action chunks, and the last one again where it was not heard.

    Args:
        node: who acts.
        robot: whose joints the chunks are for.
    """

    def __init__(self, node: Node, robot: RobotSpec) -> None:
        self._node, self._robot = node, robot
        self._publisher = node.create_publisher(JointTrajectory, "action_chunk", QOS)
        self._last: tuple[int, JointTrajectory] | None = None

    def close(self) -> None:
        """Publish no more."""
        self._node.destroy_publisher(self._publisher)

    def forget(self) -> None:
        """Nothing has been published."""
        self._last = None

    @property
    def silent(self) -> bool:
        """True until the first chunk."""
        return self._last is None

    def publish(self, chunk: ActionChunk) -> None:
        """Send a chunk."""
        message = wire.fill_trajectory(
            JointTrajectory(),
            JointTrajectoryPoint,
            stamp_ns=chunk.stamp_ns,
            names=self._robot.joint_names,
            dt_s=chunk.dt_s,
            positions_rad=chunk.positions_rad,
        )
        self._publisher.publish(message)
        self._last = chunk.stamp_ns, message

    def repeat(self, stamp_ns: int, *, older: bool = False) -> bool:
        """Send the last chunk again if it is for this stamp; False if it is not.

        Args:
            stamp_ns: stamp of the observation, ns.
            older: also if it is for an older stamp.
        """
        if self._last is None or not (older or self._last[0] == stamp_ns):
            return False
        self._publisher.publish(self._last[1])
        return True
