"""Training samples whose plans are relative to the state in which they begin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from policies.diffusion.windows import Windows
from policies.interface import Float

if TYPE_CHECKING:
    from policies.datasets.demonstrations import Demonstrations

_ANCHORS = {"position": "qpos"}
"""Quantity of an action -> quantity of the state that it is relative to."""


def anchors(state_names: Sequence[str], action_names: Sequence[str]) -> NDArray[np.intp]:
    """Entry of the state that each action is relative to, or -1 for none, (A,).

    ``position/joint`` is relative to ``qpos/joint``, where the state has it.
    """
    place = {name: i for i, name in enumerate(state_names)}
    found = []
    for name in action_names:
        quantity, _, joint = name.partition("/")
        found.append(place.get(f"{_ANCHORS.get(quantity, '')}/{joint}", -1))
    return np.array(found, dtype=np.intp)


def anchor_values(state: Float, index: NDArray[np.intp]) -> Float:
    """What is added to relative actions, (..., A), by the newest state (..., D)."""
    return np.where(index >= 0, state[..., np.maximum(index, 0)], 0.0)


class AnchoredWindows(Windows):
    """As :class:`policies.diffusion.windows.Windows`; plans are relative and normalised so.

    What a plan has to tell is where to go from here: as absolute positions that is a small part of
    their spread, and a network would learn to repeat its state long before it learns to look.

    Args:
        demonstrations: what to learn from; checked.
        observation_horizon: observations in a window, To.
        prediction_horizon: actions in a plan, Tp.
        normalisation: how states and actions are scaled.
        normalisers: of states and relative actions, to go on with those of another model.

    Raises:
        InputError: the demonstrations are not well-formed or finite.
    """

    def _targets(
        self, demonstrations: Demonstrations, future: NDArray[np.intp]
    ) -> tuple[Float, NDArray[np.intp]]:
        state, action = np.concatenate(demonstrations.state), np.concatenate(demonstrations.action)
        index = anchors(demonstrations.state_names, demonstrations.action_names)
        plans = action[future] - anchor_values(state, index)[:, None]
        return plans.reshape(-1, action.shape[1]), np.arange(future.size).reshape(future.shape)
