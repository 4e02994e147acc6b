"""A policy in closed loop with one simulated robot, without ROS: for data, evaluation and tests.

The same order of events as a lock-step run of the graph: observe, act, hold the command for a
control tick. Nothing guards the commands here; `realign run` does that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.errors import InputError
from policies.interface import Float, Observation, Policy, RobotSpec
from policies.rotation import tilt_rad
from sim2real.episodes.episode import Episode
from sim2real.sim.engine import OneRobot
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import SimState, Stepper, default_state, stack
from sim2real.sim.virtual_robot import FALL_HEIGHT_M, FALL_TILT_RAD

_NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """One closed-loop run.

    Attributes:
        episode: states and commands, one row each control tick and one for the end.
        fell: a legged robot's base was below 0.4 m or tilted by 45 degrees.
        completed: it ran its whole duration without a fall.
    """

    episode: Episode
    fell: bool
    completed: bool


def roll_out(
    policy: Policy,
    robot: RobotSpec,
    *,
    gap: Gap | None = None,
    seed: int = 0,
    duration_s: float | None = None,
    pose_noise_rad: float = 0.01,
    command_noise_rad: float = 0.0,
    simulator: OneRobot | None = None,
) -> Rollout:
    """Run ``policy`` from its start pose until its motion ends or the robot falls.

    Args:
        policy: a policy that answers each control tick and needs no goal.
        robot: the robot.
        gap: how the simulated robot differs from its nominal model.
        seed: of start pose and noise.
        duration_s: length, s; default: the policy's motion.
        pose_noise_rad: standard deviation of the start pose.
        command_noise_rad: standard deviation of noise on the commands, which excites what the
            policy alone does not; the episode holds the commands as sent.
        simulator: another simulator than MuJoCo; it has its own gap.

    Raises:
        InputError: an endless policy without a duration, or one of another rate.
    """
    spec = policy.spec
    length_s = spec.duration_s if duration_s is None else duration_s
    if length_s is None:
        raise InputError(
            f"expected a duration for the endless policy {spec.name}, got none; give one in s"
        )
    if spec.rate_hz != robot.control_rate_hz:
        raise InputError(
            f"expected a policy at the {robot.control_rate_hz:g} Hz of {robot.name}, got "
            f"{spec.rate_hz:g} Hz; run it with `realign run`"
        )
    rng = np.random.default_rng(seed)
    one = simulator or Stepper(robot, gap)
    start = np.asarray(spec.start_pose_rad) + rng.normal(0.0, pose_noise_rad, robot.n)
    one.reset(default_state(robot, np.clip(start, robot.lower_rad, robot.upper_rad)))
    policy.reset(seed)
    states, commands, fell = [one.state], [], False
    for tick in range(round(length_s * spec.rate_hz)):
        chunk = policy.act(_observe(states[-1], round(tick * _NS / spec.rate_hz)))
        commands.append(chunk.positions_rad[0] + rng.normal(0.0, command_noise_rad, robot.n))
        one.step(commands[-1])
        states.append(one.state)
        fell = fell_over(robot, states[-1])
        if fell:
            break
    return Rollout(
        episode=_episode(robot, spec.name, states, commands), fell=fell, completed=not fell
    )


def fell_over(robot: RobotSpec, state: SimState) -> bool:
    """True if a legged robot's base is below 0.4 m or tilted by more than 45 degrees."""
    if not robot.floating_base or state.base_pos_m is None or state.base_quat_wxyz is None:
        return False
    return (
        bool(state.base_pos_m[2] < FALL_HEIGHT_M) or tilt_rad(state.base_quat_wxyz) > FALL_TILT_RAD
    )


def _observe(state: SimState, elapsed_ns: int) -> Observation:
    return Observation(
        stamp_ns=_NS + elapsed_ns,
        qpos_rad=state.qpos_rad,
        qvel_rad_s=state.qvel_rad_s,
        base_quat_wxyz=state.base_quat_wxyz,
        base_ang_vel_rad_s=state.base_ang_vel_rad_s,
    )


def _episode(
    robot: RobotSpec, task: str, states: Sequence[SimState], commands: Sequence[Float]
) -> Episode:
    arrays = stack([s.map(lambda x: x[None]) for s in states]).map(lambda x: x[0])
    return Episode(
        robot=robot.name,
        robot_fingerprint=robot.fingerprint,
        rate_hz=robot.control_rate_hz,
        t_s=np.arange(len(states)) / robot.control_rate_hz,
        qpos_rad=arrays.qpos_rad,
        qvel_rad_s=arrays.qvel_rad_s,
        action_rad=np.array([*commands, commands[-1]]),
        base_pos_m=arrays.base_pos_m,
        base_quat_wxyz=arrays.base_quat_wxyz,
        base_lin_vel_m_s=arrays.base_lin_vel_m_s,
        base_ang_vel_rad_s=arrays.base_ang_vel_rad_s,
        task=task,
    )
