"""Regenerate the demo's policy: ``python -m sim2real.tasks.train_reach_flow --out DIR``.

Adaptive flow (:mod:`policies.diffusion`) fitted to the scripted expert on the states that
:mod:`sim2real.tasks.train_reach` collects. Where the expert's answer is determined by what the
policy sees, as here, one evaluation of the network is a plan.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from policies.checkpoint_files import WEIGHTS_FILE, check_writable
from policies.diffusion.checkpoint import save_chunk_model
from policies.diffusion.chunk_policy import bind_robot
from policies.diffusion.config import NetworkConfig, make_sampler
from policies.diffusion.interface import ChunkSpec
from policies.errors import InputError
from policies.interface import Float, RobotSpec
from policies.robots.panda import PANDA
from sim2real.tasks.train_reach import (
    HORIZON,
    RATE_HZ,
    REPLAN_EVERY,
    CollectConfig,
    collect,
    report,
)

NETWORK = NetworkConfig(type="resmlp", width=96, depth=2)
STEPS = 6_000


def reach_spec(robot: RobotSpec, name: str) -> ChunkSpec:
    """Sizes and names of the policy: what ``collect`` returns, by name."""
    joints = robot.joint_names
    quantities = ("command", "command_velocity", "tracking_error", "qvel")
    return ChunkSpec(
        name=name,
        state_names=(
            *(f"{quantity}/{joint}" for quantity in quantities for joint in joints),
            *(f"goal/{axis}" for axis in "xyz"),
        ),
        action_names=tuple(f"velocity/{joint}" for joint in joints),
        observation_horizon=1,
        prediction_horizon=HORIZON - 1,
        action_horizon=REPLAN_EVERY,
        rate_hz=RATE_HZ,
    )


def fit(
    inputs: Float, targets: Float, out: Path, *, steps: int, seed: int, overwrite: bool
) -> None:
    """Train on collected samples and save the checkpoint, without the weights for fine-tuning.

    Args:
        inputs: from :func:`sim2real.tasks.train_reach.collect`, (samples, 4 n + 3).
        targets: planned velocities, (samples, (HORIZON - 1) n), rad/s.
        out: checkpoint directory to create.
        steps: optimiser steps.
        seed: of the training.
        overwrite: replace an existing checkpoint.

    Raises:
        InputError: ``out`` exists.
    """
    from policies.diffusion.export import export_onnx
    from policies.diffusion.trainer import TrainConfig, train_windows
    from policies.diffusion.windows import Windows

    robot = PANDA
    spec = reach_spec(robot, f"{robot.name}_reach")
    state = inputs.copy()
    state[:, : robot.n] += robot.default_rad  # collected relative to the default pose
    plans = targets.reshape(len(targets), HORIZON - 1, robot.n)
    config = TrainConfig(
        kind="flow",
        name=spec.name,
        network=NETWORK,
        observation_horizon=spec.observation_horizon,
        prediction_horizon=spec.prediction_horizon,
        action_horizon=spec.action_horizon,
        normalisation="gaussian",
        steps=steps,
        batch=512,
        learning_rate=2e-3,
        seed=seed,
    )
    binding = bind_robot(spec.state_names, spec.action_names, state.mean(axis=0), robot)
    trained = train_windows(
        Windows.of_plans(state, plans, config.normalisation), spec, config, robot=binding
    )
    print(f"{len(inputs)} samples, loss {trained.loss:.4f}")
    made = {
        "made_by": "python -m sim2real.tasks.train_reach_flow",
        "method": "adaptive flow fitted to policies.expert.reach, with noise injection",
    }
    final = dataclasses.replace(
        trained.config,
        sampler=make_sampler("flow", name="adaptive"),
        provenance={**made, **trained.config.provenance},
    )
    content = export_onnx(final, trained.network)
    del content[WEIGHTS_FILE]  # whoever trains on starts from the data anyway
    save_chunk_model(out, final, content, overwrite=overwrite)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="checkpoint directory to create")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing checkpoint")
    args = parser.parse_args(arguments)
    try:
        check_writable(args.out, overwrite=args.overwrite)
        inputs, targets = collect(PANDA, CollectConfig(seed=args.seed))
        fit(inputs, targets, args.out, steps=args.steps, seed=args.seed, overwrite=args.overwrite)
        report(args.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
