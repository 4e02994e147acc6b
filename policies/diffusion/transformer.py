"""Diffusion transformer over the steps of a plan, conditioned by adaptive layer norm (adaLN-zero).

After DiT (Peebles and Xie 2023) and Diffusion Transformer Policy: each action is a token, and
observation and noise level scale, shift and gate every block.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from policies.diffusion.config import NetworkConfig
from policies.diffusion.interface import ChunkSpec
from policies.diffusion.networks import ChunkNetwork, Head, TimeFeatures, tell
from policies.errors import InputError

_HEAD_SIZE = 32


class Block(nn.Module):
    """Self-attention and a feed-forward layer, both modulated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // _HEAD_SIZE
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.queries = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """(B, T, width) to the same; ``condition`` is (B, 1 or T, width)."""
        parts = self.modulation(torch.nn.functional.silu(condition)).chunk(6, dim=2)
        x = x + parts[2] * self._attend(self.norm(x) * (1.0 + parts[0]) + parts[1])
        return cast(Tensor, x + parts[5] * self.feed(self.norm(x) * (1.0 + parts[3]) + parts[4]))

    def _attend(self, x: Tensor) -> Tensor:
        steps, width = x.shape[1], x.shape[2]
        q, k, v = (
            part.reshape(-1, steps, self.heads, _HEAD_SIZE).transpose(1, 2)
            for part in self.queries(x).chunk(3, dim=2)
        )
        weights = torch.softmax(q @ k.transpose(2, 3) * _HEAD_SIZE**-0.5, dim=-1)
        return cast(Tensor, self.mix((weights @ v).transpose(1, 2).reshape(-1, steps, width)))


class Transformer(ChunkNetwork):
    """See the module; levels of single steps modulate their own tokens."""

    def __init__(
        self, spec: ChunkSpec, config: NetworkConfig, *, levels: int, head: Head | None
    ) -> None:
        super().__init__(spec, config, levels=levels, head=head)
        width = config.width
        if width % _HEAD_SIZE:
            raise InputError(
                f"network transformer: expected a width that is a multiple of {_HEAD_SIZE}, "
                f"got {width}; change --width"
            )
        self.seen = nn.Sequential(
            nn.Linear(self.observed, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.features = TimeFeatures()
        self.time = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
        self.enter = nn.Linear(self.actions, width)
        self.position = nn.Parameter(0.02 * torch.randn(self.horizon, width))
        self.blocks = nn.ModuleList(Block(width) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, self.actions)
        for layer in (self.modulation, self.leave):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.head = head(2 * width) if head else None

    def encode(self, state: Tensor, images: list[Tensor]) -> Tensor:
        """See :class:`ChunkNetwork`."""
        return cast(Tensor, self.seen(self.observation(state, images)))

    def denoise(self, noisy: Tensor, time: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`ChunkNetwork`."""
        told = self.time(self.features(time if self.levels > 1 else time[:, None]))
        told = told + condition[:, None]
        h = self.enter(noisy) + self.position
        for block in self.blocks:
            h = block(h, told)
        scale, shift = self.modulation(torch.nn.functional.silu(told)).chunk(2, dim=2)
        features = torch.cat([h.mean(dim=1), condition], dim=1)
        return self.leave(self.norm(h) * (1.0 + scale) + shift), tell(self.head, features)
