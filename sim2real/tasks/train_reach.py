"""The reach policy of an arm: ``python -m sim2real.tasks.train_reach --robot so101 --out DIR``.

The scripted expert drives simulated arms whose motors, load, friction and delay are drawn at
random, with noise on its commands (as in DART, arXiv 1703.09327), so that the states that a clone
gets into on another robot are in the data. Since the expert can answer any state for any goal,
every state is also labelled with goals other than the one it was visited for.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import trange

from policies.actor.config import ActionConfig, ActorConfig
from policies.actor.mlp import mlp_onnx
from policies.checkpoint import load_policy, save_checkpoint
from policies.checkpoint_files import check_writable
from policies.errors import InputError
from policies.expert.reach import ReachExpert
from policies.interface import Float, RobotSpec
from policies.processors import TermConfig
from policies.robots import get_robot
from policies.robots.panda import PANDA
from policies.train import CloneConfig, clone
from sim2real.sim.gaps import Gap, make_gap, size_of_arm
from sim2real.sim.kinematics import Kinematics
from sim2real.sim.stepper import Stepper, default_state
from sim2real.tasks.reach import evaluate_reach, sample_goals, sample_solved_goals

TERMS = ("last_command", "command_velocity", "tracking_error", "joint_vel", "goal_position")
HORIZON = 8
REPLAN_EVERY = 4
RATE_HZ = 50.0
# The stream is interpolated to twice this rate, where a change of velocity counts double: with
# this share of the acceleration limit it stays inside there too.
STREAM_FRACTION = 0.48


@dataclass(frozen=True, kw_only=True)
class CollectConfig:
    """How the data are collected.

    Attributes:
        goals: number of goals in the pool.
        episodes: simulated arms, each with dynamics of its own.
        ticks: length of an episode at 50 Hz.
        relabels: how often each visited state is labelled for another goal.
        near_goal: samples made up close to each goal of the pool, for precision there.
        noise_rad_s: standard deviation of the noise on the command velocity, rad/s.
        noise_tau_s: correlation time of that noise, s.
        seed: everything random.
    """

    goals: int = 3000
    episodes: int = 240
    ticks: int = 240
    relabels: int = 2
    near_goal: int = 40
    noise_rad_s: float = 0.1
    noise_tau_s: float = 0.2
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class States:
    """What the policy sees of itself, arrays (samples, n), rad and rad/s."""

    command_rad: Float
    command_vel_rad_s: Float
    qpos_rad: Float
    qvel_rad_s: Float

    def take(self, index: NDArray[np.intp]) -> States:
        """A selection of the samples."""
        return States(
            command_rad=self.command_rad[index],
            command_vel_rad_s=self.command_vel_rad_s[index],
            qpos_rad=self.qpos_rad[index],
            qvel_rad_s=self.qvel_rad_s[index],
        )

    def vectors(self, robot: RobotSpec, goals_m: Float) -> Float:
        """The network's inputs in the order of :data:`TERMS`, (samples, 4 n + 3)."""
        return np.concatenate(
            [
                self.command_rad - robot.default_rad,
                self.command_vel_rad_s,
                self.command_rad - self.qpos_rad,
                self.qvel_rad_s,
                goals_m,
            ],
            axis=1,
        )


def random_gap(robot: RobotSpec, rng: np.random.Generator) -> Gap:
    """Dynamics for one training episode: motors, friction, load and delay drawn at random."""
    names, size = robot.joint_names, size_of_arm(robot)
    return Gap(
        name="training",
        strength={name: float(rng.uniform(0.5, 1.1)) for name in names},
        friction_nm={name: size * float(rng.uniform(0.0, 2.5)) for name in names},
        damping_nm_s_rad={name: size * float(rng.uniform(0.0, 1.5)) for name in names},
        payload_kg={str(robot.ee_body): size * float(rng.uniform(0.0, 2.5))},
        delay_s=float(rng.uniform(0.0, 0.02)),
    )


