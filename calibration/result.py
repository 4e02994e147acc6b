"""Calibration results: versioned JSON with units, frames, residuals, covariance and provenance."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from calibration.errors import CalibrationError
from calibration.files import read_json, write_text
from calibration.transforms import Float, quaternion_wxyz

FORMAT = "realign.calibration"
VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One number that was found: its name, its value in ``unit``, and the unit."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True, kw_only=True)
class Residual:
    """How well something fits: a value in ``unit``."""

    value: float
    unit: str


@dataclass(frozen=True, kw_only=True)
class CalibrationResult:
    """What one procedure found.

    Attributes:
        kind: procedure: ``camera``, ``hand_eye``, ``joints``, ``latency`` or ``actuators``.
        parameters: what was found, in the order of the covariance.
        covariance: of the parameters, (n, n), in products of their units.
        frames: name of each frame -> what it is attached to and how its axes lie.
        transforms: ``T_a_b`` -> matrix (4, 4) that takes coordinates in b to a; m.
        residuals: name -> how well the data fit.
        details: of the procedure, as JSON.
        data_sha256: of the images (and joint positions), or the bag, that the result rests on.
        software: package -> version.
    """

    kind: str
    parameters: tuple[Parameter, ...]
    covariance: Float
    frames: dict[str, str]
    transforms: dict[str, Float] = field(default_factory=dict)
    residuals: dict[str, Residual]
    details: dict[str, Any] = field(default_factory=dict)
    data_sha256: str
    software: dict[str, str] = field(default_factory=lambda: software_versions())

    def __post_init__(self) -> None:
        """Check sizes, finiteness and that the covariance is one.

        Raises:
            CalibrationError: what is wrong with the content.
        """
        n = len(self.parameters)
        values = np.array([parameter.value for parameter in self.parameters])
        matrix = np.asarray(self.covariance, float)
        if matrix.shape != (n, n):
            raise CalibrationError(
                f"expected a covariance of {n} x {n}, one row for each parameter, got shape "
                f"{matrix.shape}; calibrate again"
            )
        if not np.isfinite(values).all() or not np.isfinite(matrix).all():
            raise CalibrationError(
                "expected finite parameters and covariance, got NaN or infinity; calibrate again"
            )
        scale = np.sqrt(np.abs(np.diag(matrix)))
        scale = np.where(scale > 0, scale, 1.0)
        scaled = matrix / np.outer(scale, scale)
        if not np.allclose(scaled, scaled.T, atol=1e-6) or (
            n and np.linalg.eigvalsh(scaled).min() < -1e-6
        ):
            raise CalibrationError(
                "expected a symmetric covariance without negative variances, got another matrix; "
                "calibrate again"
            )
        for name, pose in self.transforms.items():
            if not _is_rigid(np.asarray(pose, float)):
                raise CalibrationError(
                    f"expected {name} to be a rotation and a translation, got another matrix; "
                    "calibrate again"
                )

    def std(self) -> dict[str, float]:
        """Standard deviation of each parameter, in its unit."""
        deviations = np.sqrt(np.clip(np.diag(self.covariance), 0, None))
        return {p.name: float(s) for p, s in zip(self.parameters, deviations, strict=True)}

    def to_json(self) -> dict[str, Any]:
        """Content of the file."""
        std = self.std()
        return {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            "parameters": [
                {"name": p.name, "value": p.value, "std": std[p.name], "unit": p.unit}
                for p in self.parameters
            ],
            "covariance": np.asarray(self.covariance).tolist(),
            "frames": self.frames,
            "transforms": {
                name: {
                    "matrix": np.asarray(pose).tolist(),
                    "translation_m": pose[:3, 3].tolist(),
                    "quaternion_wxyz": quaternion_wxyz(pose[:3, :3]).tolist(),
                }
                for name, pose in self.transforms.items()
            },
            "residuals": {n: {"value": r.value, "unit": r.unit} for n, r in self.residuals.items()},
            "details": self.details,
            "data_sha256": self.data_sha256,
            "software": self.software,
        }


def write_result(path: Path, result: CalibrationResult) -> None:
    """Write a result as JSON; its folder is made.

    Raises:
        CalibrationError: the file cannot be written.
    """
    text = json.dumps(result.to_json(), indent=1, allow_nan=False) + "\n"
    write_text(path, text, "the result")


def read_result(path: Path, kind: str) -> CalibrationResult:
    """Read a result and check it.

    Args:
        path: file of :func:`write_result`.
        kind: the kind that is needed.

    Raises:
        CalibrationError: the file cannot be read, is of another kind or version, or is damaged.
    """
    content = read_json(path, "a calibration result")
    found = (content.get("format"), content.get("version"), content.get("kind"))
    if found != (FORMAT, VERSION, kind):
        raise CalibrationError(
            f"expected {path} to be {FORMAT} version {VERSION} of kind {kind!r}, got format "
            f"{found[0]!r}, version {found[1]!r}, kind {found[2]!r}; calibrate again"
        )
    try:
        return CalibrationResult(
            kind=kind,
            parameters=tuple(
                Parameter(name=str(p["name"]), value=float(p["value"]), unit=str(p["unit"]))
                for p in content["parameters"]
            ),
            covariance=np.array(content["covariance"], float),
            frames=dict(content["frames"]),
            transforms={n: np.array(t["matrix"], float) for n, t in content["transforms"].items()},
            residuals={
                n: Residual(value=float(r["value"]), unit=str(r["unit"]))
                for n, r in content["residuals"].items()
            },
            details=dict(content["details"]),
            data_sha256=str(content["data_sha256"]),
            software=dict(content["software"]),
        )
    except CalibrationError as error:
        raise CalibrationError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CalibrationError(
            f"expected a whole calibration result, but {path} is damaged "
            f"({type(error).__name__}: {error}); calibrate again"
        ) from None


def software_versions() -> dict[str, str]:
    """Versions of what makes the numbers."""
    found = {}
    for package in ("realign", "opencv-contrib-python-headless", "pin", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _is_rigid(matrix: Float) -> bool:
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        return False
    turn = matrix[:3, :3]
    return bool(
        np.allclose(turn @ turn.T, np.eye(3), atol=1e-6)
        and np.linalg.det(turn) > 0
        and np.allclose(matrix[3], [0, 0, 0, 1])
    )
