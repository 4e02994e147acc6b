"""What a policy is told: a parameter is said on the topic too; who comes late hears what holds."""

from __future__ import annotations

import time

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from realign_policy.instruction import MAX_CHARACTERS, Instruction  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from realign_driver.qos import LATCHED_NEWEST  # noqa: E402

pytestmark = pytest.mark.ros
PATIENCE_S = 30.0


@pytest.fixture
def graph(ros_context):
    """Nodes policy and listener, and a function that serves them until something holds."""
    nodes = [rclpy.create_node(name, context=ros_context) for name in ("policy", "listener")]
    executor = SingleThreadedExecutor(context=ros_context)
    for node in nodes:
        executor.add_node(node)

    def until(condition) -> None:
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end
            executor.spin_once(timeout_sec=0.05)

    yield *nodes, until
    executor.shutdown()
    for node in nodes:
        node.destroy_node()


def listen(node) -> list[str]:
    heard: list[str] = []
    node.create_subscription(
        String, "policy/instruction", lambda m: heard.append(m.data), LATCHED_NEWEST
    )
    return heard


def test_the_first_instruction_is_heard_by_whoever_records(graph):
    policy, listener, until = graph
    instruction = Instruction(policy, "touch the red cube")
    heard = listen(listener)
    until(lambda: heard == ["touch the red cube"])
    assert instruction.text == "touch the red cube"


def test_who_comes_late_hears_what_holds_now(graph):
    policy, listener, until = graph
    instruction = Instruction(policy, "touch the red cube")
    operator = listener.create_publisher(String, "policy/instruction", LATCHED_NEWEST)
    operator.publish(String(data="touch the blue ball"))
    until(lambda: instruction.text == "touch the blue ball")
    heard = listen(listener)
    until(lambda: heard != [])
    assert heard == ["touch the blue ball"]


def test_nothing_is_said_where_nothing_was_asked_for_and_novels_are_refused(graph):
    policy, listener, until = graph
    instruction = Instruction(policy, "")
    assert instruction.text is None
    assert policy.count_publishers("/policy/instruction") == 0
    operator = listener.create_publisher(String, "policy/instruction", LATCHED_NEWEST)
    operator.publish(String(data="x" * (MAX_CHARACTERS + 1)))
    operator.publish(String(data="wave"))
    until(lambda: instruction.text == "wave")
