"""What the cameras of the virtual robots see in the ROS graph: things on the floor.

The Panda has the scene of the language tasks, things that it sees; with its hand as a joint, things
that it can grasp. The SO-101 one box, a camera in front of it and one
at its wrist, as LeRobot's datasets often have. The things lie elsewhere for each seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policies.diffusion.interface import CameraSpec
from policies.errors import InputError
from policies.interface import Float, RobotSpec
from sim2real.sim.camera_rig import CameraRig, RigCamera
from sim2real.sim.scene import SceneObject
from sim2real.tasks.panda_scene import (
    CLOSE_VIEWS,
    SMALL_THINGS,
    THINGS,
    USUAL_VIEWS,
    draw_places,
    draw_small_places,
)

_BOX_HALF_SIZE_M = 0.015
_BOX_LOWER_M, _BOX_UPPER_M = (0.18, -0.12), (0.30, 0.12)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Things, cameras, and where the things are in a run.

    Attributes:
        things: what stands on the floor.
        cameras: who looks at it; their sizes are those that a policy wants.
        places: draws the centres of the things, (things, 3), m.
        solid: the robot can push and grasp the things; else they are only seen.
    """

    things: tuple[SceneObject, ...]
    cameras: tuple[RigCamera, ...]
    places: Callable[[np.random.Generator], Float]
    solid: bool = False


def _box_place(rng: np.random.Generator) -> Float:
    return np.array([[*rng.uniform(_BOX_LOWER_M, _BOX_UPPER_M), _BOX_HALF_SIZE_M]])


SCENES = {
    "panda": Scene(things=THINGS, cameras=USUAL_VIEWS.cameras(), places=draw_places),
    "panda_hand": Scene(
        things=SMALL_THINGS,
        cameras=CLOSE_VIEWS.cameras(),
        places=draw_small_places,
        solid=True,
    ),
    "so101": Scene(
        things=(
            SceneObject(name="red", shape="box", half_size_m=_BOX_HALF_SIZE_M, rgb=(220, 30, 30)),
        ),
        cameras=(
            RigCamera(
                name="front",
                position_m=(0.65, 0.0, 0.35),
                target_m=(0.2, 0.0, 0.05),
                fov_deg=50.0,
            ),
            RigCamera(
                name="wrist",
                body="gripper_link",
                position_m=(0.07, 0.0, 0.0),
                target_m=(0.02, 0.0, -0.15),
                up=(1.0, 0.0, 0.0),
                fov_deg=70.0,
            ),
        ),
        places=_box_place,
    ),
}
"""Robot -> what its cameras see."""


def solid_things(robot: RobotSpec, seed: int) -> tuple[tuple[SceneObject, ...], Float]:
    """What a robot can grasp in a run, and the centres at the start, (things, 3), m.

    Args:
        robot: the robot.
        seed: as of :class:`CameraScene`.
    """
    scene = SCENES.get(robot.name)
    if scene is None or not scene.solid:
        return (), np.zeros((0, 3))
    return scene.things, scene.places(np.random.default_rng(seed))


class CameraScene:
    """The cameras of a run.

    Args:
        robot: the robot.
        wanted: cameras that a policy looks through.
        seed: the same seed puts the things at the same places.

    Attributes:
        places_m: centres of the things, (things, 3), m.

    Raises:
        InputError: the virtual robot has no such camera.
    """

    def __init__(self, robot: RobotSpec, wanted: Sequence[CameraSpec], seed: int) -> None:
        scene = SCENES.get(robot.name)
        known = {camera.name: camera for camera in scene.cameras} if scene else {}
        missing = [camera.name for camera in wanted if camera.name not in known]
        if scene is None or missing:
            raise InputError(
                f"expected a policy that looks through cameras out of {sorted(known)}, which the "
                f"virtual {robot.name} has, got {[camera.name for camera in wanted]}; name its "
                "cameras so, or run it on another robot"
            )
        cameras = [
            replace(known[camera.name], height=camera.height, width=camera.width)
            for camera in wanted
        ]
        self._rig = CameraRig(robot, scene.things, cameras)
        self.places_m = scene.places(np.random.default_rng(seed))

    def images(
        self, qpos_rad: Float, objects: Float | None = None
    ) -> Mapping[str, NDArray[np.uint8]]:
        """What the cameras see, camera name -> RGB (H, W, 3).

        Args:
            qpos_rad: joint positions, (n,), rad.
            objects: poses of things that have been moved, (things, 7), as
                :meth:`sim2real.sim.camera_rig.CameraRig.images` takes them.
        """
        return self._rig.images(qpos_rad, self.places_m if objects is None else objects)
