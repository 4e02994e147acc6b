"""Checkpoints that hold a LeRobot checkpoint: import, load, describe.

A directory with our ``config.json`` (robot, names, units, hashes) and LeRobot's own files below
``lerobot/``, unchanged; settings and tokenizer of a vision-language model are in ``lerobot/vlm/``.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from policies.actor.config import Reader, read_json
from policies.checkpoint_files import check_seal, check_writable, seal
from policies.diffusion.chunk_policy import ChunkPolicy
from policies.diffusion.interface import ChunkSpec
from policies.errors import InputError
from policies.interface import RobotSpec
from policies.robots import get_robot
from policies.runtime.failure import PolicyFailureError
from policies.vla.lerobot.config import (
    KIND,
    LeRobotConfig,
    chunk_spec,
    dump_config,
    make_config,
    parse_config,
)
from policies.vla.lerobot.folder import CONFIG_FILE, Folder, read_folder, read_text, vlm_files
from policies.vla.lerobot.mapping import check_dataset, read_map
from policies.vla.lerobot.model import LeRobotModel, RunConfig

FOLDER, VLM = "lerobot", "vlm"
_BLOCK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class LeRobotCheckpoint:
    """An imported checkpoint as read from disk: well-formed and unaltered.

    Attributes:
        config: content of config.json.
        spec: sizes, names, rates.
        folder: LeRobot's own files.
        sha256: hash over all files, 64 hex digits.
        files: file name -> its sha256.
    """

    config: LeRobotConfig
    spec: ChunkSpec
    folder: Path
    sha256: str
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import has made.

    Attributes:
        config: content of config.json.
        tried: what LeRobot said of itself and of the policy, empty without a trial.
    """

    config: LeRobotConfig
    tried: dict[str, Any]


def read_lerobot(path: Path) -> LeRobotCheckpoint:
    """Read an imported checkpoint and compare the hashes.

    Raises:
        InputError: a file is missing, malformed or altered, or does not fit the others.
    """
    path = Path(path)
    text = read_text(path / CONFIG_FILE)
    where = str(path / CONFIG_FILE)
    data = read_json(text, where)
    config = parse_config(data, where)
    folder = read_folder(path / FOLDER)
    needed = [f"{FOLDER}/{name}" for name in folder.files]
    if folder.kind == "smolvla":
        needed += [f"{FOLDER}/{VLM}/{name}" for name in vlm_files(path / FOLDER / VLM)]
    stated = Reader(data.get("files"), f"{where}, 'files'")
    stated.only(CONFIG_FILE, *needed)
    digests = {CONFIG_FILE: hashlib.sha256(text.encode()).hexdigest()}
    for name in needed:
        expected, digests[name] = stated.text(name), file_sha256(path / name)
        if digests[name] != expected:
            raise InputError(
                f"{path / name}: expected sha256 {expected[:12]}..., which {CONFIG_FILE} states, "
                f"got {digests[name][:12]}...; the file was altered or cut off, copy it again"
            )
    check_seal(path / CONFIG_FILE, data, text.encode())
    whole = "".join(f"{name} {digests[name]}\n" for name in sorted(digests))
    return LeRobotCheckpoint(
        config=config,
        spec=chunk_spec(config, folder, where),
        folder=path / FOLDER,
        sha256=hashlib.sha256(whole.encode()).hexdigest(),
        files=digests,
    )


def load_lerobot_model(path: Path, run: RunConfig | None = None) -> LeRobotModel:
    """An imported checkpoint as a model; its worker starts at the first reset.

    Args:
        path: checkpoint directory.
        run: where and how it is evaluated.

    Raises:
        InputError: as :func:`read_lerobot`.
    """
    checkpoint = read_lerobot(path)
    return LeRobotModel(checkpoint.config, checkpoint.spec, checkpoint.folder, run)


def load_policy(path: Path, robot: RobotSpec, run: RunConfig | None = None) -> ChunkPolicy:
    """An imported checkpoint as a policy of ``robot``.

    Args:
        path: checkpoint directory.
        robot: the robot that it shall run on.
        run: where and how it is evaluated.

    Raises:
        InputError: as :func:`read_lerobot`, or it is for another robot.
    """
    checkpoint = read_lerobot(path)
    model = LeRobotModel(checkpoint.config, checkpoint.spec, checkpoint.folder, run)
    return ChunkPolicy(model, robot, checkpoint.sha256)


