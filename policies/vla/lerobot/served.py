"""A LeRobot checkpoint folder as LeRobot writes it, served without being imported.

With a robot and a map file it is the policy that an import would make. Without them its numbers
are LeRobot's own: whoever asks must know what they are, and no robot is driven by them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from policies.checkpoint_files import CONFIG_FILE, read_config
from policies.diffusion.chunk_policy import ChunkPolicy
from policies.errors import InputError
from policies.interface import RobotSpec
from policies.serving.protocol import Served
from policies.vla.lerobot.checkpoint import bind_map, file_sha256, vlm_folder
from policies.vla.lerobot.config import LeRobotConfig, chunk_spec
from policies.vla.lerobot.folder import KINDS, Folder, read_folder, vlm_files
from policies.vla.lerobot.mapping import Entry
from policies.vla.lerobot.model import LeRobotModel, RunConfig

RATE_HZ = 30.0
"""What is told of the rate where no map tells it: that of LeRobot's recordings by default."""


def is_folder(path: Path) -> bool:
    """True if a directory is a checkpoint folder as LeRobot writes it."""
    return read_config(path)[0].get("type") in KINDS


def open_folder(
    path: Path,
    *,
    robot: RobotSpec | None = None,
    map_file: Path | None = None,
    vlm: Path | None = None,
    run: RunConfig | None = None,
) -> tuple[LeRobotModel, Served]:
    """The model of a folder, and what a server tells of it; its worker starts at the first reset.

    Args:
        path: the folder.
        robot: robot that it shall run on, or None.
        map_file: what its numbers are, see :mod:`policies.vla.lerobot.mapping`, or None.
        vlm: folder with settings and tokenizer of the vision-language model of a SmolVLA; None for
            ``vlm`` in ``path``.
        run: where and how it is evaluated.

    Raises:
        InputError: a file is missing or malformed, folder, map and robot do not fit together, or
            there is only one of map and robot.
    """
    folder = read_folder(path)
    files = {name: path / name for name in folder.files}
    if robot is not None and map_file is not None:
        config = bind_map(path.resolve().name, path, folder, robot, map_file)
        files["map"] = map_file
    elif robot is None and map_file is None:
        config = _as_it_is(path.resolve().name, folder)
    else:
        raise InputError(
            "--robot and --map: expected both, to serve a LeRobot folder for a robot, or none, to "
            f"serve LeRobot's own numbers, got {'--map' if robot is None else '--robot'} alone"
        )
    vlm = vlm_folder(folder.kind, path, vlm)
    if vlm is not None:
        files |= {f"vlm/{name}": vlm / name for name in vlm_files(vlm)}
    spec = chunk_spec(config, folder, str(map_file or path / CONFIG_FILE))
    model = LeRobotModel(config, spec, path, run, vlm=vlm)
    if robot is not None:
        ChunkPolicy(model, robot, "")  # its names and cameras are those of the robot
    digest = "".join(f"{name} {file_sha256(files[name])}\n" for name in sorted(files))
    sha256 = hashlib.sha256(digest.encode()).hexdigest()
    return model, Served(spec=spec, robot=model.robot, sha256=sha256)


def _as_it_is(name: str, folder: Folder) -> LeRobotConfig:
    """Entries that are called by feature and place, and mean what they meant in the dataset."""

    def entries(feature: str, size: int) -> tuple[Entry, ...]:
        names = [f"{feature}/{i}" for i in range(size)]
        return tuple(
            Entry(name=name, quantity=name, unit="", scale=1.0, offset=0.0) for name in names
        )

    return LeRobotConfig(
        name=name,
        robot=None,
        rate_hz=RATE_HZ,
        state=entries("observation.state", folder.state),
        environment_state=entries("observation.environment_state", folder.environment_state),
        action=entries("action", folder.action),
        cameras={feature: feature for feature in folder.cameras},
        instruction=None,
        provenance={"kind": folder.kind},
    )
