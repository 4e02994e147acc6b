"""How a simulator in another interpreter talks to realign; both ends use this file.

Two inherited file descriptors connect the two processes, so that no other process can join in: a
stream socket for headers (a length and that many bytes of JSON) and a memory file for arrays. The
worker speaks first::

    worker                                            client
    {"protocol", "engine", "version", "python"}  ->
                                                 <-   {"op": "build", "robot": {...}}
    {"mass_kg"}                                  ->
                                                 <-   {"op": "rollout", "batch", "ticks",
                                                       "setpoints", "steps"}
    {}                                           ->

``rollout`` plays B robots from given states; ``reset`` and ``advance`` are for one robot that keeps
its state inside the engine. An answer ``{"refused": sentence}`` is bad input, ``{"failed":
traceback}`` anything else. Arrays are float64 in the order of :func:`layout`.

``robot`` describes everything in SI units: ``name``, ``urdf`` (text, absolute mesh paths),
``base_link``, ``floating_base``, ``start_height_m``, ``gravity_m_s2`` (3), ``weightless`` (links
that gravity does not pull), ``floor`` (None or ``friction`` and ``softness_s``), ``physics_dt_s``,
``joints`` (names; the first ``controlled`` of them follow set-points, the others hold the positions
``hold``) and, one number for each joint, ``kp``, ``kd``, ``limit``, ``damping``, ``armature``,
``friction`` (Coulomb), ``stiffness``, ``spring_ref`` and ``offset``. At each physics step a motor's
torque is ``clip(kp (setpoint + offset - q) - kd qd, +-limit)``. Collision shapes in the URDF
collide with the floor and with each other, except where a joint (or fixed links and a joint)
connects them. A call's ``steps`` are the physics steps of one set-point, its ``setpoints`` a
multiple of its ``ticks``.
"""

from __future__ import annotations

import json
import mmap
import os
import platform
import socket
import struct
import sys
import threading
import time
import traceback
from typing import Any, NamedTuple

import numpy as np

PROTOCOL = 1
MAX_HEADER_BYTES = 64_000_000  # the URDF of a robot is in one
BASE = 13  # position (3), orientation wxyz (4), linear velocity in the world, angular in the base
_LENGTH = struct.Struct("<I")
_DOUBLE = 8
_PARENT_CHECK_S = 1.0


class Refused(ValueError):
    """Bad input; the text is one sentence for the user."""


class Channel:
    """Headers over a stream socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._received = bytearray()

    def send(self, header: dict[str, Any]) -> None:
        """Send one header."""
        text = json.dumps(header).encode()
        self.connection.sendall(_LENGTH.pack(len(text)) + text)

    def receive(self, limit_s: float | None = None) -> dict[str, Any] | None:
        """Wait for one header; None when the other side has gone.

        Args:
            limit_s: time after which ``TimeoutError`` is raised, s; None for ever.

        Raises:
            ValueError: what came is no header.
        """
        deadline = None if limit_s is None else time.monotonic() + limit_s
        while True:
            have = len(self._received)
            if have >= _LENGTH.size:
                length = _LENGTH.unpack_from(self._received)[0]
                if length > MAX_HEADER_BYTES:
                    raise ValueError(f"a header of {length} bytes is too large")
                end = _LENGTH.size + length
                if have >= end:
                    header = _object(self._received[_LENGTH.size : end])
                    del self._received[:end]
                    return header
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0.0:
                raise TimeoutError
            self.connection.settimeout(left)
            chunk = self.connection.recv(65536)
            if not chunk:
                return None
            self._received += chunk


def _object(text: bytearray) -> dict[str, Any]:
    """A JSON object; anything else is a ``ValueError``."""
    try:
        header = json.loads(text.decode())
    except RecursionError:
        header = None
    if not isinstance(header, dict):
        raise ValueError("what came is no object of JSON")
    return header


class States(NamedTuple):
    """Arrays of one or several states; ``base`` is None for a fixed base."""

    qpos: Any
    qvel: Any
    base: Any
    effort: Any  # motor torques of the last physics step; only where a simulator gives them

    def row(self, i: int) -> States:
        """The i-th of them."""
        return States(*[None if x is None else x[i] for x in self])


class Call(NamedTuple):
    """The arrays of one call: where it starts, set-points (B, S, n), where the answer goes."""

    start: States
    setpoints: Any
    out: States


def layout(
    batch: int, ticks: int, setpoints: int, joints: int, base: bool
) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a call's arrays, as they follow each other in the memory file."""
    shapes = [
        ("qpos", (batch, joints)),
        ("qvel", (batch, joints)),
        ("setpoints", (batch, setpoints, joints)),
        ("out_qpos", (batch, ticks, joints)),
        ("out_qvel", (batch, ticks, joints)),
        ("out_effort", (batch, ticks, joints)),
    ]
    if base:
        shapes += [("base", (batch, BASE)), ("out_base", (batch, ticks, BASE))]
    return shapes


