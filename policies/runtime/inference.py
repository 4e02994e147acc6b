"""Who evaluates a model: the caller itself, or a thread beside the caller's loop.

A thread is enough for ONNX Runtime, torch and remote models, all of which let go of Python's
interpreter lock while they compute or wait. A model that is slow *in Python* delays its caller all
the same; it belongs into a process of its own (:mod:`policies.serving`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from policies.interface import Float
from policies.runtime.failure import PolicyFailure, failure_of
from policies.runtime.scheduling import leave_realtime

Job = Callable[[], Float | None]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a job.

    Attributes:
        request: id that it was given with.
        actions: what it returned, or None if it failed or returns nothing.
        failure: why it failed, or None.
        seconds: how long it took, s.
    """

    request: int
    actions: Float | None
    failure: PolicyFailure | None
    seconds: float


class Inference(Protocol):
    """Does one job at a time, in the order in which they came."""

    @property
    def busy(self) -> bool:
        """True while a job is waiting or under way."""

    def submit(self, request: int, job: Job) -> None:
        """Hand over a job."""

    def poll(self) -> list[Outcome]:
        """Take out what has been done since the last call."""

    def wait(self, seconds: float) -> None:
        """Return when there is something to poll, or after ``seconds``."""

    def close(self, seconds: float) -> bool:
        """Take no more jobs; False if the one under way did not end within ``seconds``."""


def carry_out(request: int, job: Job) -> Outcome:
    """Do a job now; whatever it raises becomes its outcome."""
    start = time.perf_counter()
    actions, failure = None, None
    try:
        actions = job()
    except Exception as error:  # a model may raise anything; no robot should learn of it this way
        failure = failure_of(error)
    seconds = time.perf_counter() - start
    return Outcome(request=request, actions=actions, failure=failure, seconds=seconds)


class InlineInference:
    """Does each job when it is submitted; what a run that must be repeatable needs."""

    def __init__(self) -> None:
        self._done: list[Outcome] = []

    @property
    def busy(self) -> bool:
        """Never."""
        return False

    def submit(self, request: int, job: Job) -> None:
        """Do a job."""
        self._done.append(carry_out(request, job))

    def poll(self) -> list[Outcome]:
        """See :class:`Inference`."""
        done, self._done = self._done, []
        return done

    def wait(self, seconds: float) -> None:
        """Nothing to wait for."""

    def close(self, seconds: float) -> bool:
        """Nothing to end."""
        return True


class ThreadedInference:
    """Does its jobs in a thread of its own."""

    def __init__(self) -> None:
        self._jobs: deque[tuple[int, Job]] = deque()
        self._done: deque[Outcome] = deque()
        self._changed = threading.Condition()
        self._open = True
        self._working = False
        # A model that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    @property
    def busy(self) -> bool:
        """See :class:`Inference`."""
        with self._changed:
            return self._working or bool(self._jobs)

    def submit(self, request: int, job: Job) -> None:
        """See :class:`Inference`."""
        with self._changed:
            self._jobs.append((request, job))
            self._changed.notify_all()

    def poll(self) -> list[Outcome]:
        """See :class:`Inference`."""
        with self._changed:
            done = list(self._done)
            self._done.clear()
            return done

    def wait(self, seconds: float) -> None:
        """See :class:`Inference`."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._done), timeout=seconds)

    def close(self, seconds: float) -> bool:
        """See :class:`Inference`."""
        with self._changed:
            self._open = False
            self._jobs.clear()
            self._changed.notify_all()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._jobs) or not self._open)
                if not self._open:
                    return
                request, job = self._jobs.popleft()
                self._working = True
            leave_realtime()  # whoever asked for priority meant the loop that we work beside
            outcome = carry_out(request, job)
            with self._changed:
                self._working = False
                self._done.append(outcome)
                self._changed.notify_all()
