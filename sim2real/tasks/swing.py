"""A policy without training: ``python -m sim2real.tasks.swing --robot so101 --out DIR``.

Every joint swings slowly about a point beside the robot's default pose, for as long as it runs: the
first thing to try on a robot, since nothing about it can be wrong but the robot. The network is one
linear layer, a harmonic oscillator of the commands: ``v' = v - w^2 dt (command - centre)``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from policies.actor.config import ActionConfig, ActorConfig
from policies.actor.mlp import mlp_onnx
from policies.checkpoint import save_checkpoint
from policies.errors import InputError
from policies.interface import Float, RobotSpec
from policies.processors import TermConfig
from policies.robots import get_robot

RATE_HZ = 50.0
HORIZON = 8
REPLAN_EVERY = 4
AMPLITUDE_RAD = 0.2
PERIOD_S = 4.0


def oscillator(
    amplitude_rad: Float, period_s: float, dt_s: float, steps: int
) -> tuple[Float, Float]:
    """Velocities of the next steps as a linear function of offset and velocity of the command.

    Args:
        amplitude_rad: where the centre of each joint lies beside its default, (n,), rad.
        period_s: of the swing, s.
        dt_s: step, s.
        steps: how many.

    Returns:
        Matrix (steps n, 2 n) and vector (steps n,).
    """
    n = len(amplitude_rad)
    pull = (2.0 * np.pi / period_s) ** 2 * dt_s
    # One joint: [offset, velocity, 1] -> the same a step later; velocity first, then offset.
    step = np.array([[1.0 - pull * dt_s, dt_s, pull * dt_s], [-pull, 1.0, pull], [0.0, 0.0, 1.0]])
    matrix, vector = np.zeros((steps, n, 2 * n)), np.zeros((steps, n))
    power, joints = np.eye(3), np.arange(n)
    for k in range(steps):
        power = step @ power
        matrix[k, joints, joints] = power[1, 0]
        matrix[k, joints, n + joints] = power[1, 1]
        vector[k] = power[1, 2] * amplitude_rad
    return matrix.reshape(steps * n, 2 * n), vector.reshape(steps * n)


def save_swing(
    out: Path,
    robot: RobotSpec,
    *,
    amplitude_rad: float = AMPLITUDE_RAD,
    period_s: float = PERIOD_S,
    overwrite: bool = False,
) -> None:
    """Write the policy as a checkpoint.

    Args:
        out: checkpoint directory to create.
        robot: an arm with a fixed base.
        amplitude_rad: half of the way of each joint, rad.
        period_s: of the swing, s.
        overwrite: replace an existing checkpoint.

    Raises:
        InputError: ``out`` exists, the robot is no arm, or it cannot swing so far or so fast.
    """
    if robot.floating_base:
        raise InputError(f"expected an arm with a fixed base, got {robot.name}; it would fall")
    # From the default pose to twice the amplitude, on the side where there is more room.
    above, below = robot.upper_rad - robot.default_rad, robot.default_rad - robot.lower_rad
    most = 0.45 * float(np.maximum(above, below).min())
    if not 0.0 < amplitude_rad <= most or period_s <= 0.0:
        raise InputError(
            f"expected an amplitude from 0 to {most:.2f} rad and a period above 0 s, got "
            f"{amplitude_rad:g} rad and {period_s:g} s"
        )
    speed, fastest = 2.0 * np.pi / period_s * amplitude_rad, robot.velocity_limit_rad_s.min() / 2.0
    if speed > fastest:
        raise InputError(
            f"expected a swing of at most {fastest:.2f} rad/s, got one of {speed:.2f} rad/s; "
            "choose a longer period or a smaller amplitude"
        )
    centre = np.where(above >= below, amplitude_rad, -amplitude_rad)
    matrix, vector = oscillator(centre, period_s, 1.0 / RATE_HZ, HORIZON - 1)
    model = mlp_onnx([matrix.astype(np.float32)], [vector.astype(np.float32)])
    config = ActorConfig(
        name=f"{robot.name}_swing",
        robot=robot.name,
        robot_fingerprint=robot.fingerprint,
        rate_hz=RATE_HZ,
        action=ActionConfig(
            type="command_velocity",
            joints=robot.joint_names,
            clip=float(robot.velocity_limit_rad_s.max()),
            dt_s=1.0 / RATE_HZ,
            horizon=HORIZON,
            replan_every=REPLAN_EVERY,
            velocity_fraction=0.5,
            acceleration_fraction=0.48,
        ),
        hold_pose_rad={},
        observation=(TermConfig(term="last_command"), TermConfig(term="command_velocity")),
        duration_s=None,
        start_pose_rad=dict(zip(robot.joint_names, robot.default_rad.tolist(), strict=True)),
        source={"made_by": "python -m sim2real.tasks.swing"},
    )
    save_checkpoint(out, config, model, overwrite=overwrite)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--robot", required=True, help="an arm with a fixed base")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint directory to create")
    parser.add_argument("--amplitude-rad", type=float, default=AMPLITUDE_RAD, help="half the way")
    parser.add_argument("--period-s", type=float, default=PERIOD_S, help="time for one swing")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing checkpoint")
    given = parser.parse_args(arguments)
    try:
        save_swing(
            given.out,
            get_robot(given.robot),
            amplitude_rad=given.amplitude_rad,
            period_s=given.period_s,
            overwrite=given.overwrite,
        )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
