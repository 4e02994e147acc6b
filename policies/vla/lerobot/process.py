"""A model worker in another interpreter: start it, talk to it, understand how it died."""

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

from policies.runtime.failure import Failure, PolicyFailureError
from policies.vla.lerobot.workers.wire import PROTOCOL, Arrays, BrokenMessageError, Channel

FOLDER = Path(__file__).parent
PYTHON_VARIABLE = "REALIGN_LEROBOT_PYTHON"
_ROS_WHEELS = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"
_END_S = 1.0
_LAST_WORDS = 300


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
        if os.sep in python:  # the worker starts in another folder; links stay, a venv is one
            python = os.path.abspath(os.path.expanduser(python))
        self.engine, self.python = engine, python
        self._words: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._channel: Channel | None = Channel(ours)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            with theirs:
                self._process = self._start(theirs.fileno(), folder or FOLDER)
            self.hello = self._handshake(start_s)
        except BaseException:
            self.close()
            raise

    def _start(self, connection: int, folder: Path) -> subprocess.Popen[bytes]:
        environment = dict(os.environ, PYTHONUNBUFFERED="1")
        if self.python != sys.executable:  # paths of this interpreter's packages would break theirs
            for name in ("PYTHONPATH", "PYTHONHOME"):
                environment.pop(name, None)
            if environment.pop(_ROS_WHEELS, None):  # they put their libraries first
                environment.pop("LD_LIBRARY_PATH", None)
        try:
            return subprocess.Popen(
                [self.python, "-m", f"workers.{self.engine}_worker", str(connection)],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=self._words,
                stderr=self._words,
                pass_fds=(connection,),
                start_new_session=True,  # Ctrl-C is for this process, which then ends the worker
            )
        except OSError as error:
            raise PolicyFailureError(
                Failure.SERVER_REFUSED,
                f"expected a Python interpreter that has {self.engine}, but {self.python}: "
                f"{error.strerror}; give the path of one (--python or {PYTHON_VARIABLE})",
            ) from None

    def _handshake(self, limit_s: float) -> dict[str, Any]:
        try:
            hello, _ = self._receive(limit_s)
        except PolicyFailureError as error:  # nothing has been asked yet: it is the set-up
            raise PolicyFailureError(
                Failure.SERVER_REFUSED,
                f"expected a worker that starts, but {error}; install {self.engine} there or give "
                f"the path of an interpreter that has it (--python or {PYTHON_VARIABLE})",
            ) from None
        if hello.get("protocol") != PROTOCOL or hello.get("engine") != self.engine:
            raise PolicyFailureError(
                Failure.SERVER_REFUSED,
                f"expected a {self.engine} worker of protocol {PROTOCOL}, got {hello}; use the "
                "worker files of this version",
            )
        return hello

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def closed(self) -> bool:
        """True when it has ended, by itself or not."""
        return self._channel is None

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
        if self._channel is None:
            raise PolicyFailureError(
                Failure.SERVER_LOST, f"the {self.engine} worker has ended; activate the policy anew"
            )
        try:
            self._channel.connection.settimeout(limit_s)
            self._channel.send(header, arrays)
        except OSError:
            raise self._death(Failure.SERVER_LOST, "ended") from None
        answer, out = self._receive(limit_s)
        if "refused" in answer:
            raise PolicyFailureError(Failure.SERVER_REFUSED, str(answer["refused"]))
        if "failed" in answer:
            what = f"failed: {_last_line(str(answer['failed']))}"
            raise self._death(Failure.MODEL_ERROR, what, words=False)
        return answer, out

    def _receive(self, limit_s: float) -> tuple[dict[str, Any], Arrays]:
        channel = self._channel
        try:
            message = None if channel is None else channel.receive(limit_s)
        except TimeoutError:
            self._kill()
            how = f"gave no answer within {limit_s:g} s and was stopped"
            raise self._death(Failure.SERVER_SLOW, how) from None
        except BrokenMessageError as error:
            self._kill()
            how = f"sent something else than an answer and was stopped: {error}"
            raise self._death(Failure.BAD_ANSWER, how) from None
        except OSError:
            message = None
        except BaseException:  # Ctrl-C: an answer would be left in the line
            self._kill()
            self.close()
            raise
        if message is None:
            raise self._death(Failure.SERVER_LOST, "ended")
        return message

    def _death(self, kind: Failure, how: str, *, words: bool = True) -> PolicyFailureError:
        """Close the worker and say how it ended, with its last words."""
        if self._channel is None:  # somebody else has closed it
            return PolicyFailureError(kind, f"the {self.engine} worker in {self.python} was closed")
        code = None
        if self._process is not None and words:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(0.5)
        said = ""
        if words:
            self._words.seek(0, os.SEEK_END)
            self._words.seek(max(self._words.tell() - 4096, 0))
            said = _last_line(self._words.read().decode(errors="replace"))
        self.close()
        status = "" if code is None else f" (exit code {code})"
        quoted = f"; its last words: {said}" if said else ""
        text = f"the {self.engine} worker in {self.python} {how}{status}{quoted}"
        return PolicyFailureError(kind, text)

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End the worker; closing again does nothing."""
        if self._channel is None:
            return
        channel, self._channel = self._channel, None
        with contextlib.suppress(OSError):  # wakes a thread that waits for an answer
            channel.connection.shutdown(socket.SHUT_RDWR)
        channel.connection.close()
        if self._process is not None:
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._words.close()


def find_python(python: str | None = None) -> str | None:
    """Interpreter that has LeRobot: ``python``, or what ``REALIGN_LEROBOT_PYTHON`` says."""
    return python or os.environ.get(PYTHON_VARIABLE) or None


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return textwrap.shorten(lines[-1], _LAST_WORDS) if lines else ""
