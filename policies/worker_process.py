"""A program in another Python interpreter: start it, talk to it, understand how it died.

Models and simulators whose packages cannot live beside ours run this way. What is said on the
socket is the business of each worker's own ``workers/wire.py``, which both ends use: the folder
``workers`` is all that the other interpreter sees of us.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from enum import Enum, auto
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

_ROS_WHEELS = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"
_LAST_WORDS = 300
_LONGEST = 1000  # characters of a worker's that a sentence quotes

Message = TypeVar("Message")
Message_co = TypeVar("Message_co", covariant=True)


class WorkerEnd(Enum):
    """Why there is no answer."""

    NO_INTERPRETER = auto()
    REFUSED = auto()
    FAILED = auto()
    SLOW = auto()
    GARBLED = auto()
    GONE = auto()


class WorkerError(Exception):
    """There is no answer; unless it was refused, the worker has been closed.

    Attributes:
        reason: why.
    """

    def __init__(self, reason: WorkerEnd, text: str) -> None:
        """Make one from a reason and a sentence."""
        super().__init__(text)
        self.reason = reason


class Line(Protocol[Message_co]):
    """Messages over a stream socket: ``Channel`` of a ``workers/wire.py``."""

    connection: socket.socket

    def receive(self, limit_s: float | None = None) -> Message_co | None:
        """Wait for one message; None when the other side has gone.

        Raises:
            ValueError: what came is no message.
        """


class WorkerProcess(Generic[Message]):
    """A worker program and the socket to it.

    Args:
        engine: name of the worker file, without ``_worker.py``.
        python: interpreter that has its packages.
        folder: where the package ``workers`` with the worker files lies.
        line: makes messages of the socket's bytes.
        inherited: further file descriptors that it is given; its command line holds their numbers.
        end_s: time to end by itself before it is killed, s.

    Raises:
        WorkerError: no such interpreter.
    """

    def __init__(
        self,
        engine: str,
        python: str,
        folder: Path,
        line: Callable[[socket.socket], Line[Message]],
        *,
        inherited: tuple[int, ...] = (),
        end_s: float,
    ) -> None:
        if os.sep in python:  # the worker starts in another folder; links stay, a venv is one
            python = os.path.abspath(os.path.expanduser(python))
        self.engine, self.python = engine, python
        self._end_s = end_s
        self._words: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._line: Line[Message] | None = line(ours)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            with theirs:
                self._process = self._start(folder, (theirs.fileno(), *inherited))
        except BaseException:
            self.close()
            raise

    def _start(self, folder: Path, descriptors: tuple[int, ...]) -> subprocess.Popen[bytes]:
        environment = dict(os.environ, PYTHONUNBUFFERED="1")
        if self.python != sys.executable:  # paths of this interpreter's packages would break theirs
            for name in ("PYTHONPATH", "PYTHONHOME"):
                environment.pop(name, None)
            if environment.pop(_ROS_WHEELS, None):  # they put their libraries first
                environment.pop("LD_LIBRARY_PATH", None)
        try:
            return subprocess.Popen(
                [self.python, "-m", f"workers.{self.engine}_worker", *map(str, descriptors)],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                pass_fds=descriptors,
                start_new_session=True,  # Ctrl-C is for this process, which then ends the worker
            )
        except OSError as error:
            raise WorkerError(
                WorkerEnd.NO_INTERPRETER,
                f"expected a Python interpreter that has {self.engine}, but {self.python}: "
                f"{error.strerror}; give the path of one",
            ) from None

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def closed(self) -> bool:
        """True when it has ended, by itself or not."""
        return self._line is None

    def send(self, write: Callable[[Any], None], limit_s: float | None = None) -> None:
        """Send a message.

        Args:
            write: sends it on the line that it is given.
            limit_s: time for it, s; None for ever.

        Raises:
            WorkerError: the worker is gone.
        """
        line = self._line
        if line is None:
            raise self._death(WorkerEnd.GONE, "ended")
        try:
            line.connection.settimeout(limit_s)
            write(line)
        except OSError:
            raise self._death(WorkerEnd.GONE, "ended") from None

    def receive(self, limit_s: float) -> Message:
        """Wait for a message.

        Args:
            limit_s: time after which the worker counts as dead, s.

        Raises:
            WorkerError: it died, took too long or sent something else.
        """
        line = self._line
        try:
            message = None if line is None else line.receive(limit_s)
        except TimeoutError:
            self._kill()
            how = f"gave no answer within {limit_s:g} s and was stopped"
            raise self._death(WorkerEnd.SLOW, how) from None
        except ValueError as error:
            raise self.garbled(str(error)) from None
        except OSError:
            message = None
        except BaseException:  # Ctrl-C: an answer would be left in the line
            self._kill()
            self.close()
            raise
        if message is None:
            raise self._death(WorkerEnd.GONE, "ended")
        return message

    def check(self, answer: dict[str, Any]) -> None:
        """Look into the header of an answer.

        Raises:
            WorkerError: it says ``refused``, with a sentence, or ``failed``, with a traceback.
        """
        if "refused" in answer:
            raise WorkerError(WorkerEnd.REFUSED, _short(str(answer["refused"])))
        if "failed" in answer:
            what = f"failed: {_last_line(str(answer['failed']))}"
            raise self._death(WorkerEnd.FAILED, what, words=False)

    def check_hello(self, hello: dict[str, Any], protocol: int) -> None:
        """Look into the first message of a worker.

        Raises:
            WorkerError: it is of another program or version.
        """
        said = all(isinstance(hello.get(key), str) for key in ("version", "python"))
        if not said or hello.get("protocol") != protocol or hello.get("engine") != self.engine:
            raise WorkerError(
                WorkerEnd.REFUSED,
                f"expected a {self.engine} worker of protocol {protocol}, got "
                f"{_short(ascii(hello))}; use the worker files of this version",
            )

    def garbled(self, what: str) -> WorkerError:
        """The error to raise where an answer is none; the worker is closed."""
        self._kill()
        how = f"sent something else than an answer and was stopped: {_short(what)}"
        return self._death(WorkerEnd.GARBLED, how)

    def _death(self, reason: WorkerEnd, how: str, *, words: bool = True) -> WorkerError:
        """Close the worker and say how it ended, with its last words."""
        if self._line is None:  # somebody else has closed it
            return WorkerError(reason, f"the {self.engine} worker in {self.python} was closed")
        code, said = None, ""
        if words:
            if self._process is not None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    code = self._process.wait(0.5)
            self._words.seek(0, os.SEEK_END)
            self._words.seek(max(self._words.tell() - 4096, 0))
            said = _last_line(self._words.read().decode(errors="replace"))
        self.close()
        status = "" if code is None else f" (exit code {code})"
        quoted = f"; its last words: {said}" if said else ""
        text = f"the {self.engine} worker in {self.python} {how}{status}{quoted}"
        return WorkerError(reason, text)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End the worker; closing again does nothing."""
        if self._line is None:
            return
        line, self._line = self._line, None
        with contextlib.suppress(OSError):  # wakes a thread that waits for an answer
            line.connection.shutdown(socket.SHUT_RDWR)
        line.connection.close()
        if self._process is not None:
            try:
                self._process.wait(self._end_s)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._words.close()


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return _short(lines[-1], _LAST_WORDS) if lines else ""


def _short(text: str, most: int = _LONGEST) -> str:
    """One line of characters that can be printed."""
    return textwrap.shorten(text.encode(errors="replace").decode(), most)
