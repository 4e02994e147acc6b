"""Checkpoints of generative models: read, save, load, describe.

Besides ``config.json``: ``encoder.onnx`` and ``denoiser.onnx``, ``codes.safetensors`` of a
``vqbet`` model, and the weights in ``model.safetensors`` for whom wants to train on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from policies.actor.config import read_json
from policies.checkpoint_files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    TrainedFiles,
    config_text,
    digests,
    read_config,
    read_networks,
    write_files,
)
from policies.diffusion.backend import (
    CODES_FILE,
    DENOISER_FILE,
    ENCODER_FILE,
    Backend,
    OnnxBackend,
    TorchBackend,
    chunk_files,
)
from policies.diffusion.chunk_policy import ChunkPolicy
from policies.diffusion.codes import ResidualCodes, load_codes
from policies.diffusion.config import (
    SAMPLERS,
    ModelConfig,
    dump_config,
    make_sampler,
    parse_config,
)
from policies.diffusion.model import GenerativeModel
from policies.errors import InputError
from policies.interface import RobotSpec
from policies.robots import get_robot


@dataclass(frozen=True, kw_only=True)
class ChunkCheckpoint(TrainedFiles):
    """A generative model as read from disk: well-formed and unaltered.

    Attributes:
        config: content of config.json.
    """

    config: ModelConfig

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


def read_chunk_checkpoint(path: Path) -> ChunkCheckpoint:
    """Read the checkpoint directory of a generative model and compare the hashes.

    Raises:
        InputError: a file is missing, malformed or altered.
    """
    path = Path(path)
    data, raw = read_config(path)
    config = parse_config(data, str(path / CONFIG_FILE))
    content = read_networks(path, data, raw, chunk_files(config.kind), (WEIGHTS_FILE,))
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
    text = config_text(dump_config(config), content)
    parsed = parse_config(read_json(text, CONFIG_FILE), CONFIG_FILE)
    OnnxBackend(parsed, content[ENCODER_FILE], content[DENOISER_FILE], f"model {config.spec.name}")
    write_files(Path(path), text, content, overwrite=overwrite)


def load_policy(path: Path, robot: RobotSpec) -> ChunkPolicy:
    """Load a model as a policy of ``robot``.

    Raises:
        InputError: as :func:`load_chunk_model`, or it is for another robot.
    """
    checkpoint = read_chunk_checkpoint(path)
    return ChunkPolicy(_build_chunk_model(checkpoint, {}), robot, checkpoint.sha256)


def describe(path: Path) -> dict[str, Any]:
    """What a checkpoint is and needs, JSON-ready, after all checks of :func:`load_policy`.

    Raises:
        InputError: as :func:`load_policy`.
    """
    checkpoint = read_chunk_checkpoint(path)
    config, model = checkpoint.config, _build_chunk_model(checkpoint, {})
    described = dump_config(config)
    topics = ["joint_states"]
    if config.robot is not None:
        policy = ChunkPolicy(model, get_robot(config.robot.name), checkpoint.sha256)
        topics += ["goal"] * ("goal" in policy.spec.needs)
    return {
        "name": config.spec.name,
        "kind": config.kind,
        "type": described["type"],
        "robot": config.robot.name if config.robot else None,
        "robot_fingerprint": config.robot.fingerprint if config.robot else None,
        "rate_hz": config.spec.rate_hz,
        "duration_s": None,
        "topics": sorted(topics) if config.robot else None,
        "spec": described["spec"],
        "network": described["network"],
        "sampler": described["sampler"],
        "samplers": list(SAMPLERS[config.kind]),
        "start_pose_rad": config.robot.start_pose_rad if config.robot else None,
        "source": config.provenance,
        "sha256": checkpoint.sha256,
        "files": dict(checkpoint.files),
    }
