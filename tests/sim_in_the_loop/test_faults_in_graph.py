"""Faults where processes and topics are involved: the guard must stop the robot, and say why."""

import os
import signal
import threading
import time

import pytest

from policies.errors import FaultError
from sim2real import run as run_module
from sim2real.run import run
from sim2real.run_config import RunConfig

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]


def run_with(asap_checkpoints, domain, **changes):
    config = {
        "robot": "g1",
        "policy": asap_checkpoints["side_jump_level1"],
        "domain_id": domain,
        **changes,
    }
    return run(RunConfig(**config), progress=False)


def assert_stopped(result, *reasons):
    """The robot was held, then stopped for good, within the promised time of the fault at 1 s."""
    assert not result["completed"]
    assert result["stopped_by"] in reasons
    edges = [(old, new) for _, old, new, _ in result["transitions"]]
    assert ("active", "hold") in edges
    assert edges[-1] == ("hold", "damp")
    stamp = next(stamp for stamp, _, new, _ in result["transitions"] if new == "hold")
    # Robot time starts at 1 s; 50 ms of age and a policy period of 20 ms, and slack for a busy CPU.
    assert 0.0 <= (stamp - 2.0e9) / 1e9 < 0.15


@pytest.mark.parametrize("lockstep", [True, False], ids=["lockstep", "realtime"])
def test_nan_joint_states_stop_the_robot(asap_checkpoints, domain, lockstep):
    result = run_with(asap_checkpoints, domain, lockstep=lockstep, faults="nan_state@1.0:0.3")
    assert_stopped(result, "non_finite_state")


@pytest.mark.parametrize(
    ("fault", "reason"), [("drop_imu@1.0", "imu_silent"), ("drop_state@1.0", "state_silent")]
)
def test_lost_sensor_stops_the_robot(asap_checkpoints, domain, fault, reason):
    # The policy cannot answer without its sensors, so its silence may be noticed first.
    assert_stopped(run_with(asap_checkpoints, domain, faults=fault), reason, "policy_silent")


def test_frozen_joint_states_stop_the_robot(asap_checkpoints, domain):
    result = run_with(asap_checkpoints, domain, lockstep=True, faults="freeze_state@1.0")
    assert result["stopped_by"] in ("state_frozen", "tilt", "base_rate")
    assert result["transitions"][-1][2] == "damp"


def test_killed_policy_is_a_fault_and_leaves_no_process(asap_checkpoints, domain, monkeypatch):
    graphs = []
    start = run_module.Graph.start

    def remember(graph, *args):
        graphs.append(graph)
        return start(graph, *args)

    monkeypatch.setattr(run_module.Graph, "start", remember)

    def kill_policy():
        while not (graphs and any(p.name == "driver" for p in graphs[0].processes)):
            time.sleep(0.01)
        time.sleep(2.0)
        policy = next(p for p in graphs[0].processes if p.name == "policy")
        os.kill(policy.popen.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_policy)
    killer.start()
    with pytest.raises(FaultError, match="policy process ended early"):
        run_with(asap_checkpoints, domain)
    killer.join()
    assert all(p.popen.poll() is not None for p in graphs[0].processes)
