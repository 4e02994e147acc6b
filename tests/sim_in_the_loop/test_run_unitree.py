"""Policies through the ROS graph, the Unitree driver and DDS to the emulated robot, and back."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from policies.errors import FaultError, InputError
from sim2real import run as run_module
from sim2real.bags.reader import read_bag
from sim2real.run import RunConfig, run

pytest.importorskip("cyclonedds", reason="needs CycloneDDS: pip install 'realign[unitree]'")
pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]
MOTIONS = ("CR7_level1", "jump_forward_level1", "kick_level1", "side_jump_level1")


def run_with(asap_checkpoints, domain, motion="side_jump_level1", **changes):
    config = {"robot": "g1", "policy": asap_checkpoints[motion], "driver": "unitree"}
    return run(RunConfig(domain_id=domain, **{**config, **changes}), progress=False)


@pytest.mark.parametrize("motion", MOTIONS)
def test_released_policy_finishes_its_motion_upright_over_dds(asap_checkpoints, domain, motion):
    result = run_with(asap_checkpoints, domain, motion)
    assert result["completed"], (result["stopped_by"], result["transitions"])
    assert result["driver_stops"] == []
    assert result["min_base_height_m"] > 0.4
    assert result["guard"]["refused"] == 0


def test_bag_of_a_real_robot_has_no_odometry(asap_checkpoints, domain, tmp_path):
    result = run_with(asap_checkpoints, domain, duration_s=1.0, record=tmp_path / "bag")
    bag = read_bag(tmp_path / "bag")
    assert bag.info.provenance["driver"] == "unitree"
    assert len(bag.columns("/joint_states")) == pytest.approx(result["steps"], abs=5)
    assert len(bag.columns("/imu")) == pytest.approx(result["steps"], abs=5)
    assert len(bag.columns("/action_chunk")) > 40
    assert {t.name: t.count for t in bag.info.topics}.get("/odom", 0) == 0


def test_stop_keys_of_the_remote_stop_the_guard_too(asap_checkpoints, domain):
    result = run_with(asap_checkpoints, domain, duration_s=2.0, faults="keys=L2+B@0.5:0.2")
    assert result["driver_stops"] == ["stop keys on the wireless remote"]
    assert result["stopped_by"] == "estop"
    assert not result["completed"]


@pytest.mark.parametrize("fault", ["silent", "bad_crc"])
def test_robot_that_falls_silent_ends_the_run(asap_checkpoints, domain, fault):
    with pytest.raises(FaultError, match="no valid LowState from the robot"):
        run_with(asap_checkpoints, domain, faults=f"{fault}@0.5")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"network": "eth77"}, "expected a network interface out of"),
        ({"network": "lo", "gap": "payload"}, "expected no --gap"),
        ({"lockstep": True}, "leave --lockstep out"),
        ({"engine": "sapien"}, "sapien|SAPIEN"),
        ({"faults": "storm@1"}, "expected a fault out of"),
        ({"network": "lo", "dds_domain": 101}, "check that the robot is on"),
    ],
)
def test_bad_input_is_one_sentence(asap_checkpoints, domain, changes, match):
    with pytest.raises(InputError, match=match):
        run_with(asap_checkpoints, domain, **changes)


@pytest.mark.parametrize("victim", ["node", "wire"])
def test_killed_driver_is_a_fault_and_leaves_no_process(
    asap_checkpoints, domain, monkeypatch, victim
):
    graphs = []
    start = run_module.Graph.start
    monkeypatch.setattr(
        run_module.Graph,
        "start",
        lambda graph, *args: graphs.append(graph) or start(graph, *args),
    )
    wires = []

    def kill():
        while not (graphs and any(p.name == "driver" for p in graphs[0].processes)):
            time.sleep(0.01)
        pid = next(p for p in graphs[0].processes if p.name == "driver").popen.pid
        children = Path(f"/proc/{pid}/task/{pid}/children")
        while not children.read_text():
            time.sleep(0.01)
        wires.append(int(children.read_text().split()[0]))
        time.sleep(6.0)
        os.kill(pid if victim == "node" else wires[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(FaultError, match="driver"):
        run_with(asap_checkpoints, domain, duration_s=60.0)
    killer.join()
    assert all(p.popen.poll() is not None for p in graphs[0].processes)
    deadline = time.monotonic() + 15.0  # the wire process damps until it misses the robot
    while Path(f"/proc/{wires[0]}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
