"""A process of a graph: a module that ends when its launcher does.

python -m policies.runtime.member FD SECONDS MODULE ARGUMENTS...
"""

from __future__ import annotations

import io
import runpy
import signal
import sys
from typing import Any

from policies.runtime.lifeline import hold_on


class _Unheard(io.FileIO):
    """A pipe whose reader may go away: a robot must not fall because nobody reads the progress."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def main() -> None:
    """Run the module as ``python -m MODULE`` would."""
    _, fd, seconds, module, *arguments = sys.argv
    # A shell has what it runs in the background ignore it; for a member it is the way to end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    hold_on(int(fd), float(seconds))
    sys.stdout = io.TextIOWrapper(_Unheard(1, "w", closefd=False), line_buffering=True)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
