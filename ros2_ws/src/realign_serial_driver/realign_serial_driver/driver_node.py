"""An arm of bus servos on ROS topics: ``joint_states`` out, ``joint_command`` in.

A servo keeps its last goal by itself, so nothing has to outlive this node: when it dies, the arm
stays where it is, and holds.
"""

from __future__ import annotations

import contextlib
import json
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
from policies.interface import Float
from policies.robots import get_robot
from policies.runtime.latency import Percentiles
from policies.runtime.scheduling import prefer_realtime
from realign_serial_driver.arm import Arm, Reading, TorqueLimits
from realign_serial_driver.arm_calibration import default_path, load_calibration
from realign_serial_driver.bus import Bus
from realign_serial_driver.core import ArmCore, Mode, Stop
from realign_serial_driver.port import PortLost, open_port
from realign_serial_driver.voice import LATCHED, QOS, Voice

NS = 1_000_000_000


class _Polled(CallbackGroup):
    """Subscriptions that executors leave alone; :meth:`DriverNode.run` takes their messages."""

    def can_execute(self, entity: Any) -> bool:
        """Never, for an executor."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Never, for an executor."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Nothing was begun."""


class DriverNode(Node):
    """Parameters to an :class:`Arm`, readings to messages, messages to set-points."""

    def __init__(self) -> None:
        super().__init__("serial_driver")
        value = lambda name, default: self.declare_parameter(name, default).value  # noqa: E731
        self.robot = get_robot(value("robot", ""))
        self.summary_path: str = value("summary_path", "")
        self.realtime_priority: int = value("realtime_priority", 0)
        self.progress: bool = value("progress", False)
        self._missing = set(filter(None, value("wait_for", "").split(",")))
        policy: str = value("policy", "")
        spec = load_policy(Path(policy), self.robot).spec if policy else None
        goals: int = value("goals", 0)
        self.goal_period_s: float = value("goal_period_s", 4.0)
        self.goals = self._draw_goals(goals, value("seed", 0))
        self.duration_s: float = (
            value("duration_s", 0.0)
            or len(self.goals) * self.goal_period_s
            or (spec.duration_s if spec else None)
            or 0.0
        )
        port: str = value("port", "")
        baud: int = value("baud", 1_000_000)
        calibration: str = value("calibration", "")
        limits = TorqueLimits(
            joints=value("torque_limit", TorqueLimits.joints),
            gripper=value("gripper_torque_limit", TorqueLimits.gripper),
        )
        # An emulated arm writes its calibration before its port appears.
        opened = open_port(port, baud, wait_s=value("port_wait_s", 0.0))
        path = Path(calibration) if calibration else default_path(self.robot)
        known = load_calibration(path, self.robot)
        self.arm = Arm(self.robot, Bus(opened), known, limits)
        self.arm.greet()
        self.core = ArmCore(self.robot, known.limits_rad(self.robot))
        self._lock = threading.Lock()
        self._names = wire.NameMap(self.robot.joint_names, "joint_command")
        self._ros_minus_steady_ns = self.get_clock().now().nanoseconds - time.monotonic_ns()
        self.stamp_ns = self._first_ns = 0
        self._told_ns = self._health_ns = 0
        self._goal_index = -1
        self._stopped_by = Stop.NONE
        self.states = 0
        self.late_ms = Percentiles(16384)
        self.stops: list[str] = []
        self.voice = Voice(self, self.robot)
        self._input = self.create_subscription(
            JointTrajectory, "joint_command", self._on_command, QOS, callback_group=_Polled()
        )
        self.create_subscription(Header, "ready", self._on_ready, LATCHED)
        self.create_service(Trigger, "~/reset", self._reset)
        self.create_service(Trigger, "~/release", self._release)
        self._estop = self.create_client(Trigger, "guard/estop")

    def _draw_goals(self, count: int, seed: int) -> Float:
        if not count:
            return np.zeros((0, 3))
        from sim2real.tasks.reach import sample_goals

        return sample_goals(self.robot, count, seed)

    # ---- messages -----------------------------------------------------------------------------

    def _on_command(self, msg: JointTrajectory) -> None:
        try:
            stopping = bool(msg.points) and not msg.points[0].positions
            chunk = None if stopping else wire.trajectory_to_chunk(msg, self._names)
        except InputError as error:
            self.get_logger().error(str(error), throttle_duration_sec=1.0)
            return
        target = None if chunk is None else chunk.positions_rad[0]
        self.core.on_command(target, time.monotonic_ns())

    def _on_ready(self, msg: Header) -> None:
        self._missing.discard(msg.frame_id)

    def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            self.core.reset()
            self.arm.torque = None  # servos that had no power in between have lost it
        response.success, response.message = True, "the torque stays as it is until commands come"
        return response

    def _release(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        with self._lock:
            self.core.stop(Stop.OPERATOR)
        response.success, response.message = True, "torque off: the arm sinks; call reset to go on"
        return response

    # ---- the arm ------------------------------------------------------------------------------

    def run(self) -> None:
        """A cycle of the bus at every deadline of an absolute grid, until the run is over.

        Raises:
            PortLost: the port went away.
        """
        period = round(NS / self.robot.state_rate_hz)
        deadline = time.monotonic_ns()
        while rclpy.ok() and not self.done:
            now = time.monotonic_ns()
            self.late_ms.add(max(now - deadline, 0) / 1e6)
            with self._lock:
                self._take_commands()
                reading = self.arm.cycle(self.core)
            self._watch()
            if reading is not None:
                self._pass_on(reading)
            deadline = max(deadline + period, time.monotonic_ns() - period)
            time.sleep(max(deadline - time.monotonic_ns(), 0) / NS)

    def _take_commands(self) -> None:
        newest = None
        with self._input.handle:
            while taken := self._input.handle.take_message(JointTrajectory, False):
                newest = taken[0]
        if newest is not None:
            self._on_command(newest)

    def _pass_on(self, reading: Reading) -> None:
        self.stamp_ns = reading.stamp_ns + self._ros_minus_steady_ns
        if self._missing or not self._input.get_publisher_count():
            return
        self._publish_task()
        self.states += 1
        self.voice.publish(reading, self.stamp_ns)
        if not self._first_ns and self.core.mode is Mode.TRACKING:
            self._first_ns = self.stamp_ns
        now = time.monotonic_ns()
        if now - self._health_ns > NS // 2:
            self._health_ns = now
            self.voice.publish_health(self.stamp_ns, self.arm, self.core)
        if self.progress and now - self._told_ns > NS // 10:
            self._told_ns = now
            print(f"progress {self.elapsed_s:.2f} {self.duration_s:.2f}", flush=True)

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

    def _watch(self) -> None:
        """Pass stops on to the guard."""
        stop = self.core.stopped_by
        if stop is self._stopped_by:
            return
        self._stopped_by = stop
        if stop is not Stop.NONE:
            self._report(stop)

    def _report(self, stop: Stop) -> None:
        text = stop.value
        if stop is Stop.SERVO_SILENT:
            text += f" ({self._silent_joints()})"
        self.stops.append(text)
        what = "torque off" if self.core.mode is Mode.LIMP else "holding"
        self.get_logger().error(f"{what}: {text}; call ~/reset to go on")
        if self.progress and stop in (Stop.SERVO_SILENT, Stop.PORT_LOST):
            print(f"fault {text}", flush=True)  # this run cannot go on
        if self._estop.service_is_ready():
            self._estop.call_async(Trigger.Request())

    def _silent_joints(self) -> str:
        silent = self.core.silent(time.monotonic_ns())
        names = dict(zip(self.arm.calibration.ids, self.robot.joint_names, strict=True))
        return ", ".join(names[servo] for servo in silent)

    def lose_port(self) -> None:
        """Say that the arm is out of reach; it keeps its last goals."""
        self.core.stop(Stop.PORT_LOST)
        self._report(Stop.PORT_LOST)

    @property
    def elapsed_s(self) -> float:
        """Time since the first command that moves, s."""
        return (self.stamp_ns - self._first_ns) / 1e9 if self._first_ns else 0.0

    @property
    def done(self) -> bool:
        """True when the run has lasted its duration (0: it has none)."""
        return bool(self.duration_s) and self.elapsed_s >= self.duration_s

    def finish(self) -> None:
        """Leave the arm holding where it is."""
        with contextlib.suppress(PortLost):
            self.core.stop(Stop.FINISHED)
            self.arm.cycle(self.core)

    def summary(self) -> dict[str, object]:
        """Everything that `realign run` reports of the robot."""
        bus = self.arm.bus.statistics
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
            "bus": {
                "request_ms": bus.cycle_ms.summary(),
                "late_ms": self.late_ms.summary(),
                "requests": bus.requests,
                "missing": bus.missing,
                "damaged": self.arm.bus.bad_checksums,
                "incomplete_cycles": self.arm.incomplete,
            },
        }


def main() -> None:
    """Drive the arm for the duration of the run."""
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
    except PortLost:
        node.lose_port()
        code = 3
    except (KeyboardInterrupt, ExternalShutdownException):
        node.finish()
    finally:
        if node.summary_path:
            Path(node.summary_path).write_text(json.dumps(node.summary()))
        node.arm.bus.close()
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
