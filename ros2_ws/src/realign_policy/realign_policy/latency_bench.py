"""Two ends of the latency benchmark, each a process: a bare echo, and the client that measures.

The client publishes a joint state (with an IMU message before it) and waits for the command that
answers it, once through policy_node and guard_node, once through the echo, which answers the same
joint state with the same command and does nothing else. Both are measured alternately in one run,
so that their ratio says what the runtime costs on top of DDS.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import Imu, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from policies import messages as wire
from policies.checkpoint import load_policy
from policies.robots import get_robot
from policies.runtime.plausibility import GRAVITY_M_S2
from policies.runtime.scheduling import prefer_realtime
from realign_driver.program import declaring, end_node, make_node, until_shutdown
from realign_driver.qos import QOS

PERIOD_NS = 20_000_000
WARM_UP = 50


class Echo(Node):
    """Answers ``bare_state`` with ``bare_command``: what DDS and rclpy cost by themselves."""

    def __init__(self) -> None:
        super().__init__("bare_echo")
        robot = get_robot(self.declare_parameter("robot", "g1").value)
        point = JointTrajectoryPoint(positions=wire.doubles(robot.default_rad))
        self._answer = JointTrajectory(joint_names=list(robot.joint_names), points=[point])
        self._commands = self.create_publisher(JointTrajectory, "bare_command", QOS)
        self.create_subscription(JointState, "bare_state", self._on_state, QOS)

    def _on_state(self, msg: JointState) -> None:
        self._answer.header.stamp = msg.header.stamp
        self._commands.publish(self._answer)


class Client(Node):
    """Plays the robot's side and measures both round trips, ms."""

    def __init__(self) -> None:
        super().__init__("latency_client")
        value = declaring(self)
        self.robot = get_robot(value("robot", "g1"))
        self.ticks: int = value("ticks", 1000)
        self.out: str = value("out", "")
        self.pose = np.array(load_policy(Path(value("policy", "")), self.robot).spec.start_pose_rad)
        self._answered_ns = 0
        self._waiting = False
        self._states = {
            name: self.create_publisher(JointState, name, QOS)
            for name in ("joint_states", "bare_state")
        }
        self._imu = self.create_publisher(Imu, "imu", QOS)
        self.create_subscription(JointTrajectory, "joint_command", self._on_answer, QOS)
        self.create_subscription(JointTrajectory, "bare_command", self._on_answer, QOS)
        self._rng = np.random.default_rng(0)

    def _on_answer(self, _: JointTrajectory) -> None:
        if self._waiting:
            self._answered_ns = time.monotonic_ns()
            self._waiting = False

    def ready(self) -> bool:
        """True when both chains listen."""
        return (
            self._states["joint_states"].get_subscription_count() >= 2
            and self._states["bare_state"].get_subscription_count() >= 1
            and self._imu.get_subscription_count() >= 2
        )

    def measure(self, executor: SingleThreadedExecutor, topic: str, stamp_ns: int) -> float | None:
        """One round trip over ``topic``, ms; None if no answer came within 15 ms."""
        noise = self._rng.normal(0.0, 1e-4, self.robot.n)
        state = JointState(name=list(self.robot.joint_names))
        wire.set_stamp(state.header.stamp, stamp_ns)
        state.position = wire.doubles(self.pose + noise)
        state.velocity = state.effort = wire.doubles(noise)
        imu = Imu()
        imu.orientation.w, imu.linear_acceleration.z = 1.0, GRAVITY_M_S2
        wire.set_stamp(imu.header.stamp, stamp_ns)
        if topic == "joint_states":
            self._imu.publish(imu)
        self._waiting = True
        start = time.monotonic_ns()
        self._states[topic].publish(state)
        while self._waiting and time.monotonic_ns() - start < 15_000_000:
            executor.spin_once(timeout_sec=0.005)
        answered, self._waiting = not self._waiting, False
        return (self._answered_ns - start) / 1e6 if answered else None


def client() -> None:
    """Measure and write ``{"chain_ms": [...], "bare_ms": [...]}``."""
    node = make_node(Client)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    while rclpy.ok() and not node.ready():
        executor.spin_once(timeout_sec=0.02)
    prefer_realtime(20)
    times: dict[str, list[float | None]] = {"joint_states": [], "bare_state": []}
    deadline = time.monotonic_ns()
    for tick in range(node.ticks + WARM_UP):
        for topic, values in times.items():
            values.append(node.measure(executor, topic, 1_000_000_000 + tick * PERIOD_NS))
            deadline += PERIOD_NS // 2
            while (left := deadline - time.monotonic_ns()) > 0:
                executor.spin_once(timeout_sec=left / 1e9)
    result = {
        "chain_ms": times["joint_states"][WARM_UP:],
        "bare_ms": times["bare_state"][WARM_UP:],
    }
    Path(node.out).write_text(json.dumps(result))
    executor.shutdown()
    end_node(node)


def echo() -> None:
    """Answer until told to stop."""
    node = make_node(Echo)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    prefer_realtime(20)
    with until_shutdown(), contextlib.suppress(KeyboardInterrupt):
        executor.spin()
    executor.shutdown()
    end_node(node)


if __name__ == "__main__":
    echo() if "--echo" in sys.argv else client()
