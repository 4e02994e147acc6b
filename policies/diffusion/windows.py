"""Training samples out of demonstrations: windows of observations and the plans that followed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from policies.diffusion.normaliser import Normalisation, Normaliser, fit_normaliser
from policies.errors import InputError
from policies.interface import Float
from policies.processors import Float32

if TYPE_CHECKING:
    from policies.datasets.demonstrations import Demonstrations


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Samples for one optimiser step.

    Attributes:
        state: normalised, (B, To, D).
        action: normalised, (B, Tp, A).
        images: for each camera in order, RGB, uint8, (B, To, H, W, 3).
    """

    state: Float32
    action: Float32
    images: list[NDArray[np.uint8]]


class Windows:
    """Every frame of every episode with the observations before and the actions from it on.

    Beyond the ends of an episode its first observation and last action are repeated, so that a
    policy learns to start and to stay.

    Args:
        demonstrations: what to learn from; checked.
        observation_horizon: observations in a window, To.
        prediction_horizon: actions in a plan, Tp.
        normalisation: how states and actions are scaled.
        normalisers: of states and actions, to go on with those of another model.

    Raises:
        InputError: the demonstrations are not well-formed or finite.
    """

    def __init__(
        self,
        demonstrations: Demonstrations,
        *,
        observation_horizon: int,
        prediction_horizon: int,
        normalisation: Normalisation,
        normalisers: tuple[Normaliser, Normaliser] | None = None,
    ) -> None:
        demonstrations.check()
        state = np.concatenate(demonstrations.state)
        lengths = np.array([len(rows) for rows in demonstrations.state])
        first = np.repeat(np.cumsum(lengths) - lengths, lengths)
        last = np.repeat(np.cumsum(lengths) - 1, lengths)
        frame = np.arange(len(state))[:, None]
        past = frame + np.arange(1 - observation_horizon, 1)
        self._past = np.maximum(past, first[:, None])
        future = np.minimum(frame + np.arange(prediction_horizon), last[:, None])
        action, self._future = self._targets(demonstrations, future)
        if normalisers is None:
            normalisers = (
                fit_normaliser(state, normalisation),
                fit_normaliser(action, normalisation),
            )
        self.state_normaliser, self.action_normaliser = normalisers
        if len(self.state_normaliser.centre) != state.shape[1]:
            raise InputError(
                f"demonstrations: expected states of {len(self.state_normaliser.centre)} values, "
                f"which the initial model takes, got {state.shape[1]}; leave out --init"
            )
        self.first_action = np.mean([rows[0] for rows in demonstrations.action], axis=0)
        self._state = self.state_normaliser.normalise(state).astype(np.float32)
        self._action = self.action_normaliser.normalise(action).astype(np.float32)
        self._images = [np.concatenate(rows) for rows in demonstrations.images.values()]
        self.sha256 = _digest([state, np.concatenate(demonstrations.action), *self._images])

    def _targets(
        self, demonstrations: Demonstrations, future: NDArray[np.intp]
    ) -> tuple[Float, NDArray[np.intp]]:
        """What is learnt: actions (rows, A), and the rows of each frame's plan (frames, Tp).

        Args:
            demonstrations: checked.
            future: frames of each frame's plan, (frames, Tp).
        """
        return np.concatenate(demonstrations.action), future

    @classmethod
    def of_plans(cls, state: Float, plans: Float, normalisation: Normalisation) -> Windows:
        """Samples of an expert that answers single states with whole plans.

        Args:
            state: raw units, (N, D).
            plans: raw units, (N, Tp, A).
            normalisation: how states and actions are scaled.
        """
        new = cls.__new__(cls)
        count, horizon, actions = plans.shape
        flat = plans.reshape(-1, actions)
        new.state_normaliser = fit_normaliser(state, normalisation)
        new.action_normaliser = fit_normaliser(flat, normalisation)
        new.first_action = plans[:, 0].mean(axis=0)
        new._state = new.state_normaliser.normalise(state).astype(np.float32)
        new._action = new.action_normaliser.normalise(flat).astype(np.float32)
        new._images = []
        new._past = np.arange(count)[:, None]
        new._future = np.arange(count * horizon).reshape(count, horizon)
        new.sha256 = _digest([state, plans])
        return new

    def __len__(self) -> int:
        return len(self._past)

    def plans(self) -> Float:
        """Normalised plans of all frames, (frames, Tp, A)."""
        return self._action[self._future].astype(np.float64)

    def batch(self, index: NDArray[np.intp]) -> Batch:
        """The windows of these frames."""
        past = self._past[index]
        return Batch(
            state=self._state[past],
            action=self._action[self._future[index]],
            images=[images[past] for images in self._images],
        )


def _digest(arrays: Sequence[NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(str(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
