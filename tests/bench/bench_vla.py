"""The language tasks: obedience, held-out phrasings, a moved camera, time for a chunk.

    python tests/bench/bench_vla.py --models models/vla

needs the folder of train_vla.py. Every instruction is given in the same scenes, so that a row of
the table is an instruction swap test of the others: what changes is what was said.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from obedience import NOTHING, share, swap_table, thing_name

from policies.diffusion.interface import blank_window
from policies.evaluation.loop import ExecutionConfig, run_batch, run_seeds
from policies.evaluation.metrics import percentiles, wilson
from policies.robots import PANDA
from policies.vla.checkpoint import build_vla, read_vla
from policies.vla.model import VlaModel
from sim2real.bags.reader import read_bag
from sim2real.replay.cli import table_text
from sim2real.results import write_json
from sim2real.run import run
from sim2real.run_config import RunConfig
from sim2real.sim.kinematics import Kinematics
from sim2real.tasks.language_phrases import Phrasing, draw_phrase
from sim2real.tasks.language_touch import PREFIX, LanguageTouch, nearest_thing
from sim2real.tasks.panda_scene import MOVED_VIEWS, NAMES, USUAL_VIEWS, Views, draw_places

_TIMED = 100


def main() -> int:
    """Print the tables; returns the exit code."""
    args = _arguments()
    if args.models is None or not args.models.is_dir():
        print('bench_vla: nothing to do; give BENCH_ARGS="--models FOLDER" of train_vla.py')
        return 0
    parts: dict[str, Callable[[argparse.Namespace], Any]] = {
        "swap": lambda a: obedience(a, "train"),
        "held-out": lambda a: obedience(a, "held-out"),
        "few": few_shot,
        "time": times,
        "graph": graph,
    }
    results: dict[str, Any] = {}
    for name in args.parts:
        results[name] = parts[name](args)
        if args.json:
            write_json(args.json, results)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--models", type=Path, help="folder of train_vla.py")
    add("--parts", nargs="+", default=["swap", "held-out", "few", "time", "graph"])
    add("--scenes", type=int, default=50, help="scenes in which each instruction is given")
    add("--batch", type=int, default=25, help="runs that go side by side")
    add("--steps", type=int, help="evaluations of the network for a chunk")
    add("--action-horizon", type=int, help="actions from one chunk to the next; default: its own")
    add("--json", type=Path, help="file for the results")
    return parser.parse_known_args()[0]


def _load(args: argparse.Namespace, name: str) -> VlaModel:
    return build_vla(read_vla(args.models / name), steps=args.steps)


def _touched(
    args: argparse.Namespace,
    model: VlaModel,
    said: str,
    *,
    phrasing: Phrasing = "train",
    views: Views = USUAL_VIEWS,
) -> Counter[str]:
    """What was touched, and how often, when it was told to touch ``said``."""
    horizon = args.action_horizon or model.spec.action_horizon
    environments = [
        LanguageTouch(
            f"{PREFIX}-{said}",
            phrasing=phrasing,
            views=views,
            look_every=horizon,  # when the policy is asked
        )
        for _ in range(min(args.batch, args.scenes))
    ]
    seeds, found = run_seeds(0, args.scenes), Counter[str]()
    for first in range(0, args.scenes, args.batch):
        chosen = seeds[first : first + args.batch]
        used = environments[: len(chosen)]
        run_batch(model, used, chosen, ExecutionConfig(action_horizon=horizon))
        for environment in used:
            found[thing_name(environment.touched)] += 1
    return found


def obedience(args: argparse.Namespace, phrasing: Phrasing) -> dict[str, Any]:
    """What is touched by what is said, in the same scenes."""
    model = _load(args, "policy")
    return swap_table(
        f"{phrasing} phrases",
        "touch",
        args.scenes,
        lambda said: _touched(args, model, said, phrasing=phrasing),
    )


def graph(args: argparse.Namespace) -> dict[str, Any]:
    """The same through the ROS graph in lockstep: driver with cameras, guard, policy node, bag."""
    return swap_table(
        "in the ROS graph", "touch", args.scenes, lambda said: _touched_in_graph(args, said)
    )


def _touched_in_graph(args: argparse.Namespace, said: str) -> Counter[str]:
    found, kinematics = Counter[str](), Kinematics(PANDA)
    for seed in run_seeds(0, args.scenes):
        with tempfile.TemporaryDirectory(prefix="bench_vla_") as folder:
            bag = Path(folder) / "bag"
            config = RunConfig(
                robot=PANDA.name,
                policy=args.models / "policy",
                instruction=draw_phrase(said, "train", seed),
                action_horizon=args.action_horizon,
                lockstep=True,
                duration_s=6.0,
                seed=seed,
                record=bag,
            )
            run(config, progress=False)
            states = read_bag(bag).columns("/joint_states", PANDA.joint_names)
        places_m = draw_places(np.random.default_rng(seed))
        touched = NOTHING
        for pose in states.arrays["position"]:
            thing = nearest_thing(places_m, kinematics.end_effector(pose)[0])
            if thing is not None:
                touched = NAMES[thing]
                break
        found[touched] += 1
    return found


def few_shot(args: argparse.Namespace) -> dict[str, Any]:
    """The front camera has been moved: as trained, tuned on few demonstrations, or from scratch."""
    rows, out = [], {}
    for name in ("policy", "tuned", "scratch"):
        model, total = _load(args, name), 0
        for said in NAMES:
            total += _touched(args, model, said, views=MOVED_VIEWS)[said]
        rows.append((name, share(total, 4 * args.scenes)))
        out[name] = {"successes": total, "ci95": list(wilson(total, 4 * args.scenes))}
        print(f"moved camera, {name}: {total} of {4 * args.scenes}", flush=True)
    print(f"\nthe front camera moved, {4 * args.scenes} runs:")
    print(table_text(("policy", "success"), rows))
    return out


def times(args: argparse.Namespace) -> dict[str, Any]:
    """Network time for a chunk, ONNX Runtime on one thread, ms."""
    rows, out = [], {}
    for label, how in {
        "flow, 10 steps": {"sampler": "flow", "steps": 10},
        "flow, 5 steps": {"sampler": "flow", "steps": 5},
        "adaptive": {"sampler": "adaptive"},
    }.items():
        model = build_vla(read_vla(args.models / "policy"), **how)  # type: ignore[arg-type]
        window = blank_window(model.spec)
        window.instructions = (model.vla.instructions[0],)
        window.state[:] = np.array(model.config.state.centre)
        spent = []
        for i in range(_TIMED):
            model.reset(i)
            start = perf_counter()
            model.sample(window)
            spent.append(1e3 * (perf_counter() - start))
        figures = percentiles(spent[2:])
        rows.append((label, f"{figures['p50']:.1f}", f"{figures['p95']:.1f}"))
        out[label] = figures
    print("\ntime for a chunk, one thread, ms:")
    print(table_text(("sampler", "p50", "p95"), rows))
    return out


if __name__ == "__main__":
    sys.exit(main())