def roll_out(
    robot: RobotSpec, expert: ReachExpert, poses_rad: Float, config: CollectConfig
) -> tuple[States, NDArray[np.intp]]:
    """Drive all episodes side by side; returns the states and the goal each was visited for."""
    rng = np.random.default_rng([config.seed, 1])
    episodes, dt_s = config.episodes, expert.config.dt_s
    steppers = [Stepper(robot, random_gap(robot, rng)) for _ in range(episodes)]
    substeps = round(robot.control_rate_hz * dt_s)
    first = poses_rad[rng.integers(len(poses_rad), size=episodes)]
    home = rng.random(episodes) < 0.3
    command = np.where(home[:, None], robot.default_rad, first)
    for stepper, pose in zip(steppers, command, strict=True):
        stepper.reset(default_state(robot, pose))
    velocity, noise = np.zeros_like(command), np.zeros_like(command)
    goal = rng.integers(len(poses_rad), size=episodes)
    keep = np.exp(-dt_s / config.noise_tau_s)
    records, visited = [], []
    for _ in trange(config.ticks, desc="expert in the simulator", disable=None, leave=False):
        now = [stepper.state for stepper in steppers]
        qpos = np.stack([state.qpos_rad for state in now])
        qvel = np.stack([state.qvel_rad_s for state in now])
        records.append((command, velocity, qpos, qvel))
        visited.append(goal)
        sag = expert.sag(command, qpos, qvel)
        plan = expert.plan(poses_rad[goal], command, velocity, sag, 1)[:, 0]
        noise = keep * noise + np.sqrt(1.0 - keep**2) * config.noise_rad_s * rng.standard_normal(
            noise.shape
        )
        velocity = plan + noise * (1.0 - keep)
        for k in range(substeps):
            target = command + velocity * (k * dt_s / substeps)
            for stepper, row in zip(steppers, target, strict=True):
                stepper.step(row)
        command = command + velocity * dt_s
        switch = rng.random(episodes) < 1.0 / 120.0  # a new goal every 2.4 s on average
        goal = np.where(switch, rng.integers(len(poses_rad), size=episodes), goal)
    columns = [np.concatenate(column) for column in zip(*records, strict=True)]
    states = States(
        command_rad=columns[0],
        command_vel_rad_s=columns[1],
        qpos_rad=columns[2],
        qvel_rad_s=columns[3],
    )
    return states, np.concatenate(visited)


def near_goals(
    robot: RobotSpec, expert: ReachExpert, poses_rad: Float, visited: States, config: CollectConfig
) -> tuple[States, NDArray[np.intp]]:
    """States close to each goal of the pool, with tracking errors as they were seen in motion."""
    rng = np.random.default_rng([config.seed, 2])
    goal = np.repeat(np.arange(len(poses_rad)), config.near_goal)
    n = len(goal)
    pick = rng.integers(len(visited.command_rad), size=n)
    spread = 10.0 ** rng.uniform(-2.5, -0.5, size=(n, 1))  # 3 mrad to 0.3 rad
    command = poses_rad[goal] + spread * rng.standard_normal((n, robot.n))
    slow = np.minimum(spread / 0.3, 1.0)
    velocity = slow * visited.command_vel_rad_s[pick]
    error = visited.command_rad[pick] - visited.qpos_rad[pick]
    sag = expert.sag(visited.command_rad[pick], visited.qpos_rad[pick], visited.qvel_rad_s[pick])
    # The lag shrinks with the speed, the sag does not.
    return (
        States(
            command_rad=command,
            command_vel_rad_s=velocity,
            qpos_rad=command - (slow * (error - sag) + sag),
            qvel_rad_s=slow * visited.qvel_rad_s[pick],
        ),
        goal,
    )


def collect(robot: RobotSpec, config: CollectConfig) -> tuple[Float, Float]:
    """Expert data: network inputs (samples, 4 n + 3) and planned velocities (samples, 7 n)."""
    expert = ReachExpert(robot)
    rng = np.random.default_rng(config.seed)
    goals_m, poses_rad = sample_solved_goals(Kinematics(robot), config.goals, rng)
    visited, own = roll_out(robot, expert, poses_rad, config)
    parts = [(visited, own)]
    for _ in range(config.relabels):
        parts.append((visited, rng.integers(len(goals_m), size=len(own))))
    parts.append(near_goals(robot, expert, poses_rad, visited, config))
    inputs, targets = [], []
    for states, goal in parts:
        sag = expert.sag(states.command_rad, states.qpos_rad, states.qvel_rad_s)
        plan = expert.plan(
            poses_rad[goal], states.command_rad, states.command_vel_rad_s, sag, HORIZON - 1
        )
        inputs.append(states.vectors(robot, goals_m[goal]))
        targets.append(plan.reshape(len(plan), -1))
    return np.concatenate(inputs), np.concatenate(targets)


