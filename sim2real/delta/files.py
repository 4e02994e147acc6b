"""Files of a delta-action model: ``config.json`` beside ``model.safetensors``."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from policies.errors import InputError
from policies.interface import Float, RobotSpec

CONFIG = "config.json"
_WEIGHTS = "model.safetensors"


def check_output(out: Path, *, overwrite: bool) -> None:
    """Refuse to write a model over something else; to be called before the work begins.

    Raises:
        InputError: ``out`` exists and ``overwrite`` is False, or is not a delta model.
    """
    if out.exists() and not overwrite:
        raise InputError(f"expected a new folder, {out} exists; choose another or use --overwrite")
    if (
        out.exists()
        and any(out.iterdir() if out.is_dir() else [out])
        and not (out / CONFIG).is_file()
    ):
        raise InputError(
            f"expected {out} to be a delta model or not to exist, it holds other things; "
            "choose another folder"
        )


def write_model(
    out: Path, config: Mapping[str, Any], weights: Mapping[str, Float], *, overwrite: bool
) -> None:
    """Write a model's two files, with the hash of one in the other.

    Raises:
        InputError: as :func:`check_output`.
    """
    check_output(out, overwrite=overwrite)
    if out.exists():
        shutil.rmtree(out)
    out.mkdir(parents=True)
    save_file({k: np.ascontiguousarray(v) for k, v in weights.items()}, out / _WEIGHTS)
    whole = {**config, "sha256": _hash(out / _WEIGHTS)}
    (out / CONFIG).write_text(json.dumps(whole, indent=2) + "\n")


def check_robot(path: Path, config: Mapping[str, Any], robot: RobotSpec) -> None:
    """Refuse the model of another robot or of other gains.

    Raises:
        InputError: see above.
    """
    if config["robot"] != robot.name or config["robot_fingerprint"] != robot.fingerprint:
        raise InputError(
            f"{path}: expected a delta model for {robot.name} ({robot.fingerprint}), got one for "
            f"{config['robot']} ({config['robot_fingerprint']}); train one for this "
            "robot's joints and gains"
        )


def read_weights(path: Path, config: Mapping[str, Any]) -> dict[str, Float]:
    """Arrays of the model in the folder ``path``, checked against the hash in ``config``.

    Raises:
        InputError: missing or damaged file.
    """
    weights_file = path / _WEIGHTS
    if not weights_file.is_file():
        raise InputError(f"{path}: expected {_WEIGHTS} in it, it is missing; copy the whole folder")
    if _hash(weights_file) != config["sha256"]:
        raise InputError(
            f"{path}: {_WEIGHTS} is not the file that {CONFIG} names (sha256 differs); "
            "copy the folder again"
        )
    try:
        return {k: v.astype(np.float64) for k, v in load_file(weights_file).items()}
    except SafetensorError as error:
        raise InputError(
            f"{weights_file}: not a safetensors file ({error}); copy it again"
        ) from None


def check_arrays(
    path: Path, weights: Mapping[str, Float], want: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse arrays other than ``want``, name to shape, and values that are not finite.

    Raises:
        InputError: see above.
    """
    have = {name: value.shape for name, value in weights.items()}
    if have != want:
        wrong = sorted(k for k in want.keys() | have.keys() if want.get(k) != have.get(k))
        raise InputError(
            f"{path}: arrays {wrong} are missing, unknown or of another shape than {CONFIG} "
            "gives; train the model again"
        )
    bad = sorted(name for name, value in weights.items() if not np.isfinite(value).all())
    if bad:
        raise InputError(
            f"{path}: expected finite weights, got others in {bad}; train the model again"
        )


def read_json(path: Path) -> dict[str, Any]:
    """What ``config.json`` in the folder ``path`` holds.

    Raises:
        InputError: it is missing, or not a JSON object.
    """
    file = path / CONFIG
    if not file.is_file():
        raise InputError(
            f"expected a delta model (a folder with {CONFIG}), got {path}; "
            "make one with `realign delta train`"
        )
    try:
        config = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{file}: not valid JSON ({error}); copy the model again") from None
    if not isinstance(config, dict):
        raise InputError(f"{file}: expected the description of a delta model, got something else")
    return config


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
