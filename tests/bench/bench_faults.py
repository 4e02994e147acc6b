"""Figures of the fault table: reaction of the guard, silence, soak, determinism.

    python tests/bench/bench_faults.py                      # a minute
    python tests/bench/bench_faults.py --kills 200          # kill -9 of the policy
    python tests/bench/bench_faults.py --only soak --soak-minutes 30 --robot g1 --policy CHECKPOINT

Robot time is exact; wall times are those of the machine, and of what else it does.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from policies import messages as wire
from policies.checkpoint import load_policy
from policies.interface import ActionChunk, RobotSpec
from policies.robots import PANDA, get_robot
from policies.runtime.fault import State
from policies.runtime.guard import Guard
from policies.runtime.guard_config import GuardConfig
from sim2real.graph import private_domain_id, ros_environment
from sim2real.shared_memory import find_leftovers
from sim2real.testing.determinism import bag_content, differences

REPO = Path(__file__).resolve().parents[2]
CHECKPOINT = REPO / "policies/checkpoints/panda_reach"
MS = 1_000_000


def load(path: Path) -> ModuleType:
    """A module of the tests, which are no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def bench_reaction(chunks: int) -> str:
    """Random chunks and events; then the time that a refusal and a command take."""
    fuzz = load(REPO / "tests/faults/test_fuzz_guard.py")
    bench = fuzz.drive(PANDA, 3, chunks)
    guard = Guard(PANDA, GuardConfig(refusals_per_s=10**6))
    now = 10**10
    guard.on_state(now, now, PANDA.default_rad, np.zeros(PANDA.n))
    guard.arm(now)
    rows = np.tile(PANDA.default_rad, (8, 1))
    guard.on_chunk(ActionChunk(stamp_ns=now, dt_s=0.02, positions_rad=rows), now)
    assert guard.state is State.ACTIVE
    bad = ActionChunk(stamp_ns=now, dt_s=0.02, positions_rad=rows * np.nan)
    refuse, tick = [], []
    for _ in range(2000):
        start = time.perf_counter()
        guard.on_chunk(bad, now)
        refuse.append(time.perf_counter() - start)
        start = time.perf_counter()
        guard.tick(now)
        tick.append(time.perf_counter() - start)
    return (
        f"{bench.chunks} chunks, {bench.commands} commands checked, 0 unsafe; a refusal takes "
        f"{1e6 * np.median(refuse):.0f} us, a command {1e6 * np.median(tick):.0f} us (medians)"
    )


@contextmanager
def open_graph() -> Iterator[Any]:
    """A live graph of the tests, on a domain of its own."""
    live_graph = load(REPO / "tests/faults/live_graph.py")
    domain = private_domain_id()
    os.environ.update(ros_environment(domain))
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=domain)
    with tempfile.TemporaryDirectory() as folder:
        live = live_graph.LiveGraph(Path(folder), domain, context)
        try:
            yield live
        finally:
            live.close()
            context.try_shutdown()
            find_leftovers(remove=True)


def bench_silence(kills: int) -> str:
    """kill -9 of the policy in real time, with the default thresholds of the guard.

    Every kill counts, also one after which the guard stops for a reason of the machine first. One
    that meets a robot which stands already measures nothing and is repeated.
    """
    stops: list[Any] = []
    after_kill, repeated = [], 0
    rng = np.random.default_rng(0)
    with open_graph() as live:
        live.start_guard(rate_hz=200.0, silence_periods=2.0, realtime_priority=22)
        live.start_policy()
        live.start_driver(duration_s=60.0 + 10.0 * kills)
        while len(stops) < kills:
            live.wait_moving()
            time.sleep(rng.uniform(0.2, 0.6))
            since = live.kill("policy")
            live.wait(lambda: live.guard_state() == "damp", "a robot that stands")
            stop = live.first_stop(since)
            if stop is None or stop.old != "active":
                repeated += 1
            else:
                stops.append(stop)
                after_kill.append(stop.time_s - since)
            live.start_policy()
            if len(stops) % 20 == 0:
                print(f"{len(stops)} of {kills} kills", file=sys.stderr, flush=True)
    ms = 1e3 * np.array(after_kill)
    reasons = Counter(stop.reason for stop in stops)
    return (
        f"{kills} kills: kill -> HOLD p50 {np.median(ms):.1f}, p99 {np.percentile(ms, 99):.1f}, "
        f"max {ms.max():.1f} ms; the threshold is 40 ms from the last chunk on, which was up to "
        f"20 ms before, and a guard period is 5 ms; stopped for "
        f"{', '.join(f'{reason} {n}' for reason, n in reasons.items())}; {repeated} repeated"
    )


