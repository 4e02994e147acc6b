"""Several cameras on one scene of an arm and coloured shapes, by casting rays.

As :mod:`sim2real.sim.ray_camera`, which sees one ball from one place: no graphics driver is needed,
so what was installed by pip alone renders the same images on every machine. A camera stands in the
world or is carried by a body of the robot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.interface import Float, RobotSpec
from sim2real.sim.model import build_spec
from sim2real.sim.scene import GEOMS, SceneObject
from sim2real.sim.stepper import Layout, default_state

_FLOOR_RGB = (150, 160, 150)
_LINK_RGB = ((235, 235, 235), (110, 115, 130))  # in turn along the arm
_SKY_RGB = (40, 50, 70)
_AMBIENT = 0.35


@dataclass(frozen=True, kw_only=True)
class RigCamera:
    """A pinhole camera.

    Attributes:
        name: name of the camera.
        position_m: where it is in the frame of ``body``, m.
        target_m: point in the middle of the image, in the frame of ``body``, m.
        up: direction that is up in the image, in the frame of ``body``.
        body: body of the robot that carries it, or None for the world.
        fov_deg: vertical field of view, degrees.
        height: of the image, pixels.
        width: of the image, pixels.
    """

    name: str
    position_m: tuple[float, float, float]
    target_m: tuple[float, float, float]
    up: tuple[float, float, float] = (0.0, 0.0, 1.0)
    body: str | None = None
    fov_deg: float = 45.0
    height: int = 64
    width: int = 64


class CameraRig:
    """Images of an arm with a fixed base, a floor and objects, RGB, uint8.

    Args:
        robot: the arm.
        objects: what stands on the floor.
        cameras: who looks at it.

    Raises:
        InputError: the robot has a floating base, or has not the body that carries a camera.
    """

    def __init__(
        self, robot: RobotSpec, objects: Sequence[SceneObject], cameras: Sequence[RigCamera]
    ) -> None:
        if robot.floating_base:
            raise InputError(f"cameras: expected a robot with a fixed base, got {robot.name}")
        spec = build_spec(robot)
        spec.compiler.discardvisual = False  # of the arm's shapes none collides
        for thing in objects:
            body = spec.worldbody.add_body(name=thing.body, mocap=True)
            body.add_geom(type=GEOMS[thing.shape], size=[thing.half_size_m] * 3)
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_PLANE, size=[0.0, 0.0, 0.05])
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._robot, self._layout = robot, Layout(robot, self._model)
        self._mocap = np.array(
            [self._model.body(thing.body).mocapid[0] for thing in objects], dtype=int
        )
        self._colours = self._palette(objects)
        self._views = {camera.name: self._view(camera, robot) for camera in cameras}

    def _palette(self, objects: Sequence[SceneObject]) -> Float:
        """Colour of each geom; the last row is that of no geom."""
        own = {self._model.body(thing.body).id: thing.rgb for thing in objects}
        rows = []
        for body in (int(body) for body in self._model.geom_bodyid):
            rows.append(own.get(body, _LINK_RGB[body % 2] if body else _FLOOR_RGB))
        return np.array([*rows, _SKY_RGB], dtype=np.float64)

    def _view(self, camera: RigCamera, robot: RobotSpec) -> _View:
        body = 0
        if camera.body is not None:
            body = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_BODY, camera.body)
            if body < 0:
                raise InputError(
                    f"camera {camera.name!r}: expected a body of {robot.name} that carries it, got "
                    f"{camera.body!r}; name one of its links"
                )
        return _View(
            body=body,
            position=np.array(camera.position_m),
            rays=pixel_rays(camera),
            shape=(camera.height, camera.width, 3),
        )

    def images(
        self, qpos_rad: Float, objects: Float, cameras: Sequence[str] | None = None
    ) -> Mapping[str, NDArray[np.uint8]]:
        """What the cameras see, camera name -> (H, W, 3).

        Args:
            qpos_rad: joint positions, (n,), rad.
            objects: centres of upright objects in the world, (objects, 3), m, or centres and
                orientations, wxyz, (objects, 7).
            cameras: which of them; None for all.
        """
        state = default_state(self._robot, qpos_rad)
        self._layout.write(state, self._data.qpos, self._data.qvel)
        self._data.mocap_pos[self._mocap] = objects[:, :3]
        if objects.shape[1] == 7:
            self._data.mocap_quat[self._mocap] = objects[:, 3:]
        mujoco.mj_kinematics(self._model, self._data)
        names = self._views if cameras is None else cameras
        return {name: self._image(self._views[name]) for name in names}

    def _image(self, view: _View) -> NDArray[np.uint8]:
        rotation = self._data.xmat[view.body].reshape(3, 3)
        position = self._data.xpos[view.body] + rotation @ view.position
        rays = np.ascontiguousarray(view.rays @ rotation.T)
        count = len(rays)
        geom = np.zeros(count, dtype=np.int32)
        distance, normal = np.zeros(count), np.zeros(3 * count)
        mujoco.mj_multiRay(
            *(self._model, self._data, position, rays.reshape(-1), None, 1, -1),
            *(geom, distance, normal, count, mujoco.mjMAXVAL),
        )
        facing = np.abs((normal.reshape(-1, 3) * rays).sum(axis=1))
        light = np.where(geom >= 0, _AMBIENT + (1.0 - _AMBIENT) * facing, 1.0)
        pixels = self._colours[geom] * light[:, None]
        return np.clip(np.rint(pixels), 0, 255).astype(np.uint8).reshape(view.shape)


@dataclass(frozen=True, kw_only=True)
class _View:
    """A camera as the caster needs it: body, position and rays (H W, 3) in the body's frame."""

    body: int
    position: Float
    rays: Float
    shape: tuple[int, int, int]


def pixel_rays(camera: RigCamera) -> Float:
    """Unit vectors through the pixels, row by row from the top left, (H W, 3)."""
    ahead = np.array(camera.target_m) - np.array(camera.position_m)
    ahead /= np.linalg.norm(ahead)
    right = np.cross(ahead, camera.up)
    size = float(np.linalg.norm(right))
    if size < 1e-6:
        raise InputError(
            f"camera {camera.name!r}: expected an up direction across its line of sight, got "
            f"{camera.up}; choose another"
        )
    right /= size
    up = np.cross(right, ahead)
    half = np.tan(0.5 * np.radians(camera.fov_deg))
    rows = half * (1.0 - 2.0 * (np.arange(camera.height) + 0.5) / camera.height)
    columns = half * (2.0 * (np.arange(camera.width) + 0.5) - camera.width) / camera.height
    rays = ahead + rows[:, None, None] * up + columns[None, :, None] * right
    rays /= np.linalg.norm(rays, axis=2, keepdims=True)
    return np.ascontiguousarray(rays.reshape(-1, 3))
