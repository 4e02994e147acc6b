"""Rows of the fault table in the ROS graph: a Panda that moves, and what can happen around it.

All faults but the first few come to one running graph, one after the other; an operator resets and
arms it in between. Chunks pass a relay that repeats and reorders them all the time.
"""

import contextlib
import functools
import math
import os
import resource
import shutil
import subprocess
import sys
import time
from xml.etree import ElementTree

import numpy as np
import pytest

from policies import messages as wire
from policies.errors import InputError
from policies.robots import PANDA
from sim2real.bags.reader import read_bag
from sim2real.bags.salvage import salvage
from sim2real.run import run
from sim2real.run_config import RunConfig

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180)]
CHUNKS = "relayed_chunk"
TOPICS = ["joint_states", "joint_command", "action_chunk", "/diagnostics"]


@pytest.fixture(scope="module")
def live(open_live_graph):
    graph = open_live_graph()
    recorder = {"out": str(graph.folder / "bag"), "topics": TOPICS}
    graph.graph.start("recorder", "realign_recorder.recorder_node", recorder)
    graph.start_guard(CHUNKS)
    graph.start_policy()
    relay = {"source": "action_chunk", "sink": CHUNKS, "duplicate": 0.2, "jitter_s": 0.04}
    graph.graph.start("relay", "realign_bringup.fault_relay", relay)
    graph.start_driver()
    graph.wait_moving()
    return graph


@pytest.fixture
def moving(live):
    live.set_moving()
    return live


def undisturbed(test):
    """Play a test again where a busy machine has stopped the robot before the fault did."""

    @functools.wraps(test)
    def play(moving, **fixtures):
        moving.undisturbed(lambda: test(moving, **fixtures))

    return play


def chunk(graph, rows, *, late_ns=0, names=None):
    """A chunk that answers the newest joint state."""
    from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

    stamp = wire.stamp_to_ns(graph.state.header.stamp) - late_ns
    return wire.fill_trajectory(
        JointTrajectory(),
        JointTrajectoryPoint,
        stamp_ns=stamp,
        names=names or PANDA.joint_names,
        dt_s=0.02,
        positions_rad=np.atleast_2d(rows),
    )


def joint_state(stamp_ns, positions):
    from sensor_msgs.msg import JointState

    message = JointState(name=list(PANDA.joint_names), position=list(positions))
    message.velocity = [0.0] * len(message.position)
    wire.set_stamp(message.header.stamp, stamp_ns)
    return message


# ---- graphs of their own -----------------------------------------------------------------------


def test_sensor_drop_in_graph(measured, repo, domain):
    policy = repo / "policies/checkpoints/panda_reach"
    config = RunConfig(
        robot="panda", policy=policy, duration_s=2.0, faults="drop_state@1.0", domain_id=domain
    )
    result = run(config, progress=False)
    assert not result["completed"]
    assert result["stopped_by"] in ("state_silent", "policy_silent")  # it cannot answer either
    assert result["transitions"][-1][1:3] == ["hold", "damp"]
    first = next(stamp for stamp, _, new, _ in result["transitions"] if new == "hold")
    measured(abs(first - 2.0e9) / 1e9, busy=True)


def test_sensor_frozen_in_graph(measured, repo, domain):
    policy = repo / "policies/checkpoints/panda_reach"
    config = RunConfig(
        robot="panda",
        policy=policy,
        lockstep=True,
        duration_s=2.0,
        faults="freeze_state@0.6",
        domain_id=domain,
    )
    result = run(config, progress=False)
    assert result["stopped_by"] == "state_frozen"
    hold = next(stamp for stamp, _, new, _ in result["transitions"] if new == "hold")
    measured((hold - 1.6e9) / 1e9)


