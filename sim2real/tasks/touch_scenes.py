"""Scenes in which things are touched, one for each arm: what lies where, and who looks at it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from policies.interface import Float
from sim2real.sim.camera_rig import RigCamera
from sim2real.tasks.camera_scene import SCENES
from sim2real.tasks.panda_scene import HALF_SIZE_M, THINGS, USUAL_VIEWS, draw_places

_SMALL_M = 0.02
_SMALL_AREA_M = ((0.22, -0.15), (0.34, 0.15))
_SMALL_APART_M = 0.085


@dataclass(frozen=True, kw_only=True)
class TouchScene:
    """One arm and four things.

    Attributes:
        robot: name of the arm.
        half_size_m: half of a thing's height, m.
        cameras: who looks at it, unless others are given.
        places: draws the centres of the things, (4, 3), m.
        tolerance_m: distance of the finger tips from the middle of a thing's top that counts as
            touching it, m.
        above_m: height above its top from which the expert comes down, m.
        aside_m: sideways distance from which it comes down, m.
    """

    robot: str
    half_size_m: float
    cameras: tuple[RigCamera, ...]
    places: Callable[[np.random.Generator], Float]
    tolerance_m: float
    above_m: float
    aside_m: float


def _draw_small(rng: np.random.Generator) -> Float:
    """Centres of small things within reach of a small arm, (4, 3), m."""
    while True:
        places = rng.uniform(*_SMALL_AREA_M, (len(THINGS), 2))
        gaps = np.linalg.norm(places[:, None] - places[None], axis=2)
        if gaps[np.triu_indices(len(THINGS), 1)].min() >= _SMALL_APART_M:
            return np.column_stack([places, np.full(len(THINGS), _SMALL_M)])


PANDA_TOUCH = TouchScene(
    robot="panda",
    half_size_m=HALF_SIZE_M,
    cameras=USUAL_VIEWS.cameras(),
    places=draw_places,
    tolerance_m=0.04,
    above_m=0.10,
    aside_m=0.03,
)
SO101_TOUCH = TouchScene(
    robot="so101",
    half_size_m=_SMALL_M,
    cameras=SCENES["so101"].cameras,
    places=_draw_small,
    tolerance_m=0.027,
    above_m=0.04,
    aside_m=0.02,
)
