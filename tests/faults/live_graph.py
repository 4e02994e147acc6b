"""A ROS graph that runs while a test does things to it; loaded as a fixture by conftest.py."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim2real.graph import Graph, Process

CHECKPOINT = Path(__file__).parents[2] / "policies/checkpoints/panda_reach"
_EDGE = re.compile(r"\[(\d+\.\d+)\] \[guard\]: (\w+) -> (\w+): (\w+)")
# Generous ages: this is about what follows from a fault, on a machine that does other things too.
SLACK = {"rate_hz": 100.0, "state_max_age_s": 0.25, "imu_max_age_s": 0.25, "silence_periods": 10.0}
# What a busy machine does to a robot by itself.
BUSY = {"policy_silent", "state_silent", "overrun"}
_TRIES = 5


class DisturbedError(AssertionError):
    """A busy machine has stopped the robot before what was waited for."""


@dataclass(frozen=True)
class Edge:
    """A change of the guard's state, and when it was logged (wall time, s)."""

    time_s: float
    old: str
    new: str
    reason: str


class LiveGraph:
    """Processes, an operator, and a peer that says what it likes.

    Args:
        folder: for logs and parameters.
        domain: of ROS.
        context: of rclpy.
        robot: name of the robot.
        policy: its checkpoint.
        remap: topics of the policy's node.
    """

    def __init__(
        self,
        folder: Path,
        domain: int,
        context: Any,
        *,
        robot: str = "panda",
        policy: Path = CHECKPOINT,
        remap: dict[str, str] | None = None,
    ) -> None:
        from rclpy.executors import SingleThreadedExecutor
        from rclpy.node import Node
        from sensor_msgs.msg import JointState
        from std_srvs.srv import Trigger

        self.graph = Graph(folder, domain)
        self.folder = folder
        self.robot, self.policy, self.remap = robot, policy, remap
        self.node = Node(f"peer_of_{folder.name}", context=context)
        self.state: Any = None
        self.node.create_subscription(JointState, "joint_states", self._on_state, 100)
        self._trigger = Trigger
        self._clients = {
            name: self.node.create_client(Trigger, f"/guard/{name}")
            for name in ("arm", "estop", "reset")
        }
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._executor.spin)
        self._thread.start()

    def _on_state(self, msg: Any) -> None:
        self.state = msg

    # ---- processes ----------------------------------------------------------------------------

    def start_guard(self, chunks: str = "action_chunk", **parameters: Any) -> Process:
        common = {"robot": self.robot, "lockstep": False, "auto_arm": True, **SLACK}
        remap = {"action_chunk": chunks}
        return self.graph.start(
            "guard", "realign_policy.guard_node", common | parameters, remap=remap
        )

    def start_policy(self, policy: Path | None = None) -> Process:
        path = str(policy or self.policy)
        parameters = {"robot": self.robot, "policy": path, "autostart": True}
        return self.graph.start(
            "policy", "realign_policy.policy_node", parameters, remap=self.remap
        )

    def restart_policy(self) -> None:
        """Another policy in place of one that has failed."""
        self.kill("policy")
        self.start_policy()

    def start_driver(self, duration_s: float = 600.0) -> Process:
        parameters = {
            "robot": self.robot,
            "policy": str(self.policy),
            "duration_s": duration_s,
            "goals": 1,
            "goal_period_s": duration_s,
            "wait_for": "guard,policy",
        }
        return self.graph.start("driver", "realign_mujoco_driver.driver_node", parameters)

    def process(self, name: str) -> Process:
        """The newest process of a name."""
        return [p for p in self.graph.processes if p.name == name][-1]

    def kill(self, name: str) -> float:
        """kill -9; returns when, wall time, s."""
        process = self.process(name)
        now = time.time()
        os.kill(process.popen.pid, signal.SIGKILL)
        process.popen.wait()
        return now

    @contextmanager
    def stopped(self, name: str) -> Iterator[float]:
        """SIGSTOP a process; gives when, wall time, s. It goes on afterwards."""
        pid, since = self.process(name).popen.pid, time.time()
        os.kill(pid, signal.SIGSTOP)
        try:
            yield since
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    # ---- the guard ----------------------------------------------------------------------------

    def log(self, name: str = "guard") -> str:
        return self.process(name).log.read_text(errors="replace")

    def edges(self, since: float = 0.0) -> list[Edge]:
        found = (Edge(float(t), *rest) for t, *rest in _EDGE.findall(self.log()))
        return [edge for edge in found if edge.time_s >= since]

    def wait(self, condition: Callable[[], Any], what: str, limit_s: float = 30.0) -> Any:
        deadline = time.monotonic() + limit_s
        while not (found := condition()):
            assert time.monotonic() < deadline, f"waited in vain for {what}: {self._last_words()}"
            time.sleep(0.01)
        return found

    def _last_words(self) -> dict[str, str]:
        return {p.name: p.log.read_text(errors="replace")[-1500:] for p in self.graph.processes}

    def wait_edge(self, new: str, *reasons: str, since: float) -> Edge:
        """The first change to a state, for one of some reasons, after a time.

        Raises:
            DisturbedError: the robot was held or stopped for a reason of a busy machine's instead.
        """

        def find() -> Edge | None:
            for edge in self.edges(since):
                if edge.new == new and (not reasons or edge.reason in reasons):
                    return edge
                if reasons and edge.new in ("hold", "damp") and edge.reason in BUSY - {*reasons}:
                    raise DisturbedError(f"waited for -> {new}: {reasons}, got {edge}")
            return None

        return self.wait(find, f"-> {new}: {reasons}")

    def undisturbed(self, act: Callable[[], Any]) -> None:
        """Do something to a robot that moves, again where a busy machine has stopped it first."""
        for attempt in range(_TRIES):
            self.set_moving()
            try:
                act()
            except DisturbedError:
                if attempt == _TRIES - 1:
                    raise
                time.sleep(1.0)  # until what was on its way has come
            else:
                return

    def assert_not_stopped(self, since: float) -> None:
        """Nothing but the business of the machine has held or stopped the robot."""
        assert {e.reason for e in self.edges(since) if e.new in ("hold", "damp")} <= BUSY

    def first_stop(self, since: float) -> Edge | None:
        """The first time that the guard held or stopped the robot after a time."""
        return next((e for e in self.edges(since) if e.new in ("hold", "damp")), None)

    def guard_state(self) -> str:
        edges = self.edges()
        return edges[-1].new if edges else "unconfigured"

    def wait_robot_time(self, seconds: float) -> None:
        """Until a state has come whose stamp is that much later."""
        self.wait(lambda: self.state, "a state of the robot")
        end_s = self._stamp_s() + seconds
        self.wait(lambda: self._stamp_s() >= end_s, f"{seconds} s of robot time", 60.0)

    def _stamp_s(self) -> float:
        stamp = self.state.header.stamp
        return float(stamp.sec + stamp.nanosec / 1e9)

    def call(self, name: str) -> Any:
        client = self._clients[name]
        self.wait(client.service_is_ready, f"service {name}")
        answer = client.call_async(self._trigger.Request())
        self.wait(answer.done, f"an answer of {name}")
        return answer.result()

    def wait_started(self) -> None:
        """Until the robot has moved; it may have fallen or been stopped since."""
        self.wait(lambda: any(e.new == "active" for e in self.edges()), "a moving robot", 90.0)

    def wait_moving(self) -> None:
        """Until the robot moves; where a busy machine has stopped it since, it is armed again."""
        self.wait_started()
        self.set_moving()

    def set_moving(self) -> None:
        """Bring the guard to ACTIVE, as an operator does.

        A policy that has failed (it saw NaN, say) is silent for good: then another one is started,
        as in place of one that was killed.
        """
        deadline, answer = time.monotonic() + 90.0, ""
        silent = time.monotonic() + 10.0
        if self.process("policy").popen.poll() is not None:
            self.start_policy()
        while self.guard_state() != "active":
            assert time.monotonic() < deadline, (answer, self._last_words())
            if self.guard_state() == "damp":
                self.call("reset")
            if self.guard_state() in ("inactive", "unconfigured"):
                answer = self.call("arm").message
            if self.guard_state() == "ready" and time.monotonic() > silent:
                self.restart_policy()
                silent = deadline
            time.sleep(0.1)

    def assert_silenced_by(
        self,
        fault: Callable[[], Any],
        undo: Callable[[], Any],
        measured: Callable[..., None],
        words: str,
    ) -> None:
        """A fault silences the policy: the guard holds and stops the robot, the node says why.

        A busy machine has faults of its own; where one of them stops the robot before, there is
        another try.
        """
        for _ in range(_TRIES):
            self.set_moving()
            told, since = len(self.log("policy")), time.time()
            fault()
            if self._says(words, told):
                break
            undo()
        assert words in self.log("policy")[told:]
        stop = self.wait(lambda: self.first_stop(since), "a stop")
        measured(stop.time_s - since, busy=True)
        self.wait_edge("damp", since=since)
        assert self.process("policy").popen.poll() is None
        assert "Traceback" not in self.log("policy")
        undo()

    def _says(self, words: str, told: int) -> bool:
        """True if the policy's node says something new; False if the robot was stopped before."""
        deadline = time.monotonic() + 60.0
        while words not in self.log("policy")[told:]:
            if self.guard_state() == "damp":
                deadline = min(deadline, time.monotonic() + 12.0)  # it does not say it at once
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    # ---- the peer -----------------------------------------------------------------------------

    @contextmanager
    def publisher(self, kind: Any, topic: str) -> Iterator[Any]:
        """A publisher that all listeners of the topic have found, the guard among them."""
        publisher = self.node.create_publisher(kind, topic, 10)
        try:
            self.wait(lambda: self._guard_hears(publisher, topic), f"the guard on {topic}")
            yield publisher
        finally:
            self.node.destroy_publisher(publisher)

    def _guard_hears(self, publisher: Any, topic: str) -> bool:
        names = [i.node_name for i in self.node.get_subscriptions_info_by_topic(f"/{topic}")]
        return "guard" in names and publisher.get_subscription_count() >= len(names)

    def close(self) -> None:
        for process in self.graph.processes:  # one that is stopped would never end
            with suppress(ProcessLookupError):
                os.kill(process.popen.pid, signal.SIGCONT)
        self.graph.stop()
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
