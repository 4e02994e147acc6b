"""Behaviour cloning: fit a small network to an expert's answers.

The network leaves as plain arrays with the normalisation folded into its first and last layer, so
that what is deployed needs neither torch nor statistics files.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.processors import Float32


@dataclass(frozen=True, kw_only=True)
class CloneConfig:
    """How a network is fitted.

    Attributes:
        hidden: width of each hidden layer (ELU).
        steps: optimiser steps.
        batch: samples per step.
        learning_rate: of Adam at the start; it falls to zero along a cosine.
        held_out: share of the samples that measures the error and is not trained on.
        seed: initial weights, order of samples.
    """

    hidden: tuple[int, ...] = (256, 256)
    steps: int = 5000
    batch: int = 512
    learning_rate: float = 2e-3
    held_out: float = 0.05
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class ClonedNetwork:
    """A fitted network ``y = W_L elu(... elu(W_1 x + b_1) ...) + b_L`` in raw units.

    Attributes:
        weights: matrices (outputs, inputs), first layer first.
        biases: vectors (outputs,).
        held_out_rmse: error on the held-out samples for each output, (outputs,).
    """

    weights: list[Float32]
    biases: list[Float32]
    held_out_rmse: NDArray[np.float64]


def clone(
    inputs: NDArray[np.float64], targets: NDArray[np.float64], config: CloneConfig
) -> ClonedNetwork:
    """Fit a network to expert samples on one thread; the same input gives the same network.

    Args:
        inputs: observation vectors, (samples, inputs), raw units.
        targets: the expert's answers, (samples, outputs), raw units.
        config: how to fit.

    Raises:
        InputError: shapes do not match, values are not finite, or there are too few samples.
    """
    if inputs.ndim != 2 or targets.ndim != 2 or len(inputs) != len(targets):
        raise InputError(
            f"behaviour cloning: expected inputs (samples, inputs) and targets (samples, outputs), "
            f"got {inputs.shape} and {targets.shape}"
        )
    if not (np.isfinite(inputs).all() and np.isfinite(targets).all()):
        raise InputError("behaviour cloning: expected finite samples, got NaN or infinity")
    held = int(len(inputs) * config.held_out)
    if held < 1 or len(inputs) - held < config.batch:
        raise InputError(
            f"behaviour cloning: expected more than {config.batch} samples and some held out, "
            f"got {len(inputs)}; collect more or reduce the batch"
        )
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # larger teams are slower on networks of this size
    try:
        return _fit(inputs, targets, held, config)
    finally:
        torch.set_num_threads(threads)


def _fit(
    inputs: NDArray[np.float64], targets: NDArray[np.float64], held: int, config: CloneConfig
) -> ClonedNetwork:
    import torch
    from tqdm import trange

    order = np.random.default_rng(config.seed).permutation(len(inputs))
    x_mean, x_std = _statistics(inputs)
    y_mean, y_std = _statistics(targets)
    x = torch.from_numpy(((inputs - x_mean) / x_std)[order].astype(np.float32))
    y = torch.from_numpy(((targets - y_mean) / y_std)[order].astype(np.float32))
    generator = torch.Generator().manual_seed(config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        widths = [inputs.shape[1], *config.hidden, targets.shape[1]]
        linears = [torch.nn.Linear(a, b) for a, b in pairwise(widths)]
    layers: list[torch.nn.Module] = []
    for linear in linears:
        layers += [linear, torch.nn.ELU()]
    network = torch.nn.Sequential(*layers[:-1])
    optimiser = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, config.steps)
    for _ in trange(config.steps, desc="behaviour cloning", disable=None, leave=False):
        pick = torch.randint(held, len(x), (config.batch,), generator=generator)
        loss = torch.nn.functional.mse_loss(network(x[pick]), y[pick])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        miss = (network(x[:held]) - y[:held]).numpy() * y_std
    weights = [linear.weight.detach().numpy().astype(np.float64) for linear in linears]
    biases = [linear.bias.detach().numpy().astype(np.float64) for linear in linears]
    biases[0] = biases[0] - weights[0] @ (x_mean / x_std)
    weights[0] = weights[0] / x_std
    weights[-1] = weights[-1] * y_std[:, None]
    biases[-1] = biases[-1] * y_std + y_mean
    return ClonedNetwork(
        weights=[weight.astype(np.float32) for weight in weights],
        biases=[bias.astype(np.float32) for bias in biases],
        held_out_rmse=np.sqrt(np.mean(miss.astype(np.float64) ** 2, axis=0)),
    )


def _statistics(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each column; a constant column keeps its scale."""
    std = values.std(axis=0)
    return values.mean(axis=0), np.where(std > 1e-8, std, 1.0)
