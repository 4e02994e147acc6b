"""What the guard tells the robot: the topic ``joint_command``, and how soon a state is answered."""

from __future__ import annotations

import time
from collections import OrderedDict

from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from policies import messages as wire
from policies.interface import RobotSpec
from policies.runtime.guard_config import Command
from policies.runtime.latency import Percentiles
from realign_driver.qos import QOS

_STATES = 256


class CommandPublisher:
    """Commands as messages; one message object for all of them.

    Args:
        node: the guard.
        robot: whose joints the commands are for.
        latency_ms: gets the time from each state to the command that answers it, ms.
    """

    def __init__(self, node: Node, robot: RobotSpec, latency_ms: Percentiles) -> None:
        self._node, self._latency_ms = node, latency_ms
        self._message = JointTrajectory(joint_names=list(robot.joint_names))
        self._pose = JointTrajectoryPoint()
        self._damping = JointTrajectoryPoint(velocities=[0.0] * robot.n)
        self._publisher = node.create_publisher(JointTrajectory, "joint_command", QOS)
        self._received: OrderedDict[int, int] = OrderedDict()
        self._timed_ns = 0

    @property
    def alone(self) -> bool:
        """True where nobody else commands the robot."""
        return self._node.count_publishers(self._publisher.topic_name) <= 1

    def on_state(self, stamp_ns: int, received_ns: int) -> None:
        """Take the stamp of a state, and when it came by the steady clock."""
        if stamp_ns in self._received:  # a repeated state must not make its answer look fast
            return
        self._received[stamp_ns] = received_ns
        if len(self._received) > _STATES:
            self._received.popitem(last=False)

    def publish(self, command: Command | None) -> None:
        """Send a command, if there is one."""
        if command is None:
            return
        point = self._damping
        if command.positions_rad is not None:
            point = self._pose
            point.positions = wire.doubles(command.positions_rad)
        wire.set_stamp(self._message.header.stamp, command.stamp_ns)
        self._message.points = [point]
        self._publisher.publish(self._message)
        answers = command.answers_ns
        if answers is not None and answers != self._timed_ns:
            self._timed_ns = answers
            received = self._received.get(answers)
            if received is not None:
                self._latency_ms.add((time.monotonic_ns() - received) / 1e6)

    def repeat(self) -> None:
        """Send the last command again."""
        self._publisher.publish(self._message)
