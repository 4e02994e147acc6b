"""What was done by what was said: each row is an instruction swap test of the others."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from policies.diffusion.interface import ChunkModel
from policies.evaluation.environment import Environment
from policies.evaluation.loop import ExecutionConfig, Run, run_batch, run_seeds
from policies.evaluation.metrics import wilson
from sim2real.replay.cli import table_text
from sim2real.tasks.panda_scene import NAMES

NOTHING = "nothing"
AnyEnvironment = TypeVar("AnyEnvironment", bound=Environment)


def add_options(description: str | None, parts: Sequence[str]) -> argparse.ArgumentParser:
    """The options that all who judge obedience have.

    Args:
        description: what ``--help`` says.
        parts: of the benchmark; all are the default.
    """
    parser = argparse.ArgumentParser(description=description)
    add = parser.add_argument
    add("--parts", nargs="+", default=parts)
    add("--scenes", type=int, default=50, help="scenes in which each instruction is given")
    add("--batch", type=int, default=25, help="runs that go side by side")
    add("--seed", type=int, default=0, help="other scenes")
    add("--steps", type=int, help="evaluations of the network for a chunk; not in the graph")
    add("--action-horizon", type=int, help="actions from one chunk to the next; default: its own")
    add("--json", type=Path, help="file for the results")
    return parser


def play(
    args: argparse.Namespace, model: ChunkModel, make: Callable[[int, int], AnyEnvironment]
) -> Iterator[tuple[AnyEnvironment, Run]]:
    """A run of a policy in each scene: what it has left behind, and how it went.

    Args:
        args: of :func:`add_options`.
        model: the policy's.
        make: environment from its place among those side by side, and the actions that are
            carried out from one chunk to the next.
    """
    horizon = args.action_horizon or model.spec.action_horizon
    environments = [make(i, horizon) for i in range(min(args.batch, args.scenes))]
    seeds = run_seeds(args.seed, args.scenes)
    for first in range(0, args.scenes, args.batch):
        chosen = seeds[first : first + args.batch]
        used = environments[: len(chosen)]
        runs, _ = run_batch(model, used, chosen, ExecutionConfig(action_horizon=horizon))
        yield from zip(used, runs, strict=True)


def thing_name(index: int | None) -> str:
    """What is counted for a thing, or for none."""
    return NOTHING if index is None else NAMES[index]


def share(successes: int, runs: int) -> str:
    """Percentage with the Wilson interval of 95 %."""
    low, high = wilson(successes, runs)
    return f"{100 * successes / runs:.0f} % [{100 * low:.0f}, {100 * high:.0f}]"


def swap_table(
    what: str, deed: str, scenes: int, done: Callable[[str], Counter[str]]
) -> dict[str, Any]:
    """Print what is done by what is said.

    Args:
        what: of which policy or phrases, for the title.
        deed: what it is told to do to a thing.
        scenes: in which each instruction is given.
        done: thing that is asked for -> thing that it was done to -> how often.

    Returns:
        JSON-ready counts and intervals by thing.
    """
    rows, out = [], {}
    for said in NAMES:
        found = done(said)
        counts = [found[name] for name in (*NAMES, NOTHING)]
        rows.append((said, *map(str, counts), share(found[said], scenes)))
        out[said] = {**found, "ci95": list(wilson(found[said], scenes))}
        print(f"{what}, {said}: {dict(found)}", flush=True)
    total = sum(out[name].get(name, 0) for name in NAMES)
    rows.append(("all", *[""] * 5, share(total, len(NAMES) * scenes)))
    print(f"\n{deed}, by what was said ({what}), {scenes} scenes:")
    print(table_text((f"told to {deed}", *NAMES, NOTHING, "success"), rows))
    return out
