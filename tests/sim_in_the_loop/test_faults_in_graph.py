"""Faults where processes and topics are involved: the guard must stop the robot, and say why."""

import os
import signal
import time

import pytest

from policies.errors import FaultError
from sim2real.bags.salvage import salvage
from sim2real.run import run, run_command
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


def after_fault_s(result):
    """Robot time from the fault at 1 s to the hold; robot time starts at 1 s."""
    stamp = next(stamp for stamp, _, new, _ in result["transitions"] if new == "hold")
    return (stamp - 2.0e9) / 1e9


def is_in_time(result):
    """50 ms of age and a policy period of 20 ms, and slack for a busy CPU."""
    return not result["completed"] and 0.0 <= after_fault_s(result) < 0.15


def assert_stopped(result, *reasons):
    """The robot was held, then stopped for good, within the promised time of the fault at 1 s."""
    assert not result["completed"]
    assert result["stopped_by"] in reasons
    edges = [(old, new) for _, old, new, _ in result["transitions"]]
    assert ("active", "hold") in edges
    assert edges[-1] == ("hold", "damp")
    assert is_in_time(result), after_fault_s(result)


@pytest.mark.parametrize("lockstep", [True, False], ids=["lockstep", "realtime"])
def test_nan_joint_states_stop_the_robot(asap_checkpoints, domain, lockstep, until_undisturbed):
    options = {"lockstep": lockstep, "faults": "nan_state@1.0:0.3"}
    result = until_undisturbed(lambda _: run_with(asap_checkpoints, domain, **options))
    assert_stopped(result, "non_finite_state")


@pytest.mark.parametrize(
    ("fault", "reason"), [("drop_imu@1.0", "imu_silent"), ("drop_state@1.0", "state_silent")]
)
def test_lost_sensor_stops_the_robot(asap_checkpoints, domain, fault, reason, until_undisturbed):
    play = lambda _: run_with(asap_checkpoints, domain, faults=fault)  # noqa: E731
    result = until_undisturbed(play, fits=is_in_time)
    # The policy cannot answer without its sensors, so its silence may be noticed first.
    assert_stopped(result, reason, "policy_silent")


def test_frozen_joint_states_stop_the_robot(asap_checkpoints, domain):
    result = run_with(asap_checkpoints, domain, lockstep=True, faults="freeze_state@1.0")
    assert result["stopped_by"] in ("state_frozen", "tilt", "base_rate")
    assert result["transitions"][-1][2] == "damp"


def kill(graph, name):
    """kill -9 of a process."""
    process = next(p for p in graph.processes if p.name == name)
    os.kill(process.popen.pid, signal.SIGKILL)


def test_killed_policy_is_a_fault_and_leaves_no_process(
    asap_checkpoints, domain, graphs, when_moving
):
    when_moving(lambda graph: kill(graph, "policy"))
    with pytest.raises(FaultError, match="policy process ended early"):
        run_with(asap_checkpoints, domain)
    assert all(p.popen.poll() is not None for p in graphs[0].processes)


def test_killed_recorder_does_not_stop_the_run(domain, when_moving, repo, tmp_path, capsys):
    bag = tmp_path / "bag"

    def kill_recorder(graph):
        while (bag / "bag_0.mcap").stat().st_size <= 10_000:  # a first chunk is on disk
            time.sleep(0.01)
        kill(graph, "recorder")

    config = {
        "robot": "panda",
        "policy": str(repo / "policies/checkpoints/panda_reach"),
        "domain_id": domain,
        "duration_s": 6.0,
        "record": bag,
    }
    when_moving(kill_recorder)
    with pytest.raises(FaultError, match="realign bag salvage"):
        run_command(**config)
    assert "panda_reach on panda:" in capsys.readouterr().out  # it ran to its end
    assert not (bag / "metadata.yaml").exists()
    assert salvage(bag, tmp_path / "rescued").messages > 0
