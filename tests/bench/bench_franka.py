"""Franka driver against the emulated control box: answered cycles, load, what each death does.

Run by `make bench`. The robot's side is a process of its own and writes down what every period of
1 ms brought, on the same steady clock as this script.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim2real.demo import panda_checkpoint
from sim2real.graph import Graph, Process, private_domain_id
from sim2real.run_franka import start_franka

MOVE = 2  # robot mode while a motion runs
VICTIMS = ("policy", "guard", "node", "control")
TICK_HZ = os.sysconf("SC_CLK_TCK")
STILL_RAD_S = 0.01

# 1 kHz by the clients themselves, in a process of their own, as the driver does it.
CLIENTS = {
    "pylibfranka": """
import sys, time, numpy as np
from policies.robots import get_robot
from policies.runtime.scheduling import prefer_realtime
from realign_franka_driver.core import DriverCore
from realign_franka_driver.fci import FrankaRobot
robot, core = FrankaRobot(sys.argv[1]), DriverCore(get_robot("panda"))
start = np.asarray(robot.read().q)
prefer_realtime(23)
core.on_command(start, time.monotonic_ns())
robot.begin()
core.begin(start, time.monotonic_ns())
used, begun, k = time.process_time(), time.monotonic(), 0
while (t := time.monotonic() - begun) < float(sys.argv[2]):
    state, k = robot.read(), k + 1
    now = time.monotonic_ns()
    if k % 5 == 0:
        core.on_command(start + 0.1 * (1.0 - np.cos(2.0 * t)), now)
    q, dq, last = (np.asarray(x) for x in (state.q, state.dq, state.tau_J_d))
    robot.write(core.torque(q, dq, robot.coriolis_nm(state), last, now))
print((time.process_time() - used) / t)
robot.robot.stop()
""",
    "franky": """
import sys, time, numpy as np, franky
from policies.runtime.scheduling import prefer_realtime
robot = franky.Robot(sys.argv[1], realtime_config=franky.RealtimeConfig.Ignore)
start, k = np.array(robot.state.q), np.array([600.0, 600, 600, 600, 250, 150, 50])
with franky.JointImpedanceTracker(robot, stiffness=k, period=0.005) as tracker:
    prefer_realtime(23)
    used, begun = time.process_time(), time.monotonic()
    while tracker.tick() and (t := time.monotonic() - begun) < float(sys.argv[2]):
        tracker.set_target(start + 0.1 * (1.0 - np.cos(2.0 * t)))
    print((time.process_time() - used) / t, flush=True)
""",
}


@dataclass
class Robot:
    """A running graph whose robot is emulated."""

    graph: Graph
    trace: Path

    def process(self, name: str) -> Process:
        """The process called ``name``."""
        return next(p for p in self.graph.processes if p.name == name)

    @property
    def children(self) -> list[int]:
        """Process ids of the driver's control process and of its hand's."""
        pid = self.process("driver").popen.pid
        return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def pid(self, victim: str) -> int:
        """Process id of one of :data:`VICTIMS`."""
        if victim == "control":
            return self.children[0]
        return self.process("driver" if victim == "node" else victim).popen.pid

    def wait_moving(self, seconds: float) -> None:
        """Wait until the robot has moved for ``seconds``."""
        stdout = self.process("driver").popen.stdout
        assert stdout is not None
        for line in stdout:
            if line.startswith("progress") and float(line.split()[1]) >= seconds:
                return
            if line.startswith("fault"):
                break
        raise RuntimeError(line)

    def end_emulator(self) -> dict[str, np.ndarray]:
        """End the emulator and read what it wrote down."""
        emulator = self.process("emulator").popen
        emulator.send_signal(signal.SIGINT)
        emulator.wait(10.0)
        with np.load(self.trace) as data:
            return {key: data[key] for key in data.files}


@contextlib.contextmanager
def running(folder: Path, seed: int, duration_s: float) -> Iterator[Robot]:
    """Emulator, driver, guard and the demo's policy, as `realign run --driver franka` has them."""
    trace, policy = folder / "trace.npz", panda_checkpoint()
    common = {"robot": "panda", "lockstep": False}
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
            "goals": 8,
            "goal_period_s": 2.0,
            "seed": seed,
        }
        start_franka(
            graph,
            robot="panda",
            policy=policy,
            network="",
            emulator={"seed": seed, "trace": trace},
            driver=driver,
        )
        yield Robot(graph, trace)


