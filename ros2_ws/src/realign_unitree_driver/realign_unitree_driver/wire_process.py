"""The process that talks to the robot: 500 Hz, its own watchdog, and nothing else.

Started by the driver node, which it outlives: when the node dies, however, the robot is damped
until it falls silent (is switched off) or this process is told to stop.

    python -m realign_unitree_driver.wire_process '{"robot": "g1", "network": "eth0", ...}'
"""

from __future__ import annotations

import json
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.errors import InputError
from policies.interface import RobotSpec
from policies.robots import get_robot
from policies.runtime.latency import Percentiles
from policies.runtime.scheduling import prefer_realtime
from realign_driver.process import on_stop, refusing
from realign_driver.robot_process import NodeEnd
from realign_unitree_driver import channel
from realign_unitree_driver.core import DriverCore, Mode, Stop
from realign_unitree_driver.dds import (
    LOW_CMD,
    LOW_STATE,
    Participant,
    RawReader,
    RawWriter,
    wait_until,
)
from realign_unitree_driver.layout import Message
from realign_unitree_driver.switcher import SwitcherClient
from realign_unitree_driver.ticks import TickClock
from realign_unitree_driver.wiring import Ankles, Wiring, get_wiring

RATE_HZ = 500
PERIOD_NS = 1_000_000_000 // RATE_HZ
SIGN_OF_LIFE_S = 0.1  # longest time between two packets to the node
_FIRST_STATE_S = 5.0
_LISTEN_S = 1.0
_LAST_DAMPING_S = 2.0
_ROBOT_GONE_S = 5.0
_LOOK_TICKS = RATE_HZ // 10


@dataclass(frozen=True, kw_only=True)
class WireConfig:
    """What the wire process must know; JSON on its command line.

    Attributes:
        robot: robot name.
        network: interface name or own address that leads to the robot.
        domain: DDS domain of the robot.
        ankles: ankle mode.
        mode_machine: robot type to accept, None for the default.
        release: make the stock controllers let go of the motors first.
        realtime_priority: SCHED_FIFO priority, 0 for none.
        channel_fd: file descriptor of the socket to the driver node.
    """

    robot: str
    network: str
    domain: int = 0
    ankles: Ankles = "pr"
    mode_machine: int | None = None
    release: bool = True
    realtime_priority: int = 0
    channel_fd: int = -1


class Wire:
    """Both low-level topics of one robot, opened with care.

    Args:
        config: robot and network.
        participant: to use instead of a new one.

    Raises:
        InputError: wrong network, no robot, a robot of another type, or another commander.
    """

    def __init__(self, config: WireConfig, participant: Participant | None = None) -> None:
        self.config = config
        self.robot: RobotSpec = get_robot(config.robot)
        self.wiring: Wiring = get_wiring(self.robot)
        self.wiring.index(self.robot, config.ankles)
        self.participant = participant or Participant(config.network, config.domain)
        self.reader = RawReader(self.participant, LOW_STATE, self.wiring.low_state)
        self.writer: RawWriter | None = None

    def greet(self) -> None:
        """Wait for the robot, see that it is the right one and that nobody else drives it."""
        state = self._first_state()
        self.wiring.check_type(state.data, self.config.mode_machine)
        self._refuse_others(_LISTEN_S)
        if self.config.release:
            released = SwitcherClient(self.participant).release()
            if released:
                print(f"released {', '.join(released)}", file=sys.stderr, flush=True)
            self._refuse_others(0.0)

    def open_writer(self) -> RawWriter:
        """The publisher of commands; from now on others see us."""
        self.writer = RawWriter(self.participant, LOW_CMD, self.wiring.low_cmd)
        return self.writer

    def others(self) -> int:
        """Number of other publishers of low-level commands, as known now."""
        return len(self.participant.publishers(LOW_CMD))

    def _first_state(self) -> Message:
        states: list[Message] = []

        def heard() -> bool:
            states.extend(self.reader.take())
            return bool(states)

        if wait_until(heard, _FIRST_STATE_S):
            return states[-1]
        where = f"on {self.config.network}, DDS domain {self.config.domain}"
        if self.reader.damaged:
            raise InputError(
                f"expected LowState with a valid checksum {where}, but all {self.reader.damaged} "
                "messages are damaged; the robot's firmware has another message layout: update it"
            )
        kinds = self.participant.publishers(LOW_STATE)
        wanted = self.wiring.low_state.name.replace(".", "::")
        if kinds and wanted not in kinds:
            raise InputError(
                f"expected {wanted} of a {self.robot.name} {where}, but the robot there publishes "
                f"{kinds[0]}; it is of another family: use its name with --robot"
            )
        raise InputError(
            f"expected LowState of a {self.robot.name} {where}, but none came within "
            f"{_FIRST_STATE_S:g} s; check that the robot is on, its cable, `ping 192.168.123.161`, "
            "the interface and the domain"
        )

    def _refuse_others(self, listen_s: float) -> None:
        if wait_until(lambda: self.others() > 0, listen_s):
            raise InputError(
                f"expected to be the only publisher of {LOW_CMD}, but there "
                f"{'is' if self.others() == 1 else 'are'} {self.others()} already; stop the other "
                "program first: two commanders make the robot shake"
            )


