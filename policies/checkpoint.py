"""Checkpoints of policies, and the only loader.

A checkpoint is a directory: ``config.json`` (see :mod:`policies.actor.config`) with the sha256 of
each other file, and ``policy.onnx``. It holds no code and nothing that is unpickled. Loading
checks everything that can be checked before a robot moves, and needs no torch.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.actor.config import ActorConfig, Reader, dump_config, parse_config, read_json
from policies.actor.onnx_actor import OnnxActor
from policies.errors import InputError
from policies.interface import Policy, RobotSpec
from policies.robots import get_robot

CONFIG_FILE = "config.json"
MODEL_FILE = "policy.onnx"
_MAX_CONFIG_BYTES = 4_000_000
_MAX_MODEL_BYTES = 2_000_000_000
_TOPICS = {"base_ang_vel_rad_s": "imu", "base_quat_wxyz": "imu", "goal": "goal"}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint as read from disk: well-formed and unaltered, not yet matched to a robot.

    Attributes:
        config: content of config.json.
        model: content of policy.onnx.
        sha256: hash over all files, 64 hex digits.
        files: file name -> its sha256.
    """

    config: ActorConfig
    model: bytes
    sha256: str
    files: dict[str, str]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _read(path: Path, limit: int) -> bytes:
    if not path.is_file():
        raise InputError(
            f"checkpoint {path.parent}: expected a file {path.name}, but there is none; "
            "copy the whole checkpoint directory"
        )
    try:
        size = path.stat().st_size
        if size > limit:
            raise InputError(f"{path}: expected at most {limit} bytes, got {size}")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, got {error.strerror}") from error


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint directory and compare the hashes.

    Raises:
        InputError: a file is missing, malformed or altered.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError(
            f"expected a policy checkpoint (a directory with {CONFIG_FILE} and {MODEL_FILE}), "
            f"got {path}, which is {'a file' if path.exists() else 'not there'}"
        )
    config_path = path / CONFIG_FILE
    raw = _read(config_path, _MAX_CONFIG_BYTES)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{config_path}: expected UTF-8 JSON, got other bytes") from error
    data = read_json(text, str(config_path))
    config = parse_config(data, str(config_path))
    files = Reader(data.get("files"), f"{config_path}, 'files'")
    files.only(MODEL_FILE)
    expected = files.text(MODEL_FILE)
    model = _read(path / MODEL_FILE, _MAX_MODEL_BYTES)
    found = _sha256(model)
    if found != expected:
        raise InputError(
            f"{path / MODEL_FILE}: expected sha256 {expected[:12]}..., which {CONFIG_FILE} states, "
            f"got {found[:12]}...; the file was altered or cut off, copy the checkpoint again"
        )
    digests = {CONFIG_FILE: _sha256(raw), MODEL_FILE: found}
    whole = _sha256("".join(f"{name} {digests[name]}\n" for name in sorted(digests)).encode())
    return Checkpoint(config=config, model=model, sha256=whole, files=digests)


def load_policy(path: Path, robot: RobotSpec) -> Policy:
    """Load a policy for ``robot``.

    Args:
        path: checkpoint directory.
        robot: the robot that it shall run on.

    Returns:
        The policy, reset.

    Raises:
        InputError: the checkpoint is not there, malformed, altered, for another robot, or its
            network does not fit its description or is not finite.
    """
    checkpoint = read_checkpoint(path)
    return OnnxActor(checkpoint.config, robot, checkpoint.model, checkpoint.sha256)


def save_checkpoint(
    path: Path, config: ActorConfig, model: bytes, *, overwrite: bool = False
) -> None:
    """Write a checkpoint directory, whole or not at all.

    The checkpoint is built once before anything is written, so what is saved can be loaded.

    Args:
        path: directory to create.
        config: content of config.json.
        model: content of policy.onnx.
        overwrite: replace an existing checkpoint.

    Raises:
        InputError: ``path`` exists (and ``overwrite`` is not set, or it is not a checkpoint), or
            config and network do not fit together.
    """
    path = Path(path)
    check_writable(path, overwrite=overwrite)
    data: dict[str, Any] = dump_config(config) | {"files": {MODEL_FILE: _sha256(model)}}
    text = json.dumps(data, indent=1) + "\n"
    parsed = parse_config(read_json(text, CONFIG_FILE), CONFIG_FILE)
    OnnxActor(parsed, get_robot(config.robot), model, "")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        fresh = Path(folder) / "new"
        fresh.mkdir()
        (fresh / CONFIG_FILE).write_text(text, encoding="utf-8")
        (fresh / MODEL_FILE).write_bytes(model)
        if path.exists():
            path.rename(Path(folder) / "old")  # removed with the temporary folder
        shutil.move(fresh, path)


def check_writable(path: Path, *, overwrite: bool) -> None:
    """Refuse to write a checkpoint over something.

    Raises:
        InputError: ``path`` exists and must not be replaced.
    """
    if not path.exists():
        return
    if not overwrite:
        raise InputError(f"{path}: expected a new directory, but it exists; add --overwrite")
    if not (path / CONFIG_FILE).is_file():
        raise InputError(
            f"{path}: expected a checkpoint to overwrite, but it has no {CONFIG_FILE}; "
            "remove it yourself or choose another name"
        )


def inspect(path: Path) -> dict[str, Any]:
    """What a checkpoint is and needs, after all checks of :func:`load_policy`.

    Returns:
        JSON-ready dictionary: name, robot, rate, joints, topics, observation terms, sizes,
        duration, hashes, source.

    Raises:
        InputError: as :func:`load_policy`.
    """
    checkpoint = read_checkpoint(path)
    config = checkpoint.config
    actor = OnnxActor(config, get_robot(config.robot), checkpoint.model, checkpoint.sha256)
    described = dump_config(config)
    topics = {"joint_states"} | {_TOPICS[need] for need in actor.spec.needs}
    return {
        "name": config.name,
        "kind": described["kind"],
        "robot": config.robot,
        "robot_fingerprint": config.robot_fingerprint,
        "rate_hz": config.rate_hz,
        "duration_s": config.duration_s,
        "topics": sorted(topics),
        "observation_size": int(actor.observation_vector.size),
        "observation": described["observation"],
        "action": described["action"],
        "held_joints": config.hold_pose_rad,
        "start_pose_rad": config.start_pose_rad,
        "source": config.source,
        "sha256": checkpoint.sha256,
        "files": checkpoint.files,
    }
