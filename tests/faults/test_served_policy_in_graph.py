"""A policy behind a server that dies and comes back, in the graph of a Panda that moves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import numpy as np
import pytest

from policies.checkpoint import load_policy
from policies.robots import PANDA
from policies.serving.descriptor import write_descriptor
from policies.serving.protocol import Served

pytestmark = [pytest.mark.ros, pytest.mark.timeout(240)]
ANSWER_S = 60.0


@contextmanager
def server(checkpoint, port=0):
    """``realign serve``; gives its process and port."""
    words = ["serve", "--policy", str(checkpoint), "--port", str(port)]
    process = subprocess.Popen(
        [sys.executable, "-m", "sim2real.cli", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process, int(process.stdout.readline().rpartition(":")[2])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def activate(graph) -> bool:
    """What an operator does after the server is there again; False if the policy stays inactive."""
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    client = graph.node.create_client(ChangeState, "/policy/change_state")
    try:
        graph.wait(client.service_is_ready, "service change_state")
        request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_ACTIVATE))
        answer = client.call_async(request)
        graph.wait(answer.done, "an answer of change_state", ANSWER_S)
        return answer.result().success
    finally:
        graph.node.destroy_client(client)


def position(graph) -> np.ndarray:
    return np.array(graph.state.position)


def test_a_server_that_dies_holds_the_robot_and_moves_it_again_when_it_is_back(
    open_live_graph, repo, tmp_path
):
    checkpoint = repo / "policies/checkpoints/panda_reach"
    policy, graph = load_policy(checkpoint, PANDA), open_live_graph()
    with server(checkpoint) as (first, port):
        served = Served(spec=policy.model.spec, robot=policy.model.robot, sha256=policy.spec.sha256)
        url = f"ws://127.0.0.1:{port}"
        write_descriptor(tmp_path, url, served, token_file=None, reply_s=20.0)
        graph.start_guard()
        graph.start_policy(tmp_path)
        graph.start_driver()
        graph.wait_moving()
        since = time.time()
        os.kill(first.pid, signal.SIGKILL)
        graph.wait_edge("hold", since=since)
        graph.wait_edge("damp", since=since)
    graph.wait(lambda: url in graph.log("policy"), "the reason in the policy's log")
    stopped = position(graph)
    assert not activate(graph), "there is no server"
    assert graph.guard_state() == "damp"
    assert np.abs(position(graph) - stopped).max() < 0.02
    with server(checkpoint, port):
        time.sleep(1.0)
        assert graph.guard_state() == "damp", "nothing moves by itself"
        assert activate(graph)
        since = time.time()
        graph.call("reset")
        graph.wait(lambda: graph.call("arm").success, "an armed guard")
        graph.wait_edge("active", since=since)
    for process in graph.graph.processes:
        assert "Traceback" not in process.log.read_text(errors="replace"), process.name
