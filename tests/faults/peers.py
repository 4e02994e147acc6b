"""Processes that evaluate a policy for others, and can be killed; a fixture of conftest.py."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sim2real.serve_cli import local_policy

HERE = Path(__file__).parent
REPLY_S = 1.0


class Server:
    """A scripted server in a process of its own, see ``scripted_server.py``.

    Attributes:
        descriptor: checkpoint directory that leads to it.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "scripted_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url = self._read()
        self.descriptor = Path()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def say(self, word: str) -> None:
        """Tell it what to answer from now on; returns when it has understood."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        assert self._read() == word

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@contextmanager
def server_process() -> Iterator[Server]:
    """A server that is gone afterwards."""
    server = Server()
    try:
        with local_policy(server.url, token_file=None, reply_s=REPLY_S) as path:
            server.descriptor = path
            yield server
    finally:
        if server._process.poll() is None:
            server.kill()


def children(pid: int) -> list[int]:
    """Process ids of a process's children, and theirs."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has just ended
            continue
        if parent == pid:
            found += [int(folder.name), *children(int(folder.name))]
    return found


def workers_of(pid: int) -> list[int]:
    """Interpreters below a process that evaluate a LeRobot policy."""
    found = []
    for child in children(pid):
        with suppress(OSError):  # it has just ended
            if b"lerobot_worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found
