"""Checkpoints of policies that read instructions: read, save, load, describe.

Besides ``config.json``: ``encoder.onnx`` and ``denoiser.onnx`` of one embodiment,
``instructions.safetensors`` with the vectors of the instructions it knows, and
``model.safetensors`` with the weights of all embodiments for whom wants to train on.
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
from policies.diffusion.backend import DENOISER_FILE, ENCODER_FILE
from policies.diffusion.chunk_policy import ChunkPolicy
from policies.diffusion.config import SAMPLERS, make_sampler
from policies.errors import InputError
from policies.interface import RobotSpec
from policies.robots import get_robot
from policies.vla.backend import VlaBackend, VlaOnnxBackend, VlaTorchBackend
from policies.vla.config import KIND, VlaConfig, dump_config, parse_config
from policies.vla.instructions import (
    INSTRUCTIONS_FILE,
    Encode,
    Instructions,
    load_instructions,
)
from policies.vla.model import VlaModel

FILES = (ENCODER_FILE, DENOISER_FILE, INSTRUCTIONS_FILE)


@dataclass(frozen=True, kw_only=True)
class VlaCheckpoint(TrainedFiles):
    """A checkpoint as read from disk: well-formed and unaltered.

    Attributes:
        config: content of config.json.
    """

    config: VlaConfig

    @property
    def what(self) -> str:
        """How error texts name it."""
        return f"checkpoint {self.config.name!r}"

    def instructions(self, encoder: Encode | None = None) -> Instructions:
        """The instructions that it knows.

        Args:
            encoder: encodes others; None for the installed one.

        Raises:
            InputError: the file is damaged.
        """
        config = self.config
        return load_instructions(
            self.content[INSTRUCTIONS_FILE],
            config.instructions,
            config.trunk.text_size,
            f"{self.what}, {INSTRUCTIONS_FILE}",
            encoder,
        )


def is_vla(data: Mapping[str, Any]) -> bool:
    """True if the content of a config.json is that of a policy that reads instructions."""
    return data.get("type") == KIND


def read_vla(path: Path) -> VlaCheckpoint:
    """Read a checkpoint directory and compare the hashes.

    Raises:
        InputError: a file is missing, malformed or altered.
    """
    path = Path(path)
    data, raw = read_config(path)
    config = parse_config(data, str(path / CONFIG_FILE))
    content = read_networks(path, data, raw, FILES, (WEIGHTS_FILE,))
    hashes, whole = digests(raw, content)
    return VlaCheckpoint(config=config, content=content, sha256=whole, files=hashes)


def build_vla(
    checkpoint: VlaCheckpoint,
    *,
    sampler: str | None = None,
    steps: int | None = None,
    tolerance: float | None = None,
    backend: Literal["onnx", "torch"] = "onnx",
    encoder: Encode | None = None,
) -> VlaModel:
    """The model of a checkpoint.

    Args:
        checkpoint: as read.
        sampler: ``flow`` or ``adaptive``; None as the checkpoint says.
        steps: evaluations for a chunk.
        tolerance: error that an ``adaptive`` step may make.
        backend: what evaluates the networks.
        encoder: of instructions that it does not know; None for the installed one.

    Raises:
        InputError: its networks do not fit its description or are not finite, or the sampler is
            not one for it.
    """
    config, what, content = checkpoint.config, checkpoint.what, checkpoint.content
    model = config.model
    chosen = make_sampler(
        model.kind, base=model.sampler, name=sampler, steps=steps, tolerance=tolerance
    )
    networks: VlaBackend
    if backend == "torch":
        networks = VlaTorchBackend(config, checkpoint.weights(), what)
    else:
        networks = VlaOnnxBackend(config, content[ENCODER_FILE], content[DENOISER_FILE], what)
    return VlaModel(config, networks, checkpoint.instructions(encoder), chosen)


def load_policy(path: Path, robot: RobotSpec) -> ChunkPolicy:
    """Load a policy for ``robot``.

    Raises:
        InputError: the checkpoint is not there, malformed, altered or for another robot.
    """
    checkpoint = read_vla(path)
    return ChunkPolicy(build_vla(checkpoint), robot, checkpoint.sha256, instructed=True)


def save_vla(
    path: Path, config: VlaConfig, content: Mapping[str, bytes], *, overwrite: bool = False
) -> None:
    """Write a checkpoint directory, whole or not at all; what is saved has been loaded once.

    Args:
        path: directory to create.
        config: content of config.json.
        content: file name -> content of the other files.
        overwrite: replace an existing checkpoint.

    Raises:
        InputError: ``path`` exists (and ``overwrite`` is not set, or it is not a checkpoint), or
            config and files do not fit together.
    """
    missing = sorted(set(FILES) - set(content))
    if missing:
        raise InputError(f"policy {config.name!r}: expected the files {missing} too, got none")
    text = config_text(dump_config(config), content)
    parsed = parse_config(read_json(text, CONFIG_FILE), CONFIG_FILE)
    build_vla(VlaCheckpoint(config=parsed, content=dict(content), sha256="", files={}))
    write_files(Path(path), text, content, overwrite=overwrite)


def describe(path: Path) -> dict[str, Any]:
    """What a checkpoint is and needs, JSON-ready, after all checks of :func:`load_policy`.

    Raises:
        InputError: as :func:`load_policy`.
    """
    checkpoint = read_vla(path)
    config, model = checkpoint.config, build_vla(checkpoint)
    data, robot = dump_config(config), config.model.robot
    chunk = data["embodiments"][config.deployed]
    topics = None
    if robot is not None:
        policy = ChunkPolicy(model, get_robot(robot.name), checkpoint.sha256, instructed=True)
        topics = sorted(["joint_states", *policy.spec.needs])
    return {
        "name": config.name,
        "kind": KIND,
        "type": data["type"],
        "robot": robot.name if robot else None,
        "robot_fingerprint": robot.fingerprint if robot else None,
        "rate_hz": model.spec.rate_hz,
        "duration_s": None,
        "topics": topics,
        "spec": chunk["spec"],
        "network": {"type": "vla", **data["trunk"]},
        "sampler": chunk["sampler"],
        "samplers": list(SAMPLERS[config.model.kind]),
        "start_pose_rad": robot.start_pose_rad if robot else None,
        "deployed": config.deployed,
        "embodiments": sorted(config.embodiments),
        "units": data["units"],
        "colour_order": data["colour_order"],
        "text_encoder": data["text_encoder"],
        "instructions": list(config.instructions),
        "source": config.model.provenance,
        "sha256": checkpoint.sha256,
        "files": dict(checkpoint.files),
    }
