"""A stop in lockstep, and an operator who goes on: nobody waits for somebody who waits for him."""

import pytest

from policies.robots import G1, PANDA

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180)]


def start(graph, robot, policy):
    common = {"robot": robot.name, "lockstep": True, "policy": str(policy)}
    graph.graph.start("guard", "realign_policy.guard_node", common | {"auto_arm": True})
    graph.graph.start("policy", "realign_policy.policy_node", common | {"autostart": True})
    driver = {"duration_s": 1e6, "wait_for": "guard,policy"}
    graph.graph.start("driver", "realign_mujoco_driver.driver_node", common | driver)
    graph.wait_started()  # a robot without balance may have fallen already


def test_a_guard_armed_between_two_answers_of_the_policy_goes_on(open_live_graph, hold_policy):
    """The robot stands still until it is commanded, and the policy is not due before it moves."""
    live = open_live_graph()
    start(live, PANDA, hold_policy(PANDA))
    for _ in range(6):  # half of them at a stamp at which the policy is not asked
        live.call("estop")
        live.call("reset")
        assert live.call("arm").success
        live.wait(lambda: live.guard_state() == "active", "a robot that goes on")
    live.graph.stop()


def test_a_robot_is_hung_up_in_its_start_pose(open_live_graph, hold_policy):
    from std_srvs.srv import Trigger

    live = open_live_graph()
    start(live, G1, hold_policy(G1))
    client = live.node.create_client(Trigger, "/mujoco_driver/stand_up")
    live.wait(client.service_is_ready, "the service")
    live.call("estop")
    live.wait_robot_time(1.0)
    fallen = list(live.state.position)
    answer = client.call_async(Trigger.Request())
    live.wait(answer.done, "an answer")
    assert answer.result().success
    live.wait_robot_time(1.0)
    pose = list(live.state.position)
    assert pose != fallen
    live.wait_robot_time(1.0)  # damped, it would have fallen
    assert list(live.state.position) == pose
    live.call("reset")
    assert live.call("arm").success
    live.wait(lambda: list(live.state.position) != pose, "a robot that moves")
