"""SROS 2: the policy against what running nodes do, and the graph with keys against strangers.

The second part needs a ROS 2 whose middleware is built with DDS security, and the package sros2;
the pip wheels of ROS 2 have neither.
"""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from fnmatch import fnmatch
from pathlib import Path
from xml.etree import ElementTree

import pytest

from policies.errors import FaultError
from policies.robots import G1, SO101
from sim2real.graph import Graph
from sim2real.run import run
from sim2real.run_config import RunConfig

pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.timeout(400)]
REPO = Path(__file__).resolve().parents[2]
POLICY = REPO / "ros2_ws/src/realign_bringup/realign_bringup/security_policy.xml"
CHECKPOINT = REPO / "policies/checkpoints/panda_reach"
KINDS = (("topic", "publish"), ("topic", "subscribe"), ("service", "reply"), ("service", "request"))
# Every node of ROS has these; whether it needs them depends on how it is started.
ROS_OWN = re.compile(r"/rosout|/parameter_events|/clock|.*/\w*parameter\w*|.*/get_type_description")


def granted():
    """(node, kind, what) -> full names, with wildcards."""
    names = {}
    for profile in ElementTree.parse(POLICY).getroot().iter("profile"):
        node = profile.get("node")
        for kind, what in KINDS:
            blocks = (b for b in profile.findall(f"{kind}s") if b.get(what) == "ALLOW")
            texts = [item.text for block in blocks for item in block.findall(kind)]
            names[node, kind, what] = {
                f"/{node}{text[1:]}" if text.startswith("~") else f"/{text}" for text in texts
            }
    return names


def look(node, seen):
    """Add what all nodes have open."""
    questions = (
        node.get_publisher_names_and_types_by_node,
        node.get_subscriber_names_and_types_by_node,
        node.get_service_names_and_types_by_node,
        node.get_client_names_and_types_by_node,
    )
    for name, namespace in node.get_node_names_and_namespaces():
        for kind, question in zip(KINDS, questions, strict=True):
            try:
                seen[(name, *kind)].update(topic for topic, _ in question(name, namespace))
            except Exception:  # it has ended, or is not known in full yet
                continue


def test_the_policy_grants_what_the_nodes_do_and_no_more(ros_context, hold_policy, tmp_path):
    from rclpy.node import Node

    from sim2real.tasks.swing import save_swing

    save_swing(tmp_path / "swing", SO101)
    runs = {
        "mujoco": {"robot": "panda", "policy": CHECKPOINT, "duration_s": 1.0},
        "serial": {"robot": "so101", "policy": tmp_path / "swing", "duration_s": 1.0},
        "franka": {"robot": "panda", "policy": CHECKPOINT, "duration_s": 1.0},
        "unitree": {"robot": "g1", "policy": hold_policy(G1), "duration_s": 1.0},
    }
    seen = defaultdict(set)
    domain = int(os.environ["ROS_DOMAIN_ID"])
    peer = Node("peer_of_the_policy", context=ros_context)
    for driver, what in runs.items():
        config = RunConfig(driver=driver, domain_id=domain, record=tmp_path / driver, **what)
        failures = []
        thread = threading.Thread(target=_run, args=(config, failures))
        thread.start()
        while thread.is_alive():
            look(peer, seen)
            time.sleep(0.05)
        assert not failures, failures
    peer.destroy_node()
    may = granted()
    started = {node for node, *_ in seen} & {node for node, *_ in may}
    drivers = {"mujoco_driver", "serial_driver", "franka_driver", "unitree_driver"}
    assert started == drivers | {"guard", "policy", "recorder"}
    for node in sorted(started):
        for kind in KINDS:
            opened, allowed = seen[(node, *kind)], may[(node, *kind)]
            lacking = {o for o in opened if not any(fnmatch(o, a) for a in allowed)}
            assert not lacking, f"{node} lacks {kind}: {lacking}"
            # Cameras and words have policies of their own, which are not run here.
            idle = {a for a in allowed - opened if not ROS_OWN.fullmatch(a) and "*" not in a}
            assert idle <= {"/policy/instruction"}, f"{node} does not use {kind}: {idle}"


def _run(config, failures):
    try:
        run(config, progress=False)
    except FaultError as error:  # what a busy machine does to real time is not asked here
        failures.append(str(error))


# ---- with keys ---------------------------------------------------------------------------------

