"""A simulator worker as seen from here: arrays in shared memory, calls over a socket."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.errors import FaultError, InputError
from policies.worker_process import WorkerEnd, WorkerError, WorkerProcess
from sim2real.sim.remote.workers.wire import PROTOCOL, Call, Channel, Memory

WORKERS = Path(__file__).parent / "workers"
_END_S = 5.0
_HEAVIEST_KG = 1e6


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long a worker may take before it counts as dead.

    Attributes:
        start_s: importing the engine and building the robot, s (Isaac Gym compiles code first).
        call_s: any call, s.
        step_s: on top of that for each physics step of each robot, s.
    """

    start_s: float = 300.0
    call_s: float = 30.0
    step_s: float = 0.01


class Worker:
    """A simulator in an interpreter of its own.

    Args:
        engine: ``mujoco``, ``sapien`` or ``isaacgym``.
        python: interpreter that has the engine.
        robot: description of the robot.
        limits: time limits.
        folder: where the package ``workers`` with the worker files lies.

    Attributes:
        hello: what the worker said of itself: ``engine``, ``version``, ``python``.
        mass_kg: mass of the robot as the engine built it.

    Raises:
        InputError: no such interpreter, the engine is missing there, another version of the
            protocol, or a robot that the engine cannot build.
    """

    def __init__(
        self,
        engine: str,
        python: str,
        robot: dict[str, Any],
        *,
        limits: Limits | None = None,
        folder: Path = WORKERS.parent,
    ) -> None:
        self.engine = engine
        self.limits = limits or Limits()
        self._joints, self._base = robot["controlled"], robot["floating_base"]
        self._due_s = self.limits.call_s
        self._memory_file: int | None = _memory_file()
        self._memory = Memory(self._memory_file)
        self._process: WorkerProcess[dict[str, Any]] | None = None
        try:
            self._process = WorkerProcess(
                engine, python, folder, Channel, inherited=(self._memory_file,), end_s=_END_S
            )
            self.hello = self._process.receive(self.limits.start_s)
            self._process.check_hello(self.hello, PROTOCOL)
            self._process.send(lambda line: line.send({"op": "build", "robot": robot}))
            built = self._process.receive(self.limits.start_s)
            self._process.check(built)
            mass_kg = built.get("mass_kg")
            if not isinstance(mass_kg, (int, float)) or not 0.0 <= mass_kg < _HEAVIEST_KG:
                raise self._process.garbled(f"a mass of {mass_kg!r}")
            self.mass_kg = float(mass_kg)
        except WorkerError as error:
            self.close()
            text = str(error)
            if error.reason not in (WorkerEnd.NO_INTERPRETER, WorkerEnd.REFUSED):
                # Before the first call it is the set-up that is wrong.
                text = (
                    f"expected a simulator that starts, but {error}; install {engine} there or "
                    "give the path of an interpreter that has it"
                )
            raise InputError(text) from None
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    def arrays(self, batch: int, ticks: int, setpoints: int) -> Call:
        """Shared arrays to fill before and read after a call; the next call overwrites them."""
        return self._memory.call(batch, ticks, setpoints, self._joints, self._base)

    def send(self, op: str, batch: int, ticks: int, setpoints: int, steps: int) -> None:
        """Start a call on the arrays of the same size.

        Args:
            op: ``rollout``, ``reset`` or ``advance``.
            batch: robots.
            ticks: control ticks.
            setpoints: set-points, a multiple of the ticks.
            steps: physics steps of each set-point.

        Raises:
            FaultError: the worker is gone.
        """
        process = self._process
        if process is None or process.closed:
            raise FaultError(f"the {self.engine} worker has been closed; open the simulator again")
        sizes = {"batch": batch, "ticks": ticks, "setpoints": setpoints, "steps": steps}
        try:
            process.send(lambda line: line.send({"op": op, **sizes}))
        except WorkerError as error:
            raise FaultError(str(error)) from None
        self._due_s = self.limits.call_s + self.limits.step_s * batch * setpoints * steps

    def wait(self) -> None:
        """Wait for the end of the call.

        Raises:
            InputError: the engine refuses what it was given.
            FaultError: the worker died, failed or took too long; it is closed then.
        """
        assert self._process is not None
        try:
            self._process.check(self._process.receive(self._due_s))
        except WorkerError as error:
            if error.reason is WorkerEnd.REFUSED:
                raise InputError(str(error)) from None
            self.close()
            raise FaultError(str(error)) from None

    def close(self) -> None:
        """End the worker; closing again does nothing."""
        if self._process is not None:
            self._process.close()
        if self._memory_file is not None:
            os.close(self._memory_file)
            self._memory_file = None


def _memory_file() -> int:
    """Descriptor of a file without a name: nothing is left behind, however the processes end."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("realign")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
