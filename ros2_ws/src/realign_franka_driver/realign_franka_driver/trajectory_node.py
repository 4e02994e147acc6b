"""An arm that ros2_control drives: the guard's commands to a joint_trajectory_controller.

    ros2 run realign_franka_driver trajectory_node --ros-args -p robot:=fr3 \
        -p controller:=/joint_trajectory_controller -p robot_states:=/franka/joint_states

``joint_command`` in, ``<controller>/joint_trajectory`` out; the robot's joint states in, the same
under our joint names out as ``joint_states``.
"""

from __future__ import annotations

import time
from typing import Any

from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from policies import messages as wire
from policies.errors import InputError
from policies.robots import get_robot
from realign_driver.commands import CommandReader
from realign_driver.health import Health, HealthPublisher
from realign_driver.program import declaring, serve
from realign_driver.qos import QOS
from realign_franka_driver.trajectory import Halt, TrajectoryCore

_HORIZON_PERIODS = 2.0


class TrajectoryNode(Node):
    """Parameters and messages; the rest is in the core."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("franka_trajectory", **kwargs)
        value = declaring(self)
        self.robot = get_robot(value("robot", ""))
        if self.robot.command != "position":
            raise InputError(
                f"expected a robot whose commands are positions, got {self.robot.name}; a "
                "joint_trajectory_controller cannot do what its policies need"
            )
        prefix: str = value("prefix", "")
        self.topic = f"{value('controller', '/joint_trajectory_controller')}/joint_trajectory"
        states = self.resolve_topic_name(value("robot_states", "/franka/joint_states"))
        if states == self.resolve_topic_name("joint_states"):
            raise InputError(
                f"expected the robot's joint states on another topic than ours, got {states} for "
                "both; put this graph into a namespace, or remap joint_states"
            )
        self.horizon_s: float = value("horizon_s", _HORIZON_PERIODS / self.robot.state_rate_hz)
        self.core = TrajectoryCore(self.robot)
        theirs = [prefix + name for name in self.robot.joint_names]
        self._state_names = wire.NameMap(theirs, states)
        self._reader = CommandReader(self, self.robot)
        self._point = JointTrajectoryPoint()
        wire.set_stamp(self._point.time_from_start, round(self.horizon_s * 1e9))
        # Without a stamp the controller begins at once, whatever its clock says.
        self._trajectory = JointTrajectory(joint_names=theirs, points=[self._point])
        self._state = JointState(name=list(self.robot.joint_names))
        self._commands = self.create_publisher(JointTrajectory, self.topic, 1)
        self._states = self.create_publisher(JointState, "joint_states", QOS)
        self._health = HealthPublisher(self, "realign franka trajectory", self.robot.name)
        self.create_subscription(JointState, states, self._on_state, QOS)
        self.create_subscription(JointTrajectory, "joint_command", self._on_command, QOS)
        self.create_service(Trigger, "~/reset", self._reset)
        self._estop = self.create_client(Trigger, "guard/estop")
        self.create_timer(0.5, self._look)

    def _on_state(self, msg: JointState) -> None:
        try:
            qpos, qvel, effort = wire.joint_state_to_numpy(msg, self._state_names)
        except InputError as error:
            self.get_logger().error(str(error), throttle_duration_sec=1.0)
            return
        self.core.on_state(qpos, time.monotonic_ns())
        self._state.header = msg.header
        self._state.position, self._state.velocity = wire.doubles(qpos), wire.doubles(qvel)
        self._state.effort = wire.doubles([] if effort is None else effort)
        self._states.publish(self._state)

    def _on_command(self, msg: JointTrajectory) -> None:
        command = self._reader.read(msg)
        if command is None:
            return
        if not self.core.sent:
            self._look()
        was = self.core.halted_by
        point = self.core.on_command(command.target_rad, time.monotonic_ns())
        if point is not None:
            self._point.positions = wire.doubles(point)
            self._commands.publish(self._trajectory)
        elif self.core.halted_by is not was:
            self._halted()

    def _look(self) -> None:
        """Who else is on the controller's topic; and how we are."""
        was = self.core.halted_by
        if self.count_publishers(self.topic) > 1:
            self.core.halt(Halt.SECOND_COMMANDER, self.topic)
        elif self.core.sent and not self.count_subscribers(self.topic):
            self.core.halt(Halt.NO_CONTROLLER, f"on {self.topic}; load and activate it")
        if self.core.halted_by is not was:
            self._halted()
        text = self.core.text
        message, values = text or "passing commands on", {"sent": self.core.sent}
        self._health.publish(Health(message=message, values=values, is_error=bool(text)))

    def _halted(self) -> None:
        self.get_logger().error(f"stopped: {self.core.text}; call ~/reset to go on")
        if self._estop.service_is_ready():
            self._estop.call_async(Trigger.Request())

    def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.core.reset()
        response.success, response.message = True, "waiting for the guard's commands"
        return response


def main() -> None:
    """Pass commands on until told to stop."""
    serve(TrajectoryNode)


if __name__ == "__main__":
    main()
