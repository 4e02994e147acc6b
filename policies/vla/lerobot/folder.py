"""A LeRobot checkpoint folder as read here: sizes and horizons, without torch and without LeRobot.

``config.json``, ``model.safetensors``, and two processors (``policy_preprocessor.json``,
``policy_postprocessor.json``) with a safetensors file for each of their steps that has numbers. A
processor file may name any importable class as a step; only the steps of :data:`STEPS` are let in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from policies.actor.config import Reader, read_json
from policies.errors import InputError

KINDS = ("act", "diffusion", "vqbet", "smolvla")
"""Types of policy that are supported."""
STEPS = {
    "policy_preprocessor.json": (
        "rename_observations_processor",
        "to_batch_processor",
        "device_processor",
        "normalizer_processor",
        "smolvla_new_line_processor",
        "tokenizer_processor",
    ),
    "policy_postprocessor.json": ("unnormalizer_processor", "device_processor"),
}
"""Processor file -> names of the steps that it may have."""
CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
VLM_FILES = (
    "config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
"""Files of a vision-language model's folder that are used: settings and tokenizer, no weights."""
_VLM_NEEDED = ("config.json", "tokenizer.json", "tokenizer_config.json")
_MAX_TEXT_BYTES = 50_000_000
_MAX_HORIZON = 1000


@dataclass(frozen=True, kw_only=True)
class Folder:
    """What a checkpoint folder says of itself.

    Attributes:
        kind: one of :data:`KINDS`.
        state, environment_state, action: entries of the features, 0 where there is none.
        cameras: feature -> (height, width), pixels.
        observation_horizon: observations that the policy sees.
        prediction_horizon: actions that it plans, the first for the newest observation.
        action_horizon: actions that LeRobot carries out of each plan.
        files: the files that are needed, relative to the folder.
    """

    kind: str
    state: int
    environment_state: int
    action: int
    cameras: dict[str, tuple[int, int]]
    observation_horizon: int
    prediction_horizon: int
    action_horizon: int
    files: tuple[str, ...]


def read_text(path: Path) -> str:
    """Content of a text file of a checkpoint.

    Raises:
        InputError: it is not there, too large, or not UTF-8.
    """
    if not path.is_file():
        raise InputError(
            f"{path.parent}: expected a file {path.name}, but there is none; give the folder of a "
            "LeRobot checkpoint (often .../pretrained_model) with its processor files, which "
            "LeRobot 0.4 and later write"
        )
    if path.stat().st_size > _MAX_TEXT_BYTES:
        raise InputError(f"{path}: expected at most {_MAX_TEXT_BYTES} bytes of JSON")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected readable UTF-8 text") from error


def read_folder(path: Path) -> Folder:
    """Read and check a checkpoint folder.

    Raises:
        InputError: a file is missing or malformed, the policy is of a type that is not supported,
            or a processor has a step that is not.
    """
    where = str(path / CONFIG_FILE)
    reader = Reader(read_json(read_text(path / CONFIG_FILE), where), where)
    kind = reader.text("type")
    if kind not in KINDS:
        raise InputError(f"{where}: expected a policy of type {list(KINDS)}, got {kind!r}")
    files = [CONFIG_FILE, WEIGHTS_FILE]
    for name in STEPS:
        files += [name, *_state_files(path / name)]
    for name in files:
        if not (path / name).is_file():
            raise InputError(f"{path}: expected a file {name}, but there is none; copy all of it")
    observed, planned, carried_out = _horizons(reader, kind, where)
    inputs = _features(reader, "input_features", where)
    outputs = _features(reader, "output_features", where)
    return Folder(
        kind=kind,
        state=_size(inputs, "observation.state", where),
        environment_state=_size(inputs, "observation.environment_state", where),
        action=_size(outputs, "action", where),
        cameras=_cameras(inputs, where),
        observation_horizon=observed,
        prediction_horizon=planned,
        action_horizon=carried_out,
        files=tuple(files),
    )


