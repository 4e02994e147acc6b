"""What a generative policy is to everything that runs it: windows of observations in, chunks out.

A :class:`ChunkModel` knows nothing of robots, clocks or threads. It answers a batch of windows of
the last observations with chunks of the next actions, in raw units. Executors
(:mod:`policies.runtime`) decide when it is asked and what is done with an answer; evaluations and
the ROS graph use the same two.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from policies.interface import Float


@dataclass(frozen=True, kw_only=True)
class CameraSpec:
    """A camera that a model looks through.

    Attributes:
        name: name of the camera, as in ``Observation.images``.
        height, width: size of the image that the model expects, pixels.
    """

    name: str
    height: int
    width: int


@dataclass(frozen=True, kw_only=True)
class ChunkSpec:
    """Sizes, names and rates of a model.

    Attributes:
        name: name of the checkpoint.
        state_names: names of the D entries of the state, in order.
        action_names: names of the A entries of an action, in order.
        cameras: cameras, or none.
        observation_horizon: observations in a window, To; the newest is the last.
        prediction_horizon: actions in a chunk, Tp; the first belongs to the newest observation.
        action_horizon: actions of a chunk that are executed before the next one, Ta.
        rate_hz: rate of observations and actions, Hz.
    """

    name: str
    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    cameras: tuple[CameraSpec, ...] = ()
    observation_horizon: int
    prediction_horizon: int
    action_horizon: int
    rate_hz: float


@dataclass(kw_only=True)
class Window:
    """The last To observations of B independent runs.

    Attributes:
        state: raw units, (B, To, D).
        images: camera name -> RGB, uint8, (B, To, H, W, 3).
        instructions: what each of the runs is told to do, B texts, or none; only models that
            understand words read them.
    """

    state: Float
    images: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    instructions: tuple[str, ...] = ()


def blank_window(spec: ChunkSpec) -> Window:
    """A window of zeros for one run, to load a model with and to see how long it takes."""
    past = (1, spec.observation_horizon)
    return Window(
        state=np.zeros((*past, len(spec.state_names))),
        images={
            camera.name: np.zeros((*past, camera.height, camera.width, 3), np.uint8)
            for camera in spec.cameras
        },
    )


@dataclass(kw_only=True)
class Prefix:
    """A plan that the next chunk shall continue (real-time chunking, Black et al. 2025).

    Attributes:
        actions: the running plan, moved so that its first entry belongs to the newest
            observation, raw units, (B, Tp, A); entries of no weight are ignored.
        weights: how far each step is bound to it: 1 for steps that will have been executed when
            the answer comes, falling to 0 for steps that are free, (Tp,).
    """

    actions: Float
    weights: Float


@runtime_checkable
class ChunkModel(Protocol):
    """Anything that answers windows with chunks.

    Attributes:
        spec: sizes, names, rates.
        network_calls: evaluations of the network since the last reset, each for a whole batch.
    """

    spec: ChunkSpec
    network_calls: int

    def reset(self, seed: int, batch: int = 1) -> None:
        """Forget everything; the same seed gives the same answers to the same windows."""

    def sample(self, window: Window, *, executed: int = 0, prefix: Prefix | None = None) -> Float:
        """Answer B windows with chunks, raw units, (B, Tp, A).

        Args:
            window: the last observations.
            executed: actions that were executed since the last answer; models that keep a rolling
                plan move on by as many.
            prefix: a plan to continue, or None.
        """
