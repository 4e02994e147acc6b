"""The back end for ros2_control: what it lets through, against a controller like theirs."""

import contextlib
import threading
import time

import numpy as np
import pytest
from realign_franka_driver.trajectory import Halt, TrajectoryCore

from policies.errors import InputError
from policies.robots import get_robot

FR3 = get_robot("fr3")
MS = 1_000_000
NOW = 1_000_000_000


def make_core():
    core = TrajectoryCore(FR3)
    core.on_state(FR3.default_rad, NOW)
    return core


def test_commands_pass_while_states_come():
    core = make_core()
    for k in range(200):
        now = NOW + 5 * k * MS
        target = FR3.default_rad + 0.005 * k
        core.on_state(target - 0.05, now)
        assert core.on_command(target, now) is target
    assert core.sent == 200
    assert core.halted_by is Halt.NONE


@pytest.mark.parametrize(
    ("offset", "age_ms", "reason"),
    [
        (np.nan, 0, Halt.BAD_COMMAND),
        (0.2, 0, Halt.FAR_START),
        (0.0, 150, Halt.ROBOT_SILENT),
    ],
)
def test_bad_first_command_halts(offset, age_ms, reason):
    core = make_core()
    assert core.on_command(FR3.default_rad + offset, NOW + age_ms * MS) is None
    assert core.halted_by is reason
    assert core.on_command(FR3.default_rad, NOW) is None  # latched
    core.reset()
    core.on_state(FR3.default_rad, NOW)
    assert core.on_command(FR3.default_rad, NOW) is not None


def test_jump_halts_and_names_the_joint():
    core = make_core()
    core.on_command(FR3.default_rad, NOW)
    bad = FR3.default_rad.copy()
    bad[4] += 0.11
    assert core.on_command(bad, NOW + 5 * MS) is None
    assert core.halted_by is Halt.JUMP
    assert "fr3_joint5 by 0.11 rad" in core.text


def test_arm_that_does_not_follow_halts():
    core = make_core()
    sent = 0
    for k in range(200):  # in a reflex it reports its pose, and stays there
        core.on_state(FR3.default_rad, NOW + 5 * k * MS)
        target = FR3.default_rad + 0.005 * k
        sent += core.on_command(target, NOW + 5 * k * MS) is not None
    assert core.halted_by is Halt.NOT_FOLLOWING
    assert sent in (60, 61)  # up to 0.3 rad


def test_after_a_pause_the_measured_pose_counts_again():
    core = make_core()
    core.on_command(FR3.default_rad, NOW)
    later = NOW + 500 * MS
    core.on_state(FR3.default_rad + 0.5, later)  # somebody moved the arm meanwhile
    core.on_command(FR3.default_rad + 0.02, later)
    assert core.halted_by is Halt.FAR_START


def test_standing_sends_nothing_and_state_that_is_not_finite_counts_as_none():
    core = make_core()
    assert core.on_command(None, NOW) is None
    assert core.halted_by is Halt.NONE
    core.on_state(np.full(7, np.nan), NOW + 200 * MS)
    core.on_command(FR3.default_rad, NOW + 200 * MS)
    assert core.halted_by is Halt.ROBOT_SILENT


# ---- with ROS ----------------------------------------------------------------------------------


class Peer:
    """What a joint_trajectory_controller does with its topic, as its documentation has it.

    A trajectory is accepted whole or not at all: exactly the controller's joints, in any order, as
    many positions as names, times that grow, no end in the past. It replaces the one before and is
    followed from the present set-point, linearly where it has positions only; the last point is
    held. The joints follow their set-points ideally.
    """

    def __init__(self, node, names, topic="/jtc/joint_trajectory", states="/robot/joint_states"):
        from sensor_msgs.msg import JointState
        from trajectory_msgs.msg import JointTrajectory

        self.names, self.lock = list(names), threading.Lock()
        self.position = FR3.default_rad.copy()
        self.accepted, self.refused = 0, []
        self._from, self._goal, self._start, self._length = self.position, None, 0.0, 1.0
        self._message = JointState(name=self.names[::-1])
        self._publisher = node.create_publisher(JointState, states, 10)
        node.create_subscription(JointTrajectory, topic, self._on_trajectory, 10)
        node.create_timer(0.005, self._update)
        self._node = node

    def _on_trajectory(self, msg):
        from policies.messages import stamp_to_ns

        problem = None
        if sorted(msg.joint_names) != sorted(self.names):
            problem = "names"
        elif len(msg.points) != 1 or len(msg.points[0].positions) != len(self.names):
            problem = "points"
        elif stamp_to_ns(msg.points[0].time_from_start) <= 0:
            problem = "times"
        elif stamp_to_ns(msg.header.stamp) != 0:
            problem = "stamp"  # with one it would begin when that clock says so
        with self.lock:
            if problem is not None:
                self.refused.append(problem)
                return
            order = [list(msg.joint_names).index(name) for name in self.names]
            self.accepted += 1
            self._from, self._start = self._now(), time.monotonic()
            self._goal = np.array(msg.points[0].positions)[order]
            self._length = stamp_to_ns(msg.points[0].time_from_start) / 1e9

    def _now(self):
        if self._goal is None:
            return self.position
        share = min((time.monotonic() - self._start) / self._length, 1.0)
        return self._from + share * (self._goal - self._from)

    def _update(self):
        with self.lock:
            self.position = self._now()
        self._message.position = self.position[::-1].tolist()  # broadcasters sort as they like
        self._message.velocity = [0.0] * len(self.names)
        self._message.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(self._message)


