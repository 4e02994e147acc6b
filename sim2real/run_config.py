"""What `realign run` is asked to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Engine = Literal["mujoco", "mujoco-remote", "sapien", "isaacgym"]
ExecutorName = Literal["receding", "ensemble", "async", "rtc"]
Images = Literal["none", "raw", "compressed", "lossless"]
Driver = Literal["mujoco", "unitree", "franka", "serial"]


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What to run.

    Attributes:
        robot: robot name.
        policy: checkpoint directory.
        driver: what plays the robot: the simulator, or the driver of a robot, real or emulated.
        network: interface or own address that leads to a Unitree robot, or address of a Franka
            control box; empty for an emulated robot.
        port: serial port of a robot, e.g. ``/dev/ttyACM0``; empty for an emulated one.
        dds_domain: DDS domain of a real Unitree robot (not of ROS).
        engine: simulator of the virtual robot, see :mod:`sim2real.sim.remote`.
        lockstep: the simulator waits for the command that answers its stamp.
        duration_s: length, s; default: all goals, the policy's motion, or 10 s.
        record: bag directory to write, or None.
        record_images: how the images of the policy's cameras are recorded: as they are, compressed
            (JPEG) or lossless (PNG).
        seed: seed of the start pose, goals and policy.
        gap: dynamics gap of the virtual robot.
        faults: faults of the virtual robot, e.g. ``nan_state@1.0:0.2``.
        goals: number of goals for a goal-conditioned policy.
        goal_period_s: time for each goal, s.
        domain_id: ROS domain; None for a private one.
        executor: what happens between a request to the policy and its answer, one of
            :data:`policies.runtime.execution.EXECUTORS`.
        action_horizon: actions from one request to the next; None for the policy's own.
        inference_delay: steps of the policy from an observation to the use of its answer.
        in_flight: requests of async and rtc that may be under way at a time.
        fade: steps beyond the delay over which rtc lets go of the running plan; None for all.
        deadline_s: time that a request may take once the plan has run out, s.
        instruction: what a policy that reads instructions is told.
    """

    robot: str
    policy: Path
    driver: Driver = "mujoco"
    network: str = ""
    port: str = ""
    dds_domain: int = 0
    engine: Engine = "mujoco"
    lockstep: bool = False
    duration_s: float | None = None
    record: Path | None = None
    record_images: Images = "compressed"
    seed: int = 0
    gap: str = "none"
    faults: str = ""
    goals: int = 5
    goal_period_s: float = 4.0
    domain_id: int | None = None
    executor: ExecutorName = "receding"
    action_horizon: int | None = None
    inference_delay: int = 0
    in_flight: int = 1
    fade: int | None = None
    deadline_s: float = 0.3
    instruction: str = ""

    @property
    def emulated(self) -> bool:
        """True where no real robot is addressed."""
        return not self.network and not self.port
