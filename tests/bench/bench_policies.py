"""Generative policies on four Meta-World tasks: success, time for an action, delays, ONNX.

Run by `make bench`, which needs BENCH_ARGS="--models FOLDER", the folder of train_metaworld.py.
Every method sees the same runs, those of `realign policy eval` with the same seed. Times are of
one thread and taken in turn, so that their ratios mean something on a busy machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import thread_time
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from policies.diffusion.checkpoint import load_chunk_model, read_chunk_checkpoint
from policies.diffusion.export import compare
from policies.diffusion.interface import blank_window
from policies.diffusion.model import GenerativeModel
from policies.evaluation.environment import Environment
from policies.evaluation.evaluate import EvaluationConfig, evaluate, timing
from policies.evaluation.loop import Answer, ExecutionConfig, run_batch, run_seeds
from policies.evaluation.metrics import wilson
from sim2real.replay.cli import table_text
from sim2real.results import write_json
from sim2real.tasks.metaworld import TASKS
from sim2real.tasks.registry import make_environment

Result = dict[str, Any]


@dataclass(frozen=True)
class Method:
    """A policy and how it is sampled."""

    name: str
    kind: str
    sampler: str | None = None
    steps: int | None = None

    def load(self, args: argparse.Namespace, task: str, seed: int) -> GenerativeModel:
        folder = args.models / (f"{task}_{self.kind}" + (f"_seed{seed}" if seed else ""))
        return load_chunk_model(folder, sampler=self.sampler, steps=self.steps)


METHODS = (
    Method("MLP-BC", "mlp"),
    Method("DDPM-100", "ddpm", "ddpm", 100),
    Method("DDIM-10", "ddpm", "ddim", 10),
    Method("flow-10", "flow", "flow", 10),
    Method("adaptive flow", "flow", "adaptive"),
    Method("streaming", "streaming", steps=4),
)
_BATCH = 50
_ANSWERS = 50
BASELINE = "DDPM-100"
DELAYED = ("DDIM-10", "flow-10", "streaming")
EXECUTORS = ("receding", "async", "rtc", "rtc, 2 steps apart")


def _execution(name: str, delay: int) -> ExecutionConfig:
    """An entry of :data:`EXECUTORS`; the last asks while earlier answers are under way."""
    if name == "rtc, 2 steps apart":
        return ExecutionConfig(
            executor="rtc",
            delay_steps=delay,
            action_horizon=2,
            in_flight=max(1, -(-delay // 2)),
            fade=0,
        )
    return ExecutionConfig(executor=name, delay_steps=delay)


def main() -> int:
    """Print the tables; returns the exit code."""
    args = _arguments()
    if args.models is None or not args.models.is_dir():
        print('bench_policies: nothing to do; give BENCH_ARGS="--models FOLDER"')
        return 0
    if importlib.util.find_spec("metaworld") is None:
        print('bench_policies: skipped, Meta-World is missing: pip install "realign[metaworld]"')
        return 0
    parts = {
        "success": success,
        "answer": answers,
        "time": times,
        "delay": delays,
        "drop": drops,
        "onnx": onnx,
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
    add("--models", type=Path, help="folder of train_metaworld.py")
    add("--tasks", nargs="+", default=list(TASKS), help="tasks to run")
    add("--parts", nargs="+", default=["success", "answer", "time", "delay", "drop", "onnx"])
    add("--episodes", type=int, default=100, help="runs of each method on each task")
    add("--delay-steps", type=int, nargs="+", default=[4], help="steps of delay")
    add("--delayed", nargs="+", default=list(DELAYED), help="methods to run with delay")
    add("--drop", type=float, nargs="+", default=[0.1, 0.3], help="shares of lost observations")
    add("--rounds", type=int, default=3, help="turns of the timing")
    add("--seeds", type=int, nargs="+", default=[0], help="seeds of the trainings")
    add("--first-seed", type=int, default=10, help="of the runs; no setting was chosen on them")
    add("--methods", nargs="+", default=[method.name for method in METHODS], help="to judge")
    add("--executors", nargs="+", default=list(EXECUTORS), choices=EXECUTORS)
    add("--json", type=Path, help="file for the results")
    return parser.parse_known_args()[0]


@cache
def _environments(task: str) -> list[Environment]:
    """As many as run side by side; making them takes longer than a run."""
    return [make_environment(task) for _ in range(_BATCH)]


def _run(args: argparse.Namespace, method: Method, task: str, execution: ExecutionConfig) -> Result:
    """Figures of one cell, over all trainings."""
    runs, environment = [], None
    for seed in args.seeds:
        made = iter(_environments(task))
        result = evaluate(
            method.load(args, task, seed),
            lambda made=made: next(made),
            execution=execution,
            config=EvaluationConfig(
                episodes=args.episodes,
                batch=_BATCH,
                timed_episodes=0,
                seed=args.first_seed + seed,
            ),
        )
        runs += result.runs
        environment = result.environment
    return type(result)(environment=environment, runs=tuple(runs)).to_json()


def _methods(args: argparse.Namespace) -> list[Method]:
    return [method for method in METHODS if method.name in args.methods]


def _cell(result: Result) -> str:
    low, high = result["success_ci95"]
    return f"{100 * result['success']:.0f} [{100 * low:.0f}, {100 * high:.0f}]"


def _pooled(results: Sequence[Result]) -> Result:
    """Success over several tasks."""
    good, count = sum(r["successes"] for r in results), sum(r["episodes"] for r in results)
    return {"success": good / count, "success_ci95": wilson(good, count)}


def _table(title: str, header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    print(f"\n{title}\n{table_text(header, rows)}", flush=True)


def success(args: argparse.Namespace) -> dict[str, dict[str, Result]]:
    """Success of every method on every task, without delay."""
    results: dict[str, dict[str, Result]] = defaultdict(dict)
    rows = []
    for method in _methods(args):
        for task in args.tasks:
            results[method.name][task] = _run(args, method, task, ExecutionConfig())
        cells = list(results[method.name].values())
        rows.append((method.name, *map(_cell, cells), _cell(_pooled(cells))))
        print(" | ".join(rows[-1]), flush=True)
    title = f"success, % [95 %], {args.episodes * len(args.seeds)} runs a cell"
    _table(title, ("method", *args.tasks, "all"), rows)
    return results


def answers(args: argparse.Namespace) -> dict[str, Result]:
    """Processor time of an answer on the first task, all methods in turn.

    It does not depend on who else keeps the machine busy, as time by the clock does.
    """
    window = blank_window(METHODS[0].load(args, args.tasks[0], args.seeds[0]).spec)
    models = {method.name: method.load(args, args.tasks[0], args.seeds[0]) for method in METHODS}
    spent: dict[str, list[float]] = defaultdict(list)
    for _ in range(_ANSWERS):
        for name, model in models.items():
            for _ in range(2):  # the second finds its weights in the cache, as a robot's does
                start = thread_time()
                model.sample(window, executed=model.spec.action_horizon)
                took = 1e3 * (thread_time() - start)
            spent[name].append(took)
    results = {name: {"answer_ms": float(np.median(t))} for name, t in spent.items()}
    base = results[BASELINE]["answer_ms"]
    rows = [
        (name, f"{one['answer_ms']:.3f}", f"{base / one['answer_ms']:.1f}")
        for name, one in results.items()
    ]
    title = f"processor time of an answer of 8 actions, median of {_ANSWERS}"
    _table(title, ("method", "ms", "DDPM-100 / it"), rows)
    return results


def times(args: argparse.Namespace) -> dict[str, Result]:
    """Time and network calls for an executed action, all methods in turn."""
    answers: dict[str, list[Answer]] = defaultdict(list)
    for round_ in range(args.rounds):
        for task in args.tasks:
            environment = _environments(task)[0]
            for method in METHODS:
                model = method.load(args, task, args.seeds[0])
                seed = run_seeds(0, args.rounds)[round_]
                # The first answers of a session are slow.
                answers[method.name] += run_batch(model, [environment], [seed], ExecutionConfig())[
                    1
                ][2:]
    results = {name: timing(given) for name, given in answers.items()}
    # Medians: on a busy machine a mean tells who was interrupted.
    base = results[BASELINE]["time_per_action_ms"]["p50"]
    rows = []
    for name, result in results.items():
        action, answer = result["time_per_action_ms"], result["time_per_answer_ms"]
        rows.append(
            (
                name,
                f"{base / action['p50']:.1f}",
                *(f"{action[key]:.3f}" for key in ("mean", "p50", "p95", "p99")),
                f"{answer['p50']:.2f}",
                f"{result['network_calls_per_action']:.2f}",
                f"{result['network_calls_per_answer']:.2f}",
            )
        )
    header = (
        *("method", "DDPM-100 / it", "mean, ms", "p50", "p95", "p99", "answer p50, ms"),
        *("calls/action", "calls/answer"),
    )
    _table("time per executed action, one thread, one observation at a time", header, rows)
    return results


def _delayed(args: argparse.Namespace) -> Iterator[tuple[Method, str, ExecutionConfig]]:
    for method in METHODS:
        if method.name in args.delayed:
            yield method, "no delay", ExecutionConfig()
            for delay in args.delay_steps:
                for executor in args.executors:
                    name = f"{executor}, {delay} steps"
                    yield method, name, _execution(executor, delay)


def delays(args: argparse.Namespace) -> list[Result]:
    """Synchronous and asynchronous execution with delayed answers."""
    results, rows = [], []
    for method, how, execution in _delayed(args):
        cells = [_run(args, method, task, execution) for task in args.tasks]
        jump = float(np.mean([cell["largest_jump_median"] for cell in cells]))
        steps = float(np.mean([cell["steps_mean"] for cell in cells]))
        jerk = float(np.mean([cell["jerk_median"] for cell in cells]))
        name = f"{method.name}, {how}"
        rows.append(
            (
                name,
                *map(_cell, cells),
                _cell(_pooled(cells)),
                f"{jump:.2f}",
                f"{max(cell['largest_jump'] for cell in cells):.2f}",
                f"{jerk:.3f}",
                f"{steps:.0f}",
            )
        )
        results.append({"name": name, "cells": dict(zip(args.tasks, cells, strict=True))})
        print(" | ".join(rows[-1]), flush=True)
    header = ("method, executor, delay", *args.tasks, "all", "jump", "max", "jerk", "steps")
    _table(
        f"success with delay, % [95 %], {args.episodes * len(args.seeds)} runs a cell; largest "
        "jump of a run from step to step (median over runs; largest of all), jerk, steps of a run",
        header,
        rows,
    )
    return results


def drops(args: argparse.Namespace) -> list[Result]:
    """Success where observations get lost."""
    results, rows = [], []
    for method in _methods(args):
        for drop in args.drop:
            cells = [_run(args, method, t, ExecutionConfig(drop=drop)) for t in args.tasks]
            name = f"{method.name}, {100 * drop:.0f} % lost"
            rows.append((name, *map(_cell, cells), _cell(_pooled(cells))))
            print(" | ".join(rows[-1]), flush=True)
            results.append({"name": name, "cells": dict(zip(args.tasks, cells, strict=True))})
    _table("success with lost observations, % [95 %]", ("method", *args.tasks, "all"), rows)
    return results


def onnx(args: argparse.Namespace) -> dict[str, Result]:
    """ONNX Runtime against torch, the same weights."""
    results, rows = {}, []
    for kind in dict.fromkeys(method.kind for method in METHODS):
        checkpoint = read_chunk_checkpoint(args.models / f"{args.tasks[0]}_{kind}")
        parity = compare(checkpoint.config, checkpoint.content, checkpoint.weights())
        results[kind] = {
            "max_difference": parity.max_difference,
            "speed_ratio": parity.speed_ratio,
        }
        rows.append((kind, f"{parity.max_difference:.1e}", f"{parity.speed_ratio:.1f}"))
    _table("ONNX Runtime and torch", ("kind", "largest difference", "torch / ONNX, time"), rows)
    return results


if __name__ == "__main__":
    sys.exit(main())
