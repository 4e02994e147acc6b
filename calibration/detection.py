"""Board corners in images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError
from calibration.targets import Gray, Target
from calibration.transforms import Float

FEWEST_CORNERS = 6
_THIN = 0.02  # corners whose second extent is below this part of their first lie on a line


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One image: gray values (h, w), where it comes from, and its stamp, ns, if it has one."""

    name: str
    image: Gray
    stamp_ns: int | None = None


@dataclass(frozen=True, kw_only=True)
class View:
    """Corners of the board in one image.

    Attributes:
        name: of the image.
        ids: of the corners, (N,).
        board_m: corners in the board's frame, (N, 3), m.
        pixels: corners in the image, (N, 2), px.
        stamp_ns: of the image, ns.
    """

    name: str
    ids: NDArray[np.int64]
    board_m: Float
    pixels: Float
    stamp_ns: int | None = None


@dataclass(frozen=True, kw_only=True)
class Detections:
    """What was seen in a sequence of images.

    Attributes:
        views: images with the board, in order.
        without: name -> why the image gives no view.
        width, height: size of every image, px.
        sha256: of all pixels.
    """

    views: tuple[View, ...]
    without: dict[str, str]
    width: int
    height: int
    sha256: str


def detect_all(frames: Iterable[Frame], target: Target) -> Detections:
    """Look for the board in every image.

    Raises:
        CalibrationError: there are no images, their sizes differ, or none shows the board.
    """
    views: list[View] = []
    without: dict[str, str] = {}
    digest = hashlib.sha256()
    size: tuple[int, ...] = ()
    first = ""
    detector = _Detector(target)
    for frame in frames:
        if not size:
            size, first = frame.image.shape, frame.name
        if frame.image.shape != size:
            raise CalibrationError(
                f"expected images of one size, got {size[1]}x{size[0]} ({first}) and "
                f"{frame.image.shape[1]}x{frame.image.shape[0]} ({frame.name}); calibrate each "
                "camera and resolution by itself"
            )
        digest.update(np.ascontiguousarray(frame.image).data)
        view = detector.detect(frame)
        if isinstance(view, str):
            without[frame.name] = view
        else:
            views.append(view)
    if not size:
        raise CalibrationError("expected images, got none; check the source")
    if not views:
        raise CalibrationError(
            f"expected a {target.caption()} in the images, but none of {len(without)} shows enough "
            f"of it ({next(iter(without.values()))}); check the board's description"
        )
    return Detections(
        views=tuple(views),
        without=without,
        width=size[1],
        height=size[0],
        sha256=digest.hexdigest(),
    )


class _Detector:
    def __init__(self, target: Target) -> None:
        self._target = target
        self._corners = target.corners_m()
        if target.kind == "charuco":
            self._charuco = cv2.aruco.CharucoDetector(target.board())

    def detect(self, frame: Frame) -> View | str:
        """The view, or why there is none."""
        found = self._charuco_corners if self._target.kind == "charuco" else self._chess_corners
        ids, pixels = found(frame.image)
        if not len(ids):
            return "board not found"
        if len(ids) < FEWEST_CORNERS:
            return f"only {len(ids)} corners seen"
        board = self._corners[ids]
        extent = np.linalg.svd(board - board.mean(axis=0), compute_uv=False)
        if extent[1] < max(_THIN * extent[0], 0.5 * self._target.square_m):
            return "corners on one line"
        return View(name=frame.name, ids=ids, board_m=board, pixels=pixels, stamp_ns=frame.stamp_ns)

    def _charuco_corners(self, image: Gray) -> tuple[NDArray[np.int64], Float]:
        corners, ids, _, _ = self._charuco.detectBoard(image)
        if ids is None or corners is None:
            return np.zeros(0, np.int64), np.zeros((0, 2))
        return np.asarray(ids, np.int64).ravel(), np.asarray(corners, float).reshape(-1, 2)

    def _chess_corners(self, image: Gray) -> tuple[NDArray[np.int64], Float]:
        inner = (self._target.columns - 1, self._target.rows - 1)
        flags = cv2.CALIB_CB_ACCURACY | cv2.CALIB_CB_NORMALIZE_IMAGE
        found, corners = cv2.findChessboardCornersSB(image, inner, flags=flags)
        if not found:
            return np.zeros(0, np.int64), np.zeros((0, 2))
        return np.arange(inner[0] * inner[1]), np.asarray(corners, float).reshape(-1, 2)
