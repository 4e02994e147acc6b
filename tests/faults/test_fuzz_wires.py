"""What processes tell each other against damage: workers of simulators and models talk nonsense.

A worker is played by the other end of its socket, which has said all that it is going to say: whole
messages with values of other kinds in them, and streams that are cut or altered anywhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import fuzzing
import numpy as np
import pytest
from fuzzing import Subject

from policies.diffusion.interface import ChunkSpec, Window
from policies.errors import FaultError, InputError
from policies.runtime.failure import PolicyFailureError
from policies.vla.lerobot.config import LeRobotConfig
from policies.vla.lerobot.mapping import Entry
from policies.vla.lerobot.model import LeRobotModel, RunConfig
from policies.vla.lerobot.workers import wire as model_wire
from policies.worker_process import WorkerProcess
from sim2real.sim.remote.process import Worker
from sim2real.sim.remote.workers import wire as simulator_wire


class Parrot:
    """Stands for a worker process: it says what it was given and hears what it is told.

    Args:
        said: bytes that it sends before it closes its side.
        line: its end of the socket.
    """

    pid = 0

    def __init__(self, said: bytes, line: socket.socket) -> None:
        self._line = line
        threading.Thread(target=self._say, args=(said,), daemon=True).start()
        threading.Thread(target=self._hear, daemon=True).start()

    def _say(self, said: bytes) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            self._line.sendall(said)
            self._line.shutdown(socket.SHUT_WR)

    def _hear(self) -> None:
        with self._line, contextlib.suppress(OSError):
            while self._line.recv(65536):
                pass

    def wait(self, timeout: float | None = None) -> int:
        return 0

    def kill(self) -> None:
        """What it has still to say is not heard."""


@contextlib.contextmanager
def saying(said: bytes) -> Iterator[None]:
    """Workers that are started in here say that."""

    def start(self: Any, folder: Path, descriptors: tuple[int, ...]) -> Parrot:
        return Parrot(said, socket.socket(fileno=os.dup(descriptors[0])))

    with mock.patch.object(WorkerProcess, "_start", start):
        yield


# ---- simulators --------------------------------------------------------------------------------

ROBOT = {"name": "arm", "controlled": 2, "floating_base": False}
SIMULATOR = (
    {"protocol": 1, "engine": "arm", "version": "1", "python": "3.11"},
    {"mass_kg": 3.0},
    {},
    {"refused": "expected less"},
)


def framed(messages: list[bytes]) -> bytes:
    """Headers as a simulator sends them."""
    return b"".join(len(text).to_bytes(4, "little") + text for text in messages)


def make_simulator(folder: Path) -> Path:
    texts = [json.dumps(message).encode() for message in SIMULATOR]
    (folder / "stream").write_bytes(framed(texts))
    for k, text in enumerate(texts):
        (folder / f"{k}.json").write_bytes(text)
    return folder


def play(said: bytes) -> None:
    """Build a robot, play it, and be refused."""
    with saying(said):
        worker = Worker("arm", sys.executable, ROBOT)
    try:
        for refused in (False, True):
            worker.arrays(1, 1, 1)
            worker.send("rollout", 1, 1, 1, 1)
            try:
                worker.wait()
            except InputError:
                if not refused:
                    raise
    finally:
        worker.close()


def play_messages(folder: Path) -> None:
    play(framed([(folder / f"{k}.json").read_bytes() for k in range(len(SIMULATOR))]))


# ---- models ------------------------------------------------------------------------------------

SPEC = ChunkSpec(
    name="small",
    state_names=("qpos/a",),
    action_names=("position/a",),
    observation_horizon=1,
    prediction_horizon=4,
    action_horizon=2,
    rate_hz=10.0,
)
CONFIG = LeRobotConfig(
    name="small",
    robot=None,
    rate_hz=10.0,
    state=(Entry(name="a", quantity="qpos/a", unit="rad", scale=1.0, offset=0.0),),
    environment_state=(),
    action=(Entry(name="a", quantity="position/a", unit="rad", scale=1.0, offset=0.0),),
    cameras={},
    instruction=None,
)
ACTIONS = np.linspace(0.0, 1.0, 4, dtype=np.float32)
ANSWER = {"seconds": 0.1, "arrays": [["actions", "float32", [1, 4, 1]]]}
MODEL = (
    {"protocol": 1, "engine": "lerobot", "version": "1", "python": "3.11", "arrays": []},
    {"state": 1, "actions": 1, "cameras": [], "arrays": []},
    ANSWER,  # to a trial
    {"arrays": []},
    ANSWER,
)


def with_bodies(headers: list[bytes]) -> bytes:
    """Headers as a model sends them, the arrays behind those that had some."""
    out = b""
    for header, own in zip(headers, MODEL, strict=True):
        body = ACTIONS.tobytes() if own["arrays"] else b""
        out += struct.pack("<IQ", len(header), len(body)) + header + body
    return out


def make_model(folder: Path) -> Path:
    texts = [json.dumps(message).encode() for message in MODEL]
    (folder / "stream").write_bytes(with_bodies(texts))
    for k, text in enumerate(texts):
        (folder / f"{k}.json").write_bytes(text)
    return folder


def answer(said: bytes) -> None:
    """Load a model, and ask it once."""
    model = LeRobotModel(CONFIG, SPEC, Path(), RunConfig(python=sys.executable))
    try:
        with saying(said):
            model.reset(0)
        actions = model.sample(Window(state=np.zeros((1, 1, 1))))
        assert actions.shape == (1, 4, 1)
        assert np.isfinite(actions).all()
    finally:
        model.close()


def answer_messages(folder: Path) -> None:
    answer(with_bodies([(folder / f"{k}.json").read_bytes() for k in range(len(MODEL))]))


def json_files(messages: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(f"{k}.json" for k in range(len(messages)))


SIMULATED = (InputError, FaultError)
SUBJECTS = (
    Subject(
        "simulator_stream",
        make_simulator,
        lambda folder: play((folder / "stream").read_bytes()),
        ("stream",),
        errors=SIMULATED,
        absent=False,
    ),
    Subject(
        "simulator_messages",
        make_simulator,
        play_messages,
        json_files(SIMULATOR),
        json_files(SIMULATOR),
        SIMULATED,
        absent=False,
    ),
    Subject(
        "model_stream",
        make_model,
        lambda folder: answer((folder / "stream").read_bytes()),
        ("stream",),
        errors=(PolicyFailureError,),
        absent=False,
    ),
    Subject(
        "model_messages",
        make_model,
        answer_messages,
        json_files(MODEL),
        json_files(MODEL),
        (PolicyFailureError,),
        absent=False,
    ),
)


@fuzzing.CUT_PLACES
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_damage_is_one_sentence(subject, cut_places, tmp_path):
    fuzzing.damage(subject, cut_places, tmp_path)


@pytest.mark.parametrize(
    ("channel", "announced"),
    [
        (simulator_wire.Channel, struct.pack("<I", 2**32 - 1)),
        (model_wire.Channel, struct.pack("<IQ", 2**32 - 1, 0)),
        (model_wire.Channel, struct.pack("<IQ", 2, 2**64 - 1)),
    ],
)
def test_more_than_a_message_can_hold_is_not_waited_for(channel, announced):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(announced)
        with pytest.raises(ValueError, match="too large"):
            channel(ours).receive(5.0)


@pytest.mark.parametrize(
    ("channel", "announced"),
    [
        (simulator_wire.Channel, struct.pack("<I", simulator_wire.MAX_HEADER_BYTES)),
        (model_wire.Channel, struct.pack("<IQ", 2, model_wire.MAX_BODY_BYTES) + b"{}"),
    ],
)
def test_memory_grows_with_what_comes_and_not_with_what_is_announced(channel, announced):
    ours, theirs = socket.socketpair()
    with ours, theirs, fuzzing.memory_limit():
        theirs.sendall(announced + b"x" * 1000)
        theirs.shutdown(socket.SHUT_WR)
        assert channel(ours).receive(5.0) is None


@pytest.mark.parametrize("channel", [simulator_wire.Channel, model_wire.Channel])
def test_who_sends_a_byte_now_and_then_is_not_waited_for(channel):
    """The time limit is one of the whole message."""
    ours, theirs = socket.socketpair()
    done = threading.Event()

    def drip() -> None:
        while not done.wait(0.02):
            theirs.sendall(b"\x00\x01")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        line = channel(ours)
        theirs.sendall(struct.pack("<IQ", 2000, 2000)[:12])
        with pytest.raises(TimeoutError):
            line.receive(0.3)
    finally:
        done.set()
        thread.join()
        ours.close()
        theirs.close()