def start_soak(live: Any, robot: str, policy: Path) -> None:
    """Guard, policy and driver in lockstep, for longer than anybody waits."""
    common = {"robot": robot, "lockstep": True}
    spec = load_policy(policy, get_robot(robot)).spec
    guard = {"auto_arm": True, "policy_rate_hz": float(spec.rate_hz)}
    live.graph.start("guard", "realign_policy.guard_node", common | guard)
    answers = {"policy": str(policy), "autostart": True}
    live.graph.start("policy", "realign_policy.policy_node", common | answers)
    goals = {"goals": 1, "goal_period_s": 1e6} if "goal" in spec.needs else {}
    driver = {"policy": str(policy), "duration_s": 1e6, "wait_for": "guard,policy", **goals}
    live.graph.start("driver", "realign_mujoco_driver.driver_node", common | driver)


# What a peer does, and how often: a stop that is asked for at every turn leaves nothing to soak.
MISCHIEF = {"nan": 0.2, "gross": 0.2, "shape": 0.2, "stale": 0.17, "names": 0.17}
STOPS = {"estop": 0.04, "second_commander": 0.02}


def misbehave(live: Any, robot: RobotSpec, publisher: Any, rng: np.random.Generator) -> str:
    """Do one thing that a peer may do; says what."""
    chances = MISCHIEF | STOPS
    what = str(rng.choice(list(chances), p=list(chances.values())))
    if what == "estop":
        live.call("estop")
        return what
    if what == "second_commander":
        other = live.node.create_publisher(JointTrajectory, "joint_command", 10)
        live.wait(lambda: live.guard_state() != "active", "an end of two masters", 30.0)
        live.node.destroy_publisher(other)
        return what
    rows = np.full((3, robot.n + (what == "shape")), {"nan": np.nan, "gross": 1e4}.get(what, 0.0))
    names = [f"x{k}" if what == "names" else n for k, n in enumerate(robot.joint_names)]
    late = 10**9 if what == "stale" else 0
    stamp = max(wire.stamp_to_ns(live.state.header.stamp) - late, 0)
    message = wire.fill_trajectory(
        JointTrajectory(),
        JointTrajectoryPoint,
        stamp_ns=stamp,
        names=names,
        dt_s=0.02,
        positions_rad=rows,
    )
    for _ in range(int(rng.integers(1, 5))):
        publisher.publish(message)
    return what


class Operator:
    """Brings a robot that was stopped back to its start, and its policy too."""

    def __init__(self, live: Any) -> None:
        self.live = live
        node = live.node
        self._lift = node.create_client(Trigger, "/mujoco_driver/stand_up")
        self._lifecycle = node.create_client(ChangeState, "/policy/change_state")

    def restart(self) -> None:
        """Hang the robot up, start the policy anew, reset the guard and arm it."""
        self._call(self._lift, Trigger.Request())
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
            self._call(self._lifecycle, ChangeState.Request(transition=Transition(id=transition)))
        self.live.call("reset")
        # Refused while the guard still counts a commander that has just left.
        self.live.wait(lambda: self.live.call("arm").success, "a guard that can be armed")

    def _call(self, client: Any, request: Any) -> None:
        self.live.wait(client.service_is_ready, client.srv_name)
        future = client.call_async(request)
        self.live.wait(future.done, client.srv_name)
        assert future.result().success, client.srv_name


