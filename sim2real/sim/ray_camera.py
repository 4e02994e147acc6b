"""A camera that looks at a robot and a ball by casting rays: no graphics driver is needed.

MuJoCo's ray casting runs on any CPU; 64 x 64 pixels take about 3 ms. Surfaces are shaded by how
much they face the camera, without light sources and shadows.
"""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from sim2real.sim.model import build_spec
from sim2real.sim.stepper import Layout

_BALL_RGB = (220, 30, 30)
_FLOOR_RGB = (150, 160, 150)
_LINK_RGB = ((235, 235, 235), (120, 140, 190))  # in turn along the arm
_SKY_RGB = (40, 50, 70)
_AMBIENT = 0.35


@dataclass(frozen=True, kw_only=True)
class View:
    """Where a camera is and what it sees.

    Attributes:
        position_m: of the camera in the world, m.
        target_m: point in the middle of the image, m.
        fov_deg: vertical field of view, degrees.
        height: of the image, pixels.
        width: of the image, pixels.
    """

    position_m: tuple[float, float, float]
    target_m: tuple[float, float, float]
    fov_deg: float = 50.0
    height: int = 64
    width: int = 64


class RayCamera:
    """Images of an arm with a fixed base, a floor and one ball."""

    def __init__(self, robot: RobotSpec, view: View, *, ball_radius_m: float) -> None:
        """Build the scene.

        Args:
            robot: the arm.
            view: of the camera.
            ball_radius_m: size of the ball, m.

        Raises:
            InputError: the robot has a floating base.
        """
        if robot.floating_base:
            raise InputError(f"camera: expected a robot with a fixed base, got {robot.name}")
        spec = build_spec(robot)
        spec.compiler.discardvisual = False  # of the arm's shapes none collides
        ball = spec.worldbody.add_body(name="ball", mocap=True)
        ball.add_geom(type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[ball_radius_m, 0.0, 0.0])
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0.0, 0.0, 0.05])
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._qpos = Layout(robot, self._model).qpos
        self._position = np.array(view.position_m)
        self._rays = _rays(view)
        self._shape = (view.height, view.width, 3)
        self._colours = self._palette()

    def _palette(self) -> Float:
        """Colour of each geom; the last row is that of no geom."""
        ball = self._model.body("ball").id
        rows = []
        for geom in range(self._model.ngeom):
            body = int(self._model.geom_bodyid[geom])
            if body == ball:
                rows.append(_BALL_RGB)
            else:
                rows.append(_LINK_RGB[body % 2] if body else _FLOOR_RGB)
        return np.array([*rows, _SKY_RGB], dtype=np.float64)

    def image(self, qpos_rad: Float, ball_m: Float) -> NDArray[np.uint8]:
        """What the camera sees, RGB, (H, W, 3).

        Args:
            qpos_rad: joint positions, (n,), rad.
            ball_m: position of the ball in the world, (3,), m.
        """
        self._data.qpos[self._qpos] = qpos_rad
        self._data.mocap_pos[0] = ball_m
        mujoco.mj_kinematics(self._model, self._data)
        count = len(self._rays)
        geom = np.zeros(count, dtype=np.int32)
        distance, normal = np.zeros(count), np.zeros(3 * count)
        mujoco.mj_multiRay(
            *(self._model, self._data, self._position, self._rays.reshape(-1)),
            *(None, 1, -1, geom, distance, normal, count, mujoco.mjMAXVAL),
        )
        facing = np.abs((normal.reshape(-1, 3) * self._rays).sum(axis=1))
        light = np.where(geom >= 0, _AMBIENT + (1.0 - _AMBIENT) * facing, 1.0)
        pixels = self._colours[geom] * light[:, None]
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8).reshape(self._shape)


def _rays(view: View) -> Float:
    """Unit vectors through the pixels, row by row from the top left, (H W, 3)."""
    position, target = np.array(view.position_m), np.array(view.target_m)
    ahead = (target - position) / np.linalg.norm(target - position)
    right = np.cross(ahead, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    up = np.cross(right, ahead)
    half = np.tan(0.5 * np.radians(view.fov_deg))
    rows = half * (1.0 - 2.0 * (np.arange(view.height) + 0.5) / view.height)
    columns = (
        half * view.width / view.height * (2.0 * (np.arange(view.width) + 0.5) / view.width - 1)
    )
    rays = ahead + rows[:, None, None] * up + columns[None, :, None] * right
    rays /= np.linalg.norm(rays, axis=2, keepdims=True)
    return np.ascontiguousarray(rays.reshape(-1, 3))
