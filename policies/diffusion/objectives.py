"""What training minimises, for one batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from policies.diffusion.codes import ResidualCodes
from policies.diffusion.networks import ChunkNetwork
from policies.diffusion.process import Process
from policies.diffusion.windows import Batch


class Denoiser(Protocol):
    """What an objective asks of a network, see :class:`policies.diffusion.networks.ChunkNetwork`.

    Attributes:
        has_spread: it answers the logarithm of the variance of its error.
    """

    has_spread: bool

    def parameters(self) -> Iterator[nn.Parameter]:
        """Trained values."""

    def encode(self, state: Tensor, images: list[Tensor]) -> Tensor:
        """Condition of the denoiser."""

    def denoise(self, noisy: Tensor, time: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Answer to a noisy plan."""


class _Device:
    """Moves arrays to where a network is."""

    def __init__(self, network: Denoiser) -> None:
        self.device = next(network.parameters()).device

    def __call__(self, x: NDArray[Any]) -> Tensor:
        return torch.from_numpy(x.astype(np.float32)).to(self.device)

    def factor(self, x: NDArray[Any]) -> Tensor:
        """A level of each run (B,) or step (B, Tp) with axes to multiply a plan."""
        out = self(x)
        return out[:, None, None] if x.ndim == 1 else out[..., None]

    def condition(self, network: Denoiser, batch: Batch) -> Tensor:
        """What the encoder makes of a batch."""
        images = [torch.from_numpy(image).to(self.device) for image in batch.images]
        return network.encode(self(batch.state), images)


def objective(
    network: Denoiser, process: Process, batch: Batch, rng: np.random.Generator
) -> Tensor:
    """Mean squared error of the network's answers to noisy plans, and of its expected error.

    Args:
        network: the network; its device is used.
        process: how plans become noisy.
        batch: samples.
        rng: draws levels and noise.
    """
    level = process.draw(rng, len(batch.action))
    at = process.coefficients(level)
    noise = rng.standard_normal(batch.action.shape, dtype=np.float32)
    tensor = _Device(network)
    clean, eps = tensor(batch.action), tensor(noise)
    noisy = tensor.factor(at.scale * at.alpha) * clean + tensor.factor(at.scale * at.sigma) * eps
    target = tensor.factor(at.clean) * clean + tensor.factor(at.noise) * eps
    condition = tensor.condition(network, batch)
    output, log_variance = network.denoise(noisy, tensor(at.time), condition)
    miss = (output - target) ** 2
    if level.ndim == 2:
        # A step that is already clean holds no trace of the noise in its target.
        miss = miss * tensor.factor(at.sigma > 0.0) * (at.sigma.size / np.count_nonzero(at.sigma))
    error = miss.mean(dim=(1, 2))
    loss = error.mean()
    if network.has_spread:
        # The head sees features that it does not train, so the two terms do not compete.
        expected = error.detach() * torch.exp(-log_variance) + log_variance
        loss = loss + 0.5 * (expected.mean() - expected.mean().detach())
    return loss


def code_objective(
    network: ChunkNetwork, codes: ResidualCodes, batch: Batch, rng: np.random.Generator
) -> Tensor:
    """Cross-entropy of the next code, or mean squared error of the offset after the last.

    Args:
        network: the network; its device is used.
        codes: codebooks.
        batch: samples.
        rng: draws how many codes of a plan are given.
    """
    groups, size = codes.vectors.shape[:2]
    plans = batch.action.astype(np.float64)
    picked = codes.assign(plans)
    given = rng.integers(groups + 1, size=len(plans))
    stages = np.stack([codes.plan(picked, i) for i in range(groups + 1)])
    plan = stages[given, np.arange(len(plans))]
    tensor = _Device(network)
    output, logits = network.denoise(
        tensor(plan), tensor(given / groups), tensor.condition(network, batch)
    )
    error = ((output - tensor(plans - plan)) ** 2).mean(dim=(1, 2))
    last = tensor((given == groups).astype(np.float64))
    # Rows that have all their codes are weighed with 0: any code does as their target.
    group = np.minimum(given, groups - 1)
    wanted = torch.from_numpy(picked[np.arange(len(plans)), group]).to(tensor.device)
    asked = logits.reshape(-1, groups, size)[torch.arange(len(plans)), torch.from_numpy(group)]
    surprise = torch.nn.functional.cross_entropy(asked, wanted, reduction="none")
    return (last * error + (1.0 - last) * surprise).mean()
