"""Steering without retraining: what a plan should do besides, while it emerges from noise.

A guide is a wish in raw units (:class:`policies.diffusion.model.Guide`); how it acts on a plan is
the matter of :mod:`policies.diffusion.guidance`. None of this needs a derivative of a network, so
it works on an ONNX export.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from policies.diffusion.interface import Prefix, Window
from policies.diffusion.model import GenerativeModel
from policies.errors import InputError
from policies.interface import Float

Gradient = Callable[[Float], Float]


@dataclass(frozen=True, kw_only=True)
class CostGuide:
    """Goes down the gradient of a cost (inference-time policy steering, Wang et al. 2024).

    Attributes:
        gradient: of the cost of each plan, with respect to it: (b, Tp, A) to the same.
        rate: length of a step, in units of an action squared over one of cost.
    """

    gradient: Gradient
    rate: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.rate) and self.rate > 0.0):
            raise InputError(f"steering: expected a positive rate, got {self.rate}")

    def __call__(self, clean: Float, rows: NDArray[np.intp]) -> Float:
        """See :class:`policies.diffusion.model.Guide`."""
        return clean - self.rate * self.gradient(clean)


def point_cost(point: Float, *, columns: Sequence[int], step: int | None = None) -> Gradient:
    """Gradient of half the squared distance of a plan from a point.

    Args:
        point: raw units, (columns,).
        columns: entries of an action that are compared with it.
        step: of the plan that shall be there; None for the one that is nearest.
    """
    index = list(columns)

    def gradient(plan: Float) -> Float:
        miss = plan[:, :, index] - point
        at = np.argmin((miss**2).sum(axis=2), axis=1) if step is None else np.array([step])
        out = np.zeros_like(plan)
        rows = np.arange(len(plan))
        at = np.broadcast_to(at, rows.shape)
        for k, column in enumerate(index):
            out[rows, at, column] = miss[rows, at, k]
        return out

    return gradient


def trajectory_cost(path: Float, *, columns: Sequence[int]) -> Gradient:
    """Gradient of half the mean squared distance of a plan from a sketched one.

    Args:
        path: raw units, (Tp, columns).
        columns: entries of an action that are compared with it.
    """
    index = list(columns)

    def gradient(plan: Float) -> Float:
        out = np.zeros_like(plan)
        out[:, :, index] = plan[:, :, index] - path
        return out

    return gradient


class Composed:
    """Several models as one: their scores are added with weights (PoCo, Wang et al. 2024).

    With weights that sum to 1 a plan has to be likely for all of them: what is sampled is close to
    the normalised product of their densities to the power of the weights. Models must have been
    trained with the same normalisation (``--init`` keeps it) and by the same process.

    Implements :class:`policies.diffusion.interface.ChunkModel`; spec, sampler and guides are those
    of the first model.

    Args:
        models: two or more.
        weights: one for each; they are scaled to sum to 1.

    Raises:
        InputError: the models do not belong together.
    """

    def __init__(self, models: Sequence[GenerativeModel], weights: Sequence[float]) -> None:
        total = float(np.sum(weights))
        if len(models) < 2 or len(models) != len(weights) or min(weights) < 0.0 or total <= 0.0:
            raise InputError(
                "composition: expected two models or more and a weight of at least 0 for each, "
                f"got {len(models)} models and weights {list(weights)}"
            )
        first = models[0]
        for model in models[1:]:
            _check_pair(first, model)
        self.models, self.weights = list(models), [weight / total for weight in weights]
        self.spec = first.spec

    @property
    def network_calls(self) -> int:
        """Evaluations of all networks since the last reset."""
        return sum(model.network_calls for model in self.models)

    def reset(self, seed: int, batch: int = 1) -> None:
        """See :class:`policies.diffusion.interface.ChunkModel`."""
        for model in self.models:
            model.reset(seed, batch)

    def sample(self, window: Window, *, executed: int = 0, prefix: Prefix | None = None) -> Float:
        """See :class:`policies.diffusion.interface.ChunkModel`."""
        others = tuple(
            (weight, model.estimator(model.condition(window)))
            for weight, model in zip(self.weights[1:], self.models[1:], strict=True)
        )
        return self.models[0].sample_with(others, window, executed=executed, prefix=prefix)


def _check_pair(first: GenerativeModel, other: GenerativeModel) -> None:
    sizes = ("observation_horizon", "prediction_horizon", "action_names", "state_names", "cameras")
    for what in sizes:
        a, b = getattr(first.spec, what), getattr(other.spec, what)
        if a != b:
            raise InputError(f"composition: expected models with the same {what}, got {a} and {b}")
    if first.process != other.process:
        raise InputError(
            f"composition: expected models of one kind, got {first.config.kind} and "
            f"{other.config.kind}"
        )
    pairs = ((m.config.action.centre, m.config.action.scale) for m in (first, other))
    if len(set(pairs)) > 1:
        raise InputError(
            "composition: expected models with the same normalisation of actions, got two; train "
            "one of them with --init of the other"
        )