def reach_config(robot: RobotSpec, collected: CollectConfig, cloned: CloneConfig) -> ActorConfig:
    """config.json of the policy."""
    return ActorConfig(
        name=f"{robot.name}_reach",
        robot=robot.name,
        robot_fingerprint=robot.fingerprint,
        rate_hz=RATE_HZ,
        action=ActionConfig(
            type="command_velocity",
            joints=robot.joint_names,
            clip=4.0,
            dt_s=1.0 / RATE_HZ,
            horizon=HORIZON,
            replan_every=REPLAN_EVERY,
            velocity_fraction=0.5,
            acceleration_fraction=STREAM_FRACTION,
            max_lead_rad=0.5,
        ),
        hold_pose_rad={},
        observation=tuple(TermConfig(term=term) for term in TERMS),
        duration_s=None,
        start_pose_rad=dict(zip(robot.joint_names, robot.default_rad.tolist(), strict=True)),
        source={
            "made_by": "python -m sim2real.tasks.train_reach",
            "method": "behaviour cloning of policies.expert.reach with noise injection",
            "seed": f"{collected.seed}",
            "optimiser_steps": f"{cloned.steps}",
        },
    )


def train_reach(
    out: Path,
    *,
    collect_config: CollectConfig,
    clone_config: CloneConfig,
    overwrite: bool,
    robot: RobotSpec = PANDA,
) -> None:
    """Collect, train and save the checkpoint.

    Args:
        out: checkpoint directory to create.
        robot: an arm with a fixed base.
        collect_config: how the data are collected.
        clone_config: how the network is fitted.
        overwrite: replace an existing checkpoint.

    Raises:
        InputError: ``out`` exists.
    """
    check_writable(out, overwrite=overwrite)
    inputs, targets = collect(robot, collect_config)
    network = clone(inputs, targets, clone_config)
    print(
        f"{len(inputs)} samples, error on held-out samples "
        f"{network.held_out_rmse.mean():.4f} rad/s (spread {targets.std():.3f} rad/s)"
    )
    model = mlp_onnx(network.weights, network.biases, activation="elu")
    config = reach_config(robot, collect_config, clone_config)
    save_checkpoint(out, config, model, overwrite=overwrite)


def report(out: Path, robot: RobotSpec = PANDA, goals: int = 100) -> None:
    """Print how the saved policy reaches goals, on the nominal arm and with a hidden gap."""
    targets = sample_goals(robot, goals, seed=1)
    for name in ("none", "hidden:7"):
        for from_default in (True, False):
            result = evaluate_reach(
                load_policy(out, robot),
                robot,
                targets,
                gap=make_gap(robot, name),
                from_default=from_default,
            )
            start = "default pose" if from_default else "last goal"
            print(
                f"gap {name:<9} from {start:<13}: {100 * result.success():.0f} % within 3 cm, "
                f"median {1e3 * np.median(result.error_m):.1f} mm, "
                f"worst {1e3 * result.error_m.max():.1f} mm; command at most "
                f"{result.velocity_ratio.max():.2f} of the velocity and "
                f"{result.acceleration_ratio.max():.2f} of the acceleration limit; "
                f"lead {result.lead_rad.max():.3f} rad"
            )


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint directory to create")
    parser.add_argument("--robot", default=PANDA.name, help="an arm with a fixed base")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--steps", type=int, default=CloneConfig.steps, help="optimiser steps")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing checkpoint")
    args = parser.parse_args(arguments)
    try:
        robot = get_robot(args.robot)
        train_reach(
            args.out,
            robot=robot,
            collect_config=CollectConfig(seed=args.seed),
            clone_config=CloneConfig(seed=args.seed, steps=args.steps),
            overwrite=args.overwrite,
        )
        report(args.out, robot)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
