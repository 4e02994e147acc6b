"""Slow and served policies: the command stream under a 200 ms model, the wire, lateness of ticks.

``python tests/bench/bench_serving.py`` (minutes; ``--only stream|wire|told|lateness``). The reach
policy of the first part plans half a second ahead, unlike the demo's; it is trained first. ``told``
needs a policy that reads instructions, ``--told DIR``.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from policies.checkpoint import inspect, load_policy
from policies.diffusion.checkpoint import save_chunk_model
from policies.diffusion.chunk_policy import bind_robot
from policies.diffusion.interface import CameraSpec, ChunkSpec, Window, blank_window
from policies.expert.reach import ReachExpert
from policies.robots import PANDA
from policies.runtime.inference import ThreadedInference
from policies.serving.client import RemoteConfig, RemoteModel, open_session
from policies.serving.protocol import Served, dump_question
from policies.serving.server import PolicyServer, ServeConfig
from sim2real.bags.reader import read_bag
from sim2real.run import run
from sim2real.run_config import RunConfig
from sim2real.serve_cli import local_policy
from sim2real.sim.kinematics import Kinematics
from sim2real.tasks.reach import sample_goals, sample_solved_goals
from sim2real.tasks.train_reach import CollectConfig, near_goals, roll_out
from sim2real.tasks.train_reach_flow import NETWORK, reach_spec

HORIZON, ACTION_HORIZON = 24, 8
GOALS, GOAL_PERIOD_S = 5, 4.0
SLOW_MS = 200.0


# ---- the command stream ------------------------------------------------------------------------


def train_long(out: Path, steps: int = 4000) -> None:
    """The demo's reach policy with plans of half a second."""
    from policies.diffusion.export import export_onnx
    from policies.diffusion.trainer import TrainConfig, train_windows
    from policies.diffusion.windows import Windows

    spec = dataclasses.replace(
        reach_spec(PANDA, "panda_reach_long"),
        prediction_horizon=HORIZON,
        action_horizon=ACTION_HORIZON,
    )
    config = CollectConfig(goals=600, episodes=120)
    rng = np.random.default_rng(0)
    expert = ReachExpert(PANDA)
    goals, poses = sample_solved_goals(Kinematics(PANDA), config.goals, rng)
    visited, own = roll_out(PANDA, expert, poses, config)
    other = rng.integers(len(goals), size=len(own))
    parts = [(visited, own), (visited, other), near_goals(PANDA, expert, poses, visited, config)]
    states, plans = [], []
    for seen, goal in parts:
        sag = expert.sag(seen.command_rad, seen.qpos_rad, seen.qvel_rad_s)
        plans.append(
            expert.plan(poses[goal], seen.command_rad, seen.command_vel_rad_s, sag, HORIZON)
        )
        states.append(seen.vectors(PANDA, goals[goal]))
    state = np.concatenate(states)
    state[:, : PANDA.n] += PANDA.default_rad
    training = TrainConfig(
        kind="flow",
        name=spec.name,
        network=NETWORK,
        observation_horizon=1,
        prediction_horizon=HORIZON,
        action_horizon=ACTION_HORIZON,
        normalisation="gaussian",
        steps=steps,
        batch=512,
        learning_rate=2e-3,
    )
    windows = Windows.of_plans(state, np.concatenate(plans), training.normalisation)
    binding = bind_robot(spec.state_names, spec.action_names, state.mean(axis=0), PANDA)
    trained = train_windows(windows, spec, training, robot=binding)
    save_chunk_model(out, trained.config, export_onnx(trained.config, trained.network))


class SlowModel:
    """A model that takes its time."""

    def __init__(self, model, slow_s):
        self.model, self.slow_s = model, slow_s
        self.spec, self.robot, self.network_calls = model.spec, model.robot, 0

    def reset(self, seed, batch=1):
        self.model.reset(seed, batch)

    def sample(self, window, *, executed=0, prefix=None):
        start = time.perf_counter()
        actions = self.model.sample(window, executed=executed, prefix=prefix)
        time.sleep(max(self.slow_s - (time.perf_counter() - start), 0.0))
        return actions


