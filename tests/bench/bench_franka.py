"""Franka driver against the emulated control box: answered cycles, load, what each death does.

Run by `make bench`. The robot's side is a process of its own and writes down what every period of
1 ms brought, on the same steady clock as this script.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from robot_bench import Killing, Trace, bench_kills, percentiles, running

from sim2real.demo import panda_checkpoint
from sim2real.run_config import RunConfig

MOVE = 2  # robot mode while a motion runs
VICTIMS = ("policy", "guard", "node", "control")
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


def run_of(seed: int, duration_s: float = 30.0) -> RunConfig:
    """The demo's policy on the emulated arm."""
    return RunConfig(
        robot="panda",
        policy=panda_checkpoint(),
        driver="franka",
        seed=seed,
        duration_s=duration_s,
        goals=8,
        goal_period_s=2.0,
    )


def bench_path(seconds: float) -> dict[str, Any]:
    """The demo's policy, guard, driver and FCI: answered cycles, reflexes, processor shares."""
    with running(run_of(0, seconds + 1.0)) as robot:
        shares = robot.cpu_shares((*VICTIMS, "emulator"), seconds)
        robot.process("driver").popen.wait(30.0)
        trace = robot.end_emulator()
        ours, theirs = robot.summaries()
    return {
        "seconds": seconds,
        "cycles": theirs["moving_ticks"],
        "answered": theirs["answered"] / theirs["moving_ticks"],
        "reflexes": theirs["reflexes"],
        "cycle_us": ours["cycle_us"],
        "robot_period_ms": percentiles(np.diff(trace["t_ns"]) / 1e6),
        "cpu_share_of_a_core": shares,
        "load": os.getloadavg()[0],
    }


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


def after_death(trace: Trace, killed_ns: int) -> dict[str, float]:
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


KILLING = Killing(victims=VICTIMS, moving_s=0.4, within_s=0.4, watch_s=2.0, after_death=after_death)


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
        results["kills_ms"] = bench_kills(KILLING, given.kills, given.seed, run_of)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
