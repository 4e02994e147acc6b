"""Processes that evaluate a policy for others, and can be killed; a fixture of conftest.py."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from policies.robots import SO101
from policies.vla.lerobot import process
from policies.vla.lerobot.checkpoint import import_lerobot
from sim2real.serve_cli import local_policy

HERE = Path(__file__).parent
REPLY_S = 1.0
CAMERAS = {"front": (24, 32), "wrist": (16, 16)}


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


def play_lerobot(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Have the LeRobot of this process and its children be the one of the tests."""
    double = HERE.parent / "contract/lerobot_double.py"
    shutil.copytree(process.FOLDER / "workers", folder / "double/workers")
    shutil.copyfile(double, folder / "double/workers/lerobot_worker.py")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\ncd {folder / "double"} && exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    patch.setenv(process.PYTHON_VARIABLE, str(python))


def lerobot_policy(folder: Path) -> Path:
    """A policy for the SO-101 with two cameras that does what its instruction says."""
    theirs = folder / "theirs"
    theirs.mkdir()
    features = {"observation.state": {"type": "STATE", "shape": [SO101.n]}}
    for name, size in CAMERAS.items():
        features[f"observation.images.{name}"] = {"type": "VISUAL", "shape": [3, *size]}
    config = {"type": "act", "n_obs_steps": 1, "chunk_size": 8, "n_action_steps": 4}
    config["input_features"] = features
    config["output_features"] = {"action": {"type": "ACTION", "shape": [SO101.n]}}
    (theirs / "config.json").write_text(json.dumps(config))
    save_file({"none": np.zeros(1, np.float32)}, theirs / "model.safetensors")
    for name in ("policy_preprocessor.json", "policy_postprocessor.json"):
        (theirs / name).write_text(json.dumps({"steps": [{"registry_name": "device_processor"}]}))
    entries = {
        kind: [{"is": f"{kind}/{joint}", "unit": "degrees"} for joint in SO101.joint_names]
        for kind in ("qpos", "position")
    }
    mapping = {
        "rate_hz": 20.0,
        "state": entries["qpos"],
        "action": entries["position"],
        "cameras": {f"observation.images.{name}": name for name in CAMERAS},
        "instruction": "sway",
    }
    (folder / "map.json").write_text(json.dumps(mapping))
    import_lerobot(theirs, SO101, folder / "map.json", folder / "ours")
    return folder / "ours"


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
