"""Regression of deltas on features: all members of the ensemble in one batched PyTorch network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from policies.interface import Float
from sim2real.delta.model import weight_shapes


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """Settings of the regression, see :class:`sim2real.delta.train.DeltaConfig`."""

    hidden: tuple[int, ...]
    ensemble: int
    epochs: int
    patience: int
    batch: int
    lr: float
    weight_decay: float
    input_noise: float
    seed: int


def _initial(
    config: FitConfig, inputs: int, outputs: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    shapes = weight_shapes(inputs, config.hidden, outputs, config.ensemble)
    last = f"w{len(config.hidden)}"
    out = {}
    for name, shape in shapes.items():
        if name in ("shift", "scale", "unit"):
            continue
        weight = torch.zeros(shape)
        if name.startswith("w") and name != last:  # the last layer and the skip start at zero
            weight = torch.randn(shape, generator=generator) / math.sqrt(shape[1])
        out[name] = weight.requires_grad_()
    return out


def _forward(weights: dict[str, torch.Tensor], x: torch.Tensor, layers: int) -> torch.Tensor:
    """(members, B, inputs) -> (members, B, outputs); the same function as ``DeltaModel.each``."""
    hidden = x
    for i in range(layers + 1):
        hidden = torch.baddbmm(weights[f"b{i}"][:, None], hidden, weights[f"w{i}"])
        if i < layers:
            hidden = torch.nn.functional.silu(hidden)
    return hidden + torch.bmm(x, weights["skip"])


def _warm_cosine(share: float) -> float:
    """Learning-rate factor: up over the first tenth, then down to zero along a cosine."""
    rise = 0.1
    if share < rise:
        return 0.05 + 0.95 * share / rise
    return 0.5 + 0.5 * math.cos(math.pi * min((share - rise) / (1.0 - rise), 1.0))


def fit(
    inputs: Float,
    deltas: Float,
    held_out: NDArray[np.bool_],
    config: FitConfig,
    progress: Callable[[float], None] | None = None,
) -> tuple[dict[str, Float], int]:
    """Fit an ensemble.

    Args:
        inputs: features, (N, F).
        deltas: labels, (N, m), rad.
        held_out: samples that only decide when to stop, (N,); none to run all epochs.
        config: settings.
        progress: called with the share of the epochs that is done.

    Returns:
        Arrays of :func:`sim2real.delta.model.weight_shapes`, and the number of passes after which
        the held-out loss was smallest.
    """
    torch.set_num_threads(1)  # small matrices: threads cost more than they give
    generator = torch.Generator().manual_seed(config.seed)
    train = ~held_out
    shift, scale = inputs[train].mean(axis=0), inputs[train].std(axis=0) + 1e-3
    unit = deltas[train].std(axis=0) + 1e-4
    x = torch.tensor((inputs - shift) / scale, dtype=torch.float32)
    y = torch.tensor(deltas / unit, dtype=torch.float32)
    chosen, other = torch.tensor(np.flatnonzero(train)), torch.tensor(np.flatnonzero(held_out))
    weights = _initial(config, inputs.shape[1], deltas.shape[1], generator)
    optimizer = torch.optim.AdamW(weights.values(), lr=config.lr, weight_decay=config.weight_decay)
    per_epoch = -(-len(chosen) // config.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: _warm_cosine(step / (config.epochs * per_epoch))
    )
    best, best_loss, best_epoch = dict(weights), math.inf, 0
    for epoch in range(config.epochs):
        order = torch.stack(
            [
                chosen[torch.randperm(len(chosen), generator=generator)]
                for _ in range(config.ensemble)
            ]
        )
        for part in torch.split(order, config.batch, dim=1):
            noise = config.input_noise * torch.randn((*part.shape, x.shape[1]), generator=generator)
            out = _forward(weights, x[part] + noise, len(config.hidden))
            # One loss for all members: they share no weight, so each gets its own gradient.
            loss = torch.nn.functional.smooth_l1_loss(out, y[part], beta=1.0) * config.ensemble
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        held_loss = _loss(weights, x[other], y[other], config) if len(other) else -epoch
        if held_loss < best_loss:
            best = {name: w.detach().clone() for name, w in weights.items()}
            best_loss, best_epoch = held_loss, epoch + 1
        if progress:
            progress((epoch + 1) / config.epochs)
        if epoch + 1 - best_epoch >= config.patience:
            break
    arrays = {name: w.detach().numpy().astype(np.float64) for name, w in best.items()}
    return {"shift": shift, "scale": scale, "unit": unit, **arrays}, best_epoch


@torch.no_grad()
def _loss(
    weights: dict[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor, config: FitConfig
) -> float:
    wide = x.expand(config.ensemble, *x.shape)
    mean = _forward(weights, wide, len(config.hidden)).mean(dim=0)
    return float(torch.nn.functional.smooth_l1_loss(mean, y, beta=1.0))
