"""One recorded run in lockstep with a relay that loses and repeats chunks, and a sensor fault."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from policies.checkpoint import load_policy
from policies.robots import get_robot
from sim2real.graph import Graph, watch

CHUNKS = "relayed_chunk"


def record_faulty_run(
    folder: Path, domain: int, robot_name: str, policy: Path, *, seed: int, duration_s: float
) -> list[list[Any]]:
    """Write ``folder/bag``; returns the guard's changes of state.

    The relay loses 3 % of the chunks and repeats 20 % of them, by its seed; 0.6 s before the end
    the joint states are NaN for 0.1 s, which stops the robot.
    """
    robot = get_robot(robot_name)
    spec = load_policy(policy, robot).spec
    common: dict[str, Any] = {"robot": robot_name, "lockstep": True}
    told = {"policy": str(policy), "seed": seed}
    topics = ["joint_states", "action_chunk", "joint_command", "episode"]
    topics += ["imu", "odom"] * robot.floating_base
    bag = {"out": str(folder / "bag"), "provenance": json.dumps({"seed": str(seed)})}
    guard = {"auto_arm": True, "policy_rate_hz": spec.rate_hz, "summary_path": _summary(folder)}
    relay = {"source": "action_chunk", "sink": CHUNKS, "drop": 0.03, "duplicate": 0.2, "seed": seed}
    driver = {
        "duration_s": duration_s,
        "faults": f"nan_state@{duration_s - 0.6}:0.1",
        "goals": 1 if "goal" in spec.needs else 0,
        "goal_period_s": duration_s,
        "wait_for": "guard,policy,recorder",
        "progress": True,
    }
    with Graph(folder, domain) as graph:
        recorder = bag | {"wait_for": ",".join(topics)}
        graph.start("recorder", "realign_recorder.recorder_node", recorder)
        graph.start("relay", "realign_bringup.fault_relay", relay)
        graph.start(
            "guard", "realign_policy.guard_node", common | guard, remap={"action_chunk": CHUNKS}
        )
        graph.start("policy", "realign_policy.policy_node", common | told | {"autostart": True})
        graph.start("driver", "realign_mujoco_driver.driver_node", common | told | driver)
        watch(graph, progress=False, description="faulty run")
    edges: list[list[Any]] = json.loads(Path(_summary(folder)).read_text())["transitions"]
    return edges


def _summary(folder: Path) -> str:
    return str(folder / "guard.json")
