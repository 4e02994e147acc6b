"""The demo's policy through graph, Franka driver and FCI to the emulated control box."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from policies.errors import FaultError, InputError
from policies.robots import PANDA
from sim2real import run as run_module
from sim2real.bags.reader import read_bag
from sim2real.demo import panda_checkpoint
from sim2real.run import run
from sim2real.run_config import RunConfig
from sim2real.sim.kinematics import Kinematics
from sim2real.tasks.reach import sample_goals

pytest.importorskip("pylibfranka", reason="needs pip install 'realign[franka]'")
pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]
STARVED = "communication_constraints_violation"


def run_with(domain, **changes):
    config = {"robot": "panda", "policy": panda_checkpoint(), "driver": "franka", "goals": 2}
    return run(RunConfig(domain_id=domain, **{**config, **changes}), progress=False)


def until_undisturbed(domain, **changes):
    """A run that a loaded machine without real-time kernel may interrupt, as the box must."""
    for _ in range(4):
        try:
            return run_with(domain, **changes)
        except FaultError as error:
            if STARVED not in str(error):
                raise
    return run_with(domain, **changes)


def test_demo_policy_reaches_its_goals_over_fci(domain, tmp_path):
    result = until_undisturbed(domain, record=tmp_path / "bag")
    assert result["completed"], (result["stopped_by"], result["transitions"])
    assert result["driver_stops"] == []
    assert result["guard"]["refused"] == 0
    assert result["duration_s"] == pytest.approx(8.0, abs=0.1)
    bag = read_bag(tmp_path / "bag")
    assert bag.info.provenance["driver"] == "franka"
    assert len(bag.columns("/joint_states")) == pytest.approx(result["steps"], abs=5)
    assert len(bag.columns("/joint_command")) > 1000
    episodes = [t for t in bag.info.topics if t.name == "/episode"]
    assert episodes[0].count == 2
    goal = sample_goals(PANDA, 2, 0)[-1]
    pose = bag.columns("/joint_states", PANDA.joint_names).arrays["position"][-1]
    reached = Kinematics(PANDA).end_effector(pose)[0]
    assert float(np.linalg.norm(reached - goal)) < 0.03


@pytest.mark.parametrize(
    ("faults", "match"),
    [
        ("reflex=joint_velocity_violation@1", "aborted by reflex! .*joint_velocity_violation"),
        ("estop@1", "the user stop is pressed"),
        ("silence@1", "no state from the robot|aborted by reflex"),
    ],
)
def test_what_the_robot_does_ends_the_run(domain, faults, match):
    with pytest.raises(FaultError, match=match):
        run_with(domain, faults=faults)


def test_payload_that_the_robot_does_not_know_of_is_carried(domain):
    result = until_undisturbed(domain, goals=1, gap="payload")
    assert result["completed"], (result["stopped_by"], result["transitions"])


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"network": "127.9.9.9"}, "expected --robot fr3 for a real arm"),
        ({"gap": "latency"}, "without actuator delay"),
        ({"faults": "version:9"}, "expected an FR3 with system 5.9 or newer"),
        ({"faults": "storm@1"}, "expected a fault out of"),
    ],
)
def test_bad_input_is_one_sentence(domain, changes, match):
    with pytest.raises(InputError, match=match):
        run_with(domain, **changes)


@pytest.mark.parametrize(
    ("address", "match"),
    [("127.9.9.9", "the connection was refused"), ("no.such.robot.invalid", "none answers")],
)
def test_wrong_address_is_one_sentence(address, match):
    node = "realign_franka_driver.driver_node"
    words = ["--ros-args", "-p", "robot:=fr3", "-p", f"network:={address}"]
    done = subprocess.run(
        [sys.executable, "-m", node, *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert match in done.stderr
    assert address in done.stderr


@pytest.mark.parametrize("victim", ["node", "control"])
def test_killed_driver_is_a_fault_and_leaves_no_process(domain, monkeypatch, victim):
    graphs, children = [], []
    start = run_module.Graph.start
    monkeypatch.setattr(
        run_module.Graph,
        "start",
        lambda graph, *args: graphs.append(graph) or start(graph, *args),
    )

    def kill():
        while not (graphs and any(p.name == "driver" for p in graphs[0].processes)):
            time.sleep(0.01)
        pid = next(p for p in graphs[0].processes if p.name == "driver").popen.pid
        listed = Path(f"/proc/{pid}/task/{pid}/children")
        while len(listed.read_text().split()) < 2:
            time.sleep(0.01)
        children.extend(int(child) for child in listed.read_text().split())
        time.sleep(5.0)
        os.kill(pid if victim == "node" else children[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(FaultError, match="driver"):
        run_with(domain, duration_s=60.0)
    killer.join()
    assert all(p.popen.poll() is not None for p in graphs[0].processes)
    deadline = time.monotonic() + 15.0
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.1)