def serve_slowly(checkpoint: Path, slow_ms: float) -> None:
    """What the server's process does."""
    policy = load_policy(checkpoint, PANDA)
    model = SlowModel(policy.model, slow_ms / 1e3)
    served = Served(spec=model.spec, robot=model.robot, sha256=policy.spec.sha256)
    server = PolicyServer(model, served, ServeConfig(port=0))
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.close).start())
    print(server.port, flush=True)
    server.serve_forever()


class Served200:
    """The slow server in a process of its own."""

    def __init__(self, checkpoint: Path, slow_ms: float) -> None:
        words = [sys.executable, __file__, "--serve", str(checkpoint), "--slow-ms", str(slow_ms)]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def __enter__(self):
        return f"ws://127.0.0.1:{self.port}"

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(10.0)


def stream_row(label: str, folder: Path, policy: Path, **options) -> str:
    """One run, judged by its commands and by where the hand was at the end of each goal."""
    bag = folder / label.replace(" ", "_")
    config = RunConfig(
        robot="panda",
        policy=policy,
        goals=GOALS,
        goal_period_s=GOAL_PERIOD_S,
        record=bag,
        seed=1,
        **options,
    )
    result = run(config, progress=False)
    commands = read_bag(bag).columns("/joint_command")
    stamps = (commands.stamp_ns - commands.stamp_ns[0]) / 1e9
    positions = commands.arrays["position"][:, 0]
    fresh = np.concatenate([[True], np.diff(stamps) > 1e-4])
    stamps, positions = stamps[fresh], positions[fresh]
    gap_ms = 1e3 * np.diff(stamps).max()
    if not config.lockstep:  # stamps tremble by milliseconds there, which a second derivative sees
        grid = np.arange(0.0, stamps[-1], 0.02)
        positions = np.stack([np.interp(grid, stamps, q) for q in positions.T], axis=1)
        stamps = grid
    velocity = np.diff(positions, axis=0) / np.diff(stamps)[:, None]
    acceleration = np.diff(velocity, axis=0) / np.diff(stamps)[1:, None]
    of_velocity = np.abs(velocity / PANDA.velocity_limit_rad_s).max()
    of_acceleration = np.abs(acceleration / PANDA.array("acceleration_limit_rad_s2")).max()
    reached, error = reaching(read_bag(bag))
    holds = sum(1 for edge in result["transitions"] if edge[2] == "hold")
    return (
        f"| {label} | {result['completed']} | {holds} | {standing(stamps, velocity):.0f} % | "
        f"{gap_ms:.0f} ms | {of_velocity:.2f} | {of_acceleration:.2f} | {reached:.2f} s | "
        f"{error * 1e3:.1f} mm | {result['inference_ms']['p50']:.0f} ms |"
    )


def standing(stamps, velocity) -> float:
    """Share of the time on the way to a goal in which the commands stand still, percent."""
    since = stamps[1:] % GOAL_PERIOD_S
    on_way = (since > 0.3) & (since < 1.0) & (stamps[1:] < GOALS * GOAL_PERIOD_S)
    return 100.0 * float(np.mean(np.abs(velocity[on_way]).max(axis=1) < 0.02))


def reaching(bag) -> tuple[float, float]:
    """Median over goals: time until the hand is within 2 cm, s, and its distance at the end, m."""
    kinematics = Kinematics(PANDA)
    states = bag.columns("/joint_states")
    at = (states.stamp_ns - states.stamp_ns[0]) / 1e9
    times, errors = [], []
    for k, goal in enumerate(sample_goals(PANDA, GOALS, seed=1)):
        during = (at >= k * GOAL_PERIOD_S) & (at < (k + 1) * GOAL_PERIOD_S - 0.02)
        hand = [kinematics.end_effector(q)[0] for q in states.arrays["position"][during]]
        left = np.linalg.norm(np.array(hand) - goal, axis=1)
        near = np.flatnonzero(left < 0.02)
        times.append(at[during][near[0]] - k * GOAL_PERIOD_S if len(near) else GOAL_PERIOD_S)
        errors.append(left[-1])
    return float(np.median(times)), float(np.median(errors))


