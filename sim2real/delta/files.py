"""Files of a delta-action model: those of a policy's checkpoint, with the same hashes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from policies.checkpoint_files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    config_text,
    parse_weights,
    read_config,
    read_networks,
    write_files,
)
from policies.errors import InputError
from policies.interface import Float, RobotSpec

WHAT = f"a delta model (a folder with {CONFIG_FILE}, made by `realign delta train`)"


def write_model(
    out: Path, config: Mapping[str, Any], weights: Mapping[str, Float], *, overwrite: bool
) -> None:
    """Write a model's two files, whole or not at all; one has the hashes of both.

    Raises:
        InputError: ``out`` exists and ``overwrite`` is False, or is not a delta model.
    """
    content = {WEIGHTS_FILE: save({k: np.ascontiguousarray(v) for k, v in weights.items()})}
    write_files(out, config_text(config, content), content, overwrite=overwrite)


def read_model(path: Path) -> tuple[dict[str, Any], dict[str, Float]]:
    """What ``config.json`` in the folder ``path`` says, and the arrays beside it.

    Raises:
        InputError: missing, altered or damaged files.
    """
    config, raw = read_config(path, WHAT)
    if "format" not in config:
        raise InputError(f"expected {WHAT}, got {path}, which is another kind of model")
    if "files" not in config:  # an earlier version stated one hash only, that of the arrays
        config["files"] = {WEIGHTS_FILE: config.get("sha256")}
    content = read_networks(path, config, raw, (WEIGHTS_FILE,))
    weights = parse_weights(content, f"delta model {path}")
    wrong = sorted(name for name, value in weights.items() if value.dtype.kind != "f")
    if wrong:
        raise InputError(f"{path}: expected real numbers in {wrong}; train the model again")
    return config, {name: value.astype(np.float64) for name, value in weights.items()}


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
            f"{path}: arrays {wrong} are missing, unknown or of another shape than {CONFIG_FILE} "
            "gives; train the model again"
        )
    bad = sorted(name for name, value in weights.items() if not np.isfinite(value).all())
    if bad:
        raise InputError(
            f"{path}: expected finite weights, got others in {bad}; train the model again"
        )
