"""Checkpoints of policies, and the only loader.

A checkpoint is a directory: ``config.json`` with the sha256 of each other file, and the networks.
An actor (:mod:`policies.actor.config`) has one, ``policy.onnx``; a generative model
(:mod:`policies.diffusion.config`) has ``encoder.onnx`` and ``denoiser.onnx``, and the weights in
``model.safetensors`` for whom wants to train on; an imported LeRobot checkpoint
(:mod:`policies.vla.lerobot`) has LeRobot's own files. Checkpoints hold no code and nothing that is
unpickled. Loading checks everything that can be checked before a robot moves, and needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from policies.actor.config import ActorConfig, dump_config, parse_config, read_json
from policies.actor.onnx_actor import OnnxActor
from policies.checkpoint_files import CONFIG_FILE as CONFIG_FILE
from policies.checkpoint_files import (
    WEIGHTS_FILE,
    config_text,
    digests,
    parse_weights,
    read_config,
    read_networks,
    write_files,
)
from policies.checkpoint_files import check_writable as check_writable
from policies.diffusion import config as chunk_config
from policies.diffusion.backend import (
    CODES_FILE,
    DENOISER_FILE,
    ENCODER_FILE,
    Backend,
    OnnxBackend,
    TorchBackend,
    chunk_files,
)
from policies.diffusion.chunk_policy import ChunkPolicy, describe
from policies.diffusion.codes import ResidualCodes, load_codes
from policies.diffusion.config import ModelConfig, make_sampler
from policies.diffusion.model import GenerativeModel
from policies.errors import InputError
from policies.interface import Policy, RobotSpec
from policies.processors import Float32
from policies.robots import get_robot
from policies.serving import descriptor as remote
from policies.vla.checkpoint import describe as describe_vla
from policies.vla.checkpoint import is_vla, load_vla_policy
from policies.vla.lerobot.checkpoint import describe as describe_lerobot
from policies.vla.lerobot.checkpoint import is_lerobot, load_lerobot_policy

MODEL_FILE = "policy.onnx"
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


@dataclass(frozen=True, kw_only=True)
class ChunkCheckpoint:
    """A generative model as read from disk: well-formed and unaltered.

    Attributes:
        config: content of config.json.
        content: file name -> content of the other files.
        sha256: hash over all files, 64 hex digits.
        files: file name -> its sha256.
    """

    config: ModelConfig
    content: dict[str, bytes]
    sha256: str
    files: dict[str, str]

    @property
    def what(self) -> str:
        """How error texts name it."""
        return f"checkpoint {self.config.spec.name!r}"

    def codes(self) -> ResidualCodes | None:
        """Codebooks of a ``vqbet`` model, None of others.

        Raises:
            InputError: the file is damaged.
        """
        if CODES_FILE not in self.content:
            return None
        spec = self.config.spec
        shape = (spec.prediction_horizon, len(spec.action_names))
        return load_codes(self.content[CODES_FILE], shape, f"{self.what}, {CODES_FILE}")

    def weights(self) -> dict[str, Float32]:
        """Name -> array of the network's weights.

        Raises:
            InputError: the checkpoint was saved without them, or the file is damaged.
        """
        return parse_weights(self.content, self.what)


def is_chunk_model(data: Mapping[str, Any]) -> bool:
    """True if the content of a config.json is that of a generative model."""
    return data.get("type") == chunk_config.KIND


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the checkpoint directory of an actor and compare the hashes.

    Raises:
        InputError: a file is missing, malformed or altered.
    """
    path = Path(path)
    data, raw = read_config(path)
    config = parse_config(data, str(path / CONFIG_FILE))
    content = read_networks(path, data, (MODEL_FILE,))
    hashes, whole = digests(raw, content)
    return Checkpoint(config=config, model=content[MODEL_FILE], sha256=whole, files=hashes)


