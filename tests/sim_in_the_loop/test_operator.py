"""The operator and other commanders: e-stop, reset, arm, a second publisher of commands."""

import time

import pytest

from sim2real.graph import Graph

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]


class Operator:
    """A ROS node that watches ``joint_command`` and calls the guard's services."""

    def __init__(self, context):
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node
        from std_srvs.srv import Trigger
        from trajectory_msgs.msg import JointTrajectory

        self.node = Node("operator", context=context)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.damping = None
        self.node.create_subscription(JointTrajectory, "joint_command", self._on_command, 100)
        self.clients = {
            name: self.node.create_client(Trigger, f"/guard/{name}")
            for name in ("arm", "estop", "reset")
        }
        self.request = Trigger.Request()

    def _on_command(self, msg):
        self.damping = not msg.points[0].positions

    def wait(self, condition, limit_s=60.0):
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, "waited in vain"
            self.executor.spin_once(timeout_sec=0.02)

    def call(self, name):
        self.wait(self.clients[name].service_is_ready)
        answer = self.clients[name].call_async(self.request)
        self.wait(answer.done)
        return answer.result()

    def close(self):
        self.executor.shutdown()
        self.node.destroy_node()


@pytest.fixture
def running(asap_checkpoints, domain, tmp_path, ros_context):
    """A G1 that moves in real time, and an operator."""
    policy = str(asap_checkpoints["side_jump_level1"])
    common = {"robot": "g1", "lockstep": False}
    operator = Operator(ros_context)
    with Graph(tmp_path, domain) as graph:
        guard = {"auto_arm": True, "realtime_priority": 22}
        graph.start("guard", "realign_policy.guard_node", common | guard)
        answers = {"policy": policy, "autostart": True, "realtime_priority": 20}
        graph.start("policy", "realign_policy.policy_node", common | answers)
        driver = {"policy": policy, "duration_s": 30.0, "wait_for": "guard,policy"}
        graph.start("driver", "realign_mujoco_driver.driver_node", common | driver)
        operator.wait(lambda: operator.damping is False)
        yield operator, tmp_path
    operator.close()


def test_estop_damps_at_once_and_only_the_operator_leaves_it(running):
    operator, _ = running
    assert operator.call("estop").success
    operator.wait(lambda: operator.damping is True)
    refused = operator.call("arm")
    assert not refused.success
    assert refused.message == "not_armed"
    assert operator.damping is True
    assert operator.call("reset").success
    assert operator.call("arm").success


def test_second_commander_stops_the_robot(running):
    from trajectory_msgs.msg import JointTrajectory

    operator, folder = running
    operator.node.create_publisher(JointTrajectory, "joint_command", 100)
    log = folder / "guard.log"
    operator.wait(lambda: "damp: second_commander" in log.read_text())
    operator.wait(lambda: operator.damping is True)