def import_lerobot(
    source: Path,
    robot: RobotSpec,
    map_file: Path,
    out: Path,
    *,
    vlm: Path | None = None,
    dataset_info: Path | None = None,
    trial: RunConfig | None = None,
    overwrite: bool = False,
) -> Imported:
    """Make a checkpoint of ours from a LeRobot checkpoint folder.

    Args:
        source: the folder.
        robot: the robot that it shall run on.
        map_file: what its numbers are, see :mod:`policies.vla.lerobot.mapping`.
        out: checkpoint directory to create.
        vlm: folder with settings and tokenizer of the vision-language model of a SmolVLA.
        dataset_info: ``meta/info.json`` of its dataset, to compare the map with.
        trial: where LeRobot shall load it and answer once before it is kept, or None.
        overwrite: replace an existing checkpoint.

    Raises:
        InputError: the folder, the map and the robot do not fit together, LeRobot cannot load it,
            or ``out`` exists.
    """
    source, out = Path(source), Path(out)
    folder = read_folder(source)
    config = bind_map(out.name, source, folder, robot, map_file, dataset_info)
    spec = chunk_spec(config, folder, str(map_file))
    ChunkPolicy(LeRobotModel(config, spec, source), robot, "")
    files = {f"{FOLDER}/{name}": source / name for name in folder.files}
    vlm = vlm_folder(folder.kind, source, vlm)
    if vlm is not None:
        files |= {f"{FOLDER}/{VLM}/{name}": vlm / name for name in vlm_files(vlm)}
    check_writable(out, overwrite=overwrite)
    tried: dict[str, Any] = {}
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        fresh = Path(scratch) / "new"
        _write(fresh, config, files)
        if trial is not None:
            tried = _try(fresh, trial)
        if out.exists():
            out.rename(Path(scratch) / "old")  # removed with the temporary folder
        shutil.move(fresh, out)
    return Imported(config=config, tried=tried)


def _try(path: Path, run: RunConfig) -> dict[str, Any]:
    """Let LeRobot load a checkpoint and answer once; what it says of itself and of the policy."""
    model = load_lerobot_model(path, run)
    try:
        model.reset(0)
    except PolicyFailureError as error:
        raise InputError(str(error)) from None
    finally:
        model.close()
    return model.started


def describe(path: Path) -> dict[str, Any]:
    """What an imported checkpoint is and needs, JSON-ready.

    Raises:
        InputError: as :func:`load_policy`.
    """
    checkpoint = read_lerobot(path)
    config, spec = checkpoint.config, checkpoint.spec
    robot = config.robot
    assert robot is not None, "an imported checkpoint has one"
    model = LeRobotModel(config, spec, checkpoint.folder)
    policy = ChunkPolicy(model, get_robot(robot.name), checkpoint.sha256)
    described = dump_config(config)
    return {
        "name": config.name,
        "kind": read_folder(checkpoint.folder).kind,
        "type": KIND,
        "robot": robot.name,
        "robot_fingerprint": robot.fingerprint,
        "rate_hz": spec.rate_hz,
        "duration_s": None,
        "topics": [
            *(f"{camera.name}/image_raw" for camera in spec.cameras),
            *(["goal"] if "goal" in policy.spec.needs else []),
            "joint_states",
        ],
        "cameras": [
            {"name": c.name, "height": c.height, "width": c.width, "colours": "RGB"}
            for c in spec.cameras
        ],
        "state": described["state"] + described["environment_state"],
        "action": described["action"],
        "observation_horizon": spec.observation_horizon,
        "prediction_horizon": spec.prediction_horizon,
        "action_horizon": spec.action_horizon,
        "instruction": config.instruction,
        "start_pose_rad": robot.start_pose_rad,
        "source": config.provenance,
        "sha256": checkpoint.sha256,
        "files": checkpoint.files,
    }


def bind_map(
    name: str,
    source: Path,
    folder: Folder,
    robot: RobotSpec,
    map_file: Path,
    dataset_info: Path | None = None,
) -> LeRobotConfig:
    """What a folder is for a robot.

    Args:
        name: of the checkpoint.
        source: the folder.
        folder: the same as read.
        robot: the robot that it shall run on.
        map_file: what its numbers are, see :mod:`policies.vla.lerobot.mapping`.
        dataset_info: ``meta/info.json`` of its dataset, to compare the map with.

    Raises:
        InputError: the map is not readable, does not fit the dataset, or has no instruction for a
            policy that is told one.
    """
    value_map = read_map(map_file, robot)
    if folder.kind == "smolvla" and value_map.instruction is None:
        raise InputError(
            f"{map_file}: expected an 'instruction', which a policy of type smolvla is told, got "
            "none; add one"
        )
    if dataset_info is not None:
        check_dataset(value_map, dataset_info)
    provenance = {"importer": "lerobot", "kind": folder.kind, "folder": source.resolve().name}
    return make_config(name, robot.name, robot.fingerprint, value_map, provenance)


def vlm_folder(kind: str, source: Path, given: Path | None) -> Path | None:
    """Folder with settings and tokenizer of the vision-language model, None for kinds without one.

    Args:
        kind: type of the policy.
        source: LeRobot's folder, in which it may lie.
        given: by the user.

    Raises:
        InputError: there is none, or one for a kind that has no such model.
    """
    if kind != "smolvla":
        if given is not None:
            raise InputError(f"--vlm: expected none for a policy of type {kind}, got {given}")
        return None
    folder = given or source / VLM
    if not folder.is_dir():
        raise InputError(
            "--vlm: expected the folder with settings and tokenizer of the vision-language model "
            f"that vlm_model_name in {source / CONFIG_FILE} means, got none; give it"
        )
    return folder


def file_sha256(path: Path) -> str:
    """Hash of a file, 64 hex digits.

    Raises:
        InputError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, got {error.strerror}") from error
    return digest.hexdigest()


def _write(path: Path, config: LeRobotConfig, files: Mapping[str, Path]) -> None:
    """Copy the files into a new folder and write config.json."""
    for name, source in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, path / name)
    hashes = {name: file_sha256(path / name) for name in files}
    (path / CONFIG_FILE).write_text(seal(dump_config(config), hashes), encoding="utf-8")
