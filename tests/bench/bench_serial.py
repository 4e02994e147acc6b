"""Serial driver against the emulated SO-101: bus cycles, lost replies, what the arm sees of deaths.

Run by `make bench`. The arm is a process of its own behind a pseudo terminal with the wire time of
1 Mbaud, and writes down what every moment brought, on the same steady clock as this script.
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
from pathlib import Path
from typing import Any

import numpy as np

from policies.robots import SO101
from policies.runtime.scheduling import prefer_realtime
from sim2real.graph import Graph, private_domain_id
from sim2real.run_serial import start_serial
from sim2real.tasks.swing import save_swing

VICTIMS = ("policy", "guard", "driver")
BAUD = 1_000_000
_STILL_RAD_S = 0.05


@contextlib.contextmanager
def emulated(folder: Path, faults: str) -> Iterator[tuple[str, Path]]:
    """A running emulator: its port and calibration."""
    link, calibration = folder / "port", folder / "calibration.json"
    words = ["arm", "--link", str(link), "--calibration", str(calibration), "--faults", faults]
    words += ["--realtime-priority", "22"]
    process = subprocess.Popen([sys.executable, "-m", "realign_serial_driver.emulator", *words])
    try:
        while not link.is_symlink():
            time.sleep(0.02)
        yield str(link), calibration
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20.0)


def bench_bus(seconds: float, drop: float, rate_hz: float | None) -> dict[str, Any]:
    """Cycles of six servos, one after the other or on a grid: read all, tell all."""
    from realign_serial_driver.arm import Arm
    from realign_serial_driver.arm_calibration import load_calibration
    from realign_serial_driver.bus import Bus
    from realign_serial_driver.core import ArmCore
    from realign_serial_driver.port import open_port

    took: list[float] = []
    with (
        tempfile.TemporaryDirectory() as name,
        emulated(Path(name), f"drop={drop}" if drop else "") as (port, path),
    ):
        calibration = load_calibration(path, SO101)
        arm = Arm(SO101, Bus(open_port(port, BAUD)), calibration)
        arm.greet()
        core = ArmCore(SO101, calibration.limits_rad(SO101))
        start = deadline = time.monotonic()
        whole = [start]
        while time.monotonic() - start < seconds:
            begin = time.monotonic()
            swing = 0.2 * np.sin(begin - start)
            core.on_command(SO101.default_rad + swing, time.monotonic_ns())
            reading = arm.cycle(core)
            took.append((time.monotonic() - begin) * 1e3)
            if reading is not None:
                whole.append(time.monotonic())
            if rate_hz is not None:
                deadline = max(deadline + 1.0 / rate_hz, time.monotonic() - 1.0 / rate_hz)
                time.sleep(max(deadline - time.monotonic(), 0.0))
        wall = time.monotonic() - start
        statistics = arm.bus.statistics
        arm.bus.close()
    return {
        "cycle_ms": _percentiles(took),
        "rate_hz": len(took) / wall,
        "joint_states_hz": (len(whole) - 1) / wall,
        "longest_without_joint_states_ms": float(np.diff(whole).max() * 1e3),
        "incomplete_cycles": arm.incomplete,
        "replies_missing_share": statistics.missing / (statistics.missing + statistics.replies),
        "stopped": core.stopped_by.value,
    }


def _percentiles(values: list[float]) -> dict[str, float]:
    return {name: float(np.percentile(values, q)) for name, q in (("p50", 50), ("p99", 99))} | {
        "max": float(max(values))
    }


@contextlib.contextmanager
def running(folder: Path, policy: Path, seed: int) -> Iterator[Graph]:
    """Emulator, driver, guard and policy, as `realign run --driver serial` starts them."""
    common = {"robot": SO101.name, "lockstep": False}
    with Graph(folder, private_domain_id()) as graph:
        guard = {"auto_arm": True, "realtime_priority": 22, "policy_rate_hz": 50.0}
        graph.start("guard", "realign_policy.guard_node", common | guard)
        answers = {"policy": str(policy), "autostart": True, "realtime_priority": 20}
        graph.start("policy", "realign_policy.policy_node", common | answers)
        driver = {
            "duration_s": 30.0,
            "wait_for": "guard,policy",
            "progress": True,
            "realtime_priority": 21,
            "summary_path": str(folder / "driver.json"),
        }
        start_serial(
            graph,
            robot=SO101.name,
            policy=policy,
            port="",
            emulator={"seed": seed, "trace": folder / "trace.npz"},
            driver=driver,
        )
        yield graph


def wait_moving(graph: Graph, seconds: float) -> None:
    """Wait until the arm has moved for ``seconds``."""
    stdout = next(p for p in graph.processes if p.name == "driver").popen.stdout
    assert stdout is not None
    for line in stdout:
        if line.startswith("progress") and float(line.split()[1]) >= seconds:
            return
    raise RuntimeError((graph.folder / "driver.log").read_text())


def after_death(trace: dict[str, np.ndarray], killed_ns: int) -> dict[str, float]:
    """What the arm saw after a process died, ms since then.

    ``last_write``: the last thing that it was told; ``goals_rest``: when a goal moved for the last
    time; ``arm_rests``: when the arm itself was slower than 0.05 rad/s for good; ``torque_lost``:
    share of the time in which not all servos held.
    """
    after = trace["t_ns"] > killed_ns
    t_ms = (trace["t_ns"][after] - killed_ns) / 1e6
    written = np.flatnonzero(trace["written"][after])
    moves = np.flatnonzero(trace["moved_rad"][after] > 1e-6)
    fast = np.flatnonzero(trace["speed_rad_s"][after] > _STILL_RAD_S)
    at = lambda rows: float(t_ms[rows[-1]]) if len(rows) else 0.0  # noqa: E731
    return {
        "last_write": at(written),
        "goals_rest": at(moves),
        "arm_rests": at(fast),
        "torque_lost": 1.0 - float(trace["torque"][after].mean()),
    }


def bench_kills(kills: int, seed: int) -> dict[str, Any]:
    """kill -9 of each process in turn, while the arm swings."""
    rng = np.random.default_rng(seed)
    results: dict[str, Any] = {}
    for victim in VICTIMS:
        rows = []
        for k in range(kills):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                save_swing(folder / "swing", SO101, amplitude_rad=0.3, period_s=2.0)
                with running(folder, folder / "swing", k) as graph:
                    wait_moving(graph, 1.0)
                    time.sleep(rng.uniform(0.0, 1.0))
                    popen = next(p for p in graph.processes if p.name == victim).popen
                    killed_ns = time.monotonic_ns()
                    os.kill(popen.pid, signal.SIGKILL)
                    time.sleep(1.5)
                    arm = next(p for p in graph.processes if p.name == "emulator").popen
                    arm.send_signal(signal.SIGINT)
                    arm.wait(20.0)
                    with np.load(folder / "trace.npz") as data:
                        rows.append(after_death({key: data[key] for key in data.files}, killed_ns))
            print(f"{victim}: {json.dumps(rows[-1])}", file=sys.stderr)
        results[victim] = {
            key: {"median": float(np.median([r[key] for r in rows])), "max": max(column)}
            for key in rows[0]
            if (column := [r[key] for r in rows])
        }
    return results


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of each run of the bus")
    parser.add_argument("--kills", type=int, default=1, help="times that each process is killed")
    parser.add_argument("--seed", type=int, default=0)
    given, _ = parser.parse_known_args()
    if importlib.util.find_spec("serial") is None:
        print("bench_serial needs pyserial: pip install 'realign[serial]'")
        return
    results: dict[str, Any] = {}
    if given.kills:
        results["kills_ms"] = bench_kills(given.kills, given.seed)
    if given.seconds:  # last: what is started from here on inherits the priority
        results["scheduling"] = prefer_realtime(21)
        for drop in (0.0, 0.01):
            for rate_hz in (None, SO101.state_rate_hz):
                name = f"drop {drop:.0%}, {'as fast as it goes' if rate_hz is None else '200 Hz'}"
                results[name] = bench_bus(given.seconds, drop, rate_hz)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
