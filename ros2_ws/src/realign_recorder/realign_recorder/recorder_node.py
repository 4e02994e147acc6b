"""Recorder: topics to a rosbag2 MCAP bag as they are on the wire, never deserialised.

It is a process of its own, so that a disk that fills up stops the recording and nothing else: the
bag is closed while there is room for its index, or left with every whole chunk in it, the fault is
logged, and the process ends with exit code 3 when it is told to stop.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Imu, JointState
from std_msgs.msg import Header, String
from trajectory_msgs.msg import JointTrajectory

from policies.errors import InputError
from policies.runtime.scheduling import prefer_realtime
from realign_driver.audience import announce
from realign_driver.process import on_stop, write_summary
from realign_driver.program import declaring, end_node, make_node
from realign_driver.qos import LATCHED
from realign_recorder.cameras import CameraConfig, CameraTopics
from sim2real.bags.writer import BagWriter

DRAIN_S = 0.2
FREE_CHECK_S = 1.0
QOS = QoSProfile(depth=1000)
TOPICS: dict[str, tuple[Any, str, QoSProfile]] = {
    "joint_states": (JointState, "sensor_msgs/msg/JointState", QOS),
    "imu": (Imu, "sensor_msgs/msg/Imu", QOS),
    "odom": (Odometry, "nav_msgs/msg/Odometry", QOS),
    "goal": (PoseStamped, "geometry_msgs/msg/PoseStamped", LATCHED),
    "episode": (Header, "std_msgs/msg/Header", LATCHED),
    "action_chunk": (JointTrajectory, "trajectory_msgs/msg/JointTrajectory", QOS),
    "joint_command": (JointTrajectory, "trajectory_msgs/msg/JointTrajectory", QOS),
    "policy/instruction": (String, "std_msgs/msg/String", LATCHED),
    "/diagnostics": (DiagnosticArray, "diagnostic_msgs/msg/DiagnosticArray", QOS),
}


class RecorderNode(Node):
    """Raw subscriptions into a :class:`BagWriter`.

    Attributes:
        fault: why the recording has stopped, or empty.
    """

    def __init__(self) -> None:
        super().__init__("recorder")
        value = declaring(self)
        out = value("out", "")
        provenance = value("provenance", "{}")
        self._messages = 0
        self.summary_path: str = value("summary_path", "")
        self.realtime_priority: int = value("realtime_priority", 0)
        topics = value("topics", list(TOPICS))
        self._min_free_mb: int = value("min_free_mb", 100)
        self._folder = Path(out).absolute().parent
        self.fault = ""
        _require_space(self._folder, 2 * self._min_free_mb)
        self.writer = BagWriter(Path(out), provenance=json.loads(provenance))
        wanted = set(filter(None, value("wait_for", "").split(",")))
        cameras = CameraConfig(
            cameras=tuple(filter(None, value("cameras", "").split(","))),
            record=value("images", "compressed"),
            transport=value("image_transport", "raw"),
            buffer_bytes=value("image_buffer_mb", 128) * 2**20,
            lockstep=value("lockstep", False),
        )
        self._cameras = CameraTopics(self, self.writer, cameras, on_error=self._give_up)
        subscriptions = [s for topic, s in self._cameras.subscriptions.items() if topic in wanted]
        for topic in topics:
            kind, type_name, qos = TOPICS[topic]
            name = self.resolve_topic_name(topic)
            self.writer.add_topic(name, type_name)
            record = self._recorder_of(name)
            subscription = self.create_subscription(kind, topic, record, qos, raw=True)
            if topic in wanted:
                subscriptions.append(subscription)
        announce(self, subscriptions)
        self.create_timer(FREE_CHECK_S, self._check_space)

    def _recorder_of(self, name: str) -> Any:
        def record(data: bytes, info: dict[str, int]) -> None:
            if self.fault:
                return
            self._messages += 1
            try:
                self.writer.write(name, data, info["received_timestamp"], info["source_timestamp"])
            except OSError as error:
                self._give_up(error)

        return record

    @property
    def messages(self) -> int:
        """Received so far, images among them."""
        return self._messages + self._cameras.received

    def _give_up(self, error: OSError) -> None:
        """Leave the bag as it is; also called by the thread that writes images."""
        self.writer.abandon()
        if not self.fault:
            self._stop(f"{self.writer.path} cannot be written ({error.strerror})")

    def _check_space(self) -> None:
        if self.fault:
            return
        try:
            _require_space(self._folder, self._min_free_mb)
        except (InputError, OSError) as error:
            self.close()
            self._stop(self.fault or str(error))

    def _stop(self, fault: str) -> None:
        """Record no more; the graph goes on."""
        self.fault = fault
        self.get_logger().error(f"recording has stopped after {self.messages} messages: {fault}")

    def close(self) -> None:
        """Write the index; a bag that cannot take it keeps its whole chunks."""
        self._cameras.close()
        for name, counts in self._cameras.counts().items():
            if counts["written"] < counts["received"] + counts["lost"]:
                found = ", ".join(f"{count} {what}" for what, count in counts.items())
                self.get_logger().warning(f"images of {name}: {found}")
        try:
            self.writer.close()
        except OSError as error:
            self.writer.abandon()
            self._stop(f"{self.writer.path} cannot be closed ({error.strerror})")

    def summary(self) -> dict[str, Any]:
        """Everything that `realign run` reports of the recording."""
        return {"messages": self.messages, "cameras": self._cameras.counts()}


def _require_space(folder: Path, megabytes: int) -> None:
    """Raise InputError where less than ``megabytes`` are free (nothing is said of no folder)."""
    if not folder.is_dir():
        return
    free = shutil.disk_usage(folder).free // 10**6
    if free < megabytes:
        raise InputError(
            f"expected at least {megabytes} MB of free space in {folder}, got {free} MB; "
            "free some, or record elsewhere"
        )


def main() -> None:
    """Record until told to stop, take what is still on its way, then close the bag.

    Exit code 3 if the recording stopped before that.
    """
    stop = threading.Event()
    on_stop(lambda *_: stop.set())
    node = make_node(RecorderNode, signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    prefer_realtime(node.realtime_priority)  # taking messages is short, and what waits is lost
    while not stop.is_set():
        executor.spin_once(timeout_sec=0.1)
    seen = -1
    while seen != node.messages:  # the queue is empty when a quiet while brings nothing more
        seen = node.messages
        deadline = time.monotonic() + DRAIN_S
        while time.monotonic() < deadline:
            executor.spin_once(timeout_sec=0.05)
    node.close()
    write_summary(node.summary_path, node.summary)
    code = 3 if node.fault else 0
    executor.shutdown()
    end_node(node)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