# argv: enclave, what to do. Prints what came of it.
PEER = """
import json, sys, time
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from policies.robots import PANDA

rclpy.init(args=["--ros-args", "--enclave", sys.argv[1]])
node = Node(sys.argv[1].rpartition("/")[2] or "stranger")
heard, listeners, denied, answer = [], 0, [], None
end = time.monotonic() + 5.0
try:
    if sys.argv[2] == "publish":
        node.create_subscription(JointState, "joint_states", heard.append, 10)
except Exception as error:
    denied.append(str(error))
publishers = []
for topic in ("joint_command", "action_chunk") if sys.argv[2] == "publish" else ():
    try:
        publishers.append(node.create_publisher(JointTrajectory, topic, 10))
    except Exception as error:
        denied.append(str(error))
point = JointTrajectoryPoint(positions=[float("nan")] * PANDA.n)
message = JointTrajectory(joint_names=list(PANDA.joint_names), points=[point])
if sys.argv[2] == "estop":
    try:
        client = node.create_client(Trigger, "/guard/estop")
        if client.wait_for_service(10.0):
            future = client.call_async(Trigger.Request())
            rclpy.spin_until_future_complete(node, future, timeout_sec=10.0)
            answer = bool(future.done() and future.result().success)
    except Exception as error:
        denied.append(str(error))
while time.monotonic() < end:
    for publisher in publishers:
        publisher.publish(message)
        listeners = max(listeners, publisher.get_subscription_count())
    rclpy.spin_once(node, timeout_sec=0.05)
print(json.dumps(dict(heard=len(heard), listeners=listeners, denied=denied, answer=answer)))
"""


def peer(enclave, what, **environment):
    """What came of a peer's attempts, or why it could not even begin."""
    done = subprocess.run(
        [sys.executable, "-c", PEER, enclave, what],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=90,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {"failed": done.stderr}


def make_keystore(path):
    """Keys and permissions for all enclaves of the policy, under a certificate authority."""
    generation = pytest.importorskip(
        "sros2.api._artifact_generation", reason="needs the package sros2 (ros-DISTRO-sros2)"
    )
    from sros2.keystore import create_keystore

    create_keystore(path)
    generation.generate_artifacts(keystore_path=path, identity_names=[], policy_files=[POLICY])
    return path


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    """A graph with keys, moving a Panda; environment variables are as its nodes have them."""
    keystore = make_keystore(tmp_path_factory.mktemp("keys") / "keystore")
    patch = pytest.MonkeyPatch()
    patch.setenv("ROS_SECURITY_KEYSTORE", str(keystore))
    patch.setenv("ROS_SECURITY_ENABLE", "true")
    patch.setenv("ROS_SECURITY_STRATEGY", "Enforce")
    begun = peer("/realign/operator", "nothing")
    if "failed" in begun:
        patch.undo()
        pytest.skip(f"needs a middleware with DDS security: {begun['failed'][-200:]}")
    folder = tmp_path_factory.mktemp("graph")
    common = {"robot": "panda", "policy": str(CHECKPOINT), "lockstep": True}
    with Graph(folder, int(os.environ["ROS_DOMAIN_ID"])) as graph:
        graph.start("guard", "realign_policy.guard_node", common | {"auto_arm": True})
        graph.start("policy", "realign_policy.policy_node", common | {"autostart": True})
        driver = {"duration_s": 1e6, "goals": 1, "goal_period_s": 1e6}
        waiting = {"wait_for": "guard,policy"}
        graph.start("driver", "realign_mujoco_driver.driver_node", common | driver | waiting)
        log = folder / "guard.log"
        deadline = time.monotonic() + 60.0
        while "ready -> active" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield log
    patch.undo()


def assert_undisturbed(log):
    """The guard has seen nothing of it."""
    text = log.read_text()
    assert "refused" not in text
    assert "damp" not in text
    assert "expected" not in text


def test_who_has_no_keys_hears_nothing_and_is_not_heard(secured):
    got = peer("/", "publish", ROS_SECURITY_ENABLE="false")
    assert got == {"heard": 0, "listeners": 0, "denied": [], "answer": None}
    assert_undisturbed(secured)


def test_keys_of_another_authority_open_nothing(secured, tmp_path):
    other = make_keystore(tmp_path / "keystore")
    got = peer("/realign/policy", "publish", ROS_SECURITY_KEYSTORE=str(other))
    assert (got["heard"], got["listeners"]) == (0, 0)
    assert_undisturbed(secured)


def test_without_an_enclave_of_its_own_nobody_starts(secured):
    assert "failed" in peer("/realign/stranger", "publish")


def test_an_operator_does_not_command_joints(secured):
    got = peer("/realign/operator", "publish")
    assert (got["heard"], got["listeners"]) == (0, 0)
    assert len(got["denied"]) == 3  # neither of the two publishers, nor joint states
    assert_undisturbed(secured)


def test_a_recorder_does_not_stop_the_robot(secured):
    got = peer("/realign/recorder", "estop")
    assert got["answer"] is None
    assert_undisturbed(secured)


def test_an_operator_stops_the_robot(secured):
    got = peer("/realign/operator", "estop")
    assert got["answer"] is True, got
    assert "active -> damp: estop" in secured.read_text()
