"""The network: a trunk that all robots share, and what each robot has of its own (torch).

What is seen, felt and told becomes one sequence of tokens: patches of each image of each camera,
one for each state of the window, one for each word piece. A few layers of self-attention mix them.
A chunk is denoised by a second stack, whose tokens are the noisy actions: each of its layers
attends to the context and to the other actions at once, as if all stood in one sequence in which
the context does not look at the actions (in-context conditioning as in Diffusion Transformer Policy
and Dita, with readouts as in Octo). Hence keys and values of the context are computed once for an
observation and serve every step of the sampler. Its layers are modulated by the noise level and by
a glance at what matters most: the whole instruction, the state, and where each camera sees what the
instruction speaks of.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from policies.diffusion.interface import ChunkSpec
from policies.diffusion.networks import SpreadHead, TimeFeatures
from policies.diffusion.vision import ImageBlock
from policies.errors import InputError
from policies.processors import Float32
from policies.vla.config import TrunkConfig

HEAD_SIZE = 32
PATCH = 16
"""Pixels of a patch, in height and width."""
_WIDTHS = (16, 32, 64)
_TEXT_SCALE = 4.0  # means of word pieces differ by a quarter between instructions
_SHARPNESS = 4.0  # of the soft-argmax: at 1 it begins as the mean of all places
_POOLED = 2  # cells of the last convolution along a patch


class Modulation(nn.Module):
    """Scales and shifts channels as an instruction wants it (FiLM, Perez et al. 2018).

    Args:
        width: entries of the instruction's token.
        channels: channels of the image.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, 2 * channels)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """(B, channels, H, W) and (B, width) to (B, channels, H, W)."""
        scale, shift = self.layer(told)[:, :, None, None].chunk(2, dim=1)
        return cast(Tensor, x * (1.0 + scale) + shift)


class Patches(nn.Module):
    """Image to tokens: one for each patch, and one of where each channel is brightest.

    The instruction modulates the convolutions, so that what is brightest is what it speaks of; the
    last token is a spatial soft-argmax (Finn et al. 2016), which tells places finer than a patch.

    Args:
        width: entries of a token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second, last = _WIDTHS
        self.enter = nn.Conv2d(3, first, 5, 2, 2)
        self.blocks = nn.ModuleList([ImageBlock(first, second), ImageBlock(second, last)])
        self.modulations = nn.ModuleList([Modulation(width, size) for size in (second, last)])
        self.mix = nn.Conv2d(last, last, 1)
        self.leave = nn.Linear(last, width)
        self.place = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width))
        self.where = nn.Linear(3 * last, width)

    def forward(self, images: Tensor, told: Tensor) -> Tensor:
        """Tokens of images.

        Args:
            images: RGB, uint8, (B, To, H, W, 3).
            told: token of the whole instruction, (B, width).

        Returns:
            (B, To, patches + 1, width).
        """
        horizon, height, width = images.shape[1], images.shape[2], images.shape[3]
        x = images.reshape(-1, height, width, 3).permute(0, 3, 1, 2).float() / 127.5 - 1.0
        told = told.repeat_interleave(horizon, dim=0) if horizon > 1 else told
        h = torch.nn.functional.silu(self.enter(x))
        for block, modulation in zip(self.blocks, self.modulations, strict=True):
            h = torch.nn.functional.silu(modulation(block(h), told))
        pooled = torch.nn.functional.avg_pool2d(h, _POOLED)
        tokens = self.leave(pooled.flatten(2).transpose(1, 2))
        tokens = tokens + self.place(_places(pooled))
        tokens = torch.cat(
            [tokens, self.where(_brightest(_SHARPNESS * self.mix(h)))[:, None]], dim=1
        )
        return tokens.reshape(-1, horizon, tokens.shape[1], tokens.shape[2])


def _places(x: Tensor) -> Tensor:
    """Row and column of each cell of (B, C, H, W) within [-1, 1], (H W, 2)."""
    rows, columns = (_grid(size) for size in (x.shape[2], x.shape[3]))
    # As lists, so that the export holds them as constants.
    return x.new_tensor([[y, z] for y in rows for z in columns])


def _grid(size: int) -> list[float]:
    return [2.0 * (i + 0.5) / size - 1.0 for i in range(size)]


def _brightest(x: Tensor) -> Tensor:
    """Place of each channel's softmax, and its mean, (B, C, H, W) to (B, 3 C)."""
    flat = x.flatten(2)
    weight = torch.softmax(flat, dim=2)
    return torch.cat([(weight @ _places(x)).flatten(1), flat.mean(dim=2)], dim=1)


