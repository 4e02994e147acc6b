"""The optimiser steps of a training, for every network: interrupted and resumed bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from policies.diffusion.progress import Progress
from policies.errors import InputError

if TYPE_CHECKING:
    from policies.diffusion.trainer import TrainConfig

_WARMUP = 0.02
_LOG_EVERY = 100

Log = Callable[[int, dict[str, float]], None]
Loss = Callable[[int, np.random.Generator], tuple[Tensor, float]]
"""Step and what it draws with -> loss, and learning rate as a share of the largest."""


def train_network(
    network: nn.Module,
    config: TrainConfig,
    data: str,
    loss: Loss,
    *,
    title: str,
    state_dir: Path | None,
    resume: bool,
    log: Log | None,
) -> float:
    """Train a network; it is left on the CPU, in evaluation mode, with averaged weights.

    Args:
        network: with initial weights; it is moved to the device of ``config`` meanwhile.
        config: how.
        data: hash of the training data.
        loss: what is minimised; it evaluates ``network``.
        title: of the progress bar.
        state_dir: folder in which training keeps what it needs to be resumed, or None.
        resume: go on from ``state_dir``.
        log: called every 100 steps with the step and named figures.

    Returns:
        Mean loss over the last tenth of the steps.

    Raises:
        InputError: there is no such device, or no state of this training to resume from.
    """
    device = training_device(config.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        progress = Progress(network.to(device), config, data)
        if resume:
            progress.restore(_needed(state_dir))
        _steps(progress, config, loss, title, state_dir, log)
    finally:
        torch.set_num_threads(threads)
    network.load_state_dict(progress.averaged)
    network.cpu().eval()
    return progress.recent_loss(config.steps)


def _steps(
    progress: Progress,
    config: TrainConfig,
    loss: Loss,
    title: str,
    state_dir: Path | None,
    log: Log | None,
) -> None:
    """The optimiser steps that are left."""
    from tqdm import trange

    bar = trange(
        progress.step,
        config.steps,
        initial=progress.step,
        total=config.steps,
        disable=None,
        desc=f"training {title}",
        leave=False,
    )
    try:
        for step in bar:
            # A generator for each step: what is drawn does not depend on where training resumed.
            error, share = loss(step, np.random.default_rng([config.seed, step]))
            rate = config.learning_rate * share
            value = progress.update(error, rate)
            if log is not None and step % _LOG_EVERY == 0:
                log(step, {"loss": value, "learning_rate": rate})
            if state_dir is not None and progress.step % config.save_every == 0:
                progress.save(state_dir)
    except KeyboardInterrupt:
        if state_dir is None:
            raise
        progress.save(state_dir)
        raise KeyboardInterrupt(
            f"step {progress.step} of {config.steps} is kept in {state_dir}; give the same options "
            "and --resume to go on"
        ) from None


def _needed(state_dir: Path | None) -> Path:
    if state_dir is None:
        raise InputError("training: expected a folder to resume from, got none")
    return state_dir


def training_device(name: str) -> torch.device:
    """Device of a name: ``cpu``, ``cuda``, or ``auto`` for a GPU if there is one.

    Raises:
        InputError: a GPU is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("--device: expected a GPU that torch can use, found none; use cpu")
    return torch.device(name)


def rate_share(step: int, steps: int) -> float:
    """Learning rate at a step as a share of the largest: a short rise, then half a cosine."""
    warm = max(round(_WARMUP * steps), 1)
    return min((step + 1) / warm, 1.0) * 0.5 * (1.0 + math.cos(math.pi * step / steps))