def vlm_files(path: Path) -> tuple[str, ...]:
    """The files of a vision-language model's folder that are there and used.

    Raises:
        InputError: one that cannot be done without is missing.
    """
    missing = [name for name in _VLM_NEEDED if not (path / name).is_file()]
    if missing:
        raise InputError(
            f"{path}: expected settings and tokenizer of a vision-language model, but {missing} "
            "are missing; give the folder that vlm_model_name of config.json means"
        )
    return tuple(name for name in VLM_FILES if (path / name).is_file())


def _state_files(path: Path) -> list[str]:
    """Files with the numbers of a processor, after a check of its steps."""
    where = str(path)
    steps = Reader(read_json(read_text(path), where), where).value("steps")
    if not isinstance(steps, list):
        raise InputError(f"{where}: expected a list in 'steps'")
    known, files = STEPS[path.name], []
    for i, entry in enumerate(steps):
        step = Reader(entry, f"{where}, steps[{i}]")
        name = step.text("registry_name")
        if name not in known:
            raise InputError(
                f"{where}, steps[{i}]: expected a step out of {list(known)}, got {name!r}; it is "
                "not supported, because nothing here says what it does"
            )
        if not step.has("state_file"):
            continue
        file = step.text("state_file")
        if PurePosixPath(file).name != file or not file.endswith(".safetensors"):
            raise InputError(
                f"{where}, steps[{i}]: expected the name of a safetensors file in the same folder "
                f"in 'state_file', got {file!r}"
            )
        files.append(file)
    return files


def _horizons(reader: Reader, kind: str, where: str) -> tuple[int, int, int]:
    """Observations seen, actions planned, actions carried out."""
    observed = reader.integer("n_obs_steps", 1, 100)
    if kind == "diffusion":  # a plan begins with the oldest observation
        planned = reader.integer("horizon", observed, _MAX_HORIZON) - observed + 1
        return observed, planned, reader.integer("n_action_steps", 1, planned)
    if kind == "vqbet":
        planned = reader.integer("action_chunk_size", 1, _MAX_HORIZON)
        return observed, planned, planned
    if observed != 1:
        raise InputError(f"{where}: expected 1 in 'n_obs_steps' of {kind}, got {observed}")
    planned = reader.integer("chunk_size", 1, _MAX_HORIZON)
    return observed, planned, reader.integer("n_action_steps", 1, planned)


def _features(reader: Reader, key: str, where: str) -> dict[str, tuple[str, list[int]]]:
    """Feature -> its type and shape."""
    listed = reader.value(key)
    out = {}
    features = Reader(listed, f"{where}, {key!r}")
    for name in listed:
        feature = Reader(features.value(name), f"{where}, {key!r}, {name!r}")
        shape = feature.value("shape")
        if not isinstance(shape, list) or not all(isinstance(x, int) and x > 0 for x in shape):
            raise InputError(f"{where}, {key!r}, {name!r}: expected a list of sizes in 'shape'")
        out[name] = feature.text("type"), shape
    return out


def _size(features: dict[str, tuple[str, list[int]]], name: str, where: str) -> int:
    if name not in features:
        return 0
    shape = features[name][1]
    if len(shape) != 1:
        raise InputError(f"{where}, {name!r}: expected one size in 'shape', got {shape}")
    return shape[0]


def _cameras(features: dict[str, tuple[str, list[int]]], where: str) -> dict[str, tuple[int, int]]:
    cameras = {}
    for name, (kind, shape) in features.items():
        if kind == "VISUAL":
            if len(shape) != 3 or shape[0] != 3:
                raise InputError(
                    f"{where}, {name!r}: expected a shape of [3, height, width], got {shape}; only "
                    "RGB cameras are supported"
                )
            cameras[name] = shape[1], shape[2]
        elif name not in ("observation.state", "observation.environment_state"):
            raise InputError(
                f"{where}: expected the inputs observation.state, observation.environment_state "
                f"and images, got {name!r} of type {kind}"
            )
    return cameras