def _feed_forward(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, width))


def _split(x: Tensor) -> Tensor:
    """(B, T, width) to (B, heads, T, HEAD_SIZE)."""
    return x.reshape(x.shape[0], x.shape[1], -1, HEAD_SIZE).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = torch.nn.functional.scaled_dot_product_attention(_split(q), _split(k), _split(v))
    return out.transpose(1, 2).reshape(q.shape)


class ContextBlock(nn.Module):
    """Self-attention and a feed-forward layer over the context."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.queries = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.feed = _feed_forward(width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, width) to the same."""
        q, k, v = self.queries(self.norms[0](x)).chunk(3, dim=2)
        x = x + self.mix(_attend(q, k, v))
        return cast(Tensor, x + self.feed(self.norms[1](x)))


class ActionBlock(nn.Module):
    """Attention of actions to context and actions, and a feed-forward layer; modulated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.queries = nn.Linear(width, 3 * width)
        self.context = nn.Linear(width, 2 * width)
        self.mix = nn.Linear(width, width)
        self.feed = _feed_forward(width)

    def forward(self, x: Tensor, told: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """One layer.

        Args:
            x: tokens of the actions, (B, Tp, width).
            told: embedding of noise level and glance, (B, 1, width).
            keys: of the context, (B, S, width).
            values: of the context, (B, S, width).
        """
        parts = self.modulation(torch.nn.functional.silu(told)).chunk(6, dim=2)
        h = self.norm(x) * (1.0 + parts[0]) + parts[1]
        q, k, v = self.queries(h).chunk(3, dim=2)
        attended = _attend(q, torch.cat([keys, k], dim=1), torch.cat([values, v], dim=1))
        x = x + (1.0 + parts[2]) * self.mix(attended)
        h = self.norm(x) * (1.0 + parts[3]) + parts[4]
        return cast(Tensor, x + (1.0 + parts[5]) * self.feed(h))


class Embodiment(nn.Module):
    """What a robot has of its own: how its state enters, and how its actions enter and leave.

    Args:
        spec: sizes of state and action.
        width: entries of a token.
    """

    def __init__(self, spec: ChunkSpec, width: int) -> None:
        super().__init__()
        self.state = nn.Linear(len(spec.state_names), width)
        glanced = 1 + spec.observation_horizon * (1 + len(spec.cameras))
        self.glance = nn.Sequential(
            nn.Linear(glanced * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)
        )
        plan = spec.prediction_horizon * len(spec.action_names)
        self.guess = nn.Sequential(nn.SiLU(), nn.Linear(width, plan))
        self.enter = nn.Linear(len(spec.action_names), width)
        self.position = nn.Parameter(0.02 * torch.randn(spec.prediction_horizon, width))
        self.leave = nn.Linear(width, len(spec.action_names))
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)


class VlaNetwork(nn.Module):
    """Trunk and embodiments; see the module.

    What an instruction says as a whole is told by how it differs from the usual one, the mean of
    the training's: all ask a robot to do something, and that is most of what a vector holds.

    Args:
        config: shape of the trunk.
        specs: name of each embodiment -> its sizes.
        seed: of the initial weights.

    Raises:
        InputError: an embodiment has a name that torch uses itself.
    """

    def __init__(
        self, config: TrunkConfig, specs: Mapping[str, ChunkSpec], *, seed: int = 0
    ) -> None:
        super().__init__()
        for name in specs:
            if hasattr(nn.ModuleDict, name):
                raise InputError(
                    f"embodiment: expected a name that torch does not use itself, got {name!r}; "
                    "name it after the robot"
                )
        self.config, self.specs = config, dict(specs)
        width = config.width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embodiments = nn.ModuleDict(
                {name: Embodiment(spec, width) for name, spec in specs.items()}
            )
            self.patches = Patches(width)
            self.camera = nn.Parameter(0.5 * torch.randn(max(len(config.cameras), 1), width))
            self.age = nn.Parameter(0.02 * torch.randn(config.history, width))
            self.words = nn.Sequential(
                nn.LayerNorm(config.text_size), nn.Linear(config.text_size, width)
            )
            self.register_buffer("usual", torch.zeros(config.text_size))
            self.told = nn.Linear(config.text_size, width)
            self.context = nn.ModuleList(ContextBlock(width) for _ in range(config.context_depth))
            self.settle = nn.LayerNorm(width)
            self.features = TimeFeatures()
            self.time = nn.Sequential(nn.Linear(32, width), nn.SiLU(), nn.Linear(width, width))
            self.blocks = nn.ModuleList(ActionBlock(width) for _ in range(config.depth))
            self.norm = nn.LayerNorm(width)
            self.head = SpreadHead(width)

    def set_usual(self, text: Float32) -> None:
        """Set what the training's instructions have in common, by their rows (N, ...)."""
        cast(Tensor, self.usual).copy_(torch.from_numpy(text[:, 0].mean(axis=0)))

    def encode(self, name: str, state: Tensor, images: list[Tensor], text: Tensor) -> Tensor:
        """A summary, and keys and values of the context for each layer of the second stack.

        Args:
            name: of the embodiment.
            state: normalised, (B, To, D).
            images: for each of its cameras in order, RGB, uint8, (B, To, H, W, 3).
            text: word pieces, (B, TEXT_ROWS, text_size).

        Returns:
            (B, width + depth 2 S width).
        """
        tokens, summary = self._look(name, state, images, text)
        x = torch.cat(tokens, dim=1)
        for block in self.context:
            x = block(x)
        x = self.settle(x)
        pairs = [cast(ActionBlock, block).context(x).chunk(2, dim=2) for block in self.blocks]
        stacked = torch.stack([torch.stack(pair, dim=1) for pair in pairs], dim=1)
        return torch.cat([summary, stacked.flatten(1)], dim=1)

    def glance(self, name: str, state: Tensor, images: list[Tensor], text: Tensor) -> Tensor:
        """The summary alone, (B, width); see :meth:`encode`."""
        return self._look(name, state, images, text)[1]

    def guess(self, name: str, summary: Tensor) -> Tensor:
        """Mean plan that the summary leads to, (B, Tp, A); training only."""
        own, spec = self._own(name), self.specs[name]
        shape = (spec.prediction_horizon, len(spec.action_names))
        return cast(Tensor, own.guess(summary)).reshape(-1, *shape)

    def _look(
        self, name: str, state: Tensor, images: list[Tensor], text: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Tokens of the context, each (B, n, width), and the summary, (B, width)."""
        spec, age, own = self.specs[name], self.age[-state.shape[1] :], self._own(name)
        told = self.told((text[:, 0] - cast(Tensor, self.usual)) * _TEXT_SCALE)[:, None]
        felt = own.state(state) + age
        tokens, glanced = [told, self.words(text[:, 1:]), felt], [told, felt]
        for camera, image in zip(spec.cameras, images, strict=True):
            place = self.camera[self.config.cameras.index(camera.name)]
            seen = self.patches(image, told[:, 0]) + place + age[:, None]
            tokens.append(seen.flatten(1, 2))
            glanced.append(seen[:, :, -1])
        return tokens, own.glance(torch.cat(glanced, dim=1).flatten(1))

    def denoise(
        self, name: str, noisy: Tensor, time: Tensor, condition: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Answer to a noisy plan.

        Args:
            name: of the embodiment.
            noisy: scaled noisy actions, (B, Tp, A).
            time: noise level, (B,).
            condition: from :meth:`encode`.

        Returns:
            Output (B, Tp, A), and the logarithm of the variance of its error, (B,).
        """
        own = self._own(name)
        width, depth = self.config.width, self.config.depth
        summary, rest = condition[:, :width], condition[:, width:]
        context = rest.reshape(-1, depth, 2, rest.shape[1] // (2 * depth * width), width)
        told = self.time(self.features(time[:, None])) + summary[:, None]
        h = own.enter(noisy) + own.position
        # Unbound rather than indexed: the gradient of an index is an array of zeros around it.
        for block, pair in zip(self.blocks, context.unbind(dim=1), strict=True):
            h = block(h, told, *pair.unbind(dim=1))
        h = self.norm(h)
        return own.leave(h), cast(Tensor, self.head(h.mean(dim=1)))

    def _own(self, name: str) -> Embodiment:
        return cast(Embodiment, self.embodiments[name])


class BoundNetwork(nn.Module):
    """The network as one robot has it: with the two methods that deployment knows.

    Args:
        network: the network.
        name: of the embodiment.
    """

    def __init__(self, network: VlaNetwork, name: str) -> None:
        super().__init__()
        self.network, self.name = network, name

    def encode(self, state: Tensor, images: list[Tensor], text: Tensor) -> Tensor:
        """See :meth:`VlaNetwork.encode`."""
        return self.network.encode(self.name, state, images, text)

    def denoise(self, noisy: Tensor, time: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`VlaNetwork.denoise`."""
        return self.network.denoise(self.name, noisy, time, condition)