class WireLoop:
    """Reads, decides and writes at 500 Hz.

    Args:
        wire: topics.
        core: watchdog.
        end: socket to the driver node, None where there is no node any more.
    """

    def __init__(self, wire: Wire, core: DriverCore, end: socket.socket | None) -> None:
        self.wire, self.core = wire, core
        self.node = NodeEnd(end, self._node_died)
        self.gap_ms = Percentiles(4096)
        self.longest_gap_ms = 0.0
        self._clock = TickClock()
        self._every = max(1, int(RATE_HZ / wire.robot.state_rate_hz))
        self._states = 0
        self._sent_ns = 0
        self._heard_ns = time.monotonic_ns()
        self._end_ns: int | None = None
        self._writer = wire.writer or wire.open_writer()
        self._packet = np.zeros((), dtype=channel.STATE)
        self.gap_ms.add(PERIOD_NS / 1e6)
        self.gap_ms.summary()  # NumPy's first percentile takes as long as several periods

    def finish(self, *_: Any) -> None:
        """Damp for a while, then end; also a signal handler."""
        self.core.stop(Stop.FINISHED)
        self._end_ns = self._end_ns or time.monotonic_ns() + int(_LAST_DAMPING_S * 1e9)

    def run(self) -> None:
        """Go on until told to finish, or until robot and node are both gone."""
        deadline = last = time.monotonic_ns()
        tick = 0
        while True:
            now = time.monotonic_ns()
            self.gap_ms.add((now - last) / 1e6)
            self.longest_gap_ms = max(self.longest_gap_ms, (now - last) / 1e6)
            last = now
            self._read_robot(now)
            for record in self.node.commands(channel.COMMAND):
                self._obey(record, now)
            if tick % _LOOK_TICKS == 0 and self.wire.others():
                self.core.stop(Stop.SECOND_COMMANDER)
            self._writer.write(self.core.tick(now))
            if self._end_ns is not None and now > self._end_ns:
                return
            if not self.node.alive and (now - self._heard_ns) / 1e9 > _ROBOT_GONE_S:
                print("the robot is silent; no more damping", file=sys.stderr, flush=True)
                return
            tick += 1
            deadline = max(deadline + PERIOD_NS, now - 5 * PERIOD_NS)
            delay = deadline - time.monotonic_ns()
            if delay > 0:
                time.sleep(delay / 1e9)

    def _read_robot(self, now: int) -> None:
        for message in self.wire.reader.take():
            self._heard_ns = now
            self.core.on_state(message.data, now)
            stamp = self._clock.stamp_ns(int(message.data["tick"]), now)
            self._states += 1
            if self._states % self._every == 0:
                self._pack(message.data, stamp)
                self._send()
        if (now - self._sent_ns) / 1e9 > SIGN_OF_LIFE_S:
            self._send()  # the old sensors with their old stamp: this process lives

    def _obey(self, record: Any, now: int) -> None:
        kind = int(record["kind"])
        if kind == channel.TRACK:
            self.core.on_command(record["q"][: self.wire.robot.n].copy(), now)
        elif kind == channel.DAMP:
            self.core.on_command(None, now)
        elif kind == channel.RESET:
            self.core.reset()
        elif kind == channel.FINISH:
            self.finish()

    def _node_died(self) -> None:
        if self._end_ns is None:
            self.core.stop(Stop.NODE_DIED)
            print(
                "the driver node died: damping the robot until it is switched off; "
                "to end the damping, stop this process (SIGINT)",
                file=sys.stderr,
                flush=True,
            )

    def _pack(self, state: Any, stamp_ns: int) -> None:
        packet, core, motors = self._packet, self.core, state["motor_state"]
        n = self.wire.robot.n
        packet["stamp_ns"] = stamp_ns
        packet["keys"] = " ".join(sorted(core.keys)).encode()[:64]
        packet["q"][:n] = core.qpos_rad
        packet["dq"][:n] = motors["dq"][core.index]
        packet["tau"][:n] = motors["tau_est"][core.index]
        packet["quat_wxyz"] = state["imu_state"]["quaternion"]
        packet["gyro_rad_s"] = state["imu_state"]["gyroscope"]
        packet["accel_m_s2"] = state["imu_state"]["accelerometer"]
        packet["case_c"], packet["winding_c"] = core.case_c, core.winding_c
        packet["damaged"] = self.wire.reader.damaged
        packet["missed_writes"] = self._writer.missed
        if self._states % RATE_HZ < self._every:
            gaps = self.gap_ms.summary()
            packet["gap_ms"] = gaps["p50"], gaps["p99"], self.longest_gap_ms

    def _send(self) -> None:
        self._sent_ns = time.monotonic_ns()
        self._packet["mode"] = self.core.mode.value
        self._packet["stop"] = self.core.stopped_by.value.encode()
        self.node.send(self._packet)


def make_core(wire: Wire) -> DriverCore:
    """The watchdog of a robot whose type has been checked, or is to be damped."""
    config, machine = wire.config, wire.config.mode_machine
    if machine is None:
        machine = wire.wiring.mode_machine or 0
    return DriverCore(wire.robot, wire.wiring, ankles=config.ankles, mode_machine=machine)


def main() -> None:
    """Run until the node says so, a signal comes, or node and robot are gone."""
    config = WireConfig(**json.loads(sys.argv[1]))
    end = socket.socket(fileno=config.channel_fd)
    with refusing():
        wire = Wire(config)
        wire.greet()
    core = make_core(wire)
    loop = WireLoop(wire, core, end)
    on_stop(loop.finish)
    prefer_realtime(config.realtime_priority)
    loop.run()
    if core.mode is Mode.DAMP and core.stopped_by is not Stop.FINISHED:
        print(f"stopped: {core.stopped_by.value}", file=sys.stderr)


if __name__ == "__main__":
    main()
