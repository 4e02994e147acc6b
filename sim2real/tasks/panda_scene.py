"""The scene of the language tasks: a Panda, two cameras and four things on the floor.

The things are the same in every task and lie at random, so that nothing but the instruction tells
which of them is meant. One camera stands in front of the arm, the other is carried by its hand.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from policies.interface import Float
from sim2real.sim.camera_rig import RigCamera
from sim2real.sim.scene import SceneObject

HALF_SIZE_M = 0.03
THINGS = (
    SceneObject(name="red", shape="box", half_size_m=HALF_SIZE_M, rgb=(220, 30, 30)),
    SceneObject(name="green", shape="box", half_size_m=HALF_SIZE_M, rgb=(30, 180, 40)),
    SceneObject(name="blue", shape="ball", half_size_m=HALF_SIZE_M, rgb=(40, 70, 230)),
    SceneObject(name="yellow", shape="cylinder", half_size_m=HALF_SIZE_M, rgb=(235, 210, 30)),
)
NAMES = tuple(thing.name for thing in THINGS)
SMALL_HALF_SIZE_M = 0.022
SMALL_THINGS = tuple(replace(thing, half_size_m=SMALL_HALF_SIZE_M) for thing in THINGS)
"""The same in a size that goes between the fingers."""
_AREA_M = np.array([[0.36, -0.28], [0.62, 0.28]])
_SMALL_AREA_M = np.array([[0.40, -0.18], [0.58, 0.18]])
_APART_M, _SMALL_APART_M = 0.14, 0.12
_FRONT, _HAND = "front", "hand"


@dataclass(frozen=True, kw_only=True)
class Views:
    """Where the front camera stands; the hand's is fixed to the hand.

    Attributes:
        azimuth_deg: angle around the vertical through the middle of the scene, 0 in front of the
            arm, degrees.
        distance_m: horizontal distance from that vertical, m.
        height_m: above the floor, m.
        fov_deg: vertical field of view of the front camera, degrees.
    """

    azimuth_deg: float = 0.0
    distance_m: float = 0.85
    height_m: float = 0.9
    fov_deg: float = 40.0

    def cameras(self) -> tuple[RigCamera, RigCamera]:
        """The two cameras, 64 x 64 pixels."""
        angle, middle = np.radians(self.azimuth_deg), np.array([0.45, 0.0])
        x, y = middle + self.distance_m * np.array([np.cos(angle), np.sin(angle)])
        front = RigCamera(
            name=_FRONT,
            position_m=(float(x), float(y), self.height_m),
            target_m=(0.45, 0.0, 0.1),
            fov_deg=self.fov_deg,
        )
        hand = RigCamera(
            name=_HAND,
            body="panda_hand",
            position_m=(0.06, 0.0, 0.0),
            target_m=(0.05, 0.0, 1.0),
            up=(1.0, 0.0, 0.0),
            fov_deg=75.0,
        )
        return front, hand


USUAL_VIEWS = Views()
CLOSE_VIEWS = Views(fov_deg=34.0)
"""The front camera sees no more than where the small things may lie."""
MOVED_VIEWS = Views(azimuth_deg=80.0, height_m=0.8)
"""The front camera after somebody has moved it."""


def draw_places(rng: np.random.Generator) -> Float:
    """Centres of the things, not too close to each other, (4, 3), m."""
    return _apart(rng, _AREA_M, _APART_M, HALF_SIZE_M)


def draw_small_places(rng: np.random.Generator) -> Float:
    """Centres of the small things, (4, 3), m."""
    return _apart(rng, _SMALL_AREA_M, _SMALL_APART_M, SMALL_HALF_SIZE_M)


def _apart(rng: np.random.Generator, area_m: Float, apart_m: float, height_m: float) -> Float:
    while True:
        places = rng.uniform(area_m[0], area_m[1], (len(THINGS), 2))
        gaps = np.linalg.norm(places[:, None] - places[None], axis=2)
        if gaps[np.triu_indices(len(THINGS), 1)].min() >= apart_m:
            return np.column_stack([places, np.full(len(THINGS), height_m)])
