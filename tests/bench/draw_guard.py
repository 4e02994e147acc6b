"""Draws docs/images/policy_dies.svg: a bag of a run whose policy is killed while the arm moves.

    python tests/bench/draw_guard.py docs/images/policy_dies.svg

Driver, guard, policy and recorder run in real time as `realign run` starts them; half a minute.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from plot import Axes, page

from policies.robots import PANDA
from sim2real.bags.reader import read_bag
from sim2real.demo import panda_checkpoint
from sim2real.episodes.streams import Streams, read_streams
from sim2real.graph import Graph, private_domain_id, watch

_KILLED_AT_S, _DURATION_S = 8.45, 10.0
_BEFORE_S, _AFTER_S, _TRIES = 0.3, 0.9, 5
_COLOURS = {"active": "#1a7f37", "hold": "#d97706", "damp": "#b91c1c"}
_MEASURED, _COMMAND = "#2b6cb0", "#d97706"


def main() -> None:
    """Write the picture and print what it shows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    edges, streams, last_ns = _undisturbed()
    states, commands = streams.states, streams.commands
    seconds = {
        key: (part.stamp_ns - last_ns) / 1e9
        for key, part in (("measured", states), ("command", commands))
    }
    shown = np.abs(seconds["measured"]) < _BEFORE_S
    joint = int(np.ptp(states.qpos_rad[shown], axis=0).argmax())
    curves = {
        "measured": np.degrees(states.qpos_rad[:, joint]),
        "command": np.degrees(commands.qpos_rad[:, joint]),
    }
    axes = _axes(seconds, curves)
    stops = [((stamp - last_ns) / 1e9, new, reason) for stamp, _, new, reason in edges]
    for i, (start, state, _) in enumerate(stops):
        end = stops[i + 1][0] if i + 1 < len(stops) else _AFTER_S
        if state in _COLOURS and end > -_BEFORE_S and start < _AFTER_S:
            axes.band(start, end, _COLOURS[state], state.upper())
    axes.grid("time since the last answer of the policy, s", f"{PANDA.joint_names[joint]}, deg")
    axes.curve(seconds["command"], curves["command"], _COMMAND, dashed=True)
    axes.curve(seconds["measured"], curves["measured"], _MEASURED)
    axes.legend(
        [("measured position", _MEASURED, False), ("what the guard commands", _COMMAND, True)], 20
    )
    title = "The policy is killed: the guard decelerates the arm, holds it, and stops"
    args.out.write_text(page(720, 360, title, [axes]), encoding="utf-8")
    for start, state, reason in stops:
        print(f"{start:8.3f} s  {state}: {reason}")


def _axes(seconds: dict[str, np.ndarray], curves: dict[str, np.ndarray]) -> Axes:
    """Axes around what is seen of all curves."""
    seen = np.concatenate(
        [curves[key][(times > -_BEFORE_S) & (times < _AFTER_S)] for key, times in seconds.items()]
    )
    low, high = float(np.nanmin(seen)), float(np.nanmax(seen))
    margin = 0.15 * (high - low)
    return Axes(
        left=64, top=56, width=640, height=250,
        x_range=(-_BEFORE_S, _AFTER_S), y_range=(low - margin, high + 2.0 * margin),
    )  # fmt: skip


def _undisturbed() -> tuple[list[list[Any]], Streams, int]:
    """A run in which nothing but the kill stops the arm; on a busy machine that takes some tries.

    Returns:
        The guard's changes of state, the streams of the bag, and the stamp of the last chunk, ns.
    """
    for _ in range(_TRIES):
        with tempfile.TemporaryDirectory() as name:
            edges = _run(Path(name))
            bag = read_bag(Path(name) / "bag")
            last_ns = int(bag.columns("/action_chunk").stamp_ns.max())
            begun = last_ns - 1.5e9 * _BEFORE_S
            if not any(begun < stamp < last_ns for stamp, *_ in edges):
                return edges, read_streams(bag, PANDA, None, None), last_ns
    raise SystemExit(f"the machine stopped the arm before the kill, {_TRIES} times; try later")


def _run(folder: Path) -> list[list[Any]]:
    """A run into ``folder / bag`` in which the policy is killed; the guard's changes of state."""
    with Graph(folder, private_domain_id()) as graph:
        common = {"robot": PANDA.name, "lockstep": False}
        topics = "joint_states,action_chunk,joint_command,episode"
        recorder = {"out": str(folder / "bag"), "wait_for": topics, "provenance": "{}"}
        graph.start("recorder", "realign_recorder.recorder_node", recorder)
        guard = {"auto_arm": True, "policy_rate_hz": 50.0, "realtime_priority": 22}
        summary = folder / "guard.json"
        graph.start(
            "guard", "realign_policy.guard_node", common | guard | {"summary_path": str(summary)}
        )
        policy = {"policy": str(panda_checkpoint()), "autostart": True, "realtime_priority": 20}
        victim = graph.start("policy", "realign_policy.policy_node", common | policy)
        driver = {
            "goals": 3,
            "seed": 4,
            "duration_s": _DURATION_S,
            "wait_for": "guard,policy,recorder",
            "progress": True,
            "realtime_priority": 21,
        }
        moving = graph.start("driver", "realign_mujoco_driver.driver_node", common | driver)
        assert moving.popen.stdout is not None
        for line in moving.popen.stdout:
            if line.startswith("progress") and float(line.split()[1]) >= _KILLED_AT_S:
                victim.popen.kill()
                break
        victim.popen.wait()
        graph.processes.remove(victim)  # its death is what this is about, and no fault of the run
        watch(graph, progress=False, description="the rest of the run")
    edges: list[list[Any]] = json.loads(summary.read_text())["transitions"]
    return edges


if __name__ == "__main__":
    main()
