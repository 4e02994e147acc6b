"""Conditional 1-D U-Net over the time axis of a plan, after Diffusion Policy (Chi et al. 2023)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from policies.diffusion.config import NetworkConfig
from policies.diffusion.interface import ChunkSpec
from policies.diffusion.networks import (
    ChunkNetwork,
    Head,
    TimeEmbedding,
    TimeFeatures,
    tell,
)
from policies.errors import InputError

_KERNEL = 5
_GROUPS = 8
_TIME_SIZE = 64


class ResidualBlock(nn.Module):
    """Two convolutions with a scale and shift in between, and a shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.first = _convolution(inputs, outputs)
        self.second = _convolution(outputs, outputs)
        self.shortcut = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, film: Tensor) -> Tensor:
        """(B, inputs, T) to (B, outputs, T); ``film`` is (B, 2 outputs)."""
        scale, shift = film[:, :, None].chunk(2, dim=1)
        h = self.first(x) * (1.0 + scale) + shift
        return cast(Tensor, self.second(h) + self.shortcut(x))


def _convolution(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv1d(inputs, outputs, _KERNEL, padding=_KERNEL // 2),
        nn.GroupNorm(_GROUPS, outputs),
        nn.SiLU(),  # ONNX Runtime fuses it, and not Diffusion Policy's Mish
    )


class Unet1d(ChunkNetwork):
    """See the module; levels of single steps enter as channels beside the actions."""

    def __init__(
        self, spec: ChunkSpec, config: NetworkConfig, *, levels: int, head: Head | None
    ) -> None:
        super().__init__(spec, config, levels=levels, head=head)
        factor = 2 ** (config.depth - 1)
        if self.horizon % factor or config.width % _GROUPS:
            raise InputError(
                f"network unet: expected a prediction horizon that is a multiple of {factor} for "
                f"{config.depth} levels and a width that is a multiple of {_GROUPS}, got "
                f"{self.horizon} and {config.width}; change the options"
            )
        widths = [config.width * 2**i for i in range(config.depth)]
        self.step_features = TimeFeatures() if levels > 1 else None
        extra = 32 if levels > 1 else 0
        blocks: list[ResidualBlock] = []

        def block(inputs: int, outputs: int) -> ResidualBlock:
            blocks.append(ResidualBlock(inputs, outputs))
            return blocks[-1]

        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        channels = self.actions + extra
        for i, width in enumerate(widths):
            self.down.append(block(channels, width))
            last = i + 1 == len(widths)
            self.shrink.append(nn.Identity() if last else nn.Conv1d(width, width, 3, 2, 1))
            channels = width
        self.middle = block(channels, channels)
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for i, width in reversed(list(enumerate(widths))):
            self.up.append(block(channels + width, width))
            narrower = widths[i - 1] if i else width
            self.grow.append(nn.ConvTranspose1d(width, narrower, 4, 2, 1) if i else nn.Identity())
            channels = narrower
        self.leave = nn.Sequential(
            _convolution(channels, channels), nn.Conv1d(channels, self.actions, 1)
        )
        self.sizes = [2 * b.outputs for b in blocks]
        hidden = 4 * config.width
        self.seen = nn.Sequential(
            nn.Linear(self.observed, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.film = nn.Linear(hidden, sum(self.sizes))
        self.time = TimeEmbedding(_TIME_SIZE, levels)
        self.time_film = nn.Linear(_TIME_SIZE, sum(self.sizes))
        self.head = head(widths[-1]) if head else None

    def encode(self, state: Tensor, images: list[Tensor]) -> Tensor:
        """See :class:`ChunkNetwork`."""
        return cast(Tensor, self.film(self.seen(self.observation(state, images))))

    def denoise(self, noisy: Tensor, time: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`ChunkNetwork`."""
        films = list(
            (condition + self.time_film(torch.nn.functional.silu(self.time(time)))).split(
                self.sizes, dim=1
            )
        )
        if self.step_features is not None:
            noisy = torch.cat([noisy, self.step_features(time)], dim=2)
        h, kept = noisy.transpose(1, 2), []
        for block, shrink in zip(self.down, self.shrink, strict=True):
            h = block(h, films.pop(0))
            kept.append(h)
            h = shrink(h)
        h = self.middle(h, films.pop(0))
        bottom = h.mean(dim=2)
        for block, grow in zip(self.up, self.grow, strict=True):
            h = grow(block(torch.cat([h, kept.pop()], dim=1), films.pop(0)))
        return self.leave(h).transpose(1, 2), tell(self.head, bottom)
