"""Rows of the fault table in the ROS graph: a policy that looks, in another interpreter.

One graph of an SO-101 with two cameras runs on from fault to fault.
"""

import os
import signal
from functools import partial

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180)]


class Eyes:
    """What is between the cameras and the policy: passes images on, or does what ``mode`` says."""

    def __init__(self, node, names):
        from rclpy.qos import qos_profile_sensor_data
        from sensor_msgs.msg import Image

        self.mode = "pass"
        self._last = {}
        for name in names:
            publisher = node.create_publisher(Image, f"seen/{name}/image_raw", 10)
            pass_on = partial(self._pass_on, name, publisher)
            topic = f"{name}/image_raw"
            node.create_subscription(Image, topic, pass_on, qos_profile_sensor_data)

    def _pass_on(self, name, publisher, message):
        if self.mode == "silent":
            return
        if self.mode == "garbled":
            message.data = message.data[:-7]
        if self.mode == "frozen":
            message.data = self._last.setdefault(name, message.data)
        else:
            self._last.pop(name, None)
        publisher.publish(message)


@pytest.fixture(scope="module")
def arm(open_live_graph, doubles, tmp_path_factory):
    """A robot that moves to and fro before eyes that see."""
    folder = tmp_path_factory.mktemp("lerobot")
    with pytest.MonkeyPatch.context() as patch:
        doubles.play_lerobot(folder, patch)
        policy = doubles.lerobot_policy(folder, "sway")
        remap = {f"{name}/image_raw": f"seen/{name}/image_raw" for name in doubles.CAMERAS}
        graph = open_live_graph(robot="so101", policy=policy, remap=remap)
        graph.eyes = Eyes(graph.node, doubles.CAMERAS)
        graph.start_guard(policy_rate_hz=20.0)
        graph.start_policy()
        graph.start_driver()
        graph.wait_moving()
        yield graph


def assert_blinded_by(arm, mode, measured, words):
    def look(mode):
        arm.eyes.mode = mode

    arm.assert_silenced_by(lambda: look(mode), lambda: look("pass"), measured, words)


def test_camera_silent_in_graph(arm, measured):
    assert_blinded_by(arm, "silent", measured, "no recent image on front/image_raw")


def test_camera_frozen_in_graph(arm, measured):
    assert_blinded_by(arm, "frozen", measured, "repeats one image though the robot moves")


def test_camera_garbled_in_graph(arm, measured):
    assert_blinded_by(arm, "garbled", measured, "expected rows of at least")


def test_worker_killed_in_graph(arm, peers, measured):
    def kill():
        (worker,) = peers.workers_of(arm.process("policy").popen.pid)
        os.kill(worker, signal.SIGKILL)

    arm.assert_silenced_by(kill, arm.restart_policy, measured, "ended (exit code -9)")


def test_inference_error_in_graph(arm, measured):
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from std_msgs.msg import String

    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    words = arm.node.create_publisher(String, "/policy/instruction", latched)

    def undo():
        words.publish(String(data="sway"))
        arm.restart_policy()

    arm.assert_silenced_by(
        lambda: words.publish(String(data="raise")), undo, measured, "ArithmeticError: diverged"
    )
    arm.node.destroy_publisher(words)
