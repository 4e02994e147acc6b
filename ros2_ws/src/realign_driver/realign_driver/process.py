"""The life of a process, a node's or not: refused with a sentence, told to stop, summed up."""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from policies.errors import InputError


@contextlib.contextmanager
def refusing() -> Iterator[None]:
    """Where what is given is refused, exit with code 2 and its sentence."""
    try:
        yield
    except InputError as error:
        print(f"realign: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def on_stop(act: Callable[..., object]) -> None:
    """Have SIGINT and SIGTERM call ``act`` (with signal and frame), and do nothing else."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, act)


def write_summary(path: str, summarise: Callable[[], Mapping[str, object]]) -> None:
    """Leave what `realign run` reports of this process, where that is asked for.

    Args:
        path: JSON file; empty for none.
        summarise: gives its content, JSON-ready.
    """
    if path:
        Path(path).write_text(json.dumps(summarise()))
