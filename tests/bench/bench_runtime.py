"""Runtime figures: what policy_node and guard cost on top of DDS, lateness, lockstep speed.

Run by `make bench`. Every figure is a ratio or a percentile of one run; absolute times depend on
the machine and stand beside the ratio only to judge it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np

from policies.actor.asap import import_asap
from policies.actor.mlp import mlp_onnx
from policies.robots.g1 import G1
from sim2real.graph import Graph, private_domain_id, ros_environment
from sim2real.run import run
from sim2real.run_config import RunConfig

BUSY = "import numpy as np\na = np.random.rand(256, 256)\nwhile True: a = np.tanh(a @ a)"


def asap_data() -> Path | None:
    """ASAP's released policies and their metadata, where they are at hand."""
    here = Path(__file__).resolve().parents[2]
    data = Path(os.environ.get("REALIGN_SHARED_DATA", here.parent / "shared" / "data")) / "asap_g1"
    return data if data.is_dir() else None


def checkpoint(folder: Path) -> tuple[Path, str]:
    """ASAP's jump if the data folder is there, else an actor of the same size, random weights."""
    data = asap_data()
    out = folder / "actor"
    if data is not None:
        name = "jump_forward_level1"
        import_asap(data / "policies" / f"{name}.onnx", data / "asap_g1.json", name, out)
        return out, f"ASAP {name}"
    rng = np.random.default_rng(0)
    sizes = (380, 512, 256, 128, 23)
    weights = [(rng.normal(0.0, 0.02, (b, a))).astype(np.float32) for a, b in pairwise(sizes)]
    (folder / "actor.onnx").write_bytes(
        mlp_onnx(weights, [np.zeros(n, np.float32) for n in sizes[1:]])
    )
    meta = {
        "joint_names": list(G1.joint_names),
        "policy_joint_names": [n for n in G1.joint_names if "wrist" not in n],
        "default_joint_pos_rad": G1.default_rad.tolist(),
        "control_rate_hz": 50,
        "action_scale": 0.25,
        "policies": {"random": {"motion_length_s": 4.0, "start_upper_body_pos_rad": [0.0] * 17}},
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    import_asap(folder / "actor.onnx", folder / "meta.json", "random", out)
    return out, "random weights, same size as ASAP's"


def bench_latency(policy: Path, ticks: int) -> str:
    """Joint state in -> command out, against a bare echo of the same two messages."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = folder / "times.json"
        common = {"robot": "g1", "lockstep": False}
        slack = {"silence_periods": 10.0, "state_max_age_s": 0.5, "imu_max_age_s": 0.5}
        with Graph(folder, private_domain_id()) as graph:
            echo = subprocess.Popen(
                [sys.executable, "-m", "realign_policy.latency_bench", "--echo"],
                env=ros_environment(graph.domain_id),
            )
            # A command of the guard's own clock answers no state: it must be a rare one.
            guard = {"auto_arm": True, "realtime_priority": 22, "rate_hz": 5.0, **slack}
            graph.start("guard", "realign_policy.guard_node", common | guard)
            answers = {"policy": str(policy), "autostart": True, "realtime_priority": 20}
            graph.start("policy", "realign_policy.policy_node", common | answers)
            client = graph.start(
                "client",
                "realign_policy.latency_bench",
                {"robot": "g1", "policy": str(policy), "ticks": ticks, "out": str(out)},
            )
            try:
                client.popen.wait(60 + ticks * 0.04)
            finally:
                echo.terminate()
                echo.wait()
        times = json.loads(out.read_text())
    chain, bare = (np.array([t for t in times[k] if t is not None]) for k in times)
    lost = sum(t is None for t in times["chain_ms"])
    c50, c99, b50, b99 = *np.percentile(chain, [50, 99]), *np.percentile(bare, [50, 99])
    return (
        f"latency, state in -> command out: median {c50 / b50:.2f} x a bare DDS round trip "
        f"(target <= 2.5); p99 {c99 / b99:.2f} x; {c50:.2f}/{c99:.2f} ms against "
        f"{b50:.2f}/{b99:.2f} ms, {len(chain)} ticks, {lost} lost"
    )


def bench_lateness(policy: Path, seconds: float) -> str:
    """Lateness of the guard's 50 Hz loop with a busy process beside it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with Graph(folder, private_domain_id()) as graph:
            common = {"robot": "g1", "lockstep": False}
            summary = folder / "guard.json"
            guard = {"rate_hz": 50.0, "realtime_priority": 22, "summary_path": str(summary)}
            graph.start("guard", "realign_policy.guard_node", common | guard)
            answers = {"policy": str(policy), "autostart": True, "realtime_priority": 20}
            graph.start("policy", "realign_policy.policy_node", common | answers)
            busy = subprocess.Popen([sys.executable, "-c", BUSY], env=ros_environment(1))
            driver = {"duration_s": 1e6, "policy": str(policy)}
            graph.start("driver", "realign_mujoco_driver.driver_node", common | driver)
            with contextlib.suppress(subprocess.TimeoutExpired):
                graph.processes[0].popen.wait(seconds)
            busy.kill()
            busy.wait()
        late = json.loads(summary.read_text())["loop_late_ms"]
    return (
        f"guard, 50 Hz loop beside a busy inference process, {seconds:.0f} s: late by "
        f"p50 {late['p50']:.3f}, p95 {late['p95']:.3f}, p99 {late['p99']:.3f} ms (target p99 <= 1)"
    )


def bench_lockstep(policy: Path) -> str:
    """Speed of the G1 in lockstep, median of three runs."""
    speeds, shares = [], []
    for seed in range(3):
        config = RunConfig(robot="g1", policy=policy, lockstep=True, seed=seed)
        result = run(config, progress=False)
        speeds.append(result["duration_s"] / result["wall_s"])
        shares.append(1.0 - (result["mujoco_s"] + result["inference_s"]) / result["wall_s"])
    return (
        f"G1 in lockstep: {np.median(speeds):.1f} simulated s per wall s; "
        f"{100 * np.median(shares):.0f} % of the time outside MuJoCo and ONNX Runtime"
    )


def main() -> None:
    """Print one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ticks", type=int, default=1000, help="samples of the latency benchmark")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the lateness one")
    args, _ = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        policy, what = checkpoint(Path(folder))
        print(f"policy: {what}")
        print(bench_latency(policy, args.ticks), flush=True)
        print(bench_lateness(policy, args.seconds), flush=True)
        print(bench_lockstep(policy), flush=True)


if __name__ == "__main__":
    main()
