"""What the guard tells a robot: ``joint_command`` in, set-points out."""

from __future__ import annotations

from typing import Any, NamedTuple

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from trajectory_msgs.msg import JointTrajectory

from policies import messages as wire
from policies.errors import InputError
from policies.interface import Float, RobotSpec
from realign_driver.polling import Polled, take_newest
from realign_driver.records import IncomingRecords

_NEWEST = QoSProfile(depth=1)
_TYPE = "trajectory_msgs/msg/JointTrajectory"


class Command(NamedTuple):
    """What a robot is to do now.

    Attributes:
        stamp_ns: time of the observation that it answers, ns.
        target_rad: where its joints are to go, (n,), rad; None to damp, stand or hold.
    """

    stamp_ns: int
    target_rad: Float | None


class CommandReader:
    """Commands out of messages; what does not fit the robot is logged, and is no command.

    Args:
        node: whose log it is.
        robot: whose joints they are.
    """

    def __init__(self, node: Node, robot: RobotSpec) -> None:
        self._node = node
        self._names = wire.NameMap(robot.joint_names, "joint_command")

    def read(self, message: JointTrajectory) -> Command | None:
        """The command in a message."""
        try:
            if message.points and not message.points[0].positions:
                return Command(wire.stamp_to_ns(message.header.stamp), None)
            chunk = wire.trajectory_to_chunk(message, self._names)
        except InputError as error:
            self._node.get_logger().error(str(error), throttle_duration_sec=1.0)
            return None
        return Command(chunk.stamp_ns, chunk.positions_rad[0])


class PolledCommands(CommandReader):
    """The topic ``joint_command``, for a loop that asks for the newest command itself.

    Args:
        node: driver node.
        robot: whose joints the commands are for.
    """

    def __init__(self, node: Node, robot: RobotSpec) -> None:
        super().__init__(node, robot)
        self._records = IncomingRecords(_TYPE)
        self._index: Any = None
        self._subscription = node.create_subscription(
            JointTrajectory, "joint_command", _never_called, _NEWEST, callback_group=Polled()
        )

    @property
    def connected(self) -> bool:
        """True where somebody publishes commands."""
        return self._subscription.get_publisher_count() > 0

    def newest(self) -> Command | None:
        """The newest command since the last call, if there is one."""
        data = take_newest(self._subscription)
        if data is None:
            return None
        record = self._records.read(data)
        if record is None or record["0.from_start_sec"] or record["0.from_start_nanosec"]:
            return self._unpack(data)
        stamp_ns = int(record["sec"][0]) * wire.NS + int(record["nanosec"][0])
        return Command(stamp_ns, record["0.positions"][self._index])

    def _unpack(self, data: bytes) -> Command | None:
        message = deserialize_message(data, JointTrajectory)
        command = self.read(message)
        if command is not None and command.target_rad is not None and len(message.points) == 1:
            self._index = self._names.index(message.joint_names)
            self._records.learn(data)
        return command


def _never_called(_: JointTrajectory) -> None:
    """No executor serves the subscription."""
