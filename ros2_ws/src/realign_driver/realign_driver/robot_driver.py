"""What the nodes of all real robots have in common; each adds the way to its robot."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rclpy.client import Client
from rclpy.node import Node
from std_srvs.srv import Trigger

from policies.checkpoint import load_policy
from policies.interface import Float
from policies.robots import get_robot
from policies.runtime.scheduling import prefer_realtime
from realign_driver.audience import Audience
from realign_driver.commands import PolledCommands
from realign_driver.process import write_summary
from realign_driver.program import end_node, make_node, spinning, until_shutdown
from realign_driver.progress import Progress
from realign_driver.task import TaskPublisher, draw_goals

_HEALTH_NS = 500_000_000


class RobotDriver(Node, ABC):
    """A robot on ROS topics: sensors and task out, ``joint_command`` in.

    Sensors are passed on when the operator is ready (where one is to be waited for, until
    ``~/start``), everybody named in ``wait_for`` has said so, and somebody sends commands: a policy
    begins with its first observation.

    Args:
        name: of the node.

    Attributes:
        robot: the robot that the parameter names.
        progress: time of the run.
        states: number of states passed on.
        stops: why the robot was stopped, one entry for each time.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.robot = get_robot(self.value("robot", ""))
        self.summary_path: str = self.value("summary_path", "")
        self.realtime_priority: int = self.value("realtime_priority", 0)
        goals_m = draw_goals(self.robot, self.value("goals", 0), self.value("seed", 0))
        period_s: float = self.value("goal_period_s", 4.0)
        self._task = TaskPublisher(self, self.robot, goals_m, period_s)
        duration_s: float = self.value("duration_s", 0.0) or self._task.duration_s
        policy: str = self.value("policy", "")
        if not duration_s and policy:
            duration_s = load_policy(Path(policy), self.robot).spec.duration_s or 0.0
        self.progress = Progress(duration_s, aloud=self.value("progress", False))
        self.started = not self.value("wait_for_operator", False)
        self._audience = Audience(self, self.value("wait_for", ""))
        self._ros_minus_steady_ns = self.get_clock().now().nanoseconds - time.monotonic_ns()
        self._health_ns = 0
        self.states = 0
        self.stops: list[str] = []
        self._commands = PolledCommands(self, self.robot)
        self.create_service(Trigger, "~/start", self._start)
        self._estop = self.create_client(Trigger, "guard/estop")

    def value(self, name: str, default: Any) -> Any:
        """Declare a parameter; its value."""
        return self.declare_parameter(name, default).value

    # ---- what each robot does in its own way --------------------------------------------------

    @abstractmethod
    def run(self) -> None:
        """Pass on states and commands until the run is over.

        Raises:
            Exception: the way to the robot is gone, see :func:`drive`.
        """

    @abstractmethod
    def obey(self, target_rad: Float | None) -> None:
        """Tell the robot: set-points (n,), rad, or None to damp, stand or hold."""

    @abstractmethod
    def publish_state(self, stamp_ns: int) -> None:
        """Send what the robot feels."""

    @abstractmethod
    def publish_health(self, stamp_ns: int) -> None:
        """Send how robot and driver are."""

    @abstractmethod
    def finish(self) -> None:
        """Leave the robot safe at the end of the run."""

    @abstractmethod
    def after_loss(self) -> int:
        """Do what is left to do when :meth:`run` has lost the robot; the exit code."""

    @abstractmethod
    def own_summary(self) -> dict[str, object]:
        """What `realign run` reports of this robot beside :meth:`summary`."""

    # ---- messages -----------------------------------------------------------------------------

    @property
    def goes_on(self) -> bool:
        """True until the run is over, or the node is told to stop."""
        return self.context.ok() and not self.progress.done

    def _start(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.started = True
        response.success, response.message = True, "sensors are passed on"
        return response

    def take_command(self) -> None:
        """Obey the newest command, if there is a new one."""
        command = self._commands.newest()
        if command is not None:
            self.obey(command.target_rad)

    def pass_on(self, steady_ns: int, *, is_news: bool, is_tracking: bool) -> None:
        """Publish the state that the robot is in.

        Args:
            steady_ns: time of the state, steady clock of the host, ns.
            is_news: it has not been passed on before.
            is_tracking: the robot follows commands.
        """
        progress = self.progress
        progress.stamp_ns = stamp_ns = steady_ns + self._ros_minus_steady_ns
        if self._has_audience() and is_news:
            self._task.publish(stamp_ns, progress.elapsed_s)
            self.states += 1
            self.publish_state(stamp_ns)
            if is_tracking:
                progress.begin()
        if self.states or not self.started:  # a graph that does not come up makes no progress
            progress.tell()
        now = time.monotonic_ns()
        if now - self._health_ns > _HEALTH_NS:
            self._health_ns = now
            self.publish_health(stamp_ns)

    def _has_audience(self) -> bool:
        if self.states:
            return True
        return self.started and self._audience.complete and self._commands.connected

    # ---- the guard ----------------------------------------------------------------------------

    def report_stop(self, text: str, *, how: str, is_fault: bool, cure: str = "~/reset") -> None:
        """Have the guard stop too, and say so.

        Args:
            text: why the robot was stopped.
            how: what it does now, e.g. ``damping``.
            is_fault: the run cannot go on.
            cure: what an operator calls to go on.
        """
        self.stops.append(text)
        self.get_logger().error(f"{how}: {text}; call {cure} to go on")
        self.call_guard(self._estop)
        if is_fault:
            self.progress.fault(text)

    def call_guard(self, client: Client) -> None:
        """Call one of the guard's services."""
        if client.service_is_ready():
            client.call_async(Trigger.Request())
        else:
            self.get_logger().error(f"there is no {client.srv_name}")

    # ---- the end ------------------------------------------------------------------------------

    def summary(self) -> dict[str, object]:
        """Everything that `realign run` reports of the robot."""
        elapsed_s = self.progress.elapsed_s
        return {
            "steps": self.states,
            "duration_s": elapsed_s,
            "end_stamp_ns": self.progress.stamp_ns,
            "finished": self.progress.done,
            "fell": False,
            "min_base_height_m": None,
            "max_tilt_rad": None,
            "wall_s": elapsed_s,
            "mujoco_s": 0.0,
            "stops": self.stops,
        } | self.own_summary()


def drive(kind: Callable[[], RobotDriver], *, lost: type[Exception]) -> None:
    """Drive a robot for the duration of the run, then exit.

    Exit code 2 if the node refuses what it is given, else what :meth:`RobotDriver.after_loss` says.

    Args:
        kind: makes the node.
        lost: what :meth:`RobotDriver.run` raises when the way to the robot is gone.
    """
    node = make_node(kind)
    code = 0
    with spinning(node):
        prefer_realtime(node.realtime_priority)
        try:
            with until_shutdown(), contextlib.suppress(KeyboardInterrupt):
                node.run()
            node.finish()
        except lost:
            code = node.after_loss()
        finally:
            write_summary(node.summary_path, node.summary)
    end_node(node)
    raise SystemExit(code)
