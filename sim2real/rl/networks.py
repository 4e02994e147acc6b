"""Networks of the learner: perceptrons, a Gaussian actor, running normalisation of inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from sim2real.rl.env import Float32

ACTIVATIONS: dict[str, type[nn.Module]] = {"elu": nn.ELU, "relu": nn.ReLU, "tanh": nn.Tanh}


class Mlp(nn.Module):
    """``x -> W_L act(... act(W_1 x + b_1) ...) + b_L``.

    Args:
        widths: inputs, hidden layers, outputs.
        activation: a key of :data:`ACTIVATIONS`.
        seed: of the initial weights.
        last_gain: factor on the initial weights of the last layer.
    """

    def __init__(
        self, widths: Sequence[int], activation: str = "elu", *, seed: int = 0, last_gain: float = 1
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            linears = [nn.Linear(a, b) for a, b in pairwise(widths)]
        layers: list[nn.Module] = []
        for linear in linears:
            layers += [linear, ACTIVATIONS[activation]()]
        with torch.no_grad():
            linears[-1].weight.mul_(last_gain)
            linears[-1].bias.zero_()
        self.layers = nn.Sequential(*layers[:-1])
        self.widths = tuple(widths)
        self.activation = activation

    @classmethod
    def of(cls, weights: Sequence[Float32], biases: Sequence[Float32], activation: str) -> Mlp:
        """A perceptron with given arrays, weights (outputs, inputs), first layer first."""
        mlp = cls([weights[0].shape[1], *(len(bias) for bias in biases)], activation)
        with torch.no_grad():
            for linear, weight, bias in zip(mlp.linears, weights, biases, strict=True):
                linear.weight.copy_(torch.tensor(weight))
                linear.bias.copy_(torch.tensor(bias))
        return mlp

    @property
    def linears(self) -> list[nn.Linear]:
        """The affine layers, first one first."""
        return [layer for layer in self.layers if isinstance(layer, nn.Linear)]

    def arrays(self) -> tuple[list[Float32], list[Float32]]:
        """Weights (outputs, inputs) and biases, first layer first, copied."""
        return (
            [linear.weight.detach().cpu().numpy().copy() for linear in self.linears],
            [linear.bias.detach().cpu().numpy().copy() for linear in self.linears],
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) -> (B, outputs)."""
        out: Tensor = self.layers(x)
        return out


class RunningNorm(nn.Module):
    """Standardises inputs by the mean and spread of all that it has seen.

    Args:
        size: number of inputs.
        clip: bound on a standardised value.
    """

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, size: int, clip: float = 10.0) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("var", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Take samples (N, size) into the statistics."""
        batch = x.double()
        n, mean = float(len(batch)), batch.mean(dim=0)
        var = batch.var(dim=0, correction=0)
        total = self.count + n
        off = mean - self.mean
        spread = self.var * self.count + var * n + off**2 * self.count * n / total
        self.mean += off * n / total
        self.var.copy_(spread / total)
        self.count.copy_(total)

    def forward(self, x: Tensor) -> Tensor:
        """Standardised values, clipped; an input that never changes gives zero."""
        scale = torch.rsqrt(self.var + 1e-8)
        return ((x - self.mean) * scale).float().clamp(-self.clip, self.clip)


class GaussianActor(nn.Module):
    """A normal distribution over actions: the mean from a network, one spread for each action.

    Args:
        mean: the network.
        std: initial standard deviation of the actions.
    """

    def __init__(self, mean: Mlp, std: float) -> None:
        super().__init__()
        self.mean = mean
        self.log_std = nn.Parameter(torch.full((mean.widths[-1],), math.log(std)))

    @property
    def std(self) -> Tensor:
        """Standard deviations, (actions,)."""
        return self.log_std.exp()

    def forward(self, x: Tensor) -> Tensor:
        """Mean actions, (B, inputs) -> (B, actions)."""
        out: Tensor = self.mean(x)
        return out


def log_prob(action: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Log density of actions under diagonal normal distributions, summed over the last axis."""
    z = (action - mean) / std
    return (-0.5 * z**2 - std.log() - 0.5 * math.log(2.0 * math.pi)).sum(dim=-1)


def entropy(std: Tensor) -> Tensor:
    """Entropy of a diagonal normal distribution with deviations (actions,)."""
    return (std.log() + 0.5 * math.log(2.0 * math.pi * math.e)).sum(dim=-1)


def divergence(mean: Tensor, std: Tensor, other_mean: Tensor, other_std: Tensor) -> Tensor:
    """KL divergence of diagonal normal distributions ``N(mean, std)`` from ``N(other ...)``."""
    ratio = (std / other_std) ** 2
    off = ((mean - other_mean) / other_std) ** 2
    return 0.5 * (ratio + off - 1.0 - ratio.log()).sum(dim=-1)
