"""Plays the commands of a bag, or a calibration motion, through the guard: in a policy's place.

    ros2 run realign_recorder player_node --ros-args -p robot:=so101 -p bag:=BAG

An arm goes to the first set-point slowly; then the motion runs in the robot's own time. With
``autostart`` it begins with the first joint state, else when an operator calls ``~/start``. It ends
when the motion has.
"""

from __future__ import annotations

from pathlib import Path

from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from policies import messages as wire
from policies.errors import InputError
from policies.robots import get_robot
from policies.runtime.ticker import Ticker
from realign_driver.audience import announce
from realign_driver.chunks import ChunkPublisher
from realign_driver.process import write_summary
from realign_driver.program import declaring, end_node, make_node, step
from realign_driver.qos import QOS
from realign_recorder.motion import Motion, Playback, motion_of_bag, motion_of_excitation

RATE_HZ = 50.0
HORIZON = 8
SETTLE_S = 0.5
_WAIT_S = 0.5


class PlayerNode(Node):
    """Joint states in, chunks of the motion out."""

    def __init__(self) -> None:
        super().__init__("player")
        value = declaring(self)
        self.robot = get_robot(value("robot", ""))
        self.summary_path: str = value("summary_path", "")
        bag, trajectory = value("bag", ""), value("trajectory", "")
        topic: str = value("command_topic", "")
        self.motion = self._read(bag, trajectory, topic)
        self.playback = Playback(self.motion, self.robot, dt_s=1.0 / RATE_HZ, horizon=HORIZON)
        self._started: bool = value("autostart", False)
        self._ticker = Ticker(RATE_HZ)
        self._names = wire.NameMap(self.robot.joint_names, "joint_states")
        self.chunks = 0
        self.done = False
        self._output = ChunkPublisher(self, self.robot)
        states = self.create_subscription(JointState, "joint_states", self._on_state, QOS)
        announce(self, [states])
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
        if self._output.repeat(stamp_ns):  # a robot that hangs still: it was not heard
            return
        if not self._ticker.due(stamp_ns):
            return
        try:
            qpos_rad, _, _ = wire.joint_state_to_numpy(msg, self._names)
        except InputError as error:
            self.get_logger().error(str(error), throttle_duration_sec=1.0)
            return
        self._output.publish(self.playback.act(stamp_ns, qpos_rad))
        self.chunks += 1
        self.done = self.playback.played_s(stamp_ns) > self.motion.duration_s + SETTLE_S

    def summary(self) -> dict[str, object]:
        """Everything that `realign run` reports of the motion."""
        return {"chunks": self.chunks, "finished": self.done}


def main() -> None:
    """Play the motion once."""
    node = make_node(PlayerNode)
    try:
        step(node, lambda: None if node.done else _WAIT_S)
        if node.done:
            node.get_logger().info(f"played {node.motion.duration_s:.1f} s, {node.chunks} chunks")
    finally:
        write_summary(node.summary_path, node.summary)
        end_node(node)


if __name__ == "__main__":
    main()
