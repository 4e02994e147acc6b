"""A recorded run, played again through the guard: the graph of replay.launch.py."""

from __future__ import annotations

import json

import numpy as np
import pytest

from policies.robots import SO101
from sim2real.bags.reader import read_bag
from sim2real.graph import Graph, watch
from sim2real.run import run
from sim2real.run_config import RunConfig
from sim2real.tasks.swing import save_swing

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]


def test_bag_is_played_to_the_virtual_robot_through_the_guard(tmp_path, domain):
    save_swing(tmp_path / "swing", SO101)
    config = RunConfig(
        robot="so101",
        policy=tmp_path / "swing",
        duration_s=3.0,
        lockstep=True,
        record=tmp_path / "bag",
        domain_id=domain,
    )
    assert run(config, progress=False)["completed"]
    common = {"robot": "so101", "lockstep": False}
    listeners = "guard,player,recorder"
    driver = {"duration_s": 5.0, "wait_for": listeners, "progress": True, "seed": 9}
    played = {"robot": "so101", "bag": str(tmp_path / "bag"), "autostart": True}
    summary = {"summary_path": str(tmp_path / "player.json")}
    topics = "joint_states,action_chunk,joint_command,episode"
    recorder = {"out": str(tmp_path / "played"), "wait_for": topics}
    with Graph(tmp_path, domain) as graph:
        graph.start("recorder", "realign_recorder.recorder_node", recorder)
        guard = {"auto_arm": True, "policy_rate_hz": 50.0}
        graph.start("guard", "realign_policy.guard_node", common | guard)
        graph.start("driver", "realign_mujoco_driver.driver_node", common | driver)
        # It ends by itself when the motion has, so it is not among those that must not.
        graph.start("player", "realign_recorder.player_node", played | summary)
        player = graph.processes.pop()
        watch(graph, progress=False, description="replay")
        assert player.popen.wait(20.0) == 0
    assert json.loads((tmp_path / "player.json").read_text())["finished"]
    first, second = (
        read_bag(tmp_path / name).columns("/joint_command", SO101.joint_names)
        for name in ("bag", "played")
    )
    told, again = first.arrays["position"][:, 0], second.arrays["position"][:, 0]
    told_s = (first.stamp_ns - first.stamp_ns[0]) / 1e9
    again_s = (second.stamp_ns - second.stamp_ns[0]) / 1e9
    # The arm began elsewhere; after a second or more on its way it does what it did before. A busy
    # machine may make the guard hold for a moment.
    errors = []
    for lead_s in np.arange(0.9, 1.3, 0.005):
        during = (again_s > lead_s + 0.3) & (again_s < lead_s + 2.7)
        wanted = [np.interp(again_s[during] - lead_s, told_s, row) for row in told.T]
        off = np.abs(again[during] - np.stack(wanted, axis=1)).max(axis=1)
        errors.append(np.percentile(off, 80))
    assert min(errors) < 0.02
    assert np.ptp(again, axis=0).min() > 0.3