def read_chunk_checkpoint(path: Path) -> ChunkCheckpoint:
    """Read the checkpoint directory of a generative model and compare the hashes.

    Raises:
        InputError: a file is missing, malformed or altered.
    """
    path = Path(path)
    data, raw = read_config(path)
    config = chunk_config.parse_config(data, str(path / CONFIG_FILE))
    content = read_networks(path, data, chunk_files(config.kind), (WEIGHTS_FILE,))
    hashes, whole = digests(raw, content)
    return ChunkCheckpoint(config=config, content=content, sha256=whole, files=hashes)


def load_chunk_model(
    path: Path,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    tolerance: float | None = None,
    primer: str | None = None,
    backend: Literal["onnx", "torch"] = "onnx",
) -> GenerativeModel:
    """Load a generative model.

    Args:
        path: checkpoint directory.
        sampler: sampler to run it with; None as the checkpoint says. See
            :data:`policies.diffusion.config.SAMPLERS`.
        steps: evaluations for a chunk, see :class:`policies.diffusion.config.SamplerConfig`.
        tolerance: error that an ``adaptive`` step may make.
        primer: start of a ``streaming`` plan.
        backend: what evaluates the networks.

    Returns:
        The model, reset for one run.

    Raises:
        InputError: the checkpoint is not there, malformed or altered, its networks do not fit its
            description or are not finite, or the sampler is not one for it.
    """
    choice = {"name": sampler, "steps": steps, "tolerance": tolerance, "primer": primer}
    return _build_chunk_model(read_chunk_checkpoint(path), choice, backend)


def _build_chunk_model(
    checkpoint: ChunkCheckpoint, choice: Mapping[str, Any], backend: str = "onnx"
) -> GenerativeModel:
    config, what = checkpoint.config, checkpoint.what
    chosen = make_sampler(config.kind, base=config.sampler, **choice)
    content = checkpoint.content
    networks: Backend
    if backend == "torch":
        networks = TorchBackend(config, checkpoint.weights(), what)
    else:
        networks = OnnxBackend(config, content[ENCODER_FILE], content[DENOISER_FILE], what)
    return GenerativeModel(config, networks, chosen, checkpoint.codes())


def save_chunk_model(
    path: Path, config: ModelConfig, content: Mapping[str, bytes], *, overwrite: bool = False
) -> None:
    """Write the checkpoint directory of a generative model, whole or not at all.

    Args:
        path: directory to create.
        config: content of config.json.
        content: file name -> content of the networks.
        overwrite: replace an existing checkpoint.

    Raises:
        InputError: ``path`` exists (and ``overwrite`` is not set, or it is not a checkpoint), or
            config and networks do not fit together.
    """
    missing = sorted(set(chunk_files(config.kind)) - set(content))
    if missing:
        raise InputError(f"model {config.spec.name!r}: expected the files {missing} too, got none")
    text = config_text(chunk_config.dump_config(config), content)
    parsed = chunk_config.parse_config(read_json(text, CONFIG_FILE), CONFIG_FILE)
    OnnxBackend(parsed, content[ENCODER_FILE], content[DENOISER_FILE], f"model {config.spec.name}")
    write_files(Path(path), text, content, overwrite=overwrite)


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
    data = read_config(Path(path))[0]
    if data.get("type") == remote.KIND:
        return remote.load_remote(data, robot, str(path))
    if is_lerobot(data):
        return load_lerobot_policy(path, robot)
    if is_vla(data):
        return load_vla_policy(path, robot)
    if is_chunk_model(data):
        chunks = read_chunk_checkpoint(path)
        return ChunkPolicy(_build_chunk_model(chunks, {}), robot, chunks.sha256)
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
    data = read_config(Path(path))[0]
    if data.get("type") == remote.KIND:
        return remote.describe(data, str(path))
    if is_lerobot(data):
        return describe_lerobot(path)
    if is_vla(data):
        return describe_vla(path)
    if is_chunk_model(data):
        chunks = read_chunk_checkpoint(path)
        return describe(_build_chunk_model(chunks, {}), chunks.sha256, chunks.files)
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
