"""What was done by what was said: each row is an instruction swap test of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from policies.evaluation.metrics import wilson
from sim2real.replay.cli import table_text
from sim2real.tasks.panda_scene import NAMES

NOTHING = "nothing"


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
