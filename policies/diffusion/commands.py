"""What ``realign policy train`` and ``realign policy export`` do."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.checkpoint_files import check_writable
from policies.datasets.demonstrations import Demonstrations, load_demonstrations
from policies.diffusion.backend import DENOISER_FILE, ENCODER_FILE
from policies.diffusion.checkpoint import read_chunk_checkpoint, save_chunk_model
from policies.diffusion.chunk_policy import bind_robot
from policies.errors import InputError
from policies.robots import get_robot

if TYPE_CHECKING:
    from policies.diffusion.codes import ResidualCodes
    from policies.diffusion.config import ModelConfig, RobotBinding
    from policies.diffusion.export import Parity
    from policies.diffusion.networks import ChunkNetwork
    from policies.diffusion.trainer import TrainConfig
    from policies.diffusion.training_loop import Log


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What a training is given besides its configuration.

    Attributes:
        robot: robot whose joints the data speak of, or None.
        init: checkpoint to start from, or None.
        replay: what the policy of kind vla at ``init`` learnt from, or None.
        resume: go on with an interrupted training.
        tensorboard: folder for curves, or None.
        overwrite: replace an existing checkpoint.
    """

    robot: str | None = None
    init: Path | None = None
    replay: Path | None = None
    resume: bool = False
    tensorboard: Path | None = None
    overwrite: bool = False


def train_command(
    dataset: Path, out: Path, config: TrainConfig, options: TrainOptions
) -> dict[str, Any]:
    """Train, export, compare and save.

    Args:
        dataset: demonstrations in the LeRobotDataset v3 layout.
        out: checkpoint directory to create.
        config: how to train.
        options: everything else.

    Returns:
        JSON-ready figures; nothing was saved if ``parity.passed`` is false.

    Raises:
        InputError: data, options and files do not fit together.
    """
    from policies.diffusion.networks import count_parameters
    from policies.diffusion.trainer import train_model

    if options.replay is not None:
        raise InputError(
            f"--replay: expected a policy of kind vla, got {config.kind!r}; leave it out"
        )
    state_dir = training_state(out, options)
    demonstrations = load_demonstrations(dataset)
    initial = None
    if options.init is not None:
        checkpoint = read_chunk_checkpoint(options.init)
        initial = checkpoint.config, checkpoint.weights()
    start = time.monotonic()
    trained = train_model(
        demonstrations,
        config,
        robot=binding_of(demonstrations, options.robot),
        initial=initial,
        state_dir=state_dir,
        resume=options.resume,
        log=open_log(options.tensorboard),
    )
    result = {
        "name": config.name,
        "kind": config.kind,
        "network": config.network.type,
        "parameters": count_parameters(trained.network),
        "samples": demonstrations.frames,
        "steps": config.steps,
        "loss": trained.loss,
        "training_s": time.monotonic() - start,
    }
    print(
        f"{config.kind} {config.network.type}: {result['parameters']} parameters, "
        f"{result['samples']} samples, loss {trained.loss:.4f}"
    )
    result["parity"] = _export(
        trained.config, trained.network, trained.codes, out, overwrite=options.overwrite
    )
    shutil.rmtree(state_dir, ignore_errors=True)
    return result


def export_command(policy: Path, out: Path, *, overwrite: bool) -> dict[str, Any]:
    """Export the weights of a checkpoint again.

    Args:
        policy: checkpoint directory with weights.
        out: checkpoint directory to create.
        overwrite: replace an existing checkpoint.

    Returns:
        JSON-ready figures; nothing was saved if ``parity.passed`` is false.

    Raises:
        InputError: the checkpoint is damaged or has no weights, or ``out`` exists.
    """
    from policies.diffusion.backend import TorchBackend

    check_writable(out, overwrite=overwrite)
    checkpoint = read_chunk_checkpoint(policy)
    config = checkpoint.config
    codes = checkpoint.codes()
    backend = TorchBackend(config, checkpoint.weights(), checkpoint.what)
    return {
        "name": config.spec.name,
        "parity": _export(config, backend.network, codes, out, overwrite=overwrite),
    }


def _export(
    config: ModelConfig,
    network: ChunkNetwork,
    codes: ResidualCodes | None,
    out: Path,
    *,
    overwrite: bool,
) -> dict[str, Any]:
    from policies.diffusion.export import compare, export_onnx

    files = export_onnx(config, network, codes)
    weights = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    return save_if_equal(
        out,
        config.spec.name,
        files,
        compare(config, files, weights),
        lambda: save_chunk_model(out, config, files, overwrite=overwrite),
    )


def training_state(out: Path, options: TrainOptions) -> Path:
    """Folder in which the training of a checkpoint keeps what it needs to be resumed.

    Args:
        out: checkpoint directory to create.
        options: of the command.

    Raises:
        InputError: ``out`` exists, or there is an interrupted training that shall not go on.
    """
    check_writable(out, overwrite=options.overwrite)
    state_dir = out.with_name(f"{out.name}.training")
    if state_dir.exists() and not options.resume:
        raise InputError(
            f"{state_dir}: expected no interrupted training, but there is one; add --resume to go "
            "on with it, or remove it"
        )
    return state_dir


def binding_of(demonstrations: Demonstrations, robot_name: str | None) -> RobotBinding | None:
    """Robot that demonstrations are of, with the pose in which they start.

    Args:
        demonstrations: checked.
        robot_name: robot whose joints they speak of, or None.

    Raises:
        InputError: there is no such robot, or it does not know one of the names.
    """
    if robot_name is None:
        return None
    first = np.mean([rows[0] for rows in demonstrations.state], axis=0)
    names = demonstrations.state_names, demonstrations.action_names
    return bind_robot(*names, first, get_robot(robot_name))


def save_if_equal(
    out: Path, name: str, files: Mapping[str, bytes], parity: Parity, save: Callable[[], None]
) -> dict[str, Any]:
    """Save an export unless it differs too much from torch, and say so.

    Args:
        out: checkpoint directory that ``save`` creates.
        name: of the policy.
        files: file name -> content of the export.
        parity: its comparison with torch.
        save: writes the checkpoint.

    Returns:
        JSON-ready comparison.
    """
    from policies.diffusion.export import TOLERANCE

    passed = parity.max_difference <= TOLERANCE
    size = len(files[ENCODER_FILE]) + len(files[DENOISER_FILE])
    print(
        f"export: differs from torch by at most {parity.max_difference:.1e} (allowed "
        f"{TOLERANCE:g}), {parity.speed_ratio:.1f} times as fast, {size / 1e6:.1f} MB"
    )
    if passed:
        save()
        print(f"{out}: policy {name}")
    else:
        print(f"{out}: not written, the export differs too much")
    return {
        "max_difference": parity.max_difference,
        "tolerance": TOLERANCE,
        "torch_s": parity.torch_s,
        "onnx_s": parity.onnx_s,
        "speed_ratio": parity.speed_ratio,
        "passed": passed,
    }


def open_log(folder: Path | None) -> Log | None:
    """What writes curves of a training to a folder, or None.

    Raises:
        InputError: tensorboard is not installed.
    """
    if folder is None:
        return None
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "--tensorboard: expected the Python package tensorboard, which is not installed; run: "
            "pip install tensorboard"
        ) from error
    writer = SummaryWriter(str(folder))

    def log(step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return log
