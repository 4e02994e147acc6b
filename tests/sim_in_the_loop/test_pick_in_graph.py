"""A thing picked up through the topics of the virtual robot: hand, contact, what it tells."""

from __future__ import annotations

import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from policies.evaluation.environment import Seen
from policies.robots import PANDA_HAND
from sim2real.graph import Graph, watch
from sim2real.sim.kinematics import Kinematics
from sim2real.sim.virtual_robot import VirtualRobot
from sim2real.tasks.camera_scene import solid_things
from sim2real.tasks.language_pick import LIFT_M, LanguagePickExpert
from sim2real.tasks.language_task import RATE_HZ
from sim2real.tasks.panda_scene import NAMES

pytestmark = [pytest.mark.ros, pytest.mark.timeout(240)]
SEED, STEPS = 3, 35


def commands_to_lift(name: str) -> tuple[np.ndarray, dict[str, float]]:
    """What the expert commands at the robot's rate, (ticks, 8), and how far the things rose."""
    things, places_m = solid_things(PANDA_HAND, SEED)
    rate_hz = PANDA_HAND.control_rate_hz
    robot = VirtualRobot(PANDA_HAND, seed=SEED, rate_hz=rate_hz, objects=things, places_m=places_m)
    scene = SimpleNamespace(kinematics=Kinematics(PANDA_HAND), target=NAMES.index(name))
    expert = LanguagePickExpert(scene)
    told = [robot.read().qpos_rad]
    for _ in range(STEPS):
        scene.things_m = robot.objects[:, :3]
        goal = expert.act(Seen(state=robot.read().qpos_rad))
        for row in np.linspace(told[-1], goal, round(rate_hz / RATE_HZ) + 1)[1:]:
            told.append(np.clip(row, PANDA_HAND.lower_rad, PANDA_HAND.upper_rad))
            robot.step(told[-1])
    return np.array(told[1:]), robot.rise_m


def answer_states(context, commands, stop):
    """Answer each joint state with the command of its moment, until ``stop`` is set."""
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.node import Node
    from sensor_msgs.msg import JointState
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    node = Node("hand", context=context)
    publisher = node.create_publisher(JointTrajectory, "joint_command", 10)
    first_ns = []

    def answer(state):
        stamp_ns = state.header.stamp.sec * 10**9 + state.header.stamp.nanosec
        first_ns[:] = first_ns or [stamp_ns]
        tick = round((stamp_ns - first_ns[0]) * PANDA_HAND.control_rate_hz / 1e9)
        if tick < len(commands):
            message = JointTrajectory(joint_names=PANDA_HAND.joint_names)
            message.header.stamp = state.header.stamp
            message.points = [JointTrajectoryPoint(positions=commands[tick].tolist())]
            publisher.publish(message)

    node.create_subscription(JointState, "joint_states", answer, 10)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    while not stop.is_set():
        executor.spin_once(timeout_sec=0.05)
    executor.shutdown()
    node.destroy_node()


def test_a_thing_is_lifted_through_the_driver_and_it_tells_which(tmp_path, domain, ros_context):
    commands, rise_m = commands_to_lift("green")
    assert rise_m["green"] > LIFT_M
    stop = threading.Event()
    hand = threading.Thread(target=answer_states, args=(ros_context, commands, stop))
    hand.start()
    driver = {
        "robot": PANDA_HAND.name,
        "lockstep": True,
        "duration_s": len(commands) / PANDA_HAND.control_rate_hz,
        "seed": SEED,
        "progress": True,
        "summary_path": str(tmp_path / "driver.json"),
    }
    try:
        with Graph(tmp_path, domain) as graph:
            graph.start("driver", "realign_mujoco_driver.driver_node", driver)
            watch(graph, progress=False, description="pick")
    finally:
        stop.set()
        hand.join()
    told = json.loads((tmp_path / "driver.json").read_text())["rise_m"]
    assert told == pytest.approx(rise_m, abs=1e-9)
    assert max(told[name] for name in NAMES if name != "green") < 0.01
