"""What training minimises, for one batch of one robot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from policies.diffusion.objectives import objective
from policies.diffusion.process import Coefficients, Process
from policies.diffusion.windows import Batch
from policies.interface import Float
from policies.processors import Float32
from policies.vla.network import VlaNetwork
from policies.vla.windows import AnchoredWindows


@dataclass(frozen=True, kw_only=True)
class Source:
    """Samples of one robot.

    Attributes:
        name: of the embodiment.
        windows: observations and plans.
        said: instruction of each frame, a row of the table of all instructions, (frames,).
    """

    name: str
    windows: AnchoredWindows
    said: NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Draws:
    """A process of which each observation gets several levels, the first of them pure noise.

    Attributes:
        process: draws the levels.
        draws: levels of an observation.
    """

    process: Process
    draws: int

    def coefficients(self, level: Float) -> Coefficients:
        """See :class:`policies.diffusion.process.Process`."""
        return self.process.coefficients(level)

    def draw(self, rng: np.random.Generator, batch: int) -> Float:
        """As the process, but for the first of each observation."""
        level = self.process.draw(rng, batch)
        if self.draws > 1:
            level[:: self.draws] = self.process.ladder(1)[0]
        return level

    def ladder(self, steps: int) -> Float:
        """See :class:`policies.diffusion.process.Process`."""
        return self.process.ladder(steps)


class _Asked(nn.Module):
    """The network with one embodiment and the words of one batch, as an objective asks it.

    It keeps the last condition, whose beginning is the summary that the guess is made of.
    """

    has_spread = True

    def __init__(self, network: VlaNetwork, name: str, text: Tensor, draws: int) -> None:
        super().__init__()
        self.network, self.name, self.text, self.draws = network, name, text, draws
        self.condition = text

    def encode(self, state: Tensor, images: list[Tensor]) -> Tensor:
        self.condition = self.network.encode(self.name, state, images, self.text)
        return self.condition.repeat_interleave(self.draws, dim=0)

    def denoise(self, noisy: Tensor, time: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.denoise(self.name, noisy, time, condition)


def glance_error(
    network: VlaNetwork,
    source: Source,
    table: Float32,
    batch_size: int,
    draws: int,
    rng: np.random.Generator,
) -> Tensor:
    """Mean squared error of the guesses for one batch of one robot.

    There is one answer an observation, so there are as many observations as otherwise draws.

    Args:
        network: the network; its device is used.
        source: the samples.
        table: rows of all instructions, (texts, TEXT_ROWS, size).
        batch_size: observations of a whole step.
        draws: draws of a whole step.
        rng: picks the samples.
    """
    index = rng.integers(len(source.windows), size=batch_size * draws)
    batch, device = source.windows.batch(index), next(network.parameters()).device
    text = torch.from_numpy(table[source.said[index]]).to(device)
    images = [torch.from_numpy(image).to(device) for image in batch.images]
    summary = network.glance(source.name, torch.from_numpy(batch.state).to(device), images, text)
    return _guess_error(network, source.name, summary, batch)


def _guess_error(network: VlaNetwork, name: str, summary: Tensor, batch: Batch) -> Tensor:
    wanted = torch.from_numpy(batch.action).to(summary.device)
    return torch.nn.functional.mse_loss(network.guess(name, summary), wanted)


def plan_error(
    network: VlaNetwork,
    source: Source,
    table: Float32,
    process: Process,
    batch_size: int,
    draws: int,
    rng: np.random.Generator,
) -> Tensor:
    """Loss of one batch: of its denoised plans, and of the guesses of its glance.

    Args:
        network: the network; its device is used.
        source: the samples.
        table: rows of all instructions, (texts, TEXT_ROWS, size).
        process: how plans become noisy.
        batch_size: observations.
        draws: levels that each of them is used with.
        rng: picks samples and levels, draws noise.
    """
    index = rng.integers(len(source.windows), size=batch_size)
    batch = source.windows.batch(index)
    device = next(network.parameters()).device
    text = torch.from_numpy(table[source.said[index]]).to(device)
    repeated = Batch(
        state=batch.state,
        action=np.repeat(batch.action, draws, axis=0),
        images=batch.images,
    )
    asked = _Asked(network, source.name, text, draws)
    denoised = objective(asked, process, repeated, rng)
    summary = asked.condition[:, : network.config.width]
    return denoised + _guess_error(network, source.name, summary, batch)
