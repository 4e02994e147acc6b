"""The language tasks: obedience, held-out phrasings, what ten demonstrations do, two robots, time.

    python tests/bench/bench_vla.py --models models/vla

needs the folder of train_vla.py. Every instruction is given in the same scenes, so that a row of
the table is an instruction swap test of the others: what changes is what was said.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from obedience import NOTHING, add_options, play, share, swap_table, thing_name

from policies.diffusion.interface import blank_window
from policies.evaluation.environment import Environment
from policies.evaluation.loop import run_seeds
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
from sim2real.tasks import language_metaworld
from sim2real.tasks.language_phrases import Phrasing, draw_phrase
from sim2real.tasks.language_touch import PREFIX, LanguageTouch, nearest_thing
from sim2real.tasks.panda_scene import MOVED_VIEWS, NAMES, Views, draw_places

PARTS = ("swap", "held-out", "moved", "thing", "robots", "metaworld", "time", "graph")
_SCENES = {"panda": PREFIX, "so101": f"{PREFIX}-so101"}
"""Robot -> the beginning of the names of its tasks."""
_TIMED = 100
HELD_OUT = "yellow"
"""The thing that the policy ``three`` of train_vla.py has never been asked for."""


def main() -> int:
    """Print the tables; returns the exit code."""
    args = _arguments()
    if args.models is None or not args.models.is_dir():
        print('bench_vla: nothing to do; give BENCH_ARGS="--models FOLDER" of train_vla.py')
        return 0
    parts: dict[str, Callable[[argparse.Namespace], Any]] = {
        "swap": lambda a: obedience(a, "train"),
        "held-out": lambda a: obedience(a, "held-out"),
        "moved": moved_camera,
        "thing": held_out_thing,
        "robots": robots,
        "metaworld": told_metaworld,
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
    parser = add_options(__doc__, PARTS)
    add = parser.add_argument
    add("--models", type=Path, help="folder of train_vla.py")
    add("--policy", default="policy", help="whose obedience is judged, out of the folder")
    return parser.parse_known_args()[0]


def _load(args: argparse.Namespace, name: str, robot: str | None = None) -> VlaModel:
    """A policy; for another robot than its networks were exported for, by its weights."""
    checkpoint = read_vla(args.models / name)
    if robot in (None, checkpoint.config.deployed):
        return build_vla(checkpoint, steps=args.steps)
    config = replace(checkpoint.config, deployed=robot)
    return build_vla(replace(checkpoint, config=config), steps=args.steps, backend="torch")


def _touched(
    args: argparse.Namespace,
    model: VlaModel,
    said: str,
    *,
    phrasing: Phrasing = "train",
    views: Views | None = None,
    robot: str = "panda",
) -> Counter[str]:
    """What was touched, and how often, when it was told to touch ``said``."""

    def make(place: int, horizon: int) -> LanguageTouch:
        task = f"{_SCENES[robot]}-{said}"
        return LanguageTouch(task, phrasing=phrasing, views=views, look_every=horizon)

    return Counter(thing_name(left.touched) for left, _ in play(args, model, make))


def obedience(args: argparse.Namespace, phrasing: Phrasing) -> dict[str, Any]:
    """What is touched by what is said, in the same scenes."""
    model = _load(args, args.policy)
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
    for seed in run_seeds(args.seed, args.scenes):
        with tempfile.TemporaryDirectory(prefix="bench_vla_") as folder:
            bag = Path(folder) / "bag"
            config = RunConfig(
                robot=PANDA.name,
                policy=args.models / args.policy,
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


def moved_camera(args: argparse.Namespace) -> dict[str, Any]:
    """The front camera has been moved: as trained, tuned on few demonstrations, or from scratch."""
    rows, out = [], {}
    for name in ("policy", "tuned", "scratch"):
        out[name] = _success(args, name, NAMES, views=MOVED_VIEWS)
        rows.append((name, out[name]["text"]))
    print(f"\nthe front camera moved, {4 * args.scenes} runs:")
    print(table_text(("policy", "success"), rows))
    return out


def held_out_thing(args: argparse.Namespace) -> dict[str, Any]:
    """A thing that was never asked for, and what is left of the others."""
    rows, out = [], {}
    others = tuple(name for name in NAMES if name != HELD_OUT)
    for name in ("three", "three-tuned", "three-scratch"):
        new, old = (_success(args, name, said) for said in ((HELD_OUT,), others))
        out[name] = {HELD_OUT: new, "others": old}
        rows.append((name, new["text"], old["text"]))
    print(f"\ntouching the {HELD_OUT} thing, {args.scenes} runs, and the others:")
    print(table_text(("policy", HELD_OUT, "others"), rows))
    return out


def robots(args: argparse.Namespace) -> dict[str, Any]:
    """Two robots on one trunk, and each alone; few demonstrations of the second."""
    rows, out = [], {}
    judged = (
        ("policy", "panda"),
        ("both", "panda"),
        ("so101", "so101"),
        ("both", "so101"),
        ("so101-tuned", "so101"),
        ("so101-scratch", "so101"),
    )
    for name, robot in judged:
        out[f"{name} {robot}"] = _success(args, name, NAMES, robot=robot)
        rows.append((name, robot, out[f"{name} {robot}"]["text"]))
    print(f"\ntwo robots, {4 * args.scenes} runs each:")
    print(table_text(("policy", "robot", "success"), rows))
    return out


def told_metaworld(args: argparse.Namespace) -> dict[str, Any]:
    """Meta-World: success of each task when asked for it, in other words, or for something else."""
    if importlib.util.find_spec("metaworld") is None:
        print('bench_vla: metaworld left out, pip install "realign[metaworld]"')
        return {}
    model, rows, out = _load(args, "metaworld"), [], {}
    for deed in language_metaworld.NAMES:
        others = [name for name in language_metaworld.NAMES if name != deed]
        wrong = [language_metaworld.phrases(name, "train")[0] for name in others]
        counts = {
            "train": _solved(args, model, deed, "train", None),
            "held-out": _solved(args, model, deed, "held-out", None),
            "another": _solved(args, model, deed, "train", wrong),
        }
        print(f"metaworld, {deed}: {counts}", flush=True)
        rows.append((deed, *(share(count, args.scenes) for count in counts.values())))
        out[deed] = {key: [n, *wilson(n, args.scenes)] for key, n in counts.items()}
    print(f"\nMeta-World tasks by instruction, {args.scenes} runs each:")
    print(table_text(("task", "asked for it", "in other words", "asked for another"), rows))
    return out


def _solved(
    args: argparse.Namespace,
    model: VlaModel,
    deed: str,
    phrasing: Phrasing,
    said: Sequence[str] | None,
) -> int:
    """Runs in which a Meta-World task was solved; instructions other than its own in turn."""

    def make(place: int, horizon: int) -> Environment:
        return language_metaworld.LanguageMetaWorld(
            f"{language_metaworld.PREFIX}-{deed}",
            phrasing=phrasing,
            instruction=said[place % len(said)] if said else None,
        )

    return sum(run.success for _, run in play(args, model, make))


def _success(
    args: argparse.Namespace,
    name: str,
    said: Sequence[str],
    *,
    views: Views | None = None,
    robot: str = "panda",
) -> dict[str, Any]:
    """How often a policy touches each of these things when it is told to."""
    model, runs = _load(args, name, robot), len(said) * args.scenes
    found = {one: _touched(args, model, one, views=views, robot=robot) for one in said}
    total = sum(found[one][one] for one in said)
    print(f"{name}, {robot}: { {one: dict(counts) for one, counts in found.items()} }", flush=True)
    return {
        "successes": total,
        "runs": runs,
        "ci95": list(wilson(total, runs)),
        "text": share(total, runs),
        "touched": {one: dict(counts) for one, counts in found.items()},
    }


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