def megabytes(pid: int) -> float:
    """Resident memory of a process, MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return math.nan


def bench_soak(minutes: float, robot_name: str, policy: Path) -> str:
    """A graph in lockstep under random faults: memory of each process, and that none ends."""
    robot, rng = get_robot(robot_name), np.random.default_rng(0)
    sizes: list[list[float]] = []
    done: Counter[str] = Counter()
    states: Counter[str] = Counter()
    with open_graph() as live:
        start_soak(live, robot_name, policy)
        operator = Operator(live)
        live.wait(lambda: live.state and live.guard_state() == "active", "a moving robot", 60.0)
        end = time.monotonic() + 60.0 * minutes
        with live.publisher(JointTrajectory, "action_chunk") as publisher:
            while time.monotonic() < end:
                states[live.guard_state()] += 1
                done[misbehave(live, robot, publisher, rng)] += 1
                time.sleep(rng.uniform(0.5, 3.0))
                if live.guard_state() == "damp":
                    operator.restart()
                    live.wait(lambda: live.guard_state() == "active", "a robot that moves again")
                sizes.append([megabytes(p.popen.pid) for p in live.graph.processes])
                assert live.graph.dead() is None, live.graph.dead()
        names = [p.name for p in live.graph.processes]
        stops = Counter(edge.reason for edge in live.edges() if edge.new == "damp")
        stamp_s = live.state.header.stamp.sec
    assert states["active"] > 0.5 * states.total(), states
    fifth = max(len(sizes) // 5, 1)
    first, last = np.median(sizes[fifth : 2 * fifth], axis=0), np.median(sizes[-fifth:], axis=0)
    growth = ", ".join(
        f"{name} {b:.0f} MB ({100 * (b / a - 1):+.2f} %)"
        for name, a, b in zip(names, first, last, strict=True)
    )
    return (
        f"{robot_name}, {minutes:g} min, {stamp_s} s of robot time, {done.total()} faults "
        f"{dict(done)}, {stops.total()} stops {dict(stops)}, each followed by a restart: no "
        f"process ended; memory from the second to the last fifth: {growth}"
    )


def bench_determinism(robot: str, policy: Path) -> str:
    """Two runs of one seed and the same faults: what is in the bags, byte by byte."""
    record = load(REPO / "tests/faults/faulty_run.py").record_faulty_run
    contents, edges = [], []
    for _ in range(2):
        with tempfile.TemporaryDirectory() as folder:
            options = {"seed": 3, "duration_s": 2.0}
            edges.append(record(Path(folder), private_domain_id(), robot, policy, **options))
            hold_ns = next(stamp for stamp, _, new, _ in edges[-1] if new == "hold")
            held = {"/action_chunk": hold_ns}
            contents.append(bag_content(Path(folder) / "bag", until_ns=held))
    different = differences(*contents) + ["changes of state"] * (edges[0] != edges[1])
    messages = {k: part for k, part in contents[0].items() if k.startswith("messages ") and part}
    topics = [name.split()[1] for name in messages]
    size = sum(len(part) for part in contents[0].values())
    return (
        f"{robot}, chunks lost and repeated by a relay, NaN for 0.1 s: "
        f"{'; '.join(different) if different else 'no byte differs'} out of {size} of "
        f"{', '.join(topics)}, schemas, channels, provenance and the changes of the guard's state"
    )


def main() -> None:
    """Run all parts and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--only", choices=["reaction", "silence", "determinism", "soak"])
    parser.add_argument("--soak-minutes", type=float, default=0.3)
    parser.add_argument("--robot", default="panda")
    parser.add_argument("--policy", type=Path, default=CHECKPOINT)
    args = parser.parse_args()
    parts = {
        "reaction": lambda: bench_reaction(args.chunks),
        "silence": lambda: bench_silence(args.kills),
        "determinism": lambda: bench_determinism(args.robot, args.policy),
        "soak": lambda: bench_soak(args.soak_minutes, args.robot, args.policy),
    }
    for name, bench in parts.items():
        if args.only in (None, name) and (name != "soak" or args.soak_minutes > 0):
            print(f"{name}:", bench(), flush=True)


if __name__ == "__main__":
    main()
