"""The process that talks to the control box: 1 kHz, its own watchdog, and nothing else.

libfranka's Python module keeps the interpreter while it waits for a state, so nothing that must go
on may live here. Started by the driver node; when the node dies, the arm decelerates, the motion is
ended, and this process ends too: the robot holds its pose by itself.

    python -m realign_franka_driver.control_process '{"robot": "fr3", "network": "172.16.0.2", ...}'
"""

from __future__ import annotations

import json
import socket
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.robots import get_robot
from policies.runtime.latency import Percentiles
from policies.runtime.scheduling import prefer_realtime
from realign_driver.process import on_stop, refusing
from realign_driver.robot_process import NodeEnd
from realign_franka_driver import channel
from realign_franka_driver.core import NS, DriverConfig, DriverCore, Mode, Stop
from realign_franka_driver.fci import FrankaRobot, MotionEnded, Silent

RATE_HZ = 1000
_REPORT_NS = 2 * NS


@dataclass(frozen=True, kw_only=True)
class ControlConfig:
    """What the control process must know; JSON on its command line.

    Attributes:
        robot: robot name.
        network: address of the control box.
        enforce_realtime: let libfranka insist on a real-time kernel.
        realtime_priority: SCHED_FIFO priority, 0 for none.
        channel_fd: file descriptor of the socket to the driver node.
    """

    robot: str
    network: str
    enforce_realtime: bool = False
    realtime_priority: int = 0
    channel_fd: int = -1


class ControlLoop:
    """Reads a state, decides and answers, as often as the robot speaks.

    Args:
        robot: the arm.
        core: control law and watchdog.
        end: socket to the driver node.
    """

    def __init__(self, robot: FrankaRobot, core: DriverCore, end: socket.socket) -> None:
        self.robot, self.core = robot, core
        self.node = NodeEnd(end, self._node_died)
        self.robot_state = robot.read()
        self.cycle_us = Percentiles(4096)
        self.longest_us = 0.0
        self._every = round(RATE_HZ / core.robot.state_rate_hz)
        self._packet = np.zeros((), dtype=channel.STATE)
        self._states = 0
        self._robot_ms: int | None = None
        self._reported_ns = 0
        self._ending = False
        self.cycle_us.add(1.0)
        self.cycle_us.summary()  # NumPy's first percentile takes as long as several periods

    def finish(self, *_: Any) -> None:
        """End the motion, then this loop; also a signal handler."""
        self.core.stop(Stop.FINISHED)
        self._ending = True

    def run(self) -> None:
        """Go on until told to finish, until the node is gone, or until the robot is silent."""
        while not (self._ending and not self.core.in_motion):
            try:
                self._cycle()
            except MotionEnded as error:
                text = str(error)
                pressed = "User Stop" in text or "User stopped" in text
                self.core.ended()
                self.core.stop(Stop.USER_STOP if pressed else Stop.ABORTED, text)
            except ValueError as error:  # libfranka's own check, behind ours
                self.core.ended()
                self.core.stop(Stop.BAD_COMMAND, str(error))
            except Silent as error:
                self.core.ended()
                self.core.stop(Stop.ROBOT_SILENT, str(error).removeprefix("libfranka: "))
                self._report(None)
                return
        self._report(None)

    def _cycle(self) -> None:
        core = self.core
        if core.wants_motion:
            self.robot.begin()
            core.begin(np.asarray(self.robot_state.q), time.monotonic_ns())
        state = self.robot_state = self.robot.read()
        now = time.monotonic_ns()
        for record in self.node.commands(channel.COMMAND):
            self._obey(record, now)
        if core.in_motion:
            q, dq = np.asarray(state.q), np.asarray(state.dq)
            torque = core.torque(
                q, dq, self.robot.coriolis_nm(state), np.asarray(state.tau_J_d), now
            )
            done = core.finished(dq, now)
            self.robot.write(torque, finish=done)
            if done:
                core.ended()
            taken_us = (time.monotonic_ns() - now) / 1e3
            self.cycle_us.add(taken_us)
            self.longest_us = max(self.longest_us, taken_us)
        elif self.robot.is_user_stopped(state):
            core.stop(Stop.USER_STOP)
        self._count(state)
        self._states += 1
        if self._states % self._every == 0:
            self._report(state, now)

    def _count(self, state: Any) -> None:
        """Periods of which no state was seen: this process was late, or the network was."""
        now_ms = round(state.time.to_sec() * 1000.0)
        if self._robot_ms is not None and self.core.in_motion:
            self._packet["skipped"] += max(now_ms - self._robot_ms - 1, 0)
        self._robot_ms = now_ms

    # ---- the node -----------------------------------------------------------------------------

    def _obey(self, record: Any, now: int) -> None:
        kind = int(record["kind"])
        if kind == channel.TRACK:
            self.core.on_command(record["q"].copy(), now)
        elif kind == channel.STAND:
            self.core.on_command(None, now)
        elif kind == channel.FINISH:
            self.finish()
        elif kind in (channel.RESET, channel.RECOVER):
            self._answer(kind)

    def _answer(self, kind: int) -> None:
        problem = "the motion has not ended yet; try again" if self.core.in_motion else ""
        if not problem and kind == channel.RECOVER:
            try:
                self.robot.recover()
            except MotionEnded as error:
                problem = str(error)
        if not problem:
            self.core.reset()
        self._packet["answer"] = problem.encode()[:120]
        self._packet["answers"] += 1

    def _node_died(self) -> None:
        self.core.stop(Stop.NODE_DIED)
        self._ending = True
        print("the driver node died: the arm is brought to a stand", file=sys.stderr, flush=True)

    def _report(self, state: Any, now: int = 0) -> None:
        """Send a state, or without one only how it stands."""
        if not self.node.alive:
            return
        packet = self._packet
        if state is not None:
            packet["stamp_ns"] = now
            packet["q"], packet["dq"], packet["tau"] = state.q, state.dq, state.tau_J
            packet["tau_external"] = state.tau_ext_hat_filtered
            packet["success_rate"] = state.control_command_success_rate
        if now - self._reported_ns > _REPORT_NS or state is None:
            self._reported_ns = now  # the answer to this state has gone: there is time
            took = self.cycle_us.summary()
            packet["cycle_us"] = took["p50"], took["p99"], self.longest_us
        packet["mode"] = self.core.mode.value
        packet["stop"] = self.core.stop_text.encode()[:240]
        self.node.send(packet)


def main() -> None:
    """Run until the node says so or is gone, a signal comes, or the robot is silent."""
    config = ControlConfig(**json.loads(sys.argv[1]))
    end = socket.socket(fileno=config.channel_fd)
    spec = get_robot(config.robot)
    with refusing():
        robot = FrankaRobot(config.network, enforce_realtime=config.enforce_realtime)
    core = DriverCore(spec, DriverConfig(command_period_s=1.0 / spec.state_rate_hz))
    if robot.reflex:
        core.stop(Stop.ABORTED, f"it was found in reflex {robot.reflex}")
    loop = ControlLoop(robot, core, end)
    on_stop(loop.finish)
    prefer_realtime(config.realtime_priority)
    loop.run()
    if core.stopped_by is not Stop.FINISHED and core.mode is Mode.STOPPED:
        print(f"stopped: {core.stop_text}", file=sys.stderr)


if __name__ == "__main__":
    main()
