"""Serial driver against the emulated SO-101: bus cycles, lost replies, what the arm sees of deaths.

Run by `make bench`. The arm is a process of its own behind a pseudo terminal with the wire time of
1 Mbaud, and writes down what every moment brought, on the same steady clock as this script.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from robot_bench import Killing, Trace, bench_kills, percentiles

from policies.robots import SO101
from policies.runtime.scheduling import prefer_realtime
from sim2real.run_config import RunConfig
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
        "cycle_ms": percentiles(took),
        "rate_hz": len(took) / wall,
        "joint_states_hz": (len(whole) - 1) / wall,
        "longest_without_joint_states_ms": float(np.diff(whole).max() * 1e3),
        "incomplete_cycles": arm.incomplete,
        "replies_missing_share": statistics.missing / (statistics.missing + statistics.replies),
        "stopped": core.stopped_by.value,
    }


def after_death(trace: Trace, killed_ns: int) -> dict[str, float]:
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


KILLING = Killing(victims=VICTIMS, moving_s=1.0, within_s=1.0, watch_s=1.5, after_death=after_death)


def run_of(policy: Path, seed: int) -> RunConfig:
    """A policy on the emulated arm."""
    return RunConfig(
        robot=SO101.name, policy=policy, driver="serial", seed=seed, duration_s=30.0, goals=0
    )


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
        with tempfile.TemporaryDirectory() as name:
            swing = Path(name) / "swing"
            save_swing(swing, SO101, amplitude_rad=0.3, period_s=2.0)
            run = partial(run_of, swing)
            results["kills_ms"] = bench_kills(KILLING, given.kills, given.seed, run)
    if given.seconds:  # last: what is started from here on inherits the priority
        results["scheduling"] = prefer_realtime(21)
        for drop in (0.0, 0.01):
            for rate_hz in (None, SO101.state_rate_hz):
                name = f"drop {drop:.0%}, {'as fast as it goes' if rate_hz is None else '200 Hz'}"
                results[name] = bench_bus(given.seconds, drop, rate_hz)
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
