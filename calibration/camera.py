"""Pinhole cameras with lens distortion; ROS ``camera_info`` YAML."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml

from calibration.errors import CalibrationError
from calibration.result import CalibrationResult, read_result
from calibration.transforms import Float

DISTORTION = {
    "plumb_bob": ("k1", "k2", "p1", "p2", "k3"),
    "rational_polynomial": ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6"),
}
PINHOLE = ("fx", "fy", "cx", "cy")


@dataclass(frozen=True, kw_only=True)
class Camera:
    """A camera. Its frame is the optical one: x right, y down, z forward; pixel centres are whole.

    Attributes:
        width, height: size of the image, px.
        pinhole: focal lengths and principal point (fx, fy, cx, cy), px.
        distortion: coefficients in OpenCV's order, (5,) or (8,).
        model: of the distortion, ``plumb_bob`` or ``rational_polynomial``.
        covariance: of pinhole and distortion together, (4 + d, 4 + d); None where it is unknown.
    """

    width: int
    height: int
    pinhole: Float
    distortion: Float
    model: str = "plumb_bob"
    covariance: Float | None = None

    def matrix(self) -> Float:
        """Camera matrix K, (3, 3)."""
        fx, fy, cx, cy = self.pinhole
        return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])

    def project(self, points_m: Float) -> tuple[Float, Float, Float]:
        """Project points.

        Args:
            points_m: in the camera's frame, (N, 3), m.

        Returns:
            Pixels (N, 2), and their derivatives by the points, (N, 2, 3), px/m, and by pinhole
            and distortion, (N, 2, 4 + d).
        """
        zero = np.zeros(3)
        pixels, jacobian = cv2.projectPoints(
            np.ascontiguousarray(points_m, float), zero, zero, self.matrix(), self.distortion
        )
        n = len(points_m)
        jacobian = np.asarray(jacobian, float).reshape(n, 2, -1)
        d = len(self.distortion)
        return pixels.reshape(n, 2), jacobian[:, :, 3:6], jacobian[:, :, 6 : 10 + d]

    def to_yaml(self, name: str) -> str:
        """The camera as ROS ``camera_info`` YAML, without rectification."""
        new, _ = cv2.getOptimalNewCameraMatrix(
            self.matrix(), self.distortion, (self.width, self.height), 0.0
        )
        projection = np.hstack([np.asarray(new, float), np.zeros((3, 1))])

        def block(values: Float) -> dict[str, object]:
            rows, columns = values.shape
            return {"rows": rows, "cols": columns, "data": values.ravel().tolist()}

        content = {
            "image_width": self.width,
            "image_height": self.height,
            "camera_name": name,
            "camera_matrix": block(self.matrix()),
            "distortion_model": self.model,
            "distortion_coefficients": block(self.distortion[None]),
            "rectification_matrix": block(np.eye(3)),
            "projection_matrix": block(projection),
        }
        return yaml.safe_dump(content, sort_keys=False, default_flow_style=None)


def read_camera(path: Path) -> Camera:
    """Read a camera from our JSON or from ROS ``camera_info`` YAML (then without covariance).

    Raises:
        CalibrationError: the file is neither, or is damaged.
    """
    if path.suffix == ".json":
        return from_result(read_result(path, "camera"), path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        matrix = np.array(content["camera_matrix"]["data"], float).reshape(3, 3)
        camera = Camera(
            width=int(content["image_width"]),
            height=int(content["image_height"]),
            pinhole=matrix[[0, 1, 0, 1], [0, 1, 2, 2]],
            distortion=np.array(content["distortion_coefficients"]["data"], float),
            model=str(content["distortion_model"]),
        )
        known = DISTORTION[camera.model]
    except OSError as error:
        raise CalibrationError(
            f"expected a camera, but {path} cannot be read ({error.strerror}); check the path"
        ) from None
    except (KeyError, TypeError, ValueError, yaml.YAMLError):
        raise CalibrationError(
            f"expected a camera of `realign calibrate camera` (.json) or camera_info YAML with "
            f"model {' or '.join(DISTORTION)}, but {path} is neither; calibrate the camera first"
        ) from None
    return _checked(camera, known, path)


def from_result(result: CalibrationResult, path: Path) -> Camera:
    """The camera of a result that was read from ``path``.

    Raises:
        CalibrationError: the result lacks something.
    """
    model = str(result.details.get("distortion_model"))
    names = tuple(parameter.name for parameter in result.parameters)
    size = (result.details.get("image_width"), result.details.get("image_height"))
    if names != PINHOLE + DISTORTION.get(model, ()) or not all(isinstance(s, int) for s in size):
        raise CalibrationError(
            f"expected fx, fy, cx, cy, the coefficients of a known distortion model and the image "
            f"size in {path}, got {', '.join(names)} for model {model!r}; calibrate again"
        )
    values = np.array([parameter.value for parameter in result.parameters])
    camera = Camera(
        width=int(size[0] or 0),
        height=int(size[1] or 0),
        pinhole=values[:4],
        distortion=values[4:],
        model=model,
        covariance=result.covariance,
    )
    return _checked(camera, DISTORTION[model], path)


def _checked(camera: Camera, known: tuple[str, ...], path: Path) -> Camera:
    numbers = np.concatenate([camera.pinhole, camera.distortion])
    good = len(camera.distortion) == len(known) and np.isfinite(numbers).all()
    if not good or min(camera.width, camera.height, *camera.pinhole[:2]) <= 0:
        raise CalibrationError(
            f"expected positive sizes and focal lengths and {len(known)} finite coefficients in "
            f"{path}, got others; calibrate the camera again"
        )
    return camera