def bench_stream(checkpoint: Path | None) -> str:
    rows = [
        "| run | completed | holds | standing on the way | largest gap | velocity / limit | "
        "acceleration / limit | within 2 cm after | error at the end | model p50 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if checkpoint is None:
            checkpoint = folder / "long"
            train_long(checkpoint)
        rows.append(stream_row("in process, receding", folder, checkpoint))
        for executor in ("receding", "async", "rtc"):
            with (
                Served200(checkpoint, SLOW_MS) as url,
                local_policy(url, token_file=None, reply_s=2.0) as described,
            ):
                label = f"{SLOW_MS:.0f} ms, {executor}"
                rows.append(stream_row(label, folder, described, executor=executor))
        one = {"executor": "rtc", "inference_delay": 1, "lockstep": True}
        rows.append(stream_row("1 step counted, rtc", folder, checkpoint, **one))
        for executor in ("receding", "async", "rtc"):
            label = f"10 steps counted, {executor}"
            options = {"executor": executor, "inference_delay": 10, "lockstep": True}
            rows.append(stream_row(label, folder, checkpoint, **options))
    return "\n".join(rows)


# ---- the wire ----------------------------------------------------------------------------------


class Instant:
    """A model that costs nothing, with two cameras."""

    robot = None

    def __init__(self, cameras: int) -> None:
        self.spec = ChunkSpec(
            name="instant",
            state_names=tuple(f"s{k}" for k in range(16)),
            action_names=tuple(f"a{k}" for k in range(7)),
            cameras=tuple(CameraSpec(name=f"c{k}", height=224, width=224) for k in range(cameras)),
            observation_horizon=1,
            prediction_horizon=16,
            action_horizon=8,
            rate_hz=50.0,
        )
        self.network_calls = 0
        self.actions = np.zeros((1, 16, 7))

    def reset(self, seed, batch=1):
        pass

    def sample(self, window: Window, *, executed=0, prefix=None):
        return self.actions


def bench_wire(rounds: int) -> str:
    rows = ["| images | p50 | p95 | p99 | in process p50 |", "|---|---|---|---|---|"]
    for cameras in (0, 1, 2):
        model = Instant(cameras)
        served = Served(spec=model.spec, robot=None, sha256="0")
        server = PolicyServer(model, served, ServeConfig(port=0))
        listening = threading.Thread(target=server.serve_forever)
        listening.start()
        remote = RemoteModel(served, RemoteConfig(url=f"ws://127.0.0.1:{server.port}"))
        remote.reset(0)
        window = blank_window(model.spec)
        times = {}
        for label, asked in (("wire", remote), ("here", model)):
            took = []
            for _ in range(rounds):
                start = time.perf_counter()
                asked.sample(window)
                took.append(1e3 * (time.perf_counter() - start))
            times[label] = np.percentile(took, [50, 95, 99])
        p50, p95, p99 = times["wire"]
        rows.append(
            f"| {cameras} of 224x224x3 | {p50:.2f} ms | {p95:.2f} ms | {p99:.2f} ms | "
            f"{times['here'][0] * 1e3:.1f} us |"
        )
        remote.close()
        server.close()
        listening.join()
    return "\n".join(rows)


# ---- a policy that sees and is told ------------------------------------------------------------


def bench_told(checkpoint: Path, rounds: int) -> str:
    """Answers of a policy here and of the same behind ``realign serve``, by turns."""
    model = load_policy(checkpoint, PANDA).model
    model.reset(0)
    spec, told = model.spec, inspect(checkpoint)["instructions"][0]
    window = dataclasses.replace(blank_window(spec), instructions=(told,))
    words = [sys.executable, "-m", "sim2real.cli", "serve", "--policy", str(checkpoint)]
    process = subprocess.Popen([*words, "--port", "0"], stdout=subprocess.PIPE, text=True)
    took = []
    try:
        url = process.stdout.readline().split()[-1]
        session = open_session(RemoteConfig(url=url, reply_s=60.0))
        for k in range(rounds):
            start = time.perf_counter()
            model.sample(window)
            asked = time.perf_counter()
            answer = session.ask(dump_question(window, 0, None, k))
            served_ms = 1e3 * (time.perf_counter() - asked)
            infer_ms = answer["server_timing"]["infer_ms"]
            took.append([1e3 * (asked - start), served_ms, infer_ms, served_ms - infer_ms])
        session.close()
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
    here, served, infer, wire = np.median(took, axis=0)
    cameras = ", ".join(f"{c.name} {c.width}x{c.height}" for c in spec.cameras)
    return (
        f"{spec.name} ({cameras}): {here:.1f} ms here; {served:.1f} ms served, ratio "
        f"{served / here:.2f}, of which the model {infer:.1f} ms and the way {wire:.2f} ms (least "
        f"{np.min(took, axis=0)[3]:.2f} ms)"
    )


# ---- lateness of ticks -------------------------------------------------------------------------


def lateness(job, seconds: float) -> np.ndarray:
    """How late a loop of 200 Hz wakes while a thread does ``job`` again and again, ms."""
    inference = ThreadedInference()
    late, period = [], 0.005
    deadline = time.perf_counter() + period
    end = deadline + seconds
    while deadline < end:
        inference.poll()
        if job is not None and not inference.busy:
            inference.submit(0, job)
        time.sleep(max(deadline - time.perf_counter(), 0.0))
        late.append(1e3 * (time.perf_counter() - deadline))
        deadline = max(deadline + period, time.perf_counter())
    inference.close(10.0)
    return np.percentile(late, [50, 99])


def bench_lateness(seconds: float) -> str:
    policy = load_policy(Path("policies/checkpoints/panda_reach"), PANDA)
    model, window = policy.model, blank_window(policy.model.spec)

    def in_python():
        return np.array(sum(k * k for k in range(2_000_000)))

    def onnx():
        for _ in range(100):
            model.sample(window)

    rows = ["| beside a loop of 200 Hz | late p50 | late p99 |", "|---|---|---|"]
    for label, job in (("nothing", None), ("ONNX Runtime", onnx), ("Python", in_python)):
        p50, p99 = lateness(job, seconds)
        rows.append(f"| {label} | {p50:.2f} ms | {p99:.2f} ms |")
    with Served200(Path("policies/checkpoints/panda_reach"), 50.0) as url:
        served = Served(spec=model.spec, robot=model.robot, sha256=policy.spec.sha256)
        remote = RemoteModel(served, RemoteConfig(url=url))
        remote.reset(0)
        p50, p99 = lateness(lambda: remote.sample(window), seconds)
        rows.append(f"| a served model | {p50:.2f} ms | {p99:.2f} ms |")
        remote.close()
    return "\n".join(rows)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("stream", "wire", "told", "lateness"))
    parser.add_argument("--checkpoint", type=Path, help="use this policy instead of training one")
    parser.add_argument("--told", type=Path, help="policy that reads instructions, for `told`")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--slow-ms", type=float, default=SLOW_MS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve_slowly(given.serve, given.slow_ms)
        return
    if given.only in (None, "wire"):
        print(bench_wire(rounds=500), end="\n\n")
    if given.only in (None, "told") and given.told is not None:
        print(bench_told(given.told, rounds=60), end="\n\n")
    if given.only in (None, "lateness"):
        print(bench_lateness(seconds=5.0), end="\n\n")
    if given.only in (None, "stream"):
        print(bench_stream(given.checkpoint))


if __name__ == "__main__":
    main()