def cpu_s(pid: int) -> float:
    """Processor time that a process has used, s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK_HZ


def bench_path(seconds: float) -> dict[str, Any]:
    """The demo's policy, guard, driver and FCI: answered cycles, reflexes, processor shares."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running(folder, 0, seconds + 1.0) as robot:
            robot.wait_moving(0.5)
            pids = {name: robot.pid(name) for name in VICTIMS}
            pids["emulator"] = robot.process("emulator").popen.pid
            start, used = time.monotonic(), {n: cpu_s(pid) for n, pid in pids.items()}
            robot.wait_moving(0.5 + seconds)
            wall = time.monotonic() - start
            shares = {n: (cpu_s(pid) - used[n]) / wall for n, pid in pids.items()}
            robot.process("driver").popen.wait(30.0)
            trace = robot.end_emulator()
            ours = json.loads((folder / "driver.json").read_text())
            theirs = json.loads((folder / "emulator.json").read_text())
    late = np.diff(trace["t_ns"]) / 1e6
    return {
        "seconds": seconds,
        "cycles": theirs["moving_ticks"],
        "answered": theirs["answered"] / theirs["moving_ticks"],
        "reflexes": theirs["reflexes"],
        "cycle_us": ours["cycle_us"],
        "robot_period_ms": {q: float(np.percentile(late, p)) for q, p in PERCENTILES.items()},
        "cpu_share_of_a_core": shares,
        "load": os.getloadavg()[0],
    }


PERCENTILES = {"p50": 50, "p99": 99, "max": 100}


def bench_client(client: str, seconds: float) -> dict[str, Any]:
    """Torques at 1 kHz by one client alone: answered cycles and processor share."""
    address = f"127.3.{os.getpid() % 250}.{1 + list(CLIENTS).index(client)}"
    with tempfile.TemporaryDirectory() as name:
        summary = Path(name) / "seen.json"
        words = ["--robot", "panda", "--address", address, "--summary", str(summary)]
        module = [sys.executable, "-m", "realign_franka_driver.emulator"]
        with subprocess.Popen([*module, *words, "--realtime-priority", "24"]) as robot:
            for _ in range(20):  # it may still be starting
                time.sleep(1.0)
                words = [sys.executable, "-c", CLIENTS[client], address, str(seconds)]
                done = subprocess.run(words, capture_output=True, text=True, check=False)
                if done.stdout.strip():
                    break
            robot.send_signal(signal.SIGINT)
            robot.wait(10.0)
        seen = json.loads(summary.read_text())
    return {
        "cycles": seen["moving_ticks"],
        "answered": seen["answered"] / max(seen["moving_ticks"], 1),
        "reflexes": seen["reflexes"],
        "cpu_share_of_a_core": float(done.stdout),
        "load": os.getloadavg()[0],
    }


def after_death(trace: dict[str, np.ndarray], killed_ns: int) -> dict[str, float]:
    """What the robot saw after a process died, ms since then.

    ``silence`` is the longest time without any command while the motion went on, ``stands`` when
    the arm moved for the last time, ``ended`` when the motion was over (inf: it went on).
    """
    after = trace["t_ns"] > killed_ns
    t_ms = (trace["t_ns"][after] - killed_ns) / 1e6
    moving = trace["mode"][after] == MOVE
    fast = np.flatnonzero(trace["speed_rad_s"][after] > STILL_RAD_S)
    over = np.flatnonzero(~moving)
    heard = np.concatenate([[0.0], t_ms[trace["answered"][after] & moving]])
    end = float(t_ms[over[0]]) if len(over) else float("inf")
    last = np.append(heard, min(end, float(t_ms[-1])))
    return {
        "silence": float(np.diff(last).max()),
        "stands": float(t_ms[fast[-1]]) if len(fast) else 0.0,
        "ended": end,
    }


def bench_kills(kills: int, seed: int) -> dict[str, Any]:
    """kill -9 of each process in turn, while the arm moves."""
    rng = np.random.default_rng(seed)
    results: dict[str, Any] = {}
    for victim in VICTIMS:
        rows, starved = [], 0
        while len(rows) < kills and starved < 10 + kills:
            try:
                rows.append(_kill(victim, len(rows), float(rng.uniform(0.0, 0.4))))
            except RuntimeError as error:  # the host took 20 ms before anything was killed
                starved += 1
                print(f"{victim}: again, {error}", file=sys.stderr)
                continue
            print(f"{victim}: {json.dumps(rows[-1])}", file=sys.stderr)
        results[victim] = {
            key: {
                "median": float(np.median([r[key] for r in rows])),
                "max": max(r[key] for r in rows),
            }
            for key in rows[0]
        } | {"kills": len(rows), "repeated": starved}
    return results | {"load": os.getloadavg()[0]}


def _kill(victim: str, seed: int, wait_s: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name, running(Path(name), seed, 30.0) as robot:
        robot.wait_moving(0.4)
        time.sleep(wait_s)
        pid, children = robot.pid(victim), robot.children
        killed_ns = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        time.sleep(2.0)
        row = after_death(robot.end_emulator(), killed_ns)
        for child in children:  # which wait for a robot that has gone
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    return row


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of each rate run")
    parser.add_argument("--kills", type=int, default=1, help="times that each process is killed")
    parser.add_argument("--seed", type=int, default=0)
    given, _ = parser.parse_known_args()
    if any(importlib.util.find_spec(name) is None for name in CLIENTS):
        print("bench_franka needs two clients: pip install 'realign[franka]'")
        return
    results: dict[str, Any] = {}
    if given.seconds:
        results["path"] = bench_path(given.seconds)
        results["clients"] = {name: bench_client(name, given.seconds) for name in CLIENTS}
    if given.kills:
        results["kills_ms"] = bench_kills(given.kills, given.seed)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