def test_bad_checkpoint_in_graph(open_live_graph, repo, tmp_path):
    broken = shutil.copytree(repo / "policies/checkpoints/panda_reach", tmp_path / "broken")
    content = bytearray((broken / "encoder.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (broken / "encoder.onnx").write_bytes(content)
    graph = open_live_graph()
    policy = graph.start_policy(policy=broken)
    assert policy.popen.wait(60.0) == 2
    assert "expected sha256" in graph.log("policy")
    with pytest.raises(InputError, match="expected sha256"):
        run(RunConfig(robot="panda", policy=broken), progress=False)


def test_wrong_units_in_graph(open_live_graph):
    from sensor_msgs.msg import JointState

    graph = open_live_graph()
    graph.start_guard(auto_arm=False, state_max_age_s=60.0)
    with graph.publisher(JointState, "joint_states") as states:
        states.publish(joint_state(10**9, np.rad2deg(PANDA.default_rad)))
        graph.wait(lambda: graph.call("arm").message == "implausible_sensors", "a refusal")
        states.publish(joint_state(2 * 10**9, PANDA.default_rad))
        graph.wait_edge("inactive", "sensors_plausible", since=0.0)
    graph.graph.stop()


def test_rate_mismatch_in_graph(open_live_graph):
    from sensor_msgs.msg import JointState

    graph = open_live_graph()
    graph.start_guard(auto_arm=False, state_max_age_s=60.0)
    with graph.publisher(JointState, "joint_states") as states:
        start = time.monotonic()

        def refused():
            for _ in range(150):
                passed_s = time.monotonic() - start  # by a clock at half the pace of time
                states.publish(joint_state(10**9 + int(passed_s * 0.5e9), PANDA.default_rad))
                time.sleep(0.01)
            answer = graph.call("arm").message
            graph.call("reset")  # a busy guard has not compared for a second yet
            return answer == "rate_mismatch"

        graph.wait(refused, "a refusal")
    graph.graph.stop()


# ---- one graph that runs -----------------------------------------------------------------------


def test_late_messages_in_graph(moving):
    since = time.time()

    def refused():
        moving.set_moving()  # a busy machine may have stopped it meanwhile
        return "chunk refused: chunk_out_of_order" in moving.log()

    moving.wait(refused, "a late chunk")
    time.sleep(1.0)
    assert "repeated_refusals" not in {edge.reason for edge in moving.edges(since)}


@undisturbed
def test_policy_stall_in_graph(moving, measured):
    with moving.stopped("policy") as since:
        edge = moving.wait_edge("hold", "policy_silent", since=since)
        measured(edge.time_s - since, busy=True)
        moving.wait_edge("damp", "policy_silent", since=since)


@undisturbed
def test_network_partition_in_graph(moving, measured):
    with moving.stopped("relay") as since:
        edge = moving.wait_edge("hold", "policy_silent", since=since)
        measured(edge.time_s - since, busy=True)
    moving.set_moving()  # what was held back on the way came all at once


@undisturbed
def test_bad_action_in_graph(moving):
    from trajectory_msgs.msg import JointTrajectory

    since = time.time()
    with moving.publisher(JointTrajectory, CHUNKS) as chunks:
        for _ in range(3):
            chunks.publish(chunk(moving, np.full(7, math.nan)))
        moving.wait_edge("damp", "repeated_refusals", since=since)


def test_stale_observation_in_graph(moving):
    from trajectory_msgs.msg import JointTrajectory

    with moving.publisher(JointTrajectory, CHUNKS) as chunks:

        def refused():
            moving.set_moving()
            chunks.publish(chunk(moving, np.zeros(7), late_ns=600_000_000))
            time.sleep(0.05)
            return "chunk refused: stale_chunk" in moving.log()

        moving.wait(refused, "a refusal")


def test_hostile_peer_in_graph(moving):
    from trajectory_msgs.msg import JointTrajectory

    since = time.time()
    with moving.publisher(JointTrajectory, CHUNKS) as chunks:
        for words, message in (
            ("at most 1024 points", chunk(moving, np.zeros((5000, 7)))),
            ("by name", chunk(moving, np.zeros(7), names=[f"x{k}" for k in range(7)])),
        ):
            time.sleep(1.1)  # no more than one complaint a second is logged
            chunks.publish(message)
            moving.wait(lambda words=words: words in moving.log(), words)
        moving.assert_not_stopped(since)


@undisturbed
def test_sensor_non_finite_in_graph(moving, measured):
    from sensor_msgs.msg import JointState

    with moving.publisher(JointState, "joint_states") as states:
        since = time.time()
        while not moving.edges(since):  # the driver's own may overtake one
            ahead = wire.stamp_to_ns(moving.state.header.stamp) + 10**8
            states.publish(joint_state(ahead, [math.nan] * 7))
            time.sleep(0.1)
        edge = moving.wait_edge("hold", "non_finite_state", since=since)
        measured(edge.time_s - since, busy=True)
        moving.wait_edge("damp", "non_finite_state", since=since)
    moving.restart_policy()  # what it has seen may have silenced it for good


@undisturbed
def test_clock_jump_in_graph(moving, measured):
    from sensor_msgs.msg import JointState

    with moving.publisher(JointState, "joint_states") as states:
        since = time.time()
        stamp = moving.state.header.stamp
        states.publish(joint_state((stamp.sec + 100) * 10**9, moving.state.position))
        edge = moving.wait_edge("hold", "clock_jump", since=since)
        measured(edge.time_s - since, busy=True)
    moving.set_moving()


@undisturbed
def test_operator_stop_in_graph(moving, measured):
    from std_msgs.msg import Bool

    with moving.publisher(Bool, "operator_stop") as switch:
        since = time.time()
        switch.publish(Bool(data=True))
        measured(moving.wait_edge("damp", "estop", since=since).time_s - since, busy=True)
    assert moving.call("arm").message == "not_armed"


@undisturbed
def test_body_limits_in_graph(moving, measured):
    from sensor_msgs.msg import Temperature

    with moving.publisher(Temperature, "motor_temperature") as motors:
        since = time.time()
        motors.publish(Temperature(temperature=90.0))
        measured(moving.wait_edge("damp", "overheated", since=since).time_s - since, busy=True)


@undisturbed
def test_second_commander_in_graph(moving, measured):
    from trajectory_msgs.msg import JointTrajectory

    since = time.time()
    other = moving.node.create_publisher(JointTrajectory, "joint_command", 10)
    edge = moving.wait_edge("damp", "second_commander", since=since)
    measured(edge.time_s - since, busy=True)
    moving.call("reset")
    assert moving.call("arm").message == "second_commander"
    moving.node.destroy_publisher(other)


@undisturbed
def test_overrun_in_graph(moving):
    with moving.stopped("guard") as since:
        time.sleep(0.4)
    moving.wait_edge("hold", "overrun", since=since)
    moving.set_moving()


def test_processes_that_starve_hold_or_stop_and_go_on_afterwards(moving):
    """All nodes on one core, with eight others that want it for themselves."""
    core = {min(os.sched_getaffinity(0))}
    nodes = [p.popen.pid for p in moving.graph.processes if p.popen.poll() is None]
    threads = [int(t) for pid in nodes for t in os.listdir(f"/proc/{pid}/task")]
    everywhere = {thread: os.sched_getaffinity(thread) for thread in threads}
    burn = [sys.executable, "-c", "while True: pass"]
    burners = [subprocess.Popen(burn) for _ in range(8)]
    try:
        for thread in (*threads, *(b.pid for b in burners)):
            os.sched_setaffinity(thread, core)
        time.sleep(2.0)
        assert set(moving.state.name) == set(PANDA.joint_names)
        assert np.isfinite(moving.state.position).all()
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
        for thread, cores in everywhere.items():
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(thread, cores)
    for name in ("recorder", "guard", "policy", "relay", "driver"):
        assert moving.process(name).popen.poll() is None, name
    moving.set_moving()


def test_driver_disconnect_in_graph(moving, measured):
    with moving.stopped("driver") as since:
        edge = moving.wait_edge("hold", "state_silent", "policy_silent", since=since)
        measured(edge.time_s - since, busy=True)
        moving.wait_edge("damp", since=since)
    since = time.time()
    time.sleep(0.5)
    assert moving.edges(since) == []  # it is back, and nothing follows from that by itself
    moving.set_moving()


def test_security_policy_allows_what_the_graph_does(live, repo):
    """Topics and services of the running nodes are all in the SROS 2 policy."""
    path = repo / "ros2_ws/src/realign_bringup/realign_bringup/security_policy.xml"
    profiles = {p.get("node"): p for p in ElementTree.parse(path).getroot().iter("profile")}

    def allowed(node, kind, what):
        blocks = (b for b in profiles[node].findall(f"{kind}s") if b.get(what) == "ALLOW")
        names = {item.text for block in blocks for item in block.findall(kind)}
        return {name.replace("~", f"/{node}") if "~" in name else f"/{name}" for name in names}

    graph = live.node
    for node in ("guard", "policy", "mujoco_driver", "recorder"):
        for kind, what, seen in (
            ("topic", "publish", graph.get_publisher_names_and_types_by_node(node, "/")),
            ("topic", "subscribe", graph.get_subscriber_names_and_types_by_node(node, "/")),
            ("service", "reply", graph.get_service_names_and_types_by_node(node, "/")),
        ):
            names = {name.replace(CHUNKS, "action_chunk") for name, _ in seen}
            assert names - allowed(node, kind, what) == set(), (node, kind, what)


def test_recorder_fault_in_graph(moving, tmp_path):
    bag = moving.folder / "bag"
    moving.wait(lambda: (bag / "bag_0.mcap").stat().st_size > 0, "a first chunk")
    written = (bag / "bag_0.mcap").stat().st_size
    pid, since = moving.process("recorder").popen.pid, time.time()
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (written + 1000, written + 1000))
    moving.wait(lambda: "recording has stopped" in moving.log("recorder"), "a full disk", 60.0)
    time.sleep(0.5)
    moving.assert_not_stopped(since)
    moving.set_moving()
    report = salvage(bag, tmp_path / "rescued")
    assert report.messages > 0
    assert read_bag(tmp_path / "rescued").info.damage == ()


@undisturbed
def test_policy_killed_in_graph(moving, measured):
    since = moving.kill("policy")
    measured(moving.wait_edge("hold", "policy_silent", since=since).time_s - since, busy=True)
    moving.wait_edge("damp", "policy_silent", since=since)
    moving.start_policy()
    moving.wait(lambda: "panda_reach for panda" in moving.log("policy"), "another policy")
    time.sleep(1.0)
    assert moving.guard_state() == "damp"  # never armed again by itself


def test_guard_killed_in_graph(moving):
    moving.kill("guard")
    moving.wait_robot_time(0.5)
    stopped_at = np.array(moving.state.position)
    moving.wait_robot_time(0.5)
    assert np.abs(np.array(moving.state.position) - stopped_at).max() < 0.02
    assert np.abs(moving.state.velocity).max() < 0.05


def test_every_log_of_the_graph_is_free_of_tracebacks(live):
    for process in live.graph.processes:
        assert "Traceback" not in process.log.read_text(errors="replace"), process.name
