"""What the benches of the drivers share: a graph whose robot is emulated, and its deaths."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sim2real.graph import Graph, Process, private_domain_id
from sim2real.run_config import RunConfig
from sim2real.run_hardware import hardware

PERCENTILES = {"p50": 50, "p99": 99, "max": 100}
TICK_HZ = os.sysconf("SC_CLK_TCK")
_MORE_TRIES = 10
Trace = dict[str, np.ndarray]


@dataclass(frozen=True)
class Robot:
    """A running graph whose robot is emulated, and where that writes down what it sees."""

    graph: Graph
    trace: Path

    def process(self, name: str) -> Process:
        """The process called ``name``."""
        return next(p for p in self.graph.processes if p.name == name)

    @property
    def children(self) -> list[int]:
        """Process ids of what the driver has started; the one that moves the robot first."""
        pid = self.process("driver").popen.pid
        return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def pid(self, victim: str) -> int:
        """Process id of one of the graph's processes, or of the driver's own (wire, control)."""
        if victim in ("wire", "control"):
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
                raise RuntimeError(line.strip())
        raise RuntimeError((self.graph.folder / "driver.log").read_text())

    def end_emulator(self) -> Trace:
        """End the emulator and read what it wrote down."""
        emulator = self.process("emulator").popen
        emulator.send_signal(signal.SIGINT)
        emulator.wait(20.0)
        with np.load(self.trace) as data:
            return {key: data[key] for key in data.files}

    def cpu_shares(self, names: Sequence[str], seconds: float) -> dict[str, float]:
        """Shares of a core that processes use while the robot moves for ``seconds``."""
        self.wait_moving(0.5)
        pids = {name: self.pid(name) for name in names}
        start, used = time.monotonic(), {name: cpu_s(pid) for name, pid in pids.items()}
        self.wait_moving(0.5 + seconds)
        wall = time.monotonic() - start
        return {name: (cpu_s(pid) - used[name]) / wall for name, pid in pids.items()}

    def summaries(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """What driver and emulator say at their end."""
        folder = self.graph.folder
        ours, theirs = (
            json.loads((folder / f"{name}.json").read_text()) for name in ("driver", "emulator")
        )
        return ours, theirs


@contextlib.contextmanager
def running(config: RunConfig) -> Iterator[Robot]:
    """Emulator, driver, guard and policy, as `realign run` starts them."""
    common = {"robot": config.robot, "lockstep": False}
    with (
        tempfile.TemporaryDirectory() as name,
        Graph(Path(name), private_domain_id()) as graph,
    ):
        guard = {"auto_arm": True, "realtime_priority": 22, "policy_rate_hz": 50.0}
        graph.start("guard", "realign_policy.guard_node", common | guard)
        answers = {"policy": str(config.policy), "autostart": True, "realtime_priority": 20}
        graph.start("policy", "realign_policy.policy_node", common | answers)
        driver = {
            "duration_s": float(config.duration_s or 0.0),
            "wait_for": "guard,policy",
            "progress": True,
            "realtime_priority": 21,
            "summary_path": str(graph.folder / "driver.json"),
            "goals": config.goals,
            "goal_period_s": float(config.goal_period_s),
            "seed": config.seed,
        }
        trace = graph.folder / "trace.npz"
        hardware(config.driver).start(graph, config, driver, trace=trace)
        yield Robot(graph, trace)


def cpu_s(pid: int) -> float:
    """Processor time that a process has used, s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK_HZ


def percentiles(values: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Median, 99th percentile and maximum."""
    return {name: float(np.percentile(values, q)) for name, q in PERCENTILES.items()}


@dataclass(frozen=True, kw_only=True)
class Killing:
    """How processes are killed while a robot moves.

    Attributes:
        victims: names of the processes.
        moving_s: how long the robot has moved by then at least, s.
        within_s: random time after that, s.
        watch_s: how long the robot is watched then, s.
        after_death: what it saw, by name, ms since then: of its trace and the time of the kill, ns.
    """

    victims: Sequence[str]
    moving_s: float
    within_s: float
    watch_s: float
    after_death: Callable[[Trace, int], dict[str, float]]


def bench_kills(
    killing: Killing, kills: int, seed: int, config: Callable[[int], RunConfig]
) -> dict[str, Any]:
    """kill -9 of each process in turn, while the robot moves; medians and maxima.

    Args:
        killing: whom, when, and what to look at.
        kills: times that each is killed.
        seed: of the moments.
        config: the run of a kill, by its number.
    """
    rng = np.random.default_rng(seed)
    results: dict[str, Any] = {}
    for victim in killing.victims:
        rows: list[dict[str, float]] = []
        repeated = 0
        while len(rows) < kills and repeated < _MORE_TRIES + kills:
            wait_s = float(rng.uniform(0.0, killing.within_s))
            try:
                rows.append(_kill(killing, victim, wait_s, config(len(rows))))
            except RuntimeError as error:  # a starved host ended the run before anything was killed
                repeated += 1
                print(f"{victim}: again, {error}", file=sys.stderr)
                continue
            print(f"{victim}: {json.dumps(rows[-1])}", file=sys.stderr)
        columns = {key: [row[key] for row in rows] for key in rows[0]}
        results[victim] = {
            key: {"median": float(np.median(column)), "max": max(column)}
            for key, column in columns.items()
        } | {"kills": len(rows), "repeated": repeated}
    return results | {"load": os.getloadavg()[0]}


def _kill(killing: Killing, victim: str, wait_s: float, config: RunConfig) -> dict[str, float]:
    with running(config) as robot:
        robot.wait_moving(killing.moving_s)
        time.sleep(wait_s)
        pid, children = robot.pid(victim), robot.children
        killed_ns = time.monotonic_ns()
        os.kill(pid, signal.SIGKILL)
        time.sleep(killing.watch_s)
        row = killing.after_death(robot.end_emulator(), killed_ns)
        for child in children:  # which wait for a robot that has gone
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
    return row
