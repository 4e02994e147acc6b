"""Faults where processes and topics are involved: the guard must stop the robot, and say why."""

import os
import signal
import threading
import time
from contextlib import contextmanager

import pytest

from policies.errors import FaultError
from sim2real import run as run_module
from sim2real.bags.salvage import salvage
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


@pytest.fixture
def graphs(monkeypatch):
    """Graphs that a run starts."""
    graphs = []
    start = run_module.Graph.start

    def remember(graph, *args):
        graphs.append(graph)
        return start(graph, *args)

    monkeypatch.setattr(run_module.Graph, "start", remember)
    return graphs


@contextmanager
def killed(graphs, name, ready=lambda: True):
    """kill -9 of a process 2 s after the driver was started, once ``ready`` says so."""

    def kill():
        while not (graphs and any(p.name == "driver" for p in graphs[0].processes)):
            time.sleep(0.01)
        time.sleep(2.0)
        while not ready():
            time.sleep(0.01)
        process = next(p for p in graphs[0].processes if p.name == name)
        os.kill(process.popen.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    yield
    killer.join()


def test_killed_policy_is_a_fault_and_leaves_no_process(asap_checkpoints, domain, graphs):
    with (
        killed(graphs, "policy"),
        pytest.raises(FaultError, match="policy process ended early"),
    ):
        run_with(asap_checkpoints, domain)
    assert all(p.popen.poll() is not None for p in graphs[0].processes)


def test_killed_recorder_does_not_stop_the_run(domain, graphs, repo, tmp_path, capsys):
    bag = tmp_path / "bag"

    def written():
        return (bag / "bag_0.mcap").exists() and (bag / "bag_0.mcap").stat().st_size > 10_000

    config = {
        "robot": "panda",
        "policy": str(repo / "policies/checkpoints/panda_reach"),
        "domain_id": domain,
        "duration_s": 6.0,
        "record": bag,
    }
    with (
        killed(graphs, "recorder", written),
        pytest.raises(FaultError, match="realign bag salvage"),
    ):
        run_module.run_command(**config)
    assert "panda_reach on panda:" in capsys.readouterr().out  # it ran to its end
    assert not (bag / "metadata.yaml").exists()
    assert salvage(bag, tmp_path / "rescued").messages > 0
