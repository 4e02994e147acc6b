"""Emulated serial devices: a servo arm with the virtual robot's physics, a gripper, a button.

    python -m realign_serial_driver.emulator arm --link /tmp/arm --robot so101 \
        --calibration /tmp/so101.json
    python -m realign_serial_driver.emulator gripper --link /tmp/gripper
    python -m realign_serial_driver.emulator button --link /tmp/button

Any program may open them as serial ports, ours or another; bytes take the time that the wire needs.
"""

from __future__ import annotations

import argparse
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from policies.robots import get_robot
from realign_driver.emulation import (
    add_process_options,
    add_robot_options,
    play,
    start_pose_rad,
)
from realign_serial_driver import button, robotiq, sts
from realign_serial_driver.modbus_frames import RequestParser
from realign_serial_driver.pty_port import PtyPort
from realign_serial_driver.robotiq_model import GripperModel
from realign_serial_driver.servo_bench import ServoBench
from realign_serial_driver.servo_faults import parse_faults
from realign_serial_driver.sts import Packet, Parser

NS = 1_000_000_000
SERVO_BAUD = 1_000_000
_TICK_NS = 5_000_000
_TRACE = np.dtype(
    [
        ("t_ns", "<i8"),
        ("written", "?"),
        ("moved_rad", "<f8"),
        ("torque", "?"),
        ("speed_rad_s", "<f8"),
    ]
)


class Emulator:
    """A device behind a pseudo terminal.

    Args:
        port: its end of the wire.
    """

    def __init__(self, port: PtyPort) -> None:
        self.port = port
        self.running = True

    def stop(self, *_: Any) -> None:
        """End the loop; also a signal handler."""
        self.running = False

    def run(self) -> None:
        """Serve until told to stop.

        Raises:
            InputError: the port's path is taken.
        """
        self.tick(time.monotonic_ns())  # the first one takes its time
        self.port.plug()
        due = time.monotonic_ns()
        while self.running:
            due = max(due + _TICK_NS, time.monotonic_ns())
            while self.running:
                data, at_ns = self.port.receive(due)
                if not data:
                    break
                self.serve(data, at_ns)
            self.tick(time.monotonic_ns())

    def serve(self, data: bytes, at_ns: int) -> None:
        """Answer bytes whose last one was on the wire at ``at_ns`` (steady time)."""

    def tick(self, now_ns: int) -> None:
        """Called every few ms."""

    def summary(self) -> dict[str, Any]:
        """What the device saw."""
        return {"bytes_in": self.port.bytes_in, "bytes_out": self.port.bytes_out}

    def columns(self) -> dict[str, Any]:
        """What each moment brought; nothing is remembered of a device without an arm."""
        return {}


class ArmEmulator(Emulator):
    """A bus of servos.

    Args:
        port: its end of the wire.
        bench: the arm.
        seed: of lost and damaged replies.
        keep_trace: remember what each write and each moment brought.
    """

    def __init__(
        self, port: PtyPort, bench: ServoBench, *, seed: int = 0, keep_trace: bool = False
    ) -> None:
        super().__init__(port)
        self.bench = bench
        self.requests = self.dropped = self.damaged = 0
        self.physics_s = 0.0
        self.trace: list[tuple[int, bool, float, bool, float]] | None = [] if keep_trace else None
        self._parser = Parser()
        self._rng = np.random.default_rng([seed, 2])
        self._goal = bench.goal_rad

    def serve(self, data: bytes, at_ns: int) -> None:
        """Carry out instructions."""
        self.tick(at_ns)
        for packet in self._parser.feed(data):
            self.requests += 1
            for servo, reply in self.bench.obey(packet):
                if not self.bench.is_dead(servo):
                    self._send(reply, at_ns + servo.return_delay_ns)
            if packet.code in (sts.WRITE, sts.SYNC_WRITE):
                self._remember(at_ns, written=True)

    def _send(self, reply: Packet, after_ns: int) -> None:
        wire = reply.encode()
        if self._happens("drop"):
            self.dropped += 1
            self.port.pause(len(wire))
            return
        if self._happens("noise"):
            self.damaged += 1
            at = int(self._rng.integers(2, len(wire)))
            wire = wire[:at] + bytes([wire[at] ^ int(self._rng.integers(1, 256))]) + wire[at + 1 :]
        self.port.send(wire, after_ns=after_ns)

    def _happens(self, kind: str) -> bool:
        rates = [fault.value for fault in self.bench.active(kind)]
        return bool(rates) and float(self._rng.random()) < max(rates)

    def tick(self, now_ns: int) -> None:
        """Let the arm move."""
        start = time.perf_counter()
        self.bench.advance(now_ns)
        self.physics_s += time.perf_counter() - start
        self._remember(now_ns)
        if self.bench.active("unplugged"):
            self.stop()

    def _remember(self, at_ns: int, *, written: bool = False) -> None:
        if self.trace is None:
            return
        goal = self.bench.goal_rad
        moved = float(np.abs(goal - self._goal).max())
        self._goal = goal
        speed = float(np.abs(self.bench.stepper.state.qvel_rad_s).max())
        self.trace.append((at_ns, written, moved, self.bench.torque, speed))

    def summary(self) -> dict[str, Any]:
        """What the arm saw."""
        bench = self.bench
        return super().summary() | {
            "requests": self.requests,
            "dropped": self.dropped,
            "damaged": self.damaged,
            "locked_writes": sum(servo.locked_writes for servo in bench.servos.values()),
            "moved_s": bench.moved_steps / 1000.0,
            "torque": bench.torque,
            "qpos_rad": bench.stepper.state.qpos_rad.tolist(),
            "mujoco_s": self.physics_s,
            "lost_s": bench.lost_s,
        }

    def columns(self) -> dict[str, Any]:
        """What each write and each moment brought."""
        rows = np.array(self.trace or [(0, False, 0.0, False, 0.0)], dtype=_TRACE)
        return {name: rows[name] for name in rows.dtype.names}