def layout_bytes(shapes: list[tuple[str, tuple[int, ...]]]) -> int:
    """Size of such arrays."""
    return sum(_DOUBLE * int(np.prod(shape)) for _, shape in shapes)


class Memory:
    """Arrays in a memory file that both sides map; it only grows."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map: mmap.mmap | None = None
        self._size = 0
        self._key: Any = None
        self._call: Call | None = None

    def call(self, batch: int, ticks: int, setpoints: int, joints: int, base: bool) -> Call:
        """The arrays of such a call."""
        key = (batch, ticks, setpoints, joints, base)
        if self._call is None or key != self._key:
            shapes = layout(batch, ticks, setpoints, joints, base)
            self._fit(layout_bytes(shapes))
            self._key, self._call = key, self._arrays(shapes)
        return self._call

    def _fit(self, size: int) -> None:
        if size <= self._size:
            return
        if os.fstat(self.descriptor).st_size < size:
            os.ftruncate(self.descriptor, size)
        self._map, self._size = mmap.mmap(self.descriptor, size), size

    def _arrays(self, shapes: list[tuple[str, tuple[int, ...]]]) -> Call:
        arrays: dict[str, Any] = {}
        offset = 0
        for name, shape in shapes:
            count = int(np.prod(shape))
            flat = np.zeros(0)
            if count:
                flat = np.frombuffer(self._map, np.float64, count, offset)  # type: ignore[arg-type]
            arrays[name] = flat.reshape(shape)
            offset += _DOUBLE * count
        return Call(
            States(arrays["qpos"], arrays["qvel"], arrays.get("base"), None),
            arrays["setpoints"],
            States(
                arrays["out_qpos"],
                arrays["out_qvel"],
                arrays.get("out_base"),
                arrays["out_effort"],
            ),
        )


class Simulator:
    """What a worker implements around its engine.

    Attributes:
        engine, version: what it is.
        mass_kg: mass of the robot as built, so that the client can tell a model gone wrong.
    """

    engine = ""
    version = ""
    mass_kg = 0.0

    def __init__(self, robot: dict[str, Any]) -> None:
        raise NotImplementedError

    def reset(self, start: States, out: States) -> None:
        """Put the one robot into ``start``, arrays (n,); ``out`` is the state that it then has."""
        raise NotImplementedError

    def advance(self, setpoints: Any, steps: int, out: States) -> None:
        """Play set-points (S, n) for ``steps`` physics steps each; ``out`` has arrays (ticks, ...).

        A tick is ``S / ticks`` set-points.
        """
        raise NotImplementedError

    def rollout(self, start: States, setpoints: Any, steps: int, out: States) -> None:
        """B robots from their states; the answer depends on nothing that was played before."""
        for i in range(len(start.qpos)):
            self.reset(start.row(i), out.row(i).row(0))
            self.advance(setpoints[i], steps, out.row(i))


class Motors:
    """The actuator law and passive joint forces, for engines that take torques.

    Args:
        robot: the description.
        order: joint names in the engine's order; its arrays come in this order.
    """

    def __init__(self, robot: dict[str, Any], order: list[str]) -> None:
        missing = [name for name in robot["joints"] if name not in order]
        extra = [name for name in order if name not in robot["joints"]]
        if missing or extra:
            raise Refused(
                f"expected the joints {robot['joints']} in the URDF of {robot['name']}, got "
                f"{order}; use the robot's own URDF"
            )
        self.index = np.array([robot["joints"].index(name) for name in order])
        self.place = np.array([order.index(name) for name in robot["joints"]])
        self.controlled = self.place[: robot["controlled"]]
        fields = ("kp", "kd", "limit", "damping", "stiffness", "spring_ref", "offset")
        table = {k: np.array(robot[k], dtype=np.float64)[self.index] for k in fields}
        self.kp, self.kd, self.limit = table["kp"], table["kd"], table["limit"]
        self.damping, self.stiffness = table["damping"], table["stiffness"]
        self.spring_ref, self.offset = table["spring_ref"], table["offset"]
        self.neutral = np.zeros(len(order))
        self.neutral[self.place[robot["controlled"] :]] = robot["hold"]

    def setpoints(self, setpoints: Any) -> Any:
        """Set-points (..., n) with those of the held joints, and motor offsets, engine's order."""
        out = np.empty(setpoints.shape[:-1] + self.neutral.shape)
        out[...] = self.neutral
        out[..., self.controlled] = setpoints
        return out + self.offset

    def torques(self, goal: Any, qpos: Any, qvel: Any) -> tuple[Any, Any]:
        """Motor torques, and the same with springs and damping, at set-points ``goal``."""
        motor = np.clip(self.kp * (goal - qpos) - self.kd * qvel, -self.limit, self.limit)
        passive = self.stiffness * (self.spring_ref - qpos) - self.damping * qvel
        return motor, motor + passive


