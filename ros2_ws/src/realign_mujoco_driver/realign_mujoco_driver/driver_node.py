"""The simulator as a robot: ``joint_states``, ``imu``, ``odom`` and ``/clock`` out, commands in.

Lockstep: publish a state, wait for the command that applies from its stamp, step, repeat.
Real time: step on an absolute grid under the newest command, like a robot.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Float64, Header
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from policies.checkpoint import load_policy
from policies.errors import InputError
from policies.interface import Policy
from policies.robots import get_robot
from policies.runtime.planning import cameras_of
from policies.runtime.scheduling import prefer_realtime
from realign_driver.commands import CommandReader
from realign_driver.program import end_node, make_node, spinning, until_shutdown
from realign_driver.qos import LATCHED, QOS
from realign_driver.task import TaskPublisher, draw_goals
from realign_mujoco_driver.cameras import Cameras
from realign_mujoco_driver.voice import Voice
from sim2real.sim.virtual_robot import Sensors, VirtualRobot, parse_faults
from sim2real.tasks.camera_scene import solid_things

COMMAND_TIMEOUT_S = 0.1
ASK_AGAIN_S = 1.0
DELIVERY_S = 2.0


class DriverNode(Node):
    """Parameters to a :class:`VirtualRobot`, messages to NumPy and back."""

    def __init__(self) -> None:
        super().__init__("mujoco_driver")
        value = lambda name, default: self.declare_parameter(name, default).value  # noqa: E731
        self.robot = get_robot(value("robot", ""))
        self.lockstep: bool = value("lockstep", False)
        self.summary_path: str = value("summary_path", "")
        self.realtime_priority: int = value("realtime_priority", 0)
        seed: int = value("seed", 0)
        duration_s: float = value("duration_s", 0.0)
        self._missing = set(filter(None, value("wait_for", "").split(",")))
        self.progress: bool = value("progress", False)
        policy: str = value("policy", "")
        loaded = load_policy(Path(policy), self.robot) if policy else None
        spec = loaded.spec if loaded else None
        goals_m = draw_goals(self.robot, value("goals", 0), seed)
        self.task = TaskPublisher(self, self.robot, goals_m, value("goal_period_s", 4.0))
        motion_s = spec.duration_s if spec else None
        self.duration_s = duration_s or self.task.duration_s or motion_s or 10.0
        objects, places_m = solid_things(self.robot, seed)
        self.sim = VirtualRobot(
            self.robot,
            engine=value("engine", "mujoco"),
            gap=value("gap", "none"),
            seed=seed,
            rate_hz=self.robot.control_rate_hz if self.lockstep else self.robot.state_rate_hz,
            start_pose_rad=np.array(spec.start_pose_rad) if spec else None,
            faults=parse_faults(value("faults", "")),
            objects=objects,
            places_m=places_m,
        )
        self.sim_s = self._told_s = 0.0
        self._reader = CommandReader(self, self.robot)
        self._command: np.ndarray | None = None
        self._command_stamp_ns = -1
        self._command_ns = 0
        self.voice = Voice(self, self.robot)
        self.cameras = self._cameras(loaded, seed)
        self._input = self.create_subscription(
            JointTrajectory, "joint_command", self._on_command, QOS
        )
        self.create_subscription(Header, "ready", self._on_ready, LATCHED)
        self._lift = threading.Event()
        self.create_service(Trigger, "~/stand_up", self._stand_up)
        if self.robot.gripper:
            self.create_subscription(Float64, "gripper_command", self._on_gripper, 10)

    def _cameras(self, policy: Policy | None, seed: int) -> Cameras | None:
        """The cameras that a policy looks through, if it does."""
        transport: str = self.declare_parameter("image_transport", "raw").value
        rate_hz: float = self.declare_parameter("camera_rate_hz", 30.0).value
        wanted = cameras_of(policy) if policy else ()
        if not policy or not wanted:
            return None
        return Cameras(
            self,
            self.robot,
            wanted,
            rate_hz=policy.spec.rate_hz if self.lockstep else rate_hz,
            seed=seed,
            transport=transport,
            threaded=not self.lockstep,
        )

    def _say(self, reading: Sensors) -> None:
        """Send what the robot and its cameras sense."""
        if self.cameras is not None:
            qpos_rad = self.sim.stepper.state.qpos_rad
            self.cameras.publish(reading.stamp_ns, qpos_rad, self.sim.objects)
        self.voice.publish(reading)

    # ---- messages -----------------------------------------------------------------------------

    def _on_command(self, msg: JointTrajectory) -> None:
        command = self._reader.read(msg)
        if command is None:
            return
        target = command.target_rad
        if target is not None and not np.isfinite(target).all():
            self.get_logger().error("command with NaN or Inf ignored", throttle_duration_sec=1.0)
            return
        self._command = target
        self._command_ns = time.monotonic_ns()
        self._command_stamp_ns = command.stamp_ns

    def _on_gripper(self, msg: Float64) -> None:
        try:
            self.sim.set_gripper(msg.data)
        except InputError as error:
            self.get_logger().error(str(error), throttle_duration_sec=1.0)

    def _stand_up(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._lift.set()  # carried out by the thread that steps
        response.success, response.message = True, "hangs in its start pose until it is moved"
        return response

    # ---- time ---------------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        """True when the run has lasted its duration."""
        return self.sim.elapsed_s >= self.duration_s - 1e-9

    def _step(self, target: np.ndarray | None) -> None:
        start = time.perf_counter()
        if self._lift.is_set():
            self._lift.clear()
            self.sim.stand_up()
        self.sim.step(target)
        self.sim_s += time.perf_counter() - start
        if self.progress and self.sim.elapsed_s - self._told_s >= 0.1:
            self._told_s = self.sim.elapsed_s
            print(f"progress {self._told_s:.2f} {self.duration_s:.2f}", flush=True)

    def wait_for_listeners(self, executor: SingleThreadedExecutor) -> None:
        """Wait until everybody who must see the first joint state has said so."""
        while rclpy.ok() and (self._missing or not self._input.get_publisher_count()):
            executor.spin_once(timeout_sec=0.05)

    def wait_for_deliveries(self) -> None:
        """Wait until everybody has the last messages, a slow recorder too, but not for ever."""
        end = time.monotonic() + DELIVERY_S
        for publisher in self.publishers:
            left_s = max(end - time.monotonic(), 0.0)
            if rclpy.ok():
                publisher.wait_for_all_acked(Duration(nanoseconds=round(left_s * 1e9)))

    def _on_ready(self, msg: Header) -> None:
        self._missing.discard(msg.frame_id)

    def play(self) -> float:
        """Wait until everybody listens, then step for the whole run; returns wall s of motion."""
        with SingleThreadedExecutor() as executor:
            executor.add_node(self)
            self.wait_for_listeners(executor)
            if self.lockstep:
                return self.run_lockstep(executor)
            with spinning(self):
                return self.run_realtime()

    def run_lockstep(self, executor: SingleThreadedExecutor) -> float:
        """Step only under the command that answers the present stamp; returns wall s of motion."""
        start = None
        while rclpy.ok() and not self.done:
            self.task.publish(self.sim.stamp_ns, self.sim.elapsed_s)
            reading = self.sim.read()
            self._say(reading)
            asked = time.monotonic()
            while rclpy.ok() and self._command_stamp_ns != reading.stamp_ns:
                executor.spin_once(timeout_sec=0.05)
                if time.monotonic() - asked > ASK_AGAIN_S:
                    self._say(reading)
                    asked = time.monotonic()
            start = start or time.perf_counter()
            self._step(self._command)
        return time.perf_counter() - (start or time.perf_counter())

    def run_realtime(self) -> float:
        """Hang until the first command, then step on an absolute grid; returns wall s of motion."""
        deadline, start = time.monotonic_ns(), None
        while rclpy.ok() and not self.done:
            self.task.publish(self.sim.stamp_ns, self.sim.elapsed_s)
            self._say(self.sim.read())
            deadline += self.sim.dt_ns
            time.sleep(max(deadline - time.monotonic_ns(), 0) / 1e9)
            if self._command_stamp_ns < 0:
                deadline = time.monotonic_ns()
                continue
            start = start or time.perf_counter()
            silent_s = (time.monotonic_ns() - self._command_ns) / 1e9
            self._step(None if silent_s > COMMAND_TIMEOUT_S else self._command)
        return time.perf_counter() - (start or time.perf_counter())

    def summary(self, wall_s: float) -> dict[str, object]:
        """Everything that `realign run` reports of the robot."""
        legged = self.robot.floating_base
        return {
            "steps": self.sim.steps,
            "duration_s": self.sim.elapsed_s,
            "end_stamp_ns": self.sim.stamp_ns,
            "finished": self.done,
            "fell": self.sim.fell,
            "min_base_height_m": self.sim.min_base_height_m if legged else None,
            "max_tilt_rad": self.sim.max_tilt_rad if legged else None,
            "rise_m": self.sim.rise_m,
            "wall_s": wall_s,
            "mujoco_s": self.sim_s,
        }


def main() -> None:
    """Play the robot for the duration of the run."""
    node = make_node(DriverNode)
    prefer_realtime(node.realtime_priority)
    wall_s = 0.0
    try:
        with until_shutdown(), contextlib.suppress(KeyboardInterrupt):
            wall_s = node.play()
            node.wait_for_deliveries()
    finally:
        if node.summary_path:
            Path(node.summary_path).write_text(json.dumps(node.summary(wall_s)))
        if node.cameras is not None:
            node.cameras.close()
        node.sim.close()
        end_node(node)


if __name__ == "__main__":
    main()
