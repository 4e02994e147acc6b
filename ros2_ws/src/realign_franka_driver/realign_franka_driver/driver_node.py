"""A Franka arm on ROS topics: ``joint_states`` and ``gripper_state`` out, ``joint_command`` in.

The arm is reached by a control process (:mod:`realign_franka_driver.control_process`), the hand by
another. When this node dies, the control process brings the arm to a stand; when the control
process dies, the robot does so by itself, and this node ends.
"""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Float64, Header
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from policies import messages as wire
from policies.checkpoint import load_policy
from policies.errors import InputError
from policies.interface import Float, RobotSpec
from policies.robots import get_robot
from policies.runtime.scheduling import prefer_realtime
from realign_franka_driver import channel
from realign_franka_driver.control_process import ControlConfig
from realign_franka_driver.core import Mode, Stop
from realign_franka_driver.polled import Polled
from realign_franka_driver.voice import LATCHED, QOS, Voice

_POLL_S = 0.002
_HANGS_S = 2.0  # libfranka itself waits 1 s for a state
_LAST_S = 4.0
_ANSWER_S = 3.0
_HARMLESS = (Stop.NONE.value, Stop.FINISHED.value)


class DriverNode(Node):
    """Parameters to the processes of arm and hand, packets to messages and back."""

    def __init__(self) -> None:
        super().__init__("franka_driver")
        value = lambda name, default: self.declare_parameter(name, default).value  # noqa: E731
        self.robot = get_robot(value("robot", ""))
        if self.robot.gripper is None or self.robot.n != channel.JOINTS:
            raise InputError(
                f"expected a Franka arm (panda or fr3), got {self.robot.name}; use another driver"
            )
        self.summary_path: str = value("summary_path", "")
        self.realtime_priority: int = value("realtime_priority", 0)
        self.progress: bool = value("progress", False)
        self.goal_period_s: float = value("goal_period_s", 4.0)
        self.goals = _goals(self.robot, value("goals", 0), value("seed", 0))
        policy: str = value("policy", "")
        duration_s: float = value("duration_s", 0.0)
        motion_s = load_policy(Path(policy), self.robot).spec.duration_s if policy else None
        self.duration_s = duration_s or len(self.goals) * self.goal_period_s or motion_s or 0.0
        self._missing = set(filter(None, value("wait_for", "").split(",")))
        # A policy begins with its first observation: not before the operator is ready.
        self._started = not value("wait_for_operator", False)
        self.config = ControlConfig(
            robot=self.robot.name,
            network=value("network", ""),
            enforce_realtime=value("enforce_realtime", False),
            realtime_priority=self.realtime_priority and self.realtime_priority + 2,
        )
        if not self.config.network:
            raise InputError(
                "expected the control box's address in the parameter network, got none; "
                "give it, or start an emulator and give 127.0.0.1"
            )
        self._names = wire.NameMap(self.robot.joint_names, "joint_command")
        self._ros_minus_steady_ns = self.get_clock().now().nanoseconds - time.monotonic_ns()
        self.stamp_ns = self._first_ns = 0
        self._told_ns = self._health_ns = self._heard_ns = 0
        self.states = 0
        self._goal_index = -1
        self.stops: list[str] = []
        self._stop = ""
        self._hand_error = ""
        self._last: Any = np.zeros((), dtype=channel.STATE)
        self.voice = Voice(self, self.robot)
        self._input = self.create_subscription(
            JointTrajectory, "joint_command", self._on_command, QOS, callback_group=Polled()
        )
        self.create_subscription(Header, "ready", self._on_ready, LATCHED)
        self.create_subscription(Float64, "gripper_command", self._on_gripper, 10)
        for name in ("start", "reset", "recover", "home_gripper"):
            self.create_service(Trigger, f"~/{name}", getattr(self, f"_{name}"))
        self._estop = self.create_client(Trigger, "guard/estop")
        module = "realign_franka_driver."
        text = self.config.to_json()
        self.end, self.process = _start(module + "control_process", text)
        self.hand_end, self.hand = _start(module + "hand_process", text)

    # ---- messages -----------------------------------------------------------------------------

    def _on_command(self, msg: JointTrajectory) -> None:
        try:
            stands = bool(msg.points) and not msg.points[0].positions
            chunk = None if stands else wire.trajectory_to_chunk(msg, self._names)
        except InputError as error:
            self.get_logger().error(str(error), throttle_duration_sec=1.0)
            return
        kind = channel.STAND if chunk is None else channel.TRACK
        self._tell_arm(kind, None if chunk is None else chunk.positions_rad[0])

    def _tell_arm(self, kind: int, positions_rad: Float | None = None) -> None:
        with contextlib.suppress(channel.Closed):  # the main thread sees it
            channel.send(self.end, channel.command(kind, positions_rad))

    def _tell_hand(self, kind: int, width_m: float = 0.0) -> bool:
        with contextlib.suppress(channel.Closed):
            channel.send(self.hand_end, channel.hand_command(kind, width_m))
            return True
        return False

    def _on_gripper(self, msg: Float64) -> None:
        assert self.robot.gripper is not None
        if not np.isfinite(msg.data):
            self.get_logger().error("gripper width with NaN or Inf ignored")
            return
        self._tell_hand(
            channel.MOVE_HAND, float(np.clip(msg.data, 0.0, self.robot.gripper.max_width_m))
        )

    def _on_ready(self, msg: Header) -> None:
        self._missing.discard(msg.frame_id)

    def _start(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._started = True
        response.success, response.message = True, "sensors are passed on"
        return response

    def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._ask(channel.RESET, response, "waiting for the guard's commands")

    def _recover(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._ask(channel.RECOVER, response, "recovered; waiting for the guard's commands")

    def _ask(self, kind: int, response: Trigger.Response, done: str) -> Trigger.Response:
        before, deadline = int(self._last["answers"]), time.monotonic() + _ANSWER_S
        self._tell_arm(kind)
        while int(self._last["answers"]) == before and time.monotonic() < deadline:
            time.sleep(0.01)
        if int(self._last["answers"]) == before:
            response.success, response.message = False, "the control process does not answer"
            return response
        problem = self._last["answer"].decode(errors="replace")
        response.success, response.message = not problem, problem or done
        return response

    def _home_gripper(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._tell_hand(channel.HOME_HAND)
        response.message = "the fingers move now" if response.success else "there is no gripper"
        return response

    # ---- the robot ----------------------------------------------------------------------------

    def run(self) -> None:
        """Pass on what the control process says, until the run is over or it ends.

        Raises:
            channel.Closed: the control process ended.
        """
        while rclpy.ok() and not self.done:
            record = channel.receive(self.end, channel.STATE, wait_s=_POLL_S)
            while (newer := channel.receive(self.end, channel.STATE)) is not None:
                record = newer
            self._take_commands()
            if record is None:
                self._check_control_process()
                continue
            self._heard_ns = time.monotonic_ns()
            is_news = record["stamp_ns"] != self._last["stamp_ns"]
            self._last = record
            self.stamp_ns = int(record["stamp_ns"]) + self._ros_minus_steady_ns
            self._watch_robot(record)
            self._pass_on(record, is_news)
            self._tell(record)

    def _pass_on(self, record: Any, is_news: bool) -> None:
        self._read_hand()
        waits = self._missing or not self._input.get_publisher_count()
        if not self._started or not is_news or waits:
            return
        self._publish_task()
        self.states += 1
        self.voice.publish(record, self.stamp_ns)
        if not self._first_ns and Mode(int(record["mode"])) is Mode.TRACKING:
            self._first_ns = self.stamp_ns

    def _publish_task(self) -> None:
        """The goal of this moment, and a marker where an episode starts."""
        index = int(self.elapsed_s / self.goal_period_s) if len(self.goals) else 0
        if index == self._goal_index or (len(self.goals) and index >= len(self.goals)):
            return
        self._goal_index = index
        task = f"{self.robot.name} motion"
        if len(self.goals):
            self.voice.publish_goal(self.stamp_ns, self.goals[index])
            task = "reach " + " ".join(f"{v:.3f}" for v in self.goals[index])
        self.voice.publish_episode(self.stamp_ns, index, task)

    def _read_hand(self) -> None:
        try:
            while (hand := channel.receive(self.hand_end, channel.HAND_STATE)) is not None:
                self._hand_error = hand["error"].decode(errors="replace")
                self.voice.publish_gripper(hand, self.stamp_ns)
        except channel.Closed:
            self._hand_error = "there is none"

    def _check_control_process(self) -> None:
        """One that hangs is as bad as a dead one: the robot stops, and nobody would say so."""
        silent_s = (time.monotonic_ns() - self._heard_ns) / 1e9
        if self._heard_ns and silent_s > _HANGS_S:
            self.process.kill()
            raise channel.Closed

    def _take_commands(self) -> None:
        with self._input.handle:
            while taken := self._input.handle.take_message(JointTrajectory, False):
                self._on_command(taken[0])

    def _watch_robot(self, record: Any) -> None:
        """Pass stops on to the guard and to `realign run`."""
        stop = record["stop"].decode(errors="replace")
        if stop == self._stop:
            return
        self._stop = stop
        if stop in _HARMLESS:
            return
        self.stops.append(stop)
        self.get_logger().error(f"stopped: {stop}; call ~/reset or ~/recover to go on")
        if self._estop.service_is_ready():
            self._estop.call_async(Trigger.Request())
        self.report_fault(stop)

    def report_fault(self, text: str) -> None:
        """Tell `realign run` that this run cannot go on."""
        if self.progress:
            print(f"fault {text}", flush=True)

    def _tell(self, record: Any) -> None:
        now = time.monotonic_ns()
        if now - self._health_ns > 500_000_000:
            self._health_ns = now
            self.voice.publish_health(self.stamp_ns, record, self._hand_error)
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
        """Have the arm brought to a stand, and wait for both processes to end."""
        self._tell_arm(channel.FINISH)
        self.hand_end.close()
        for process in (self.process, self.hand):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LAST_S)
        with contextlib.suppress(channel.Closed):  # the last packet knows how all of it went
            while (record := channel.receive(self.end, channel.STATE)) is not None:
                self._last = record

    def summary(self) -> dict[str, object]:
        """Everything that `realign run` reports of the robot."""
        took = self._last["cycle_us"]
        return {
            "steps": self.states,
            "duration_s": self.elapsed_s,
            "end_stamp_ns": self.stamp_ns,
            "finished": self.done,
            "fell": False,
            "min_base_height_m": None,
            "max_tilt_rad": None,
            "wall_s": self.elapsed_s,
            "mujoco_s": 0.0,
            "stops": self.stops,
            "skipped_periods": int(self._last["skipped"]),
            "cycle_us": {"p50": took[0], "p99": took[1], "max": took[2]},
        }


def _start(module: str, config: str) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = channel.channel_pair()
    arguments = json.dumps(json.loads(config) | {"channel_fd": theirs.fileno()})
    process = subprocess.Popen(
        [sys.executable, "-m", module, arguments],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # what kills this node must not kill it
    )
    theirs.close()
    return ours, process


def _goals(robot: RobotSpec, count: int, seed: int) -> Float:
    if not count:
        return np.zeros((0, 3))
    from sim2real.tasks.reach import sample_goals

    return sample_goals(robot, count, seed)


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
        if code == 3 and not node.stops:
            node.stops.append("the control process died: the robot stops by itself")
            node.report_fault(node.stops[0])
        node.hand_end.close()
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
