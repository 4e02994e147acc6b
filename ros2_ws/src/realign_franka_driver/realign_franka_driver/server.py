"""Sockets of the control box: the robot's commands and states, and the gripper's.

Everything is polled from the loop that keeps the 1 kHz: no thread takes the interpreter from it.
"""

from __future__ import annotations

import contextlib
import socket
from typing import Any

import numpy as np

from policies.errors import InputError
from policies.interface import Float
from realign_franka_driver import layout
from realign_franka_driver.control_box import ControlBox
from realign_franka_driver.gripper import Gripper
from realign_franka_driver.layout import Command, GripperCommand, GripperStatus, MoveStatus
from realign_franka_driver.state import StateRecord

_LARGEST = 65536
_PATIENCE_S = 0.2
_FINITE = ("q", "dq", "O_T_EE", "O_dP_EE", "elbow", "tau")
_REJECTED = 1  # "command not possible", for all requests but Move
_INCOMPATIBLE = 1


class Link:
    """One TCP client at a time, and UDP states to the port that it names.

    Args:
        address: own address to listen on.
        port: TCP port.
        header: layout of a message's header.

    Raises:
        InputError: the address is not ours, or the port is in use.
    """

    def __init__(self, address: str, port: int, header: np.dtype[Any]) -> None:
        self.header = header
        self._server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._server.bind((address, port))
        except OSError as error:
            raise InputError(
                f"expected to serve {address}:{port}, but {error.strerror}; use an address of "
                "this machine where no other control box is emulated, e.g. 127.0.0.2"
            ) from None
        self._server.listen(1)
        self._server.setblocking(False)
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((address, 0))
        self._udp.setblocking(False)
        self._client: socket.socket | None = None
        self._peer: tuple[str, int] | None = None
        self._host = ""
        self._buffer = b""

    @property
    def connected(self) -> bool:
        """True while a client listens to states."""
        return self._peer is not None

    def answer_to(self, udp_port: int) -> None:
        """Send states to this port of the client from now on."""
        self._peer = (self._host, udp_port)

    def requests(self) -> list[tuple[int, int, bytes]]:
        """Messages that have come: command, id, payload."""
        if self._client is None:
            self._accept()
        if self._client is None:
            return []
        try:
            data = self._client.recv(_LARGEST)
        except BlockingIOError:
            return []
        except OSError:
            data = b""
        if not data:
            self.hang_up()
            return []
        self._buffer += data
        found = []
        while len(self._buffer) >= self.header.itemsize:
            head = np.frombuffer(self._buffer, self.header, 1)[0]
            size = int(head["size"])
            if not self.header.itemsize <= size <= _LARGEST:
                self.hang_up()
                break
            if len(self._buffer) < size:
                break
            payload = self._buffer[self.header.itemsize : size]
            found.append((int(head["command"]), int(head["id"]), payload))
            self._buffer = self._buffer[size:]
        return found

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._client, (self._host, _) = self._server.accept()
            self._client.setblocking(False)
            self._client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def hang_up(self) -> None:
        """Forget the client."""
        if self._client is not None:
            self._client.close()
        self._client = self._peer = None
        self._buffer = b""

    def close(self) -> None:
        """Free all sockets."""
        self.hang_up()
        self._server.close()
        self._udp.close()

    def respond(self, command: int, identity: int, payload: bytes) -> None:
        """Answer a request."""
        if self._client is None:
            return
        try:
            self._client.settimeout(_PATIENCE_S)
            self._client.sendall(layout.message(self.header, command, identity, payload))
            self._client.setblocking(False)
        except OSError:  # gone, or it does not read: the next one may have its place
            self.hang_up()

    def send_state(self, record: Any) -> None:
        """Send a state, if anybody listens."""
        if self._peer is not None:
            with contextlib.suppress(OSError):
                self._udp.sendto(record.tobytes(), self._peer)

    def commands(self) -> list[bytes]:
        """UDP packets that have come."""
        packets = []
        with contextlib.suppress(OSError):
            while True:
                packet, sender = self._udp.recvfrom(_LARGEST)
                if self._peer is not None and sender[0] == self._peer[0]:
                    packets.append(packet)
        return packets


