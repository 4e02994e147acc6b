"""Picking things up by instruction: obedience, held-out phrasings, and in the ROS graph.

    realign policy demos --task language-pick --episodes 700 --out models/pick/demonstrations
    realign policy train models/pick/demonstrations --kind vla --robot panda_hand \
        --out models/pick/policy --observation-horizon 1 --action-horizon 4 --width 128 --depth 2 \
        --steps 3500 --batch 32 --learning-rate 1.5e-3
    python tests/bench/bench_vla_pick.py --policy models/pick/policy

Every instruction is given in the same scenes. What was lifted is what the simulator says was.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from obedience import add_options, play, swap_table, thing_name

from policies.evaluation.loop import run_seeds
from policies.robots import PANDA_HAND
from policies.vla.checkpoint import build_vla, read_vla
from sim2real.results import write_json
from sim2real.run import run
from sim2real.run_config import RunConfig
from sim2real.tasks.language_phrases import Phrasing, draw_phrase
from sim2real.tasks.language_pick import MAX_STEPS, PREFIX, LanguagePick, lifted_thing
from sim2real.tasks.language_task import RATE_HZ
from sim2real.tasks.panda_scene import NAMES


def main() -> int:
    """Print the tables; returns the exit code."""
    args = _arguments()
    if args.policy is None or not args.policy.is_dir():
        print('bench_vla_pick: nothing to do; give BENCH_ARGS="--policy FOLDER" of a policy')
        return 0
    parts: dict[str, Callable[[str], Counter[str]]] = {
        "train": lambda said: _lifted(args, said, "train"),
        "held-out": lambda said: _lifted(args, said, "held-out"),
        "graph": lambda said: _lifted_in_graph(args, said),
    }
    results: dict[str, Any] = {}
    for name in args.parts:
        results[name] = swap_table(name, "pick up", args.scenes, parts[name])
        if args.json:
            write_json(args.json, results)
    return 0


def _arguments() -> argparse.Namespace:
    parser = add_options(__doc__, ["train", "held-out", "graph"])
    parser.add_argument("--policy", type=Path, help="checkpoint")
    return parser.parse_known_args()[0]


def _lifted(args: argparse.Namespace, said: str, phrasing: Phrasing) -> Counter[str]:
    """What was lifted, and how often, when it was told to pick up ``said``."""
    model = build_vla(read_vla(args.policy), steps=args.steps)

    def make(place: int, horizon: int) -> LanguagePick:
        return LanguagePick(f"{PREFIX}-{said}", phrasing=phrasing, look_every=horizon)

    return Counter(thing_name(left.lifted) for left, _ in play(args, model, make))


def _lifted_in_graph(args: argparse.Namespace, said: str) -> Counter[str]:
    """The same through driver with cameras, guard and policy node, in lockstep."""
    found = Counter[str]()
    for seed in run_seeds(args.seed, args.scenes):
        config = RunConfig(
            robot=PANDA_HAND.name,
            policy=args.policy,
            instruction=draw_phrase(said, "train", seed, "pick"),
            action_horizon=args.action_horizon,
            lockstep=True,
            duration_s=MAX_STEPS / RATE_HZ,
            seed=seed,
        )
        rise_m = run(config, progress=False)["rise_m"]
        found[thing_name(lifted_thing(np.array([rise_m[name] for name in NAMES])))] += 1
    return found


if __name__ == "__main__":
    sys.exit(main())
