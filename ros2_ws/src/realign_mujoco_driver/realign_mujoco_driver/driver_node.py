"""The simulator as a robot: ``joint_states``, ``imu``, ``odom`` and ``/clock`` out, commands in.

Lockstep: publish a state, wait for the command that applies from its stamp, step, repeat.
Real time: step on an absolute grid under the newest command, like a robot.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import Float64
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from policies.checkpoint import load_policy
from policies.errors import InputError
from policies.interface import Policy
from policies.robots import get_robot
from policies.runtime.planning import cameras_of
from policies.runtime.scheduling import prefer_realtime
from realign_driver.audience import Audience
from realign_driver.commands import CommandReader
from realign_driver.process import write_summary
from realign_driver.program import declaring, end_node, make_node, spinning, until_shutdown
from realign_driver.qos import QOS
from realign_driver.task import TaskPublisher, draw_goals
from realign_mujoco_driver.cameras import Cameras
from realign_mujoco_driver.played_robot import PlayedRobot
from sim2real.sim.virtual_robot import VirtualRobot, parse_faults
from sim2real.tasks.camera_scene import solid_things

COMMAND_TIMEOUT_S = 0.1
ASK_AGAIN_S = 1.0
DELIVERY_S = 2.0


class DriverNode(Node):
    """Parameters to a :class:`VirtualRobot`, messages to NumPy and back."""

    def __init__(self) -> None:
        super().__init__("mujoco_driver")
        value = declaring(self)
        self.robot = get_robot(value("robot", ""))
        self.lockstep: bool = value("lockstep", False)
        self.summary_path: str = value("summary_path", "")
        self.realtime_priority: int = value("realtime_priority", 0)
        seed: int = value("seed", 0)
        duration_s: float = value("duration_s", 0.0)
        policy: str = value("policy", "")
        loaded = load_policy(Path(policy), self.robot) if policy else None
        spec = loaded.spec if loaded else None
        goals_m = draw_goals(self.robot, value("goals", 0), seed)
        task = TaskPublisher(self, self.robot, goals_m, value("goal_period_s", 4.0))
        motion_s = spec.duration_s if spec else None
        objects, places_m = solid_things(self.robot, seed)
        sim = VirtualRobot(
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
        self.played = PlayedRobot(
            self,
            sim,
            task,
            self._cameras(loaded, seed),
            duration_s=duration_s or task.duration_s or motion_s or 10.0,
            aloud=value("progress", False),
        )
        self._reader = CommandReader(self, self.robot)
        self._command: np.ndarray | None = None
        self._command_stamp_ns = -1
        self._command_ns = 0
        self._input = self.create_subscription(
            JointTrajectory, "joint_command", self._on_command, QOS
        )
        self._audience = Audience(self, value("wait_for", ""))
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
            self.played.sim.set_gripper(msg.data)
        except InputError as error:
            self.get_logger().error(str(error), throttle_duration_sec=1.0)

    def _stand_up(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.played.lift()  # carried out by the thread that steps
        response.success, response.message = True, "hangs in its start pose until it is moved"
        return response

    # ---- time ---------------------------------------------------------------------------------

    def wait_for_listeners(self, executor: SingleThreadedExecutor) -> None:
        """Wait until everybody who must see the first joint state has said so."""
        while rclpy.ok() and not (self._audience.complete and self._input.get_publisher_count()):
            executor.spin_once(timeout_sec=0.05)

    def wait_for_deliveries(self) -> None:
        """Wait until everybody has the last messages, a slow recorder too, but not for ever."""
        end = time.monotonic() + DELIVERY_S
        for publisher in self.publishers:
            left_s = max(end - time.monotonic(), 0.0)
            if rclpy.ok():
                publisher.wait_for_all_acked(Duration(nanoseconds=round(left_s * 1e9)))

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
        played, start = self.played, None
        while rclpy.ok() and not played.done:
            reading = played.present()
            asked = time.monotonic()
            while rclpy.ok() and self._command_stamp_ns != reading.stamp_ns:
                executor.spin_once(timeout_sec=0.05)
                if time.monotonic() - asked > ASK_AGAIN_S:
                    played.say(reading)
                    asked = time.monotonic()
            start = start or time.perf_counter()
            played.step(self._command)
        return time.perf_counter() - (start or time.perf_counter())

    def run_realtime(self) -> float:
        """Hang until the first command, then step on an absolute grid; returns wall s of motion."""
        played, start = self.played, None
        deadline = time.monotonic_ns()
        while rclpy.ok() and not played.done:
            played.present()
            deadline += played.sim.dt_ns
            time.sleep(max(deadline - time.monotonic_ns(), 0) / 1e9)
            if self._command_stamp_ns < 0:
                deadline = time.monotonic_ns()
                continue
            start = start or time.perf_counter()
            silent_s = (time.monotonic_ns() - self._command_ns) / 1e9
            played.step(None if silent_s > COMMAND_TIMEOUT_S else self._command)
        return time.perf_counter() - (start or time.perf_counter())


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
        write_summary(node.summary_path, lambda: node.played.summary(wall_s))
        node.played.close()
        end_node(node)


if __name__ == "__main__":
    main()