class RobotServer:
    """A :class:`ControlBox` on its sockets.

    Args:
        box: the box.
        model: URDF for its clients.
        address: own address to listen on.
        version: protocol version that it claims.
    """

    def __init__(self, box: ControlBox, model: str, address: str, version: int) -> None:
        self.box, self._model, self._version = box, model.encode(), version
        self.state = StateRecord(box)
        self.link = Link(address, layout.ROBOT_PORT, layout.HEADER)
        self.malformed = 0
        self._motion_id = 0

    def serve(self) -> None:
        """Answer what was asked since the last time."""
        for command, identity, payload in self.link.requests():
            try:
                self._answer(command, identity, payload)
            except ValueError:  # shorter than its command needs
                self.malformed += 1
                self.link.hang_up()

    def command(self, message_id: int) -> Any:
        """The motion command that answers the state ``message_id``, or None."""
        found = None
        for packet in self.link.commands():
            if len(packet) != layout.ROBOT_COMMAND.itemsize:
                self.malformed += 1
                continue
            record = np.frombuffer(packet, layout.ROBOT_COMMAND)[0]
            if int(record["message_id"]) != message_id:
                continue
            if all(np.isfinite(record[name]).all() for name in _FINITE):
                found = record
            else:
                self.malformed += 1  # libfranka would not have sent it
        if self.box.silent() or (found is not None and self.box.loses()):
            return None
        return found

    def publish(self) -> None:
        """Send the state of this moment, and how a motion has ended."""
        if self.link.connected and not self.box.silent():
            self.link.send_state(self.state.read())
        if self.box.ended is not None and self._motion_id:
            self.link.respond(Command.MOVE, self._motion_id, bytes([self.box.ended]))
            self._motion_id = 0

    def _answer(self, command: int, identity: int, payload: bytes) -> None:
        box, status = self.box, 0
        if command == Command.CONNECT:
            self._connect(identity, np.frombuffer(payload, layout.CONNECT, 1)[0])
            return
        if command == Command.MOVE:
            request = np.frombuffer(payload, layout.MOVE, 1)[0]
            status = box.start(int(request["controller"]), int(request["generator"]))
            if status == MoveStatus.MOTION_STARTED:
                self._motion_id = identity
        elif command == Command.GET_ROBOT_MODEL:
            self.link.respond(command, identity, b"\0" + self._model)
            return
        elif command == Command.STOP_MOVE:
            box.cancel()
            if self._motion_id and box.ended is not None:
                self.link.respond(Command.MOVE, self._motion_id, bytes([box.ended]))
                self._motion_id = 0
        elif command == Command.AUTOMATIC_ERROR_RECOVERY:
            status = 0 if box.recover() else _REJECTED
        elif box.moving:
            status = _REJECTED
        else:
            self._set(command, payload)
        self.link.respond(command, identity, bytes([status]))

    def _connect(self, identity: int, request: Any) -> None:
        fits = int(request["version"]) == self._version
        status = 0 if fits else _INCOMPATIBLE
        answer = bytes([status]) + self._version.to_bytes(2, "little")
        self.link.respond(Command.CONNECT, identity, answer)
        if fits:
            self.link.answer_to(int(request["udp_port"]))

    def _set(self, command: int, payload: bytes) -> None:
        """Settings that change the arm or its state; collision thresholds change neither here."""
        values: Float = np.frombuffer(payload, "<f8") if len(payload) % 8 == 0 else np.zeros(0)
        if command == Command.SET_JOINT_IMPEDANCE and len(values) == 7:
            self.box.arm.set_impedance(values, 2.0 * np.sqrt(values))
        elif command == Command.SET_NE_TO_EE and len(values) == 16:
            self.box.tool = values.reshape(4, 4).T
        elif command == Command.SET_EE_TO_K and len(values) == 16:
            self.box.stiffness_frame = values.reshape(4, 4).T
        elif command == Command.SET_LOAD and len(values) == 13:
            self.box.load = (float(values[0]), values[1:4], values[4:])
        self.state.refresh()


class GripperServer:
    """A :class:`Gripper` on its sockets.

    Args:
        gripper: the fingers.
        address: own address to listen on.
    """

    def __init__(self, gripper: Gripper, address: str) -> None:
        self.gripper = gripper
        self.link = Link(address, layout.GRIPPER_PORT, layout.GRIPPER_HEADER)
        self._running: tuple[int, int] | None = None

    def serve(self) -> None:
        """Answer what was asked since the last time, send the state."""
        for command, identity, payload in self.link.requests():
            try:
                self._answer(GripperCommand(command), identity, payload)
            except ValueError:  # no such command, or shorter than it needs
                self.link.hang_up()
        if self.gripper.ended is not None:
            self._finish(self.gripper.ended)
        self.link.send_state(self.gripper.read())

    def _finish(self, status: GripperStatus) -> None:
        self.gripper.ended = None
        if self._running is not None:
            self.link.respond(*self._running, int(status).to_bytes(2, "little"))
        self._running = None

    def _answer(self, command: GripperCommand, identity: int, payload: bytes) -> None:
        if command is GripperCommand.CONNECT:
            request = np.frombuffer(payload, layout.CONNECT, 1)[0]
            answer = bytes(2) + layout.GRIPPER_VERSION.to_bytes(2, "little")
            self.link.respond(command, identity, answer)
            self.link.answer_to(int(request["udp_port"]))
            return
        if self.gripper.busy:
            self.gripper.stop()
            self._finish(GripperStatus.ABORTED)
        if command is GripperCommand.STOP:
            self.gripper.stop()
            self.link.respond(command, identity, bytes(2))
            return
        kind = {GripperCommand.GRASP: layout.GRASP, GripperCommand.MOVE: layout.GRIPPER_MOVE}
        request = np.frombuffer(payload, kind[command], 1)[0] if command in kind else None
        self._running = (command, identity)
        self.gripper.start(command, request)
