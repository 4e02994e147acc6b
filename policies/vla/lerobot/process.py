"""A model worker in another interpreter: one question at a time, failures by their names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.runtime.failure import Failure, PolicyFailureError
from policies.vla.lerobot.workers.wire import PROTOCOL, Arrays, Channel
from policies.worker_process import WorkerEnd, WorkerError, WorkerProcess

FOLDER = Path(__file__).parent
PYTHON_VARIABLE = "REALIGN_LEROBOT_PYTHON"
_END_S = 1.0
_FAILURES = {
    WorkerEnd.NO_INTERPRETER: Failure.SERVER_REFUSED,
    WorkerEnd.REFUSED: Failure.SERVER_REFUSED,
    WorkerEnd.FAILED: Failure.MODEL_ERROR,
    WorkerEnd.SLOW: Failure.SERVER_SLOW,
    WorkerEnd.GARBLED: Failure.BAD_ANSWER,
    WorkerEnd.GONE: Failure.SERVER_LOST,
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a worker may take before it counts as dead.

    Attributes:
        start_s: importing its package, s.
        load_s: loading a checkpoint and the first answer, s.
        call_s: any later answer, s.
    """

    start_s: float = 60.0
    load_s: float = 120.0
    call_s: float = 10.0


class Worker:
    """A model in an interpreter of its own.

    Args:
        engine: name of the worker file, without ``_worker.py``.
        python: interpreter that has the package.
        start_s: how long the package may take to import, s.
        folder: where the package ``workers`` with the worker files lies; None for ours.

    Attributes:
        hello: what the worker said of itself: ``engine``, ``version``, ``python``.

    Raises:
        PolicyFailureError: no such interpreter, or the package is missing there.
    """

    def __init__(
        self, engine: str, python: str, *, start_s: float, folder: Path | None = None
    ) -> None:
        self.engine = engine
        where = f"(--python or {PYTHON_VARIABLE})"
        try:
            self._process = WorkerProcess(engine, python, folder or FOLDER, Channel, end_s=_END_S)
        except WorkerError as error:
            raise PolicyFailureError(_FAILURES[error.reason], f"{error} {where}") from None
        try:
            self.hello, _ = self._process.receive(start_s)
            self._process.check_hello(self.hello, PROTOCOL)
        except WorkerError as error:  # nothing has been asked yet: it is the set-up
            self.close()
            text = str(error)
            if error.reason is not WorkerEnd.REFUSED:
                text = (
                    f"expected a worker that starts, but {error}; install {engine} there or give "
                    f"the path of an interpreter that has it {where}"
                )
            raise PolicyFailureError(Failure.SERVER_REFUSED, text) from None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def closed(self) -> bool:
        """True when it has ended, by itself or not."""
        return self._process.closed

    def ask(
        self, header: dict[str, Any], arrays: Arrays | None = None, *, limit_s: float
    ) -> tuple[dict[str, Any], Arrays]:
        """Ask and wait for the answer.

        Args:
            header: ``op`` and what belongs to it, JSON-ready.
            arrays: name -> array.
            limit_s: time after which the worker counts as dead, s.

        Returns:
            Header and arrays of the answer.

        Raises:
            PolicyFailureError: the worker refuses, died, failed or took too long; it is closed
                unless it refuses.
        """
        if self.closed:
            raise PolicyFailureError(
                Failure.SERVER_LOST, f"the {self.engine} worker has ended; activate the policy anew"
            )
        try:
            self._process.send(lambda line: line.send(header, arrays), limit_s)
            answer, out = self._process.receive(limit_s)
            self._process.check(answer)
        except WorkerError as error:
            raise PolicyFailureError(_FAILURES[error.reason], str(error)) from None
        return answer, out

    def close(self) -> None:
        """End the worker; closing again does nothing."""
        self._process.close()


def find_python(python: str | None = None) -> str | None:
    """Interpreter that has LeRobot: ``python``, or what ``REALIGN_LEROBOT_PYTHON`` says."""
    return python or os.environ.get(PYTHON_VARIABLE) or None
