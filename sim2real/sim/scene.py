"""Things beside a robot: what they are, and as bodies that it can push and grasp.

Between links and things there is contact and friction; a thing that is lifted is held by nothing
else. Links do not collide with each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import mujoco
import numpy as np

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from sim2real.sim.gaps import Gap
from sim2real.sim.model import build_spec

Shape = Literal["box", "ball", "cylinder"]

OBJECT_PREFIX = "object/"
GEOMS = {
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "ball": mujoco.mjtGeom.mjGEOM_SPHERE,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
}
_UPRIGHT_WXYZ = (1.0, 0.0, 0.0, 0.0)
_LINK, _THING = 1, 2  # contact bits
_FRICTION = (1.0, 0.01, 0.001)  # sliding; turning on the spot and rolling, m
_WITH_ROLLING = 6  # dimensions of a contact: else a ball never comes to rest
_IMPEDANCE_RATIO = 10.0  # of friction to normal force: what is held does not creep away


@dataclass(frozen=True, kw_only=True)
class SceneObject:
    """A coloured shape that stands upright.

    Attributes:
        name: name of the object.
        shape: what it is.
        half_size_m: half of its height and of its width, m.
        rgb: colour, 0 to 255 each.
        mass_kg: mass, where it is a body, kg.
    """

    name: str
    shape: Shape
    half_size_m: float
    rgb: tuple[int, int, int]
    mass_kg: float = 0.1

    @property
    def body(self) -> str:
        """Name of its body."""
        return f"{OBJECT_PREFIX}{self.name}"


def build_scene(
    robot: RobotSpec, things: Sequence[SceneObject], gap: Gap | None = None
) -> mujoco.MjModel:
    """Model of an arm with things that lie freely on a floor.

    Args:
        robot: the arm.
        things: on the floor.
        gap: dynamics gap of the arm, None for nominal.

    Raises:
        InputError: the robot has a floating base, or as :func:`sim2real.sim.model.build_spec`.
    """
    if robot.floating_base:
        raise InputError(f"scene: expected a robot with a fixed base, got {robot.name}")
    spec = build_spec(robot, gap)
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = _IMPEDANCE_RATIO
    for geom in spec.geoms:
        geom.contype, geom.conaffinity = _LINK, 0
        geom.friction = _FRICTION
    for thing in things:
        body = spec.worldbody.add_body(name=thing.body, pos=[0.0, 0.0, thing.half_size_m])
        body.add_freejoint()
        geom = body.add_geom(type=GEOMS[thing.shape], size=[thing.half_size_m] * 3)
        geom.mass, geom.friction, geom.condim = thing.mass_kg, _FRICTION, _WITH_ROLLING
        geom.contype, geom.conaffinity = _THING, _LINK | _THING
    floor = spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0.0, 0.0, 0.05])
    floor.contype, floor.conaffinity = 0, _LINK | _THING
    return spec.compile()


class Things:
    """The things in a model of :func:`build_scene`.

    Args:
        model: the model.
        data: its data.
        things: that the model was built with.
    """

    def __init__(
        self, model: mujoco.MjModel, data: mujoco.MjData, things: Sequence[SceneObject]
    ) -> None:
        self._data = data
        self._bodies = np.array([model.body(thing.body).id for thing in things], dtype=int)
        first = model.jnt_qposadr[model.body_jntadr[self._bodies]]
        self._qpos = first[:, None] + np.arange(7)

    def place(self, places_m: Float) -> None:
        """Put the things, upright, with their centres at ``places_m``, (things, 3), m."""
        upright = np.broadcast_to(_UPRIGHT_WXYZ, (len(self._qpos), 4))
        self._data.qpos[self._qpos] = np.concatenate([places_m, upright], axis=1)

    @property
    def poses(self) -> Float:
        """Centre, m, and orientation, wxyz, of each in the world, (things, 7)."""
        return self._data.qpos[self._qpos].copy()
