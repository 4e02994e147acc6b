"""A Unitree robot on ROS topics: ``joint_states`` and ``imu`` out, ``joint_command`` in.

The robot itself is reached by a wire process (:mod:`realign_unitree_driver.wire_process`). The two
guard each other: when this node dies, the wire process damps the robot; when the wire process
dies, this node does.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.callback_groups import CallbackGroup
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Header
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from policies import messages as wire
from policies.checkpoint import load_policy
from policies.errors import InputError
from policies.robots import get_robot
from policies.rotation import tilt_rad
from policies.runtime.scheduling import prefer_realtime
from realign_unitree_driver import channel, remote
from realign_unitree_driver.core import Mode, Stop
from realign_unitree_driver.dds import Participant
from realign_unitree_driver.voice import LATCHED, QOS, Voice
from realign_unitree_driver.wire_process import (
    SIGN_OF_LIFE_S,
    Wire,
    WireConfig,
    WireLoop,
    make_core,
)
from realign_unitree_driver.wiring import get_wiring

_LAST_DAMPING_S = 6.0
_POLL_S = 0.002
_HANGS_S = 3.0 * SIGN_OF_LIFE_S


class _Polled(CallbackGroup):
    """Subscriptions that executors leave alone; :meth:`DriverNode.run` takes their messages.

    An executor spends several times as long on a message as the message itself needs.
    """

    def can_execute(self, entity: Any) -> bool:
        """Never, for an executor."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never, for an executor."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing was begun."""


class DriverNode(Node):
    """Parameters to a wire process, packets to messages and back."""

    def __init__(self) -> None:
        super().__init__("unitree_driver")
        value = lambda name, default: self.declare_parameter(name, default).value  # noqa: E731
        self.robot = get_robot(value("robot", ""))
        self.summary_path: str = value("summary_path", "")
        self.realtime_priority: int = value("realtime_priority", 0)
        self.progress: bool = value("progress", False)
        self.duration_s: float = value("duration_s", 0.0)
        policy: str = value("policy", "")
        if not self.duration_s and policy:
            self.duration_s = load_policy(Path(policy), self.robot).spec.duration_s or 0.0
        self._missing = set(filter(None, value("wait_for", "").split(",")))
        # A policy that tracks a motion begins with its first observation: that must not come
        # before the operator is ready.
        self._started = not value("wait_for_operator", False)
        mode_machine: int = value("mode_machine", -1)
        self.config = WireConfig(
            robot=self.robot.name,
            network=value("network", ""),
            domain=value("dds_domain", 0),
            ankles=value("ankles", "pr"),
            mode_machine=None if mode_machine < 0 else mode_machine,
            release=value("release", True),
            realtime_priority=self.realtime_priority and self.realtime_priority + 2,
        )
        get_wiring(self.robot).index(self.robot, self.config.ankles)
        self._names = wire.NameMap(self.robot.joint_names, "joint_command")
        self._ros_minus_steady_ns = self.get_clock().now().nanoseconds - time.monotonic_ns()
        self.stamp_ns = self._first_ns = 0
        self._told_ns = self._health_ns = self._heard_ns = 0
        self.states = 0
        self.max_tilt_rad = 0.0
        self.stops: list[str] = []
        self._stop = ""
        self._keys: frozenset[str] = frozenset()
        self._last: Any = np.zeros((), dtype=channel.STATE)
        self.voice = Voice(self, self.robot)
        self._input = self.create_subscription(
            JointTrajectory, "joint_command", self._on_command, QOS, callback_group=_Polled()
        )
        self.create_subscription(Header, "ready", self._on_ready, LATCHED)
        self.create_service(Trigger, "~/reset", self._reset)
        self.create_service(Trigger, "~/start", self._start)
        self._guard = {
            name: self.create_client(Trigger, f"guard/{name}") for name in ("arm", "estop")
        }
        # Ours for the case that the wire process dies: joining takes too long at that moment.
        self.participant = Participant(self.config.network, self.config.domain)
        self.end, self.process = self._start_wire_process()

    def _start_wire_process(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        ours, theirs = channel.channel_pair()
        config = WireConfig(**{**vars(self.config), "channel_fd": theirs.fileno()})
        process = subprocess.Popen(
            [sys.executable, "-m", "realign_unitree_driver.wire_process", config.to_json()],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # what kills this node must not kill it
        )
        theirs.close()
        return ours, process

    # ---- messages -----------------------------------------------------------------------------

    def _on_command(self, msg: JointTrajectory) -> None:
        try:
            damping = bool(msg.points) and not msg.points[0].positions
            chunk = None if damping else wire.trajectory_to_chunk(msg, self._names)
        except InputError as error:
            self.get_logger().error(str(error), throttle_duration_sec=1.0)
            return
        kind = channel.DAMP if chunk is None else channel.TRACK
        packet = channel.command(kind, None if chunk is None else chunk.positions_rad[0])
        with contextlib.suppress(channel.Closed):  # the main thread sees it, and damps
            channel.send(self.end, packet)

    def _on_ready(self, msg: Header) -> None:
        self._missing.discard(msg.frame_id)

    def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with contextlib.suppress(channel.Closed):
            channel.send(self.end, channel.command(channel.RESET))
        response.success, response.message = True, "damping until the guard sends commands again"
        return response

    def _start(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._started = True
        response.success, response.message = True, "sensors are passed on"
        return response

    # ---- the robot ----------------------------------------------------------------------------

    def run(self) -> None:
        """Pass on what the wire process says, until the run is over or it dies.

        Raises:
            channel.Closed: the wire process ended.
        """
        while rclpy.ok() and not self.done:
            record = channel.receive(self.end, channel.STATE, wait_s=_POLL_S)
            self._take_commands()
            if record is None:
                self._check_wire_process()
                continue
            while (newer := channel.receive(self.end, channel.STATE)) is not None:
                record = newer
            self._heard_ns = time.monotonic_ns()
            is_news = record["stamp_ns"] != self._last["stamp_ns"]
            self._last = record
            self.stamp_ns = int(record["stamp_ns"]) + self._ros_minus_steady_ns
            self._watch_operator(record)
            if not self._started:
                self._tell(record)
                continue
            if not is_news or self._missing:
                continue
            if not self.states:
                if not self._input.get_publisher_count():
                    continue
                self.voice.publish_episode(self.stamp_ns)
            self.states += 1
            self.voice.publish(record, self.stamp_ns)
            self.max_tilt_rad = max(self.max_tilt_rad, tilt_rad(record["quat_wxyz"]))
            if not self._first_ns and Mode(int(record["mode"])) is Mode.TRACKING:
                self._first_ns = self.stamp_ns
            self._tell(record)

    def _check_wire_process(self) -> None:
        """One that hangs is as bad as a dead one, and must not come back to life beside us."""
        silent_s = (time.monotonic_ns() - self._heard_ns) / 1e9
        if self._heard_ns and silent_s > _HANGS_S:
            self.process.kill()
            raise channel.Closed

    def _take_commands(self) -> None:
        newest = None
        with self._input.handle:
            while taken := self._input.handle.take_message(JointTrajectory, False):
                newest = taken[0]
        if newest is not None:
            self._on_command(newest)

    def _watch_operator(self, record: Any) -> None:
        """Pass stops and the remote's keys on to the guard."""
        stop = record["stop"].decode()
        news, self._stop = stop != self._stop, stop
        if stop and news:
            self.stops.append(stop)
            self.get_logger().error(f"damping: {stop}; call ~/reset to go on")
            self._call_guard("estop")
            if stop == Stop.ROBOT_SILENT.value:
                self._report_fault(stop)
        keys = frozenset(record["keys"].decode().split())
        if remote.wants_arm(keys) and not remote.wants_arm(self._keys):
            if self._started:
                self._call_guard("arm")
            self._started = True
        self._keys = keys

    def _report_fault(self, text: str) -> None:
        """Tell `realign run` that this run cannot go on."""
        if self.progress:
            print(f"fault {text}", flush=True)

    def _call_guard(self, name: str) -> None:
        client = self._guard[name]
        if client.service_is_ready():
            client.call_async(Trigger.Request())
        else:
            self.get_logger().error(f"there is no guard to {name}")

    def _tell(self, record: Any) -> None:
        now = time.monotonic_ns()
        if now - self._health_ns > 500_000_000:
            self._health_ns = now
            self.voice.publish_health(self.stamp_ns, record)
        if self.progress and now - self._told_ns > 100_000_000:
            self._told_ns = now
            print(f"progress {self.elapsed_s:.2f} {self.duration_s:.2f}", flush=True)

    @property
    def elapsed_s(self) -> float:
        """Time since the first command that moves, s."""
        return (self.stamp_ns - self._first_ns) / 1e9 if self._first_ns else 0.0

    @property
    def done(self) -> bool:
        """True when the run has lasted its duration (0: it has none)."""
        return bool(self.duration_s) and self.elapsed_s >= self.duration_s

    def finish(self) -> None:
        """Have the robot damped for a while, and wait for the wire process to end."""
        with contextlib.suppress(channel.Closed):
            channel.send(self.end, channel.command(channel.FINISH))
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_LAST_DAMPING_S)

    def damp_ourselves(self) -> None:
        """Take the wire process's place, only to damp, until the robot is off or a signal comes."""
        text = "the wire process died: this node damps the robot until it is switched off"
        self.get_logger().fatal(text)
        self._report_fault(text)
        mover = Wire(self.config, self.participant)
        core = make_core(mover)
        core.stop(Stop.WIRE_DIED)
        self.stops.append(Stop.WIRE_DIED.value)
        loop = WireLoop(mover, core, None)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, loop.finish)
        loop.run()

    def summary(self) -> dict[str, object]:
        """Everything that `realign run` reports of the robot."""
        gap = self._last["gap_ms"]
        return {
            "steps": self.states,
            "duration_s": self.elapsed_s,
            "end_stamp_ns": self.stamp_ns,
            "finished": self.done,
            "fell": False,
            "min_base_height_m": None,
            "max_tilt_rad": self.max_tilt_rad,
            "wall_s": self.elapsed_s,
            "mujoco_s": 0.0,
            "stops": self.stops,
            "command_gap_ms": {"p50": gap[0], "p99": gap[1], "max": gap[2]},
            "damaged": int(self._last["damaged"]),
        }


def main() -> None:
    """Drive the robot for the duration of the run."""
    rclpy.init()
    try:
        node = DriverNode()
    except InputError as error:
        print(f"realign: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinner = threading.Thread(target=_spin, args=(executor,))
    spinner.start()
    prefer_realtime(node.realtime_priority)
    code = 0
    try:
        node.run()
        node.finish()
    except channel.Closed:
        # One that ends before its first state has never moved the robot, and has said why.
        code = 2 if node.process.wait() == 2 else 3
        if node.stamp_ns:
            node.damp_ourselves()
    except (KeyboardInterrupt, ExternalShutdownException):
        node.finish()
    finally:
        if node.summary_path:
            Path(node.summary_path).write_text(json.dumps(node.summary()))
        executor.shutdown()
        spinner.join()
        node.destroy_node()
        rclpy.try_shutdown()
    raise SystemExit(code)


def _spin(executor: SingleThreadedExecutor) -> None:
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()


if __name__ == "__main__":
    main()
