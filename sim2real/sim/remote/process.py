"""A simulator worker as seen from here: start it, talk to it, understand how it died."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from policies.errors import FaultError, InputError
from sim2real.sim.remote.workers.wire import PROTOCOL, Call, Channel, Memory

WORKERS = Path(__file__).parent / "workers"
_END_S = 5.0
_LAST_WORDS = 300


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
        if os.sep in python:  # the worker starts in another folder; links stay, a venv is one
            python = os.path.abspath(os.path.expanduser(python))
        self.engine, self.python = engine, python
        self.limits = limits or Limits()
        self._joints, self._base = robot["controlled"], robot["floating_base"]
        self._words: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._memory_file = _memory_file()
        self._memory = Memory(self._memory_file)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._channel: Channel | None = Channel(ours)
        self._process: subprocess.Popen[bytes] | None = None
        self._due_s = self.limits.call_s
        try:
            with theirs:
                self._process = self._start(theirs.fileno(), folder)
            self.hello = self._handshake()
            built = self._exchange({"op": "build", "robot": robot}, self.limits.start_s)
            self.mass_kg = float(built["mass_kg"])
        except FaultError as error:  # before the first call it is the set-up that is wrong
            raise InputError(
                f"expected a simulator that starts, but {error}; install {engine} there or give "
                "the path of an interpreter that has it"
            ) from None
        except BaseException:
            self.close()
            raise

    def _start(self, connection: int, folder: Path) -> subprocess.Popen[bytes]:
        environment = dict(os.environ, PYTHONUNBUFFERED="1")
        if self.python != sys.executable:  # paths of this interpreter's packages would break theirs
            for name in ("PYTHONPATH", "PYTHONHOME"):
                environment.pop(name, None)
        try:
            return subprocess.Popen(
                [
                    self.python,
                    "-m",
                    f"workers.{self.engine}_worker",
                    str(connection),
                    str(self._memory_file),
                ],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                pass_fds=(connection, self._memory_file),
                start_new_session=True,  # Ctrl-C is for this process, which then ends the worker
            )
        except OSError as error:
            raise InputError(
                f"expected a Python interpreter that has {self.engine}, but {self.python}: "
                f"{error.strerror}; give the path of one"
            ) from None

    def _handshake(self) -> dict[str, Any]:
        hello = self._receive(self.limits.start_s)
        if hello.get("protocol") != PROTOCOL or hello.get("engine") != self.engine:
            raise InputError(
                f"expected a {self.engine} worker of protocol {PROTOCOL}, got {hello}; "
                "use the worker files of this version"
            )
        return hello

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
        self._send(
            {"op": op, "batch": batch, "ticks": ticks, "setpoints": setpoints, "steps": steps}
        )
        self._due_s = self.limits.call_s + self.limits.step_s * batch * setpoints * steps

    def wait(self) -> None:
        """Wait for the end of the call.

        Raises:
            InputError: the engine refuses what it was given.
            FaultError: the worker died, failed or took too long; it is closed then.
        """
        self._checked(self._receive(self._due_s))

    def _exchange(self, header: dict[str, Any], limit_s: float) -> dict[str, Any]:
        self._send(header)
        return self._checked(self._receive(limit_s))

    def _send(self, header: dict[str, Any]) -> None:
        if self._channel is None:
            raise FaultError(f"the {self.engine} worker has been closed; open the simulator again")
        try:
            self._channel.send(header)
        except OSError:
            raise self._death("ended") from None

    def _receive(self, limit_s: float) -> dict[str, Any]:
        assert self._channel is not None
        header = None
        try:
            self._channel.connection.settimeout(limit_s)
            header = self._channel.receive()
        except TimeoutError:
            self._kill()
            raise self._death(f"gave no answer within {limit_s:g} s and was stopped") from None
        except OSError:
            pass
        except BaseException:  # Ctrl-C: an answer would be left in the line
            self._kill()
            self.close()
            raise
        if header is None:
            raise self._death("ended")
        return header

    def _checked(self, answer: dict[str, Any]) -> dict[str, Any]:
        if "refused" in answer:
            raise InputError(answer["refused"])
        if "failed" in answer:
            raise self._death(f"failed: {_last_line(answer['failed'])}", words=False)
        return answer

    def _death(self, how: str, *, words: bool = True) -> FaultError:
        """Close the worker and say how it ended, with its last words."""
        code = None
        if self._process is not None and words:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(0.5)
        self._words.seek(0, os.SEEK_END)
        self._words.seek(max(self._words.tell() - 4096, 0))
        said = _last_line(self._words.read().decode(errors="replace")) if words else ""
        self.close()
        status = "" if code is None else f" (exit code {code})"
        quoted = f"; its last words: {said}" if said else ""
        return FaultError(f"the {self.engine} worker in {self.python} {how}{status}{quoted}")

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End the worker; closing again does nothing."""
        if self._channel is None:
            return
        self._channel.connection.close()
        self._channel = None
        if self._process is not None:
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._words.close()
        os.close(self._memory_file)


def _memory_file() -> int:
    """Descriptor of a file without a name: nothing is left behind, however the processes end."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("realign")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return textwrap.shorten(lines[-1], _LAST_WORDS) if lines else ""
