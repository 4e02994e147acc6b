"""The virtual robot as others see it: sensors and task out, one step at a time."""

from __future__ import annotations

import threading
import time

from rclpy.node import Node

from policies.interface import Float
from realign_driver.progress import print_progress
from realign_driver.task import TaskPublisher
from realign_mujoco_driver.cameras import Cameras
from realign_mujoco_driver.voice import Voice
from sim2real.sim.virtual_robot import Sensors, VirtualRobot

_TELL_S = 0.1


class PlayedRobot:
    """A virtual robot on ROS topics; one thread steps it and has it speak.

    Args:
        node: driver node.
        sim: the robot.
        task: what it is to do.
        cameras: what it sees, or None.
        duration_s: time of the run, s.
        aloud: print how far it is.
    """

    def __init__(
        self,
        node: Node,
        sim: VirtualRobot,
        task: TaskPublisher,
        cameras: Cameras | None,
        *,
        duration_s: float,
        aloud: bool,
    ) -> None:
        self.sim, self._task, self._cameras = sim, task, cameras
        self._voice = Voice(node, sim.robot)
        self._duration_s, self._aloud = duration_s, aloud
        self._physics_s = self._told_s = 0.0
        self._lift = threading.Event()

    @property
    def done(self) -> bool:
        """True when the run has lasted its duration."""
        return self.sim.elapsed_s >= self._duration_s - 1e-9

    def present(self) -> Sensors:
        """Send what the robot is to do now, and what it senses."""
        self._task.publish(self.sim.stamp_ns, self.sim.elapsed_s)
        reading = self.sim.read()
        self.say(reading)
        return reading

    def say(self, reading: Sensors) -> None:
        """Send what the robot and its cameras sense."""
        if self._cameras is not None:
            qpos_rad = self.sim.stepper.state.qpos_rad
            self._cameras.publish(reading.stamp_ns, qpos_rad, self.sim.objects)
        self._voice.publish(reading)

    def lift(self) -> None:
        """Have it hang in its start pose until it is moved; from any thread."""
        self._lift.set()

    def step(self, target_rad: Float | None) -> None:
        """Step towards set-points, (n,) rad; None to damp or stand."""
        start = time.perf_counter()
        if self._lift.is_set():
            self._lift.clear()
            self.sim.stand_up()
        self.sim.step(target_rad)
        self._physics_s += time.perf_counter() - start
        if self._aloud and self.sim.elapsed_s - self._told_s >= _TELL_S:
            self._told_s = self.sim.elapsed_s
            print_progress(self._told_s, self._duration_s)

    def close(self) -> None:
        """End cameras and simulator."""
        if self._cameras is not None:
            self._cameras.close()
        self.sim.close()

    def summary(self, wall_s: float) -> dict[str, object]:
        """Everything that `realign run` reports of the robot; wall time of its motion, s."""
        sim = self.sim
        legged = sim.robot.floating_base
        return {
            "steps": sim.steps,
            "duration_s": sim.elapsed_s,
            "end_stamp_ns": sim.stamp_ns,
            "finished": self.done,
            "fell": sim.fell,
            "min_base_height_m": sim.min_base_height_m if legged else None,
            "max_tilt_rad": sim.max_tilt_rad if legged else None,
            "rise_m": sim.rise_m,
            "wall_s": wall_s,
            "mujoco_s": self._physics_s,
        }
