"""Plays the commands of a bag, or a calibration motion, through the guard: in a policy's place.

    ros2 run realign_recorder player_node --ros-args -p robot:=so101 -p bag:=BAG

An arm goes to the first set-point slowly; then the motion runs in the robot's own time. With
``autostart`` it begins with the first joint state, else when an operator calls ``~/start``. It ends
when the motion has.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from policies import messages as wire
from policies.errors import InputError
from policies.robots import get_robot
from policies.runtime.handshake import announce_when_matched
from policies.runtime.ticker import Ticker
from realign_recorder.motion import Motion, Playback, motion_of_bag, motion_of_excitation

QOS = QoSProfile(depth=100)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
RATE_HZ = 50.0
HORIZON = 8
SETTLE_S = 0.5


class PlayerNode(Node):
    """Joint states in, chunks of the motion out."""

    def __init__(self) -> None:
        super().__init__("player")
        value = lambda name, default: self.declare_parameter(name, default).value  # noqa: E731
        self.robot = get_robot(value("robot", ""))
        self.summary_path: str = value("summary_path", "")
        bag, trajectory = value("bag", ""), value("trajectory", "")
        topic: str = value("command_topic", "")
        self.motion = self._read(bag, trajectory, topic)
        self.playback = Playback(self.motion, self.robot, dt_s=1.0 / RATE_HZ, horizon=HORIZON)
        self._started: bool = value("autostart", False)
        self._ticker = Ticker(RATE_HZ)
        self._names = wire.NameMap(self.robot.joint_names, "joint_states")
        self._answered: tuple[int, JointTrajectory] | None = None
        self.chunks = 0
        self.done = False
        self._output = self.create_publisher(JointTrajectory, "action_chunk", QOS)
        states = self.create_subscription(JointState, "joint_states", self._on_state, QOS)
        ready = self.create_publisher(Header, "ready", LATCHED)
        announce_when_matched(self, ready, Header(), [states])
        self.create_service(Trigger, "~/start", self._start)

    def _read(self, bag: str, trajectory: str, topic: str) -> Motion:
        if bool(bag) == bool(trajectory):
            raise InputError(
                "expected either a bag or a trajectory to play, got "
                f"{'both' if bag else 'none'}; give bag:=BAG or trajectory:=FILE"
            )
        if bag:
            return motion_of_bag(Path(bag), self.robot, topic)
        return motion_of_excitation(Path(trajectory), self.robot)

    def _start(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._started = True
        response.success, response.message = True, f"{self.motion.duration_s:.1f} s begin"
        return response

    def _on_state(self, msg: JointState) -> None:
        stamp_ns = wire.stamp_to_ns(msg.header.stamp)
        if not self._started or self.done:
            return
        if self._answered is not None and self._answered[0] == stamp_ns:
            self._output.publish(self._answered[1])  # a robot that hangs still: it was not heard
            return
        if not self._ticker.due(stamp_ns):
            return
        try:
            qpos_rad, _, _ = wire.joint_state_to_numpy(msg, self._names)
        except InputError as error:
            self.get_logger().error(str(error), throttle_duration_sec=1.0)
            return
        chunk = self.playback.act(stamp_ns, qpos_rad)
        message = wire.fill_trajectory(
            JointTrajectory(),
            JointTrajectoryPoint,
            stamp_ns=chunk.stamp_ns,
            names=self.robot.joint_names,
            dt_s=chunk.dt_s,
            positions_rad=chunk.positions_rad,
        )
        self._output.publish(message)
        self._answered = stamp_ns, message
        self.chunks += 1
        self.done = self.playback.played_s(stamp_ns) > self.motion.duration_s + SETTLE_S


def main() -> None:
    """Play the motion once."""
    rclpy.init()
    try:
        node = PlayerNode()
    except InputError as error:
        print(f"realign: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        while rclpy.ok() and not node.done:
            executor.spin_once(timeout_sec=0.5)
        node.get_logger().info(f"played {node.motion.duration_s:.1f} s, {node.chunks} chunks")
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        if node.summary_path:
            summary = {"chunks": node.chunks, "finished": node.done}
            Path(node.summary_path).write_text(json.dumps(summary))
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
