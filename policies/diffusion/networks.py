"""Networks that answer noisy plans (torch; what is deployed is their ONNX export).

Each is split in two: ``encode`` is evaluated once for an observation, ``denoise`` once for each
step of a sampler. Where the condition enters linearly, its share is computed in ``encode``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from policies.diffusion.config import CODE_GROUPS, CODES, NetworkConfig
from policies.diffusion.interface import ChunkSpec

_FREQUENCIES = 16


class TimeFeatures(nn.Module):
    """Sines and cosines of a noise level, (...) to (..., 2 x 16)."""

    def __init__(self) -> None:
        super().__init__()
        frequencies = torch.exp(torch.linspace(0.0, math.log(1000.0), _FREQUENCIES))
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, time: Tensor) -> Tensor:
        """Features of each level."""
        angle = time[..., None] * cast(Tensor, self.frequencies)
        return torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1)


class TimeEmbedding(nn.Module):
    """Noise level of a run (B,), or of each step of its plan (B, Tp), to a vector (B, size)."""

    def __init__(self, size: int, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.features = TimeFeatures()
        self.layers = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES * levels, size), nn.SiLU(), nn.Linear(size, size)
        )

    def forward(self, time: Tensor) -> Tensor:
        """Embedding of the level or levels."""
        features = self.features(time)
        return cast(Tensor, self.layers(features.flatten(1) if self.levels > 1 else features))


class ChunkNetwork(nn.Module):
    """Base of the networks.

    Args:
        spec: sizes of observation and plan.
        config: shape of the network.
        levels: noise levels that it is told: 1, or Tp for one of each step.
        head: makes what answers besides, given the number of its features, or None.
    """

    def __init__(
        self, spec: ChunkSpec, config: NetworkConfig, *, levels: int, head: Head | None
    ) -> None:
        super().__init__()
        self.horizon, self.actions = spec.prediction_horizon, len(spec.action_names)
        self.levels = levels
        self.observed = spec.observation_horizon * len(spec.state_names)
        self.cameras = nn.ModuleDict()
        if spec.cameras:
            from policies.diffusion.vision import ImageEncoder

            for camera in spec.cameras:
                self.cameras[camera.name] = ImageEncoder(config.image_features)
            self.observed += spec.observation_horizon * len(spec.cameras) * config.image_features
        self.has_spread = head is SpreadHead

    def observation(self, state: Tensor, images: list[Tensor]) -> Tensor:
        """All that is seen, (B, observed).

        Args:
            state: normalised, (B, To, D).
            images: for each camera in order, RGB, uint8, (B, To, H, W, 3).
        """
        seen = [state.flatten(1)]
        for encoder, image in zip(self.cameras.values(), images, strict=True):
            seen.append(encoder(image).flatten(1))
        return torch.cat(seen, dim=1) if len(seen) > 1 else seen[0]

    def encode(self, state: Tensor, images: list[Tensor]) -> Tensor:
        """Condition of the denoiser, (B, C); see :meth:`observation` for the arguments."""
        raise NotImplementedError

    def denoise(self, noisy: Tensor, time: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Answer to a noisy plan.

        Args:
            noisy: scaled noisy actions, (B, Tp, A).
            time: what the network is told of the level, (B,) or (B, Tp).
            condition: from :meth:`encode`.

        Returns:
            Output (B, Tp, A), and what the head answers: the logarithm of the variance of the
            output's error (B,), logits of codes (B, groups * codes), or zeros without one (B,).
        """
        raise NotImplementedError


class SpreadHead(nn.Module):
    """Logarithm of the error's variance from features that it does not train, (B, size) to (B,)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Bounded, so that one bad sample cannot throw the head off."""
        return cast(Tensor, self.layers(features.detach())[:, 0]).clamp(-12.0, 4.0)


class CodeHead(nn.Module):
    """Logits of the codes of all groups, (B, size) to (B, groups * codes)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(size, CODE_GROUPS * CODES)

    def forward(self, features: Tensor) -> Tensor:
        """Unbounded."""
        return cast(Tensor, self.layer(features))


Head = Callable[[int], nn.Module]
_HEADS: dict[str, Head] = {"flow": SpreadHead, "vqbet": CodeHead}


def tell(head: nn.Module | None, features: Tensor) -> Tensor:
    """Answer of the head, or zeros without one, (B,)."""
    return features[:, 0] * 0.0 if head is None else cast(Tensor, head(features))


class ResidualMlp(ChunkNetwork):
    """Residual layers over the whole plan at once, scaled and shifted by observation and level."""

    def __init__(
        self, spec: ChunkSpec, config: NetworkConfig, *, levels: int, head: Head | None
    ) -> None:
        super().__init__(spec, config, levels=levels, head=head)
        width, plan = config.width, self.horizon * self.actions
        self.seen = nn.Sequential(
            nn.Linear(self.observed, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()
        )
        # Scale and shift of every block are linear in observation and level: the former's share
        # does not change while a plan is denoised.
        self.film = nn.Linear(width, 2 * width * config.depth)
        self.time = TimeEmbedding(width // 2, levels)
        self.time_film = nn.Linear(width // 2, 2 * width * config.depth)
        self.enter = nn.Linear(plan, width)
        self.norms = nn.ModuleList(
            nn.LayerNorm(width, elementwise_affine=False) for _ in range(config.depth)
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.SiLU(), nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
            )
            for _ in range(config.depth)
        )
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, plan))
        self.head = head(width) if head else None
        for layer in (self.film, self.time_film):
            nn.init.normal_(layer.weight, std=0.5 / math.sqrt(layer.in_features))
            nn.init.zeros_(layer.bias)

    def encode(self, state: Tensor, images: list[Tensor]) -> Tensor:
        """See :class:`ChunkNetwork`."""
        return cast(Tensor, self.film(self.seen(self.observation(state, images))))

    def denoise(self, noisy: Tensor, time: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`ChunkNetwork`."""
        film = condition + self.time_film(torch.nn.functional.silu(self.time(time)))
        parts = film.chunk(2 * len(self.blocks), dim=1)
        h = self.enter(noisy.flatten(1))
        for i, (norm, block) in enumerate(zip(self.norms, self.blocks, strict=True)):
            h = h + block(norm(h) * (1.0 + parts[2 * i]) + parts[2 * i + 1])
        out = self.leave(h).reshape(-1, self.horizon, self.actions)
        return out, tell(self.head, h)


def count_parameters(network: nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in network.parameters())


def make_network(
    spec: ChunkSpec, config: NetworkConfig, *, kind: str, seed: int = 0
) -> ChunkNetwork:
    """Network of a kind of model with initial weights; the same seed gives the same.

    Args:
        spec: sizes of observation and plan.
        config: shape of the network.
        kind: of the model: ``streaming`` is told a level for each step, ``flow`` tells its
            spread, ``vqbet`` the logits of codes.
        seed: of the initial weights.

    Raises:
        InputError: the horizon does not suit the network.
    """
    from policies.diffusion.transformer import Transformer
    from policies.diffusion.unet import Unet1d

    classes: dict[str, type[ChunkNetwork]] = {
        "resmlp": ResidualMlp,
        "unet": Unet1d,
        "transformer": Transformer,
    }
    levels = spec.prediction_horizon if kind == "streaming" else 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return classes[config.type](spec, config, levels=levels, head=_HEADS.get(kind))
