"""Everything that bench_vla.py judges: demonstrations, the policy, and what is made of ten of them.

    python tests/bench/train_vla.py --out models/vla

What is in the folder already is kept, so an interrupted run goes on. One process of one thread.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from policies.datasets.collect import collect
from policies.datasets.demonstrations import (
    Demonstrations,
    load_demonstrations,
    save_demonstrations,
)
from policies.diffusion.chunk_policy import bind_robot
from policies.diffusion.config import NetworkConfig
from policies.robots import get_robot
from policies.vla.commands import load_initial, save_trained
from policies.vla.trainer import VlaTrainConfig, train_vla
from sim2real.results import write_json
from sim2real.tasks.language_touch import LanguageTouch, LanguageTouchExpert
from sim2real.tasks.panda_scene import MOVED_VIEWS, USUAL_VIEWS, Views

NOISE_RAD, LINGER = 0.02, 3
MOVED_SEED = 1
"""Seed of the demonstrations with a moved camera: other scenes than those of the others."""


def main() -> int:
    """Record and train what is missing; returns the exit code."""
    args = _arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    usual = _demonstrations(args.out / "demonstrations", USUAL_VIEWS, args.episodes, 0)
    moved = _demonstrations(args.out / "moved", MOVED_VIEWS, args.few, MOVED_SEED)
    _train(args, "policy", usual, args.steps)
    _train(args, "tuned", moved, args.few_steps, initial=args.out / "policy")
    _train(args, "scratch", moved, args.few_steps)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of demonstrations and policies")
    add("--episodes", type=int, default=400, help="demonstrations of the four tasks together")
    add("--few", type=int, default=10, help="demonstrations with the moved camera")
    add("--steps", type=int, default=2000, help="optimiser steps of the policy")
    add("--few-steps", type=int, default=120, help="optimiser steps on the few")
    add("--batch", type=int, default=32, help="samples a step")
    add("--width", type=int, default=128, help="entries of a token")
    return parser.parse_args()


def _demonstrations(folder: Path, views: Views, episodes: int, seed: int) -> Demonstrations:
    if not folder.exists():
        start = time.monotonic()
        environment = LanguageTouch(views=views)
        data = collect(
            environment,
            LanguageTouchExpert(environment),
            episodes=episodes,
            seed=seed,
            noise=NOISE_RAD,
            linger=LINGER,
        )
        save_demonstrations(data, folder)
        print(f"{folder.name}: {len(data)} demonstrations, {time.monotonic() - start:.0f} s")
    return load_demonstrations(folder)


def settings(args: argparse.Namespace, name: str, steps: int) -> VlaTrainConfig:
    """How each of the policies is trained; those on few demonstrations alike."""
    return VlaTrainConfig(
        name=name,
        network=NetworkConfig(type="transformer", width=args.width, depth=2),
        context_depth=2,
        observation_horizon=1,
        prediction_horizon=16,
        action_horizon=4,
        steps=steps,
        batch=args.batch,
        learning_rate=1.5e-3,
    )


def _train(
    args: argparse.Namespace,
    name: str,
    data: Demonstrations,
    steps: int,
    *,
    initial: Path | None = None,
) -> None:
    out, state = args.out / name, args.out / f"{name}.training"
    if out.exists():
        return
    start = time.monotonic()
    first = np.mean([rows[0] for rows in data.state], axis=0)
    binding = bind_robot(data.state_names, data.action_names, first, get_robot("panda"))
    trained = train_vla(
        {"panda": data},
        settings(args, name, steps),
        robots={"panda": binding},
        initial=load_initial(initial) if initial else None,
        state_dir=state,
        resume=(state / "state.json").exists(),
        log=lambda step, figures: print(f"{name} {step}: loss {figures['loss']:.4f}", flush=True),
    )
    parity = save_trained(trained, out, overwrite=False)
    if not parity["passed"]:
        raise SystemExit(f"{name}: the export differs from torch")
    shutil.rmtree(state, ignore_errors=True)
    spent = time.monotonic() - start
    print(f"{name}: {steps} steps, loss {trained.loss:.4f}, {spent:.0f} s")
    write_json(out.with_suffix(".json"), {"loss": trained.loss, "training_s": spent, **parity})


if __name__ == "__main__":
    sys.exit(main())
