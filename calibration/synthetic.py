"""Images of a board as a known camera sees it: truth for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from calibration.camera import Camera
from calibration.kinematics import Chain
from calibration.targets import Gray, Target
from calibration.transforms import Float, inverse, rotation, transform

_SUPERSAMPLING = 2
_BACKGROUND = 150.0
_MARGIN_SQUARES = 0.5
_BLACK, _CONTRAST = 25.0, 0.8
_BORDER_PX = 20.0
_TRIES = 20000


class Renderer:
    """Renders boards for one camera; the rays of its sub-pixels are found once.

    Args:
        camera: the camera, with distortion.
    """

    def __init__(self, camera: Camera) -> None:
        self.camera = camera
        s = _SUPERSAMPLING
        u = (np.arange(camera.width * s) + 0.5) / s - 0.5
        v = (np.arange(camera.height * s) + 0.5) / s - 0.5
        pixels = np.stack(np.meshgrid(u, v), axis=-1)
        if np.any(camera.distortion):
            criteria = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 15, 1e-7)
            rays = cv2.undistortPointsIter(
                pixels.reshape(-1, 1, 2),
                camera.matrix(),
                camera.distortion,
                np.eye(3),
                np.eye(3),
                criteria,
            )
        else:
            rays = (pixels - camera.pinhole[2:]) / camera.pinhole[:2]
        self._rays = np.asarray(rays, np.float32).reshape(pixels.shape)

    def render(
        self,
        target: Target,
        T_cam_board: Float,
        *,
        rng: np.random.Generator,
        noise_sigma: float = 4.0,
    ) -> Gray:
        """Image of a board on a gray background, by casting a ray through every sub-pixel.

        Args:
            target: the board.
            T_cam_board: pose of the board in the camera's frame, (4, 4), m; all of the board is
                before the camera.
            rng: for the noise.
            noise_sigma: standard deviation of the pixels' noise, gray values.

        Returns:
            Gray values (height, width).
        """
        camera = self.camera
        image = np.full((camera.height, camera.width), _BACKGROUND, np.float32)
        rows, columns = self._region(target, T_cam_board)
        if rows.stop > rows.start and columns.stop > columns.start:
            image[rows, columns] = self._cast(target, T_cam_board, rows, columns)
        noisy = image + noise_sigma * rng.standard_normal(image.shape, np.float32)
        return np.clip(np.round(noisy), 0, 255).astype(np.uint8)

    def _region(self, target: Target, T_cam_board: Float) -> tuple[slice, slice]:
        """Pixels that may see the board with its margin."""
        width, height = target.size_m()
        m = _MARGIN_SQUARES * target.square_m
        edge = np.linspace(0, 1, 9)
        x, y = np.meshgrid(edge * (width + 2 * m) - m, edge * (height + 2 * m) - m)
        board = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], axis=1)
        pixels = self.camera.project(board @ T_cam_board[:3, :3].T + T_cam_board[:3, 3])[0]
        size = np.array([self.camera.width, self.camera.height])
        low = np.clip(np.floor(pixels.min(axis=0)).astype(int) - 3, 0, size)
        high = np.clip(np.ceil(pixels.max(axis=0)).astype(int) + 4, 0, size)
        return slice(int(low[1]), int(high[1])), slice(int(low[0]), int(high[0]))

    def _cast(self, target: Target, T_cam_board: Float, rows: slice, columns: slice) -> Float:
        s = _SUPERSAMPLING
        rays = self._rays[rows.start * s : rows.stop * s, columns.start * s : columns.stop * s]
        depth = float(np.linalg.norm(T_cam_board[:3, 3]))
        per_square = max(8, round(s * self.camera.pinhole[0] * target.square_m / depth))
        margin = round(_MARGIN_SQUARES * per_square)
        board = cv2.copyMakeBorder(
            target.draw(per_square),
            *(margin, margin, margin, margin),
            cv2.BORDER_CONSTANT,
            value=(255.0,),
        ).astype(np.float32)
        board = cv2.GaussianBlur(_CONTRAST * board + _BLACK, (0, 0), 0.7)
        # (X, Y, 1) of the plane is seen along H (X, Y, 1); rays that miss it forwards meet it
        # behind the camera, where the board is not
        scale, shift = per_square / target.square_m, margin - 0.5
        to_image = np.array([[scale, 0, shift], [0, scale, shift], [0, 0, 1.0]])
        to_plane = to_image @ np.linalg.inv(T_cam_board[:3][:, [0, 1, 3]])
        places = cv2.perspectiveTransform(np.ascontiguousarray(rays), to_plane)
        image = cv2.remap(
            board,
            places,
            np.empty(0, np.float32),
            cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=(_BACKGROUND,),
        )
        size = (columns.stop - columns.start, rows.stop - rows.start)
        return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def in_sight(target: Target, camera: Camera, T_cam_board: Float) -> bool:
    """True if all corners are well inside the image, and the board faces the camera."""
    points = target.corners_m() @ T_cam_board[:3, :3].T + T_cam_board[:3, 3]
    if points[:, 2].min() < 0.1 or points.mean(axis=0) @ T_cam_board[:3, 2] < 0.2:
        return False
    pixels = camera.project(points)[0]
    size = np.array([camera.width, camera.height])
    return bool((pixels > _BORDER_PX).all() and (pixels < size - _BORDER_PX).all())


def random_poses(
    target: Target,
    camera: Camera,
    count: int,
    rng: np.random.Generator,
    *,
    tilt_rad: float = 0.7,
) -> list[Float]:
    """Poses ``T_cam_board`` (4, 4), m, of a board held before a camera, tilted at most so far."""
    centre = np.array([*target.size_m(), 0.0]) / 2
    width = target.size_m()[0]

    def pose() -> Float:
        tilt = rng.uniform(-tilt_rad, tilt_rad, 2)
        turn = rotation(np.array([*tilt, rng.uniform(-0.4, 0.4)]))
        place = rng.uniform([-0.6, -0.35, 0.8], [0.6, 0.35, 1.6]) * width
        out = np.eye(4)
        out[:3, :3], out[:3, 3] = turn, place - turn @ centre
        return out

    return _draw(pose, lambda T: in_sight(target, camera, T), count)


def _draw(make: Callable[[], Float], good: Callable[[Float], bool], count: int) -> list[Float]:
    """``count`` good ones of what ``make`` makes."""
    out: list[Float] = []
    for _ in range(_TRIES):
        candidate = make()
        if good(candidate):
            out.append(candidate)
            if len(out) == count:
                return out
    raise ValueError(f"only {len(out)} of {count} wanted are in sight")


@dataclass(frozen=True, kw_only=True)
class HandEyeScene:
    """A robot, a camera and a board, one of the two on the hand; at ``home`` it is in sight.

    Attributes:
        chain: the robot's joints from base to tip.
        target: the board.
        camera: the camera.
        setup: ``eye_in_hand`` or ``eye_to_hand``.
        home_rad: joint positions around which the poses are, (n,), rad.
    """

    chain: Chain
    target: Target
    camera: Camera
    setup: str
    home_rad: Float

    @cached_property
    def truth(self) -> tuple[Float, Float]:
        """``T_mount_cam`` and ``T_other_board``, (4, 4), m."""
        tip = self.chain.pose(self.home_rad)[0]
        centre = np.array([*self.target.size_m(), 0.0]) / 2
        seen = np.eye(4)
        if self.setup == "eye_in_hand":
            seen[:3, 3] = np.array([0, 0, 0.45]) - centre
            mount = transform(np.array([0.05, -0.08, 1.5]), np.array([0.06, -0.03, -0.05]))
            return mount, tip @ mount @ seen
        board = transform(np.array([0.1, 0.2, -0.3]), np.array([-0.14, -0.1, 0.05]))
        seen[:3, :3] = rotation(np.array([0.2, 0.1, 0.0]))
        seen[:3, 3] = np.array([0, 0, 0.7]) - seen[:3, :3] @ centre
        return tip @ board @ inverse(seen), board

    def T_cam_board(self, qpos_rad: Float) -> Float:
        """Pose of the board in the camera's frame at joint positions (n,), rad."""
        mount_cam, other_board = self.truth
        tip = self.chain.pose(qpos_rad)[0]
        between = inverse(tip) if self.setup == "eye_in_hand" else tip
        return inverse(mount_cam) @ between @ other_board

    def sample(
        self, count: int, rng: np.random.Generator, spread_rad: Float | float = 0.45
    ) -> list[Float]:
        """Joint positions (n,), rad, with the board in sight.

        Args:
            count: how many.
            rng: random numbers.
            spread_rad: greatest distance from ``home_rad``, for all joints or each, rad.
        """
        spread = np.broadcast_to(np.asarray(spread_rad, float), self.home_rad.shape)

        def good(qpos: Float) -> bool:
            return in_sight(self.target, self.camera, self.T_cam_board(qpos))

        return _draw(lambda: self.home_rad + rng.uniform(-spread, spread), good, count)
