"""Everything that bench_policies.py judges: 50 demonstrations and four policies for each task.

    python tests/bench/train_metaworld.py --out models

What is in the folder already is kept, so an interrupted run goes on. A training is one process of
one thread; ``--jobs`` of them run side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from sim2real.tasks.metaworld import TASKS

KINDS = ("mlp", "ddpm", "flow", "streaming")
# Where a task leaves little room for errors, these are not done after the usual number of steps.
LONGER = {("peg-insert-side-v3", "flow"): 2, ("peg-insert-side-v3", "streaming"): 3}


@dataclass(frozen=True)
class Training:
    """One policy to train."""

    task: str
    kind: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.task}_{self.kind}" + (f"_seed{self.seed}" if self.seed else "")


def main() -> int:
    """Record, train, report; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of demonstrations and policies")
    add("--tasks", nargs="+", default=list(TASKS), help="tasks of `realign policy demos`")
    add("--kinds", nargs="+", default=list(KINDS), help="kinds of `realign policy train`")
    add("--seeds", type=int, nargs="+", default=[0], help="of the trainings")
    add("--demonstrations", type=int, default=50, help="successful runs of the expert a task")
    add("--steps", type=int, default=5000, help="optimiser steps; some take more: LONGER")
    add("--batch", type=int, default=128, help="samples a step")
    add("--width", type=int, default=128, help="units of a layer, the same for all")
    add("--jobs", type=int, default=2, help="trainings side by side")
    args = parser.parse_args()
    start = time.monotonic()
    for task in args.tasks:
        data = args.out / "demonstrations" / task
        if not data.exists():
            _realign("policy", "demos", "--task", task, "--episodes", str(args.demonstrations),
                     "--out", str(data))  # fmt: skip
    recorded = time.monotonic() - start
    trainings = [Training(t, k, s) for s in args.seeds for t in args.tasks for k in args.kinds]
    missing = [one for one in trainings if not (args.out / one.name).exists()]
    with ThreadPoolExecutor(args.jobs) as pool:
        running = [pool.submit(_train, one, args) for one in missing]
        try:
            for one, training in zip(missing, running, strict=True):
                print(f"{one.name}: {training.result():.0f} s", flush=True)
        except BaseException:  # what has not begun shall not begin
            pool.shutdown(cancel_futures=True)
            raise
    total = time.monotonic() - start
    print(
        f"demonstrations {recorded:.0f} s, {len(missing)} trainings, in all {total / 60:.1f} min "
        f"with {args.jobs} processes of one thread (target <= 60 min on 2 cores)"
    )
    return 0


def _train(one: Training, args: argparse.Namespace) -> float:
    """Train one policy; returns the seconds that it took."""
    start = time.monotonic()
    results = args.out / f"{one.name}.json"
    results.unlink(missing_ok=True)
    state = args.out / f"{one.name}.training"  # of a training that was interrupted
    steps = args.steps * LONGER.get((one.task, one.kind), 1)
    _realign(
        "policy", "train", *(["--resume"] if state.exists() else []),
        str(args.out / "demonstrations" / one.task),
        "--kind", one.kind, "--out", str(args.out / one.name), "--steps", str(steps),
        "--batch", str(args.batch), "--width", str(args.width), "--seed", str(one.seed),
        "--json", str(results),
    )  # fmt: skip
    return float(json.loads(results.read_text()).get("training_s", time.monotonic() - start))


def _realign(*words: str) -> None:
    """Run a command of one thread; its output is shown only if it fails."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-m", "sim2real.cli", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} failed:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())
