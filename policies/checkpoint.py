"""Checkpoints of policies: the only loader of all kinds, and the files of actors.

A checkpoint is a directory: ``config.json`` with the sha256 of each other file, and the networks.
An actor (:mod:`policies.actor.config`) has one, ``policy.onnx``; the other kinds are modules of
their own (:data:`KINDS`), which are imported when one of their checkpoints is opened. Checkpoints
hold no code and nothing that is unpickled. Loading checks everything that can be checked before a
robot moves, and needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

from policies.actor.config import ActorConfig, dump_config, parse_config, read_json
from policies.actor.onnx_actor import OnnxActor
from policies.checkpoint_files import (
    CONFIG_FILE,
    config_text,
    digests,
    read_config,
    read_networks,
    write_files,
)
from policies.interface import Policy, RobotSpec
from policies.robots import get_robot

KINDS = {
    "chunk_model": "policies.diffusion.checkpoint",
    "vla": "policies.vla.checkpoint",
    "lerobot_model": "policies.vla.lerobot.checkpoint",
    "remote_policy": "policies.serving.descriptor",
}
"""``type`` of a config.json -> module that is a :class:`Kind`; others are actors."""
MODEL_FILE = "policy.onnx"
_TOPICS = {"base_ang_vel_rad_s": "imu", "base_quat_wxyz": "imu", "goal": "goal"}


class Kind(Protocol):
    """What the module of a kind of policy offers."""

    def load_policy(self, path: Path, robot: RobotSpec) -> Policy:
        """As :func:`load_policy`."""

    def describe(self, path: Path) -> dict[str, Any]:
        """As :func:`inspect`."""


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


def _kind_of(path: Path) -> Kind | None:
    """The kind of a checkpoint; None for an actor, and for what is none."""
    name = read_config(Path(path))[0].get("type")
    module = KINDS.get(name) if isinstance(name, str) else None
    return None if module is None else cast(Kind, import_module(module))


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the checkpoint directory of an actor and compare the hashes.

    Raises:
        InputError: a file is missing, malformed or altered.
    """
    path = Path(path)
    data, raw = read_config(path)
    config = parse_config(data, str(path / CONFIG_FILE))
    content = read_networks(path, data, raw, (MODEL_FILE,))
    hashes, whole = digests(raw, content)
    return Checkpoint(config=config, model=content[MODEL_FILE], sha256=whole, files=hashes)


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
    kind = _kind_of(path)
    if kind is not None:
        return kind.load_policy(path, robot)
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
    content = {MODEL_FILE: model}
    text = config_text(dump_config(config), content)
    parsed = parse_config(read_json(text, CONFIG_FILE), CONFIG_FILE)
    OnnxActor(parsed, get_robot(config.robot), model, "")
    write_files(Path(path), text, content, overwrite=overwrite)


def inspect(path: Path) -> dict[str, Any]:
    """What a checkpoint is and needs, after all checks of :func:`load_policy`.

    Returns:
        JSON-ready dictionary: name, robot, rate, joints, topics, observation terms, sizes,
        duration, hashes, source.

    Raises:
        InputError: as :func:`load_policy`.
    """
    kind = _kind_of(path)
    if kind is not None:
        return kind.describe(path)
    checkpoint = read_checkpoint(path)
    config = checkpoint.config
    actor = OnnxActor(config, get_robot(config.robot), checkpoint.model, checkpoint.sha256)
    described = dump_config(config)
    topics = {"joint_states"} | {_TOPICS[need] for need in actor.spec.needs}
    return {
        "name": config.name,
        "kind": described["kind"],
        "type": "actor",
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
