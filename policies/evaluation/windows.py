"""Windows of observations for a batch of environments, by name, with observations that get lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from policies.diffusion.interface import ChunkSpec, Window
from policies.errors import InputError
from policies.evaluation.environment import EnvironmentSpec, Seen
from policies.interface import Float


def match(model: ChunkSpec, environment: EnvironmentSpec) -> tuple[list[int], list[int]]:
    """How the names of a model and of an environment correspond.

    Returns:
        Positions in the environment's state of the model's state entries, and positions in the
        model's action of the environment's action entries.

    Raises:
        InputError: a name is missing, or the rates differ.
    """
    what = f"policy {model.name} on task {environment.name}"
    missing = [name for name in model.state_names if name not in environment.state_names]
    if missing:
        raise InputError(
            f"{what}: expected the state entries {_few(missing)}, which the task does not have; "
            "use a policy that was trained on this task's demonstrations"
        )
    if set(model.action_names) != set(environment.action_names):
        raise InputError(
            f"{what}: expected a policy with the actions {_few(environment.action_names)}, got "
            f"{_few(model.action_names)}; use one that was trained on this task's demonstrations"
        )
    if not np.isclose(model.rate_hz, environment.rate_hz, rtol=1e-3):
        raise InputError(
            f"{what}: expected a policy at the task's {environment.rate_hz:g} Hz, got "
            f"{model.rate_hz:g} Hz; train it on demonstrations of that rate"
        )
    state = [environment.state_names.index(name) for name in model.state_names]
    action = [model.action_names.index(name) for name in environment.action_names]
    return state, action


def _few(names: Sequence[str], limit: int = 4) -> str:
    """Names for a sentence: all of them, or the first and how many more."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{list(names[:limit])}{more}"


class Windows:
    """The last observations of each of B environments.

    An observation that is lost leaves the one before in its place, which is what a policy sees
    that is asked by the clock.
    """

    def __init__(self, spec: ChunkSpec, state_index: Sequence[int], first: Sequence[Seen]) -> None:
        """Fill the windows with the first observations.

        Args:
            spec: of the model.
            state_index: see :func:`match`.
            first: first observation of each environment.

        Raises:
            InputError: a camera is missing or has another size than the model expects.
        """
        self._index = list(state_index)
        self._instructions = [seen.instruction for seen in first]
        self._spec = spec
        shape = (len(first), spec.observation_horizon)
        self._state = np.empty((*shape, len(self._index)))
        self._images: dict[str, NDArray[np.uint8]] = {
            camera.name: np.empty((*shape, camera.height, camera.width, 3), dtype=np.uint8)
            for camera in spec.cameras
        }
        for row, seen in enumerate(first):
            self._state[row] = self._checked(seen)
            for name, images in self._images.items():
                images[row] = seen.images[name]

    def _checked(self, seen: Seen) -> Float:
        for camera in self._spec.cameras:
            image = seen.images.get(camera.name)
            if image is None:
                raise InputError(
                    f"policy {self._spec.name}: expected images of camera {camera.name!r}, got "
                    f"{sorted(seen.images) or 'none'}; use a task that has this camera"
                )
            if image.shape != (camera.height, camera.width, 3):
                raise InputError(
                    f"policy {self._spec.name}: expected images of {camera.height} x "
                    f"{camera.width} from camera {camera.name!r}, got {image.shape[0]} x "
                    f"{image.shape[1]}; set the camera to the size that the policy was trained on"
                )
        return np.asarray(seen.state[self._index])

    def add(self, row: int, seen: Seen | None) -> None:
        """Move one environment's window on by a step.

        Args:
            row: which environment.
            seen: its observation, or None if it was lost.
        """
        histories: list[NDArray[Any]] = [self._state, *self._images.values()]
        for history in histories:
            history[row, :-1] = history[row, 1:]
        if seen is None:
            return
        self._state[row, -1] = self._checked(seen)
        self._instructions[row] = seen.instruction
        for name, images in self._images.items():
            images[row, -1] = seen.images[name]

    def window(self) -> Window:
        """A copy of all windows."""
        told = tuple(text for text in self._instructions if text is not None)
        return Window(
            state=self._state.copy(),
            images={name: images.copy() for name, images in self._images.items()},
            instructions=told if len(told) == len(self._instructions) else (),
        )
