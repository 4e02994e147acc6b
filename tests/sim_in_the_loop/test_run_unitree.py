"""Policies through the ROS graph, the Unitree driver and DDS to the emulated robot, and back."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from policies.errors import FaultError, InputError
from sim2real.bags.reader import read_bag
from sim2real.run import run
from sim2real.run_config import RunConfig

pytest.importorskip("cyclonedds", reason="needs CycloneDDS: pip install 'realign[unitree]'")
pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]
MOTIONS = ("CR7_level1", "jump_forward_level1", "kick_level1", "side_jump_level1")


def run_with(asap_checkpoints, domain, motion="side_jump_level1", **changes):
    config = {"robot": "g1", "policy": asap_checkpoints[motion], "driver": "unitree"}
    return run(RunConfig(domain_id=domain, **{**config, **changes}), progress=False)


@pytest.mark.parametrize("motion", MOTIONS)
def test_released_policy_finishes_its_motion_upright_over_dds(
    asap_checkpoints, domain, motion, until_undisturbed
):
    result = until_undisturbed(lambda _: run_with(asap_checkpoints, domain, motion))
    assert result["completed"], (result["stopped_by"], result["transitions"])
    assert result["driver_stops"] == []
    assert result["min_base_height_m"] > 0.4
    assert result["guard"]["refused"] == 0


def test_bag_of_a_real_robot_has_no_odometry(asap_checkpoints, domain, tmp_path, until_undisturbed):
    def play(attempt):
        record = tmp_path / f"bag{attempt}"
        return run_with(asap_checkpoints, domain, duration_s=1.0, record=record)

    result = until_undisturbed(play)
    bag = read_bag(Path(result["bag"]))
    assert bag.info.provenance["driver"] == "unitree"
    assert len(bag.columns("/joint_states")) == pytest.approx(result["steps"], abs=5)
    assert len(bag.columns("/imu")) == pytest.approx(result["steps"], abs=5)
    assert len(bag.columns("/action_chunk")) > 40
    assert {t.name: t.count for t in bag.info.topics}.get("/odom", 0) == 0


def test_stop_keys_of_the_remote_stop_the_guard_too(asap_checkpoints, domain, until_undisturbed):
    options = {"duration_s": 2.0, "faults": "keys=L2+B@0.5:0.2"}
    result = until_undisturbed(lambda _: run_with(asap_checkpoints, domain, **options))
    assert result["driver_stops"] == ["stop keys on the wireless remote"]
    assert result["stopped_by"] == "estop"
    assert not result["completed"]


def test_real_robot_waits_for_key_a_of_the_remote(asap_checkpoints, domain, dds_domains, tmp_path):
    dds_domain = next(dds_domains)
    policy, summary = asap_checkpoints["side_jump_level1"], tmp_path / "seen.json"
    presses = ",".join(f"hanging_keys=A@{t}:0.2" for t in range(8, 60, 2))
    options = ["--policy", str(policy), "--faults", presses, "--summary", str(summary)]
    words = ["--robot", "g1", "--domain", str(dds_domain), "--realtime-priority", "21", *options]
    robot = subprocess.Popen([sys.executable, "-m", "realign_unitree_driver.emulator", *words])
    try:
        result = run_with(asap_checkpoints, domain, network="lo", dds_domain=dds_domain)
    finally:
        robot.send_signal(signal.SIGINT)
        robot.wait(10.0)
    assert result["completed"], (result["stopped_by"], result["transitions"])
    assert [edge[1:] for edge in result["transitions"]] == [
        ["unconfigured", "inactive", "sensors_plausible"],
        ["inactive", "ready", "operator"],
        ["ready", "active", "first_chunk"],
    ]
    # The motion begins at its beginning: the policy had not seen anything before.
    assert result["refused_by_reason"].get("not_armed", 0) < 5
    seen = json.loads(summary.read_text())
    assert not seen["fell"]
    # Switched on seconds before the operator pressed the key, and it hung until then.
    assert seen["ticks"] / 500 - seen["moved_s"] > 7.0


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


@pytest.mark.parametrize("victim", ["node", "wire", "hanging wire"])
def test_killed_driver_is_a_fault_and_leaves_no_process(
    asap_checkpoints, domain, graphs, when_moving, victim
):
    wires = []

    def kill(graph):
        pid = next(p for p in graph.processes if p.name == "driver").popen.pid
        wires.append(int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]))
        deed = signal.SIGSTOP if victim == "hanging wire" else signal.SIGKILL
        os.kill(pid if victim == "node" else wires[0], deed)

    when_moving(kill)
    with pytest.raises(FaultError, match="driver"):
        run_with(asap_checkpoints, domain, duration_s=60.0)
    assert all(p.popen.poll() is not None for p in graphs[0].processes)
    deadline = time.monotonic() + 60.0  # the wire process damps until it misses the robot
    while Path(f"/proc/{wires[0]}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
