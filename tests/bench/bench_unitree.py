"""Unitree driver against the emulated robot: rate, load, and what the robot sees of each death.

Run by `make bench`. The robot's side is a process of its own and writes down what every period of
2 ms brought, on the same steady clock as this script.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from policies.actor.config import ActionConfig, ActorConfig
from policies.actor.mlp import mlp_onnx
from policies.checkpoint import save_checkpoint
from policies.processors import TermConfig
from policies.robots.go2 import GO2
from sim2real.graph import Graph, Process, private_domain_id
from sim2real.run_unitree import start_unitree

NOTHING, FOLLOW, DAMPING = range(3)
VICTIMS = ("policy", "guard", "node", "wire")
TICK_HZ = os.sysconf("SC_CLK_TCK")


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


@dataclass
class Robot:
    """A running graph whose robot is emulated."""

    graph: Graph
    trace: Path

    def process(self, name: str) -> Process:
        """The process called ``name``."""
        return next(p for p in self.graph.processes if p.name == name)

    @property
    def wire_pid(self) -> int:
        """Process id of the driver's wire process."""
        pid = self.process("driver").popen.pid
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    def pid(self, victim: str) -> int:
        """Process id of one of :data:`VICTIMS`."""
        if victim == "wire":
            return self.wire_pid
        return self.process("driver" if victim == "node" else victim).popen.pid

    def wait_moving(self, seconds: float) -> None:
        """Wait until the robot has moved for ``seconds``."""
        stdout = self.process("driver").popen.stdout
        assert stdout is not None
        for line in stdout:
            if line.startswith("progress") and float(line.split()[1]) >= seconds:
                return
        raise RuntimeError((self.graph.folder / "driver.log").read_text())

    def end_emulator(self) -> dict[str, np.ndarray]:
        """End the emulator and read what it wrote down."""
        emulator = self.process("emulator").popen
        emulator.send_signal(signal.SIGINT)
        emulator.wait(10.0)
        with np.load(self.trace) as data:
            return {key: data[key] for key in data.files}


@contextlib.contextmanager
def running(
    folder: Path, robot: str, policy: Path, seed: int, duration_s: float
) -> Iterator[Robot]:
    """Emulator, driver, guard and policy, as `realign run --driver unitree` starts them."""
    trace = folder / "trace.npz"
    common = {"robot": robot, "lockstep": False}
    with Graph(folder, private_domain_id()) as graph:
        guard = {"auto_arm": True, "realtime_priority": 22, "policy_rate_hz": 50.0}
        graph.start("guard", "realign_policy.guard_node", common | guard)
        answers = {"policy": str(policy), "autostart": True, "realtime_priority": 20}
        graph.start("policy", "realign_policy.policy_node", common | answers)
        driver = {
            "duration_s": duration_s,
            "wait_for": "guard,policy",
            "progress": True,
            "realtime_priority": 21,
            "summary_path": str(folder / "driver.json"),
        }
        start_unitree(
            graph,
            robot=robot,
            policy=policy,
            network="",
            dds_domain=0,
            emulator={"seed": seed, "trace": trace},
            driver=driver,
        )
        yield Robot(graph, trace)


def cpu_s(pid: int) -> float:
    """Processor time that a process has used, s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK_HZ


def bench_rate(seconds: float) -> dict[str, Any]:
    """A Go2 that stands under a 50 Hz policy: gaps between commands, processor shares."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        policy = stand_policy(folder)
        with running(folder, "go2", policy, 0, seconds + 2.0) as robot:
            robot.wait_moving(0.5)
            pids = {name: robot.pid(name) for name in VICTIMS}
            pids["emulator"] = robot.process("emulator").popen.pid
            start, used = time.monotonic(), {n: cpu_s(pid) for n, pid in pids.items()}
            robot.wait_moving(0.5 + seconds)
            wall = time.monotonic() - start
            shares = {n: (cpu_s(pid) - used[n]) / wall for n, pid in pids.items()}
            robot.process("driver").popen.wait(30.0)
            trace = robot.end_emulator()
            ours = json.loads((folder / "driver.json").read_text())["command_gap_ms"]
            theirs = json.loads((folder / "emulator.json").read_text())
    late = np.diff(trace["t_ns"]) / 1e6
    return {
        "seconds": seconds,
        "gap_between_our_commands_ms": ours,
        "gap_as_the_robot_saw_it_ms": theirs["command_gap_ms"],
        "robot_period_ms": dict(zip(("p50", "p99", "max"), _percentiles(late), strict=True)),
        "cpu_share_of_a_core": shares,
        "damaged": theirs["damaged"],
        "fell": theirs["fell"],
    }


def _percentiles(values: np.ndarray) -> list[float]:
    return [float(np.percentile(values, q)) for q in (50, 99, 100)]


def after_death(trace: dict[str, np.ndarray], killed_ns: int) -> dict[str, float]:
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


def bench_kills(robot_name: str, policy: Path, kills: int, seed: int) -> dict[str, Any]:
    """kill -9 of each process in turn, while the robot moves."""
    rng = np.random.default_rng(seed)
    results: dict[str, Any] = {}
    for victim in VICTIMS:
        rows = []
        for k in range(kills):
            with (
                tempfile.TemporaryDirectory() as name,
                running(Path(name), robot_name, policy, k, 30.0) as robot,
            ):
                robot.wait_moving(0.5)
                time.sleep(rng.uniform(0.0, 0.5))
                pid, wire = robot.pid(victim), robot.wire_pid
                killed_ns = time.monotonic_ns()
                os.kill(pid, signal.SIGKILL)
                time.sleep(1.5)
                rows.append(after_death(robot.end_emulator(), killed_ns))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(wire, signal.SIGKILL)  # it would damp on until it misses the robot
            print(f"{victim}: {json.dumps(rows[-1])}", file=sys.stderr)
        results[victim] = {
            key: {
                "median": float(np.median([r[key] for r in rows])),
                "max": max(r[key] for r in rows),
            }
            for key in rows[0]
        }
    return results


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
    if given.seconds:
        results["rate"] = bench_rate(given.seconds)
    if given.kills:
        with tempfile.TemporaryDirectory() as name:
            robot, policy = ("g1", given.policy) if given.policy else ("go2", None)
            policy = policy or stand_policy(Path(name))
            results["kills_ms"] = bench_kills(robot, policy, given.kills, given.seed)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