def serve(simulator: type[Simulator]) -> None:
    """Run a worker until the client closes the connection or ends.

    The command line holds the two file descriptors.
    """
    # The folder that this was started from must not hide modules of the engine.
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path[:] = [path for path in sys.path if path and os.path.abspath(path) != here]
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    memory = Memory(int(sys.argv[2]))
    channel.send(
        {
            "protocol": PROTOCOL,
            "engine": simulator.engine,
            "version": simulator.version,
            "python": platform.python_version(),
        }
    )
    session = _Session(simulator, memory)
    while True:
        header = channel.receive()
        if header is None:
            return
        try:
            answer = session.answer(header)
        except Refused as error:
            answer = {"refused": str(error)}
        except Exception:
            answer = {"failed": traceback.format_exc()}
        channel.send(answer)


def _end_with_parent(parent: int) -> None:
    """End this process when the client has ended, even in the middle of a long call."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os._exit(1)


class _Session:
    """Answers of one worker."""

    def __init__(self, make: type[Simulator], memory: Memory) -> None:
        self._make = make
        self._memory = memory
        self._simulator: Simulator | None = None
        self._robot: dict[str, Any] = {}

    def answer(self, header: dict[str, Any]) -> dict[str, Any]:
        if header["op"] == "build":
            self._robot = header["robot"]
            self._simulator = self._make(self._robot)
            return {"mass_kg": self._simulator.mass_kg}
        assert self._simulator is not None
        start, setpoints, out = self._memory.call(
            header["batch"],
            header["ticks"],
            header["setpoints"],
            self._robot["controlled"],
            self._robot["floating_base"],
        )
        if header["op"] == "reset":
            self._simulator.reset(start.row(0), out.row(0).row(0))
        elif header["op"] == "advance":
            self._simulator.advance(setpoints[0], header["steps"], out.row(0))
        elif header["op"] == "rollout":
            self._simulator.rollout(start, setpoints, header["steps"], out)
        else:
            raise ValueError(f"unknown op {header['op']!r}")
        return {}


def rotation(quat_wxyz: Any) -> Any:
    """Rotation matrix (3, 3) of a unit quaternion."""
    w, x, y, z = quat_wxyz
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