class GripperEmulator(Emulator):
    """A Robotiq gripper.

    Args:
        port: its end of the wire.
        model: the gripper.
    """

    def __init__(self, port: PtyPort, model: GripperModel) -> None:
        super().__init__(port)
        self.model = model
        self._parser = RequestParser()

    def serve(self, data: bytes, at_ns: int) -> None:
        """Answer requests."""
        for request in self._parser.feed(data):
            reply = self.model.obey(request, at_ns)
            if reply is not None:
                self.port.send(reply, after_ns=at_ns)

    def tick(self, now_ns: int) -> None:
        """Let the fingers move."""
        self.model.advance(now_ns)


class ButtonEmulator(Emulator):
    """An e-stop button: SIGUSR1 presses it, SIGUSR2 releases it.

    Args:
        port: its end of the wire.
    """

    def __init__(self, port: PtyPort) -> None:
        super().__init__(port)
        self.pressed = False
        self._number = 0
        self._due_ns = 0

    def press(self, *_: Any) -> None:
        """Push it in; also a signal handler."""
        self.pressed = True

    def release(self, *_: Any) -> None:
        """Pull it out; also a signal handler."""
        self.pressed = False

    def tick(self, now_ns: int) -> None:
        """Send a line when it is time."""
        if now_ns >= self._due_ns:
            self._due_ns = now_ns + round(button.PERIOD_S * NS)
            self.port.send(button.line_of(self.pressed, self._number))
            self._number += 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="emulator", description=__doc__)
    devices = parser.add_subparsers(dest="device", required=True)
    for device, text in (("arm", "servo bus"), ("gripper", "Robotiq"), ("button", "e-stop")):
        of_device = devices.add_parser(device, help=text)
        add = of_device.add_argument
        add("--link", type=Path, required=True, help="path under which others find the port")
        if device != "arm":
            add_process_options(of_device)
        else:
            add_robot_options(of_device, faults="drop=0.01,dead=3@2:0.05")
            add("--robot", default="so101", help="arm of bus servos")
            add("--calibration", type=Path, default=None, help="file for this arm's calibration")
            add("--factory", action="store_true", help="servos that nobody has homed")
            add("--baud", type=int, default=SERVO_BAUD, help="speed of the wire")
        if device == "gripper":
            add("--object-m", type=float, default=None, help="width between the fingers, m")
    return parser.parse_args()


def _arm(given: argparse.Namespace) -> ArmEmulator:
    robot = get_robot(given.robot)
    bench = ServoBench(
        robot,
        seed=given.seed,
        gap=given.gap,
        start_pose_rad=start_pose_rad(given.policy, robot),
        faults=parse_faults(given.faults),
        homed=not given.factory,
    )
    if given.calibration is not None:
        bench.calibration.save(given.calibration, robot)
    port = PtyPort(given.link, given.baud)
    return ArmEmulator(port, bench, seed=given.seed, keep_trace=given.trace is not None)


def _open(given: argparse.Namespace) -> Emulator:
    if given.device == "arm":
        return _arm(given)
    if given.device == "gripper":
        port = PtyPort(given.link, robotiq.BAUD)
        return GripperEmulator(port, GripperModel(given.object_m))
    emulator = ButtonEmulator(PtyPort(given.link, button.BAUD))
    signal.signal(signal.SIGUSR1, emulator.press)
    signal.signal(signal.SIGUSR2, emulator.release)
    return emulator


def main() -> None:
    """Play the device until SIGINT or SIGTERM."""
    given = _arguments()
    play(lambda: _open(given), given).port.close()


if __name__ == "__main__":
    main()
