"""The scene of the language tasks: a Panda, two cameras and four things on the floor.

The things are the same in every task and lie at random, so that nothing but the instruction tells
which of them is meant. One camera stands in front of the arm, the other is carried by its hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.interface import Float
from sim2real.sim.camera_rig import RigCamera, SceneObject

HALF_SIZE_M = 0.03
THINGS = (
    SceneObject(name="red", shape="box", half_size_m=HALF_SIZE_M, rgb=(220, 30, 30)),
    SceneObject(name="green", shape="box", half_size_m=HALF_SIZE_M, rgb=(30, 180, 40)),
    SceneObject(name="blue", shape="ball", half_size_m=HALF_SIZE_M, rgb=(40, 70, 230)),
    SceneObject(name="yellow", shape="cylinder", half_size_m=HALF_SIZE_M, rgb=(235, 210, 30)),
)
NAMES = tuple(thing.name for thing in THINGS)
_LOWER_M, _UPPER_M = (0.36, -0.28), (0.62, 0.28)
_APART_M = 0.14
_FRONT, _HAND = "front", "hand"


@dataclass(frozen=True, kw_only=True)
class Views:
    """Where the front camera stands; the hand's is fixed to the hand.

    Attributes:
        azimuth_deg: angle around the vertical through the middle of the scene, 0 in front of the
            arm, degrees.
        distance_m: horizontal distance from that vertical, m.
        height_m: above the floor, m.
    """

    azimuth_deg: float = 0.0
    distance_m: float = 0.85
    height_m: float = 0.9

    def cameras(self) -> tuple[RigCamera, RigCamera]:
        """The two cameras, 64 x 64 pixels."""
        angle, middle = np.radians(self.azimuth_deg), np.array([0.45, 0.0])
        x, y = middle + self.distance_m * np.array([np.cos(angle), np.sin(angle)])
        front = RigCamera(
            name=_FRONT,
            position_m=(float(x), float(y), self.height_m),
            target_m=(0.45, 0.0, 0.1),
            fov_deg=40.0,
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
MOVED_VIEWS = Views(azimuth_deg=35.0, distance_m=0.75, height_m=1.0)
"""The front camera after somebody has moved it."""


def draw_places(rng: np.random.Generator) -> Float:
    """Centres of the things, not too close to each other, (4, 3), m."""
    while True:
        places = rng.uniform(_LOWER_M, _UPPER_M, (len(THINGS), 2))
        gaps = np.linalg.norm(places[:, None] - places[None], axis=2)
        if gaps[np.triu_indices(len(THINGS), 1)].min() >= _APART_M:
            return np.column_stack([places, np.full(len(THINGS), HALF_SIZE_M)])
