"""What ``realign policy train --kind vla`` does."""

from __future__ import annotations

import shutil
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.checkpoint_files import check_writable
from policies.datasets.demonstrations import Demonstrations, load_demonstrations
from policies.diffusion.commands import (
    TrainOptions,
    binding_of,
    open_log,
    save_if_equal,
    training_state,
)
from policies.errors import InputError
from policies.vla.backend import VlaTorchBackend
from policies.vla.checkpoint import read_vla, save_vla

if TYPE_CHECKING:
    from policies.diffusion.trainer import TrainConfig
    from policies.vla.trainer import Initial, TrainedVla, VlaTrainConfig

DEFAULT_EMBODIMENT = "robot"
"""Name of the embodiment of data that speak of no known robot."""


def vla_config(
    config: TrainConfig, context_depth: int, glance_steps: int | None = None
) -> VlaTrainConfig:
    """Settings of a generative policy as those of one that reads instructions."""
    from policies.vla.trainer import VlaTrainConfig

    same = {field.name: getattr(config, field.name) for field in fields(config)}
    return VlaTrainConfig(
        **{**same, "kind": "flow"}, context_depth=context_depth, glance_steps=glance_steps
    )


def train_command(
    dataset: Path, out: Path, config: VlaTrainConfig, options: TrainOptions
) -> dict[str, Any]:
    """Train, export, compare and save.

    Args:
        dataset: demonstrations in the LeRobotDataset v3 layout; tasks are instructions.
        out: checkpoint directory to create.
        config: how to train.
        options: everything else.

    Returns:
        JSON-ready figures; nothing was saved if ``parity.passed`` is false.

    Raises:
        InputError: data, options and files do not fit together.
    """
    from policies.diffusion.networks import count_parameters
    from policies.vla.trainer import train_vla

    state_dir = training_state(out, options)
    demonstrations = load_demonstrations(dataset)
    binding = binding_of(demonstrations, options.robot)
    name = DEFAULT_EMBODIMENT if binding is None else binding.name
    initial = load_initial(options.init) if options.init else None
    start = time.monotonic()
    trained = train_vla(
        {name: demonstrations},
        config,
        robots={name: binding} if binding else {},
        initial=initial,
        replay=_replayed(options.replay, initial) if options.replay else {},
        state_dir=state_dir,
        resume=options.resume,
        log=open_log(options.tensorboard),
    )
    result = {
        "name": config.name,
        "kind": "vla",
        "embodiment": name,
        "parameters": count_parameters(trained.network),
        "samples": demonstrations.frames,
        "instructions": len(trained.config.instructions),
        "steps": config.steps,
        "loss": trained.loss,
        "training_s": time.monotonic() - start,
    }
    print(
        f"vla: {result['parameters']} parameters, {result['samples']} samples, "
        f"{result['instructions']} instructions, loss {trained.loss:.4f}"
    )
    result["parity"] = save_trained(trained, out, overwrite=options.overwrite)
    shutil.rmtree(state_dir, ignore_errors=True)
    return result


def _replayed(path: Path, initial: Initial | None) -> dict[str, Demonstrations]:
    """Demonstrations that a policy learnt from, by the embodiment whose names they have."""
    data = load_demonstrations(path)
    for name, model in initial.config.embodiments.items() if initial else ():
        known = (model.spec.state_names, model.spec.action_names)
        if known == (data.state_names, data.action_names):
            return {name: data}
    raise InputError(
        f"--replay: expected demonstrations of a robot that the policy at --init knows, but {path} "
        "has other names of states and actions, or there is no --init; give what it learnt from"
    )


def load_initial(path: Path) -> Initial:
    """A checkpoint to go on from.

    Raises:
        InputError: it is damaged or was saved without weights.
    """
    from policies.vla.trainer import Initial

    checkpoint = read_vla(path)
    return Initial(
        config=checkpoint.config,
        weights=checkpoint.weights(),
        instructions=checkpoint.instructions(),
    )


def export_command(
    policy: Path, out: Path, embodiment: str | None, *, overwrite: bool
) -> dict[str, Any]:
    """Export the weights of a checkpoint again, for another of its embodiments or the same.

    Args:
        policy: checkpoint directory with weights.
        out: checkpoint directory to create.
        embodiment: whose networks are exported; None for the same as now.
        overwrite: replace an existing checkpoint.

    Returns:
        JSON-ready figures; nothing was saved if ``parity.passed`` is false.

    Raises:
        InputError: the checkpoint is damaged, has no weights or no such embodiment, or ``out``
            exists.
    """
    from policies.vla.trainer import TrainedVla

    check_writable(out, overwrite=overwrite)
    checkpoint = read_vla(policy)
    known, name = checkpoint.config.embodiments, embodiment or checkpoint.config.deployed
    if name not in known:
        raise InputError(
            f"--embodiment: expected one out of {sorted(known)}, which {policy} has, got {name!r}"
        )
    config = replace(checkpoint.config, deployed=name)
    networks = VlaTorchBackend(config, checkpoint.weights(), checkpoint.what)
    trained = TrainedVla(
        config=config,
        network=networks.network.network,
        instructions=checkpoint.instructions(),
        loss=float("nan"),
    )
    return {"name": config.name, "parity": save_trained(trained, out, overwrite=overwrite)}


def save_trained(trained: TrainedVla, out: Path, *, overwrite: bool) -> dict[str, Any]:
    """Export, compare with torch, and save unless the two differ too much.

    Args:
        trained: what training left.
        out: checkpoint directory to create.
        overwrite: replace an existing checkpoint.

    Returns:
        JSON-ready comparison.
    """
    from policies.vla.export import compare, export_onnx

    config = trained.config
    files = export_onnx(config, trained.network, trained.instructions)
    weights = {name: tensor.numpy() for name, tensor in trained.network.state_dict().items()}
    return save_if_equal(
        out,
        config.name,
        files,
        compare(config, files, weights),
        lambda: save_vla(out, config, files, overwrite=overwrite),
    )
