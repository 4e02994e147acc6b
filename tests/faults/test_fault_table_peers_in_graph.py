"""Rows of the fault table in the ROS graph: the launcher, and the server of a remote policy."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from policies.robots import GO2
from sim2real.bags.reader import read_bag

pytestmark = [pytest.mark.ros, pytest.mark.timeout(180)]
LIMIT_S = 60.0
TRIES = 3


def wait(condition, what):
    deadline = time.monotonic() + LIMIT_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return found


def log_of_guard(pids):
    """Log of the guard among some processes, or None as long as there is none."""
    for pid in pids:
        with contextlib.suppress(OSError):  # it has just ended
            found = re.search(r"[^\0]*guard\.yaml", Path(f"/proc/{pid}/cmdline").read_text())
            if found:
                return Path(found[0]).with_name("guard.log")
    return None


def kill_launcher(command, folder, children):
    """kill -9 of `realign run` once the robot moves; when, wall time, s, and all logs."""
    with (folder / "words").open("w") as sink:
        launcher = subprocess.Popen(command, start_new_session=True, stdout=sink, stderr=sink)
    try:
        log = wait(lambda: log_of_guard(children(launcher.pid)), "a guard")
        wait(lambda: "ready -> active" in log.read_text(), "a moving robot")
        time.sleep(1.0)
        left = children(launcher.pid)
        assert len(left) >= 4
    finally:
        since = time.time()
        launcher.kill()
        launcher.wait()
    wait(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in left), "the end of all")
    logs = {path.stem: path.read_text() for path in log.parent.glob("*.log")}
    shutil.rmtree(log.parent)
    return since, logs


@pytest.mark.parametrize("robot", ["panda", "go2"])
def test_launcher_killed_in_graph(robot, repo, hold_policy, peers, tmp_path, domain, measured):
    """kill -9 of `realign run`: the robot is stopped, then nobody is left."""
    policy = hold_policy(GO2) if robot == "go2" else repo / "policies/checkpoints/panda_reach"
    words = ["run", "--robot", robot, "--policy", policy, "--duration-s", "600"]
    words += ["--domain-id", domain, "--record"]
    command = [sys.executable, "-m", "sim2real.cli", *map(str, words)]
    for attempt in range(TRIES):  # a busy machine may have stopped the robot before
        bag = tmp_path / f"bag{attempt}"
        since, logs = kill_launcher([*command, str(bag)], tmp_path, peers.children)
        if "damp: launcher_lost" in logs["guard"]:
            break
    assert not any("Traceback" in text for text in logs.values()), logs
    stopped = re.search(r"\[(\d+\.\d+)\] \[guard\]: \w+ -> damp: launcher_lost", logs["guard"])
    assert stopped, logs["guard"]
    measured(float(stopped[1]) - since, busy=True)
    commands = read_bag(bag).columns("/joint_command")
    last = commands.arrays["position"][-50:, 0]
    if robot == "go2":
        assert np.isnan(last).all(), "damping to the end"
    else:
        assert np.ptp(last, axis=0).max() < 1e-9, "braked to the end"
    assert len(commands) >= 150


# ---- a policy on a server ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(peers):
    with peers.server_process() as server:
        yield server


@pytest.fixture(scope="module")
def remote(open_live_graph, server):
    graph = open_live_graph(policy=server.descriptor)
    graph.start_guard()
    graph.start_policy()
    graph.start_driver()
    graph.wait_moving()
    return graph


def assert_silenced_by(graph, server, word, measured, said):
    def undo():
        server.say("good")
        graph.restart_policy()

    graph.assert_silenced_by(lambda: server.say(word), undo, measured, said)


def test_server_slow_in_graph(remote, server, peers, measured):
    words = f"expected an answer within {peers.REPLY_S:g} s"
    assert_silenced_by(remote, server, "silence", measured, words)


@pytest.mark.parametrize(("word", "said"), [("oversized", "got more"), ("other_id", "got 1000000")])
def test_server_garbage_in_graph(remote, server, measured, word, said):
    assert_silenced_by(remote, server, word, measured, said)


def test_server_killed_in_graph(remote, server, measured):
    words = "the connection ended"
    remote.assert_silenced_by(server.kill, lambda: None, measured, words)
