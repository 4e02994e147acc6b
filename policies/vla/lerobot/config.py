"""config.json of an imported LeRobot checkpoint: the dataclass, and a strict reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from policies.actor.config import Reader
from policies.diffusion.config import RobotBinding
from policies.diffusion.interface import CameraSpec, ChunkSpec
from policies.errors import InputError
from policies.vla.lerobot.folder import Folder
from policies.vla.lerobot.mapping import Entry, ValueMap, parse_entries

SCHEMA = 1
KIND = "lerobot_model"


@dataclass(frozen=True, kw_only=True)
class LeRobotConfig:
    """All of config.json but the hashes of the files; sizes are those of LeRobot's own files.

    Attributes:
        name: checkpoint name.
        robot: robot that it was imported for; None for a folder that is served as it is.
        rate_hz: rate of observations and actions, Hz.
        state, environment_state, action: what the numbers are, and their units.
        cameras: LeRobot's feature -> name of the camera in ``Observation.images``.
        instruction: what the robot is told to do, or None.
        provenance: where it comes from, free text by key.
    """

    name: str
    robot: RobotBinding | None
    rate_hz: float
    state: tuple[Entry, ...]
    environment_state: tuple[Entry, ...]
    action: tuple[Entry, ...]
    cameras: dict[str, str]
    instruction: str | None
    provenance: dict[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[Entry, ...]:
        """Entries of ``state`` and ``environment_state``."""
        return self.state + self.environment_state


def make_config(
    name: str, robot: str, fingerprint: str, value_map: ValueMap, provenance: dict[str, str]
) -> LeRobotConfig:
    """The configuration of a checkpoint that is imported with a map."""
    return LeRobotConfig(
        name=name,
        robot=RobotBinding(
            name=robot, fingerprint=fingerprint, start_pose_rad=value_map.start_pose_rad
        ),
        rate_hz=value_map.rate_hz,
        state=value_map.state,
        environment_state=value_map.environment_state,
        action=value_map.action,
        cameras=value_map.cameras,
        instruction=value_map.instruction,
        provenance=provenance,
    )


def parse_config(data: Mapping[str, Any], where: str) -> LeRobotConfig:
    """Read a :class:`LeRobotConfig` out of the content of config.json.

    Args:
        data: the parsed JSON object; its key ``files`` is left to the checkpoint.
        where: name of the file in error texts.

    Raises:
        InputError: a key is missing, unknown, or of the wrong kind.
    """
    reader = Reader(data, where)
    if reader.value("schema") != SCHEMA or reader.text("type") != KIND:
        raise InputError(
            f"{where}: expected schema {SCHEMA} and type {KIND!r}, got {reader.value('schema')!r} "
            f"and {reader.text('type')!r}; import the checkpoint again with this version"
        )
    reader.only("schema", "type", "files", *LeRobotConfig.__dataclass_fields__)
    cameras = Reader(reader.value("cameras"), f"{where}, 'cameras'")
    provenance = Reader(reader.value("provenance"), f"{where}, 'provenance'")
    robot = Reader(reader.value("robot"), f"{where}, 'robot'")
    robot.only(*RobotBinding.__dataclass_fields__)
    entries = {
        part: parse_entries(reader.value(part), f"{where}, {part!r}")
        for part in ("state", "environment_state", "action")
    }
    return LeRobotConfig(
        name=reader.text("name"),
        robot=RobotBinding(
            name=robot.text("name"),
            fingerprint=robot.text("fingerprint"),
            start_pose_rad=robot.by_name("start_pose_rad"),
        ),
        rate_hz=reader.number("rate_hz", above=0.0),
        **entries,
        cameras={key: cameras.text(key) for key in reader.value("cameras")},
        instruction=reader.text("instruction") if reader.has("instruction") else None,
        provenance={key: provenance.text(key) for key in reader.value("provenance")},
    )


def dump_config(config: LeRobotConfig) -> dict[str, Any]:
    """The content of config.json for ``config``; :func:`parse_config` reads it back."""
    return {"schema": SCHEMA, "type": KIND} | asdict(config)


def chunk_spec(config: LeRobotConfig, folder: Folder, where: str) -> ChunkSpec:
    """Sizes, names and rates of a model, after a comparison of map and folder.

    Args:
        config: names and units.
        folder: sizes.
        where: name of the map in error texts.

    Raises:
        InputError: sizes or cameras of the two differ; the feature is named.
    """
    sizes = {
        "state": ("observation.state", folder.state),
        "environment_state": ("observation.environment_state", folder.environment_state),
        "action": ("action", folder.action),
    }
    for part, (feature, size) in sizes.items():
        count = len(getattr(config, part))
        if count != size:
            raise InputError(
                f"{where}: expected {size} entries in {part!r}, the size of the feature "
                f"{feature!r} of the checkpoint, got {count}; describe each of them"
            )
    if set(config.cameras) != set(folder.cameras):
        raise InputError(
            f"{where}: expected a camera for each of the features {sorted(folder.cameras)} in "
            f"'cameras', got {sorted(config.cameras)}"
        )
    return ChunkSpec(
        name=config.name,
        state_names=tuple(entry.quantity for entry in config.inputs),
        action_names=tuple(entry.quantity for entry in config.action),
        cameras=tuple(
            CameraSpec(name=config.cameras[feature], height=height, width=width)
            for feature, (height, width) in folder.cameras.items()
        ),
        observation_horizon=folder.observation_horizon,
        prediction_horizon=folder.prediction_horizon,
        action_horizon=folder.action_horizon,
        rate_hz=config.rate_hz,
    )
