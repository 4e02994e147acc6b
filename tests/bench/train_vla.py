"""Everything that bench_vla.py judges: demonstrations, policies, and what is made of ten runs.

    python tests/bench/train_vla.py --out models/vla

What is in the folder already is kept, so an interrupted run goes on. One process of one thread.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

from policies.datasets.collect import collect
from policies.datasets.demonstrations import (
    Demonstrations,
    load_demonstrations,
    save_demonstrations,
)
from policies.diffusion.commands import binding_of
from policies.diffusion.config import NetworkConfig, RobotBinding
from policies.evaluation.environment import Environment
from policies.robots import ROBOTS
from policies.vla.commands import load_initial, save_trained
from policies.vla.trainer import VlaTrainConfig, train_vla
from sim2real.results import write_json
from sim2real.tasks.cli import DEFAULT_NOISE, EXPERT_NOISE, LINGER
from sim2real.tasks.language_metaworld import LanguageMetaWorld
from sim2real.tasks.language_touch import LanguageTouch
from sim2real.tasks.panda_scene import MOVED_VIEWS
from sim2real.tasks.registry import make_expert

MOVED_SEED = 1
"""Seed of the demonstrations with a moved camera: other scenes than those of the others."""
HELD_OUT = "yellow"
"""The thing that one of the policies has never been asked for."""
FROM_SCRATCH, GOING_ON, NEW_HEADS = 1.5e-3, 3e-4, 1e-3
"""Learning rates: of fresh weights, of trained ones, and of what is partly fresh."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One training.

    Attributes:
        data: embodiment -> its demonstrations.
        steps: optimiser steps.
        rate: learning rate.
        initial: name of the policy to go on from, or None.
        replay: embodiment -> what that policy learnt from.
        batch: samples a step.
        action_horizon: actions of a chunk that are carried out.
        glance_steps: steps of the glance alone; None as :class:`VlaTrainConfig` has it.
    """

    data: Mapping[str, Demonstrations]
    steps: int
    rate: float = FROM_SCRATCH
    initial: str | None = None
    replay: Mapping[str, Demonstrations] | None = None
    batch: int = 32
    action_horizon: int = 4
    glance_steps: int | None = None


def main() -> int:
    """Record and train what is missing; returns the exit code."""
    args = _arguments()
    args.out.mkdir(parents=True, exist_ok=True)
    plans = _plans(args)
    if importlib.util.find_spec("metaworld") is None:
        print("metaworld: left out, Meta-World is missing: pip install 'realign[metaworld]'")
    else:
        told = _demonstrations(
            args, "metaworld-demonstrations", LanguageMetaWorld(), args.metaworld_episodes, 0
        )
        plans["metaworld"] = Plan(
            data={"sawyer": told}, steps=args.metaworld_steps, batch=64, action_horizon=8
        )
    for name, plan in plans.items():
        if not args.only or name in args.only:
            _train(args, name, plan)
    return 0


def _plans(args: argparse.Namespace) -> dict[str, Plan]:
    """All trainings, in an order in which each finds what it goes on from."""
    usual = _demonstrations(args, "demonstrations", LanguageTouch(), args.episodes, 0)
    moved_views = LanguageTouch(views=MOVED_VIEWS)
    moved = _demonstrations(args, "moved", moved_views, args.few, MOVED_SEED)
    so101 = _demonstrations(
        args, "so101-demonstrations", LanguageTouch("language-touch-so101"), args.episodes, 0
    )
    asked = [HELD_OUT in task for task in usual.task]
    others = usual.select([i for i, yes in enumerate(asked) if not yes])
    held_out = usual.select([i for i, yes in enumerate(asked) if yes][: args.few])
    few_so101 = so101.select(range(args.few))
    few = args.few_steps
    return {
        "policy": Plan(data={"panda": usual}, steps=args.steps),
        "longer": Plan(
            data={"panda": usual},
            steps=args.longer_steps,
            rate=NEW_HEADS,
            initial="policy",
            glance_steps=args.longer_steps // 2,  # begins with the glance once more
        ),
        "tuned": Plan(data={"panda": moved}, steps=few, rate=GOING_ON, initial="policy"),
        "scratch": Plan(data={"panda": moved}, steps=few),
        "three": Plan(data={"panda": others}, steps=args.other_steps),
        "three-tuned": Plan(
            data={"panda": held_out},
            steps=5 * few // 2,
            rate=NEW_HEADS,
            initial="three",
            replay={"panda": others},
            glance_steps=3 * few // 2,  # another word for the images to find
        ),
        "three-scratch": Plan(data={"panda": held_out}, steps=few),
        "so101-tuned": Plan(
            data={"so101": few_so101}, steps=2 * few, rate=NEW_HEADS, initial="policy"
        ),
        "so101-scratch": Plan(data={"so101": few_so101}, steps=2 * few),
        "so101": Plan(data={"so101": so101}, steps=args.other_steps),
        "both": Plan(
            data={"so101": so101, "panda": usual},
            steps=args.other_steps,
            rate=NEW_HEADS,
            initial="policy",
        ),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of demonstrations and policies")
    add("--episodes", type=int, default=400, help="demonstrations of the four tasks together")
    add("--few", type=int, default=10, help="demonstrations where there are few")
    add("--steps", type=int, default=2000, help="optimiser steps of the policy")
    add("--longer-steps", type=int, default=976, help="optimiser steps to go on for")
    add("--few-steps", type=int, default=200, help="optimiser steps with a moved camera")
    add("--other-steps", type=int, default=1600, help="optimiser steps of the other policies")
    add("--only", nargs="*", help="names of the policies to train; default: all")
    add("--metaworld-episodes", type=int, default=160, help="demonstrations of four tasks")
    add("--metaworld-steps", type=int, default=3000, help="optimiser steps on them")
    add("--width", type=int, default=128, help="entries of a token")
    return parser.parse_args()


def _demonstrations(
    args: argparse.Namespace, name: str, environment: Environment, episodes: int, seed: int
) -> Demonstrations:
    folder = args.out / name
    if not folder.exists():
        start = time.monotonic()
        task = environment.spec.name
        data = collect(
            environment,
            make_expert(environment),
            episodes=episodes,
            seed=seed,
            noise=EXPERT_NOISE.get(task, DEFAULT_NOISE),
            linger=LINGER[task],
        )
        save_demonstrations(data, folder)
        print(f"{name}: {len(data)} demonstrations, {time.monotonic() - start:.0f} s", flush=True)
    return load_demonstrations(folder)


def _settings(args: argparse.Namespace, name: str, plan: Plan) -> VlaTrainConfig:
    """How each of the policies is trained."""
    return VlaTrainConfig(
        name=name,
        network=NetworkConfig(type="transformer", width=args.width, depth=2),
        context_depth=2,
        observation_horizon=1,
        prediction_horizon=16,
        action_horizon=plan.action_horizon,
        steps=plan.steps,
        batch=plan.batch,
        learning_rate=plan.rate,
        glance_steps=plan.glance_steps,
    )


def _train(args: argparse.Namespace, name: str, plan: Plan) -> None:
    out, state = args.out / name, args.out / f"{name}.training"
    if out.exists():
        return
    start, used = time.monotonic(), time.process_time()
    trained = train_vla(
        plan.data,
        _settings(args, name, plan),
        robots={name: _bound(data, name) for name, data in plan.data.items() if name in ROBOTS},
        initial=load_initial(args.out / plan.initial) if plan.initial else None,
        replay=plan.replay,
        state_dir=state,
        resume=(state / "state.json").exists(),
        log=lambda step, figures: print(f"{name} {step}: loss {figures['loss']:.4f}", flush=True),
    )
    spent = {"training_s": time.monotonic() - start, "cpu_s": time.process_time() - used}
    parity = save_trained(trained, out, overwrite=False)
    if not parity["passed"]:
        raise SystemExit(f"{name}: the export differs from torch")
    shutil.rmtree(state, ignore_errors=True)
    print(f"{name}: {plan.steps} steps, loss {trained.loss:.4f}, {spent['cpu_s']:.0f} s of a core")
    write_json(out.with_suffix(".json"), {"loss": trained.loss, **spent, **parity})


def _bound(data: Demonstrations, robot: str) -> RobotBinding:
    binding = binding_of(data, robot)
    assert binding is not None  # the robot is named
    return binding


if __name__ == "__main__":
    sys.exit(main())
