"""Unitree driver against the emulated robot: rate, load, and what the robot sees of each death.

Run by `make bench`. The robot's side is a process of its own and writes down what every period of
2 ms brought, on the same steady clock as this script.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from robot_bench import Killing, Trace, bench_kills, percentiles, running

from policies.actor.config import ActionConfig, ActorConfig
from policies.actor.mlp import mlp_onnx
from policies.checkpoint import save_checkpoint
from policies.processors import TermConfig
from policies.robots.go2 import GO2
from sim2real.run_config import RunConfig

NOTHING, FOLLOW, DAMPING = range(3)
VICTIMS = ("policy", "guard", "node", "wire")


def stand_policy(folder: Path) -> Path:
    """A 50 Hz actor for the Go2 that stands: a network of the usual size whose answer is zero."""
    sizes = (30, 256, 128, GO2.n)
    rng = np.random.default_rng(0)
    weights = [rng.normal(0.0, 0.05, (b, a)).astype(np.float32) for a, b in pairwise(sizes)]
    weights[-1][:] = 0.0
    model = mlp_onnx(weights, [np.zeros(n, np.float32) for n in sizes[1:]])
    pose = dict(zip(GO2.joint_names, GO2.default_rad.tolist(), strict=True))
    config = ActorConfig(
        name="stand",
        robot=GO2.name,
        robot_fingerprint=GO2.fingerprint,
        rate_hz=50.0,
        action=ActionConfig(
            type="position_offset_from_default", joints=GO2.joint_names, scale=0.25
        ),
        hold_pose_rad={},
        observation=(
            TermConfig(term="base_ang_vel", scale=0.25),
            TermConfig(term="projected_gravity", scale=1.0),
            TermConfig(term="joint_pos", scale=1.0, joints=GO2.joint_names),
            TermConfig(term="joint_vel", scale=0.05, joints=GO2.joint_names),
        ),
        duration_s=None,
        start_pose_rad=pose,
    )
    save_checkpoint(folder / "stand", config, model)
    return folder / "stand"


def run_of(robot: str, policy: Path, seed: int, duration_s: float) -> RunConfig:
    """A run on the emulated robot."""
    return RunConfig(
        robot=robot, policy=policy, driver="unitree", seed=seed, duration_s=duration_s, goals=0
    )


def bench_rate(policy: Path, seconds: float) -> dict[str, Any]:
    """A Go2 that stands under a 50 Hz policy: gaps between commands, processor shares."""
    with running(run_of("go2", policy, 0, seconds + 2.0)) as robot:
        shares = robot.cpu_shares((*VICTIMS, "emulator"), seconds)
        robot.process("driver").popen.wait(30.0)
        trace = robot.end_emulator()
        ours, theirs = robot.summaries()
    return {
        "seconds": seconds,
        "gap_between_our_commands_ms": ours["command_gap_ms"],
        "gap_as_the_robot_saw_it_ms": theirs["command_gap_ms"],
        "robot_period_ms": percentiles(np.diff(trace["t_ns"]) / 1e6),
        "cpu_share_of_a_core": shares,
        "damaged": theirs["damaged"],
        "fell": theirs["fell"],
    }


def after_death(trace: Trace, killed_ns: int) -> dict[str, float]:
    """What the robot saw after a process died, ms since then.

    ``silence`` is the longest time without any command, ``held`` when the set-points moved for
    the last time, ``damping`` when they ended for good.
    """
    after = trace["t_ns"] > killed_ns
    t_ms = (trace["t_ns"][after] - killed_ns) / 1e6
    kind, moved = trace["kind"][after], trace["moved_rad"][after]
    following = np.flatnonzero(kind == FOLLOW)
    last = int(following[-1]) if len(following) else -1
    damping = np.flatnonzero(kind[last + 1 :] == DAMPING)
    moves = np.flatnonzero(moved[: last + 1] > 1e-6)
    heard = np.concatenate([[0.0], t_ms[kind != NOTHING]])
    return {
        "silence": float(np.diff(heard).max()),
        "held": float(t_ms[moves[-1]]) if len(moves) else 0.0,
        "damping": float(t_ms[last + 1 + damping[0]]) if len(damping) else float("inf"),
    }


KILLING = Killing(victims=VICTIMS, moving_s=0.5, within_s=0.5, watch_s=1.5, after_death=after_death)


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the rate run")
    parser.add_argument("--kills", type=int, default=1, help="times that each process is killed")
    parser.add_argument("--policy", type=Path, default=None, help="G1 checkpoint for the kills")
    parser.add_argument("--seed", type=int, default=0)
    given, _ = parser.parse_known_args()
    if importlib.util.find_spec("cyclonedds") is None:
        print("bench_unitree needs CycloneDDS: pip install 'realign[unitree]'")
        return
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        stand = stand_policy(Path(name))
        if given.seconds:
            results["rate"] = bench_rate(stand, given.seconds)
        if given.kills:
            robot, policy = ("g1", given.policy) if given.policy else ("go2", stand)
            run = partial(run_of, robot, policy, duration_s=30.0)
            results["kills_ms"] = bench_kills(KILLING, given.kills, given.seed, run)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
