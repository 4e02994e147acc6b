"""What a robot is to do in a run: the topics ``goal`` and ``episode``."""

from __future__ import annotations

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from std_msgs.msg import Header

from policies import messages as wire
from policies.interface import Float, RobotSpec
from realign_driver.qos import LATCHED


def draw_goals(robot: RobotSpec, count: int, seed: int) -> Float:
    """Random goals of the reach task, (count, 3) m in the base frame; the same for a seed.

    Raises:
        InputError: the robot cannot reach for anything.
    """
    if not count:
        return np.zeros((0, 3))
    from sim2real.tasks.reach import sample_goals

    return sample_goals(robot, count, seed)


class TaskPublisher:
    """Goals one after the other, each an episode; or one episode without any.

    Args:
        node: driver node.
        robot: who is to do it. One without an end effector has no topic ``goal``.
        goals_m: positions of the end effector, (count, 3), m in the base frame.
        goal_period_s: time for each, s.
    """

    def __init__(self, node: Node, robot: RobotSpec, goals_m: Float, goal_period_s: float) -> None:
        self._robot, self._goals_m, self._goal_period_s = robot, goals_m, goal_period_s
        self._index = -1
        self._episode = node.create_publisher(Header, "episode", LATCHED)
        self._goal = None
        if robot.ee_body is not None:
            self._goal = node.create_publisher(PoseStamped, "goal", LATCHED)

    @property
    def duration_s(self) -> float:
        """Time for all goals, s; 0 without any."""
        return len(self._goals_m) * self._goal_period_s

    def publish(self, stamp_ns: int, elapsed_s: float) -> None:
        """Say what begins now, if something does.

        Args:
            stamp_ns: time of the robot's state, ns.
            elapsed_s: time of the run, s.
        """
        count = len(self._goals_m)
        index = int(elapsed_s / self._goal_period_s) if count else 0
        if index == self._index or (count and index >= count):
            return
        self._index = index
        task = f"{self._robot.name} motion"
        if count:
            self._publish_goal(stamp_ns, self._goals_m[index])
            task = "reach " + " ".join(f"{v:.3f}" for v in self._goals_m[index])
        marker = Header(frame_id=f"{index} {task}")
        wire.set_stamp(marker.stamp, stamp_ns)
        self._episode.publish(marker)

    def _publish_goal(self, stamp_ns: int, goal_m: Float) -> None:
        assert self._goal is not None  # there are no goals without an end effector
        goal = PoseStamped()
        goal.header.frame_id = self._robot.base_body
        wire.set_stamp(goal.header.stamp, stamp_ns)
        wire.set_vector(goal.pose.position, goal_m)
        goal.pose.orientation.w = 1.0
        self._goal.publish(goal)