@pytest.fixture
def graph(ros_context):
    """A node of the driver, a controller, a node that commands; spun in a thread."""
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.node import Node
    from rclpy.parameter import Parameter
    from realign_franka_driver.trajectory_node import TrajectoryNode

    values = {"robot": "fr3", "controller": "/jtc", "prefix": "left_"}
    values |= {"robot_states": "/robot/joint_states"}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    ours = TrajectoryNode(context=ros_context, parameter_overrides=overrides)
    # What time alone can break is tested above, with the clock passed in.
    ours.core = TrajectoryCore(FR3, state_timeout_s=30.0, pause_s=30.0)
    other = Node("peer", context=ros_context)
    peer = Peer(other, ["left_" + name for name in FR3.joint_names])
    executor = SingleThreadedExecutor(context=ros_context)
    for node in (ours, other):
        executor.add_node(node)

    def spin():
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin)
    thread.start()
    yield ours, peer, other
    executor.shutdown()
    thread.join()
    for node in (ours, other):
        node.destroy_node()


def until(condition, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def publish_command(publisher, target):
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    message = JointTrajectory(joint_names=list(FR3.joint_names))
    message.points = [JointTrajectoryPoint(positions=target.tolist())]
    publisher.publish(message)


@pytest.mark.ros
def test_controller_follows_the_guard_and_holds_when_it_falls_silent(graph):
    from sensor_msgs.msg import JointState
    from trajectory_msgs.msg import JointTrajectory

    ours, peer, other = graph
    seen = []
    other.create_subscription(JointState, "joint_states", seen.append, 10)
    commands = other.create_publisher(JointTrajectory, "joint_command", 10)
    until(lambda: len(seen) > 5 and commands.get_subscription_count())
    assert seen[-1].name == list(FR3.joint_names)
    assert seen[-1].position.tolist() == pytest.approx(FR3.default_rad)
    for k in range(100):
        publish_command(commands, FR3.default_rad + 0.002 * k)
        until(lambda k=k: peer.accepted > k)
    end = FR3.default_rad + 0.002 * 99
    until(lambda: np.abs(peer.position - end).max() < 1e-6)
    assert peer.refused == []
    time.sleep(0.2)
    assert peer.accepted == 100
    assert peer.position == pytest.approx(end)
    # And one that is not finite, or jumps, goes no further than the node.
    before = peer.accepted
    publish_command(commands, FR3.default_rad + 0.2 + np.array([0.5, 0, 0, 0, 0, 0, 0]))
    until(lambda: ours.core.halted_by is not Halt.NONE)
    publish_command(commands, end)
    time.sleep(0.2)
    assert peer.accepted == before


@pytest.mark.ros
def test_second_commander_of_the_controller_is_refused(graph):
    from trajectory_msgs.msg import JointTrajectory

    ours, _, other = graph
    other.create_publisher(JointTrajectory, "/jtc/joint_trajectory", 1)
    until(lambda: ours.core.halted_by is Halt.SECOND_COMMANDER)
    assert "/jtc/joint_trajectory" in ours.core.text


@pytest.mark.ros
def test_topics_that_would_feed_themselves_are_refused(ros_context):
    from rclpy.parameter import Parameter
    from realign_franka_driver.trajectory_node import TrajectoryNode

    values = {"robot": "fr3", "robot_states": "/joint_states"}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    with pytest.raises(InputError, match="on another topic than ours"):
        TrajectoryNode(context=ros_context, parameter_overrides=overrides)


@pytest.mark.ros
def test_nobody_who_listens_is_said(ros_context):
    from rclpy.parameter import Parameter
    from realign_franka_driver.trajectory_node import TrajectoryNode

    overrides = [Parameter("robot", value="fr3"), Parameter("controller", value="/nobody")]
    node = TrajectoryNode(context=ros_context, parameter_overrides=overrides)
    try:
        now = time.monotonic_ns()
        node.core.on_state(FR3.default_rad, now)
        assert node.core.on_command(FR3.default_rad, now) is not None
        node._look()
        assert (
            node.core.text == "no controller listens: on /nobody/joint_trajectory; load and "
            "activate it"
        )
    finally:
        node.destroy_node()
