"""What a simulator in its own process costs, and how a policy fares in another engine.

Run by `make bench`; BENCH_ARGS="--policies CHECKPOINT ..." adds the transfer, which needs an
interpreter that has SAPIEN (REALIGN_SAPIEN_PYTHON). Times are compared alternately in one run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from policies.checkpoint import load_policy
from policies.errors import InputError
from policies.interface import Float, RobotSpec
from policies.robots import G1, PANDA
from sim2real.episodes.episode import Episode
from sim2real.replay.cli import table_text
from sim2real.replay.log import Log
from sim2real.replay.metrics import distance_mm
from sim2real.replay.open_loop import HORIZONS_S, play
from sim2real.sim.body_positions import BodyPositions
from sim2real.sim.engine import Engine
from sim2real.sim.remote import open_engine, open_robot
from sim2real.sim.stepper import Stepper, default_state
from sim2real.tasks.closed_loop import roll_out


def main() -> None:
    """Print the cost of a call, and the transfer if policies are given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policies", type=Path, nargs="*", default=[], help="G1 checkpoints")
    parser.add_argument("--seeds", type=int, default=5)
    args, _ = parser.parse_known_args()
    for robot in (PANDA, G1):
        print(overhead(robot), flush=True)
    if not args.policies:
        print("transfer: nothing to do; give BENCH_ARGS='--policies CHECKPOINT ...'")
        return
    try:
        transfer(args.policies, args.seeds)
    except InputError as error:
        print(f"transfer: {error}")


def alternately(calls: list[Callable[[], object]], rounds: int = 60, each: int = 10) -> Float:
    """Median time of each call, s."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, taken in zip(calls, times, strict=True):
            for _ in range(each):
                start = time.perf_counter()
                call()
                taken.append(time.perf_counter() - start)
    return np.array([np.median(taken) for taken in times])


def overhead(robot: RobotSpec) -> str:
    """MuJoCo in a worker against MuJoCo in this process."""
    parts = []
    with (
        open_engine("mujoco", robot) as here,
        open_engine("mujoco-remote", robot) as there,
        open_robot("mujoco-remote", robot) as one,
    ):
        local = Stepper(robot)
        for batch in (1, 256):
            state = default_state(robot).map(lambda x, b=batch: np.repeat(x[None], b, axis=0))
            targets = np.repeat(robot.default_rad[None, None], batch, axis=0)
            runs = [lambda e=e, s=state, t=targets: e.step(s, t) for e in (here, there)]
            a, b = alternately(runs, *((60, 10) if batch == 1 else (5, 1)))
            parts.append(f"batch of {batch}: {b / a:.2f} x ({1e6 * (b - a):+.0f} us)")
        one.reset(default_state(robot))
        local.reset(default_state(robot))
        steps = [lambda r=r: (r.step(robot.default_rad), r.state) for r in (local, one)]
        a, b = alternately(steps)
        parts.append(f"one robot: {b / a:.2f} x ({1e6 * (b - a):+.0f} us)")
    return f"{robot.name}, a control tick in a worker against in this process: {', '.join(parts)}"


def transfer(checkpoints: list[Path], seeds: int) -> None:
    """The policies in PhysX and in MuJoCo, and each engine's logs in the other."""
    logs: dict[str, list[Episode]] = {"sapien": [], "mujoco": []}
    rows = []
    with open_robot("sapien", G1) as physx:
        for path in checkpoints:
            policy = load_policy(path, G1)
            row = [policy.spec.name]
            for name, simulator in (("sapien", physx), ("mujoco", None)):
                runs = [
                    roll_out(policy, G1, seed=seed, simulator=simulator) for seed in range(seeds)
                ]
                row.append(f"{sum(run.completed for run in runs)}/{seeds}")
                logs[name] += [run.episode for run in runs if run.completed]
            rows.append(tuple(row))
    print(table_text(("policy, runs that end upright", "sapien", "mujoco"), rows))
    units = [f"{unit} {h:g} s" for unit in ("mm", "rad") for h in HORIZONS_S]
    header = ("open-loop replay, E_g-mpjpe and joint RMSE", *units)
    rows = []
    for log in ("sapien", "mujoco"):
        for simulator in ("sapien", "mujoco"):
            if not log == simulator == "mujoco":  # the same numbers, bit by bit
                with open_engine(simulator, G1) as engine:
                    distances, angles = drift(engine, logs[log])
                cells = [*(f"{x:.2f}" for x in distances), *(f"{x:.4f}" for x in angles)]
                rows.append((f"log of {log} in {simulator}", *cells))
    print(table_text(header, rows), flush=True)


def drift(engine: Engine, episodes: list[Episode]) -> tuple[list[float], list[float]]:
    """E_g-mpjpe, mm, and joint RMSE, rad, for ``HORIZONS_S`` over windows every 0.5 s."""
    log = Log.of(episodes, engine.robot)
    frames = [round(h * log.rate_hz) for h in HORIZONS_S]
    starts = log.windows(round(0.5 * log.rate_hz), max(frames))
    ahead = log.ahead(starts, max(frames))
    bodies = BodyPositions(engine.robot)
    played = play(engine, log, starts, max(frames))
    distance = distance_mm(bodies(played), bodies(log.state)[ahead])[:, 1:]
    squared = ((played.qpos_rad - log.state.qpos_rad[ahead]) ** 2)[:, 1:]
    return (
        [float(distance[:, :k].mean()) for k in frames],
        [float(np.sqrt(squared[:, :k].mean())) for k in frames],
    )


if __name__ == "__main__":
    main()
