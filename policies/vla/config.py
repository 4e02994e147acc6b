"""config.json of a policy that is told what to do: the dataclasses, and a strict reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from policies.actor.config import Reader
from policies.diffusion import config as chunk_config
from policies.diffusion.config import ModelConfig
from policies.errors import InputError
from policies.robots import ROBOTS
from policies.vla.text import MODEL

SCHEMA = 1
KIND = "vla"
COLOUR_ORDER = "rgb"
UNITS = {
    "qpos": "rad",
    "qvel": "rad/s",
    "effort": "Nm",
    "command": "rad",
    "command_velocity": "rad/s",
    "tracking_error": "rad",
    "goal": "m",
    "position": "rad",
    "velocity": "rad/s",
}
"""Unit of each quantity of a name such as ``qpos/panda_joint1``, of a joint that turns."""
_SLIDING_UNITS = {"rad": "m", "rad/s": "m/s", "Nm": "N"}
_UNKNOWN_UNIT = "as recorded"


@dataclass(frozen=True, kw_only=True)
class TrunkConfig:
    """Shape of what the robots share.

    Attributes:
        width: entries of a token, a multiple of 32.
        context_depth: layers over images, states and words.
        depth: layers over the actions of a chunk.
        text_size: entries of a word piece's vector.
        cameras: names of all cameras of all robots; each has an embedding.
        history: longest window of any robot, To.
    """

    width: int
    context_depth: int
    depth: int
    text_size: int
    cameras: tuple[str, ...]
    history: int


@dataclass(frozen=True, kw_only=True)
class VlaConfig:
    """All of config.json but the hashes of the files.

    Attributes:
        name: of the checkpoint.
        deployed: the embodiment whose networks are exported.
        trunk: shape of the trunk.
        embodiments: name -> names, sizes, rates, normalisation and robot of each.
        instructions: what the demonstrations were told; their vectors are in the checkpoint.
    """

    name: str
    deployed: str
    trunk: TrunkConfig
    embodiments: dict[str, ModelConfig]
    instructions: tuple[str, ...]

    @property
    def model(self) -> ModelConfig:
        """That of the deployed embodiment."""
        return self.embodiments[self.deployed]


def units_of(model: ModelConfig) -> dict[str, str]:
    """Unit of each name of a state or action; ``as recorded`` for names of other datasets."""
    robot = ROBOTS.get(model.robot.name) if model.robot else None
    sliding = {joint.name for joint in robot.joints if joint.sliding} if robot else set()
    units = {}
    for name in (*model.spec.state_names, *model.spec.action_names):
        quantity, _, joint = name.partition("/")
        unit = UNITS.get(quantity, _UNKNOWN_UNIT)
        units[name] = _SLIDING_UNITS.get(unit, unit) if joint in sliding else unit
    return units


def dump_config(config: VlaConfig) -> dict[str, Any]:
    """The content of config.json for ``config``; :func:`parse_config` reads it back."""
    return {
        "schema": SCHEMA,
        "type": KIND,
        "name": config.name,
        "deployed": config.deployed,
        "colour_order": COLOUR_ORDER,
        "units": units_of(config.model),
        "text_encoder": MODEL,
        "trunk": asdict(config.trunk),
        "embodiments": {
            name: chunk_config.dump_config(model) for name, model in config.embodiments.items()
        },
        "instructions": list(config.instructions),
    }


def parse_config(data: Mapping[str, Any], where: str) -> VlaConfig:
    """Read a :class:`VlaConfig` out of the content of config.json.

    Args:
        data: the parsed JSON object; its key ``files`` is left to the checkpoint.
        where: name of the file in error texts.

    Raises:
        InputError: a key is missing, unknown, of the wrong kind, or says what this version does
            not do.
    """
    reader = Reader(data, where)
    fixed = {"schema": SCHEMA, "type": KIND, "colour_order": COLOUR_ORDER, "text_encoder": MODEL}
    for key, wanted in fixed.items():
        if reader.value(key) != wanted:
            raise InputError(
                f"{where}: expected {wanted!r} in {key!r}, got {reader.value(key)!r}; train the "
                "policy again with this version"
            )
    reader.only(
        *fixed, "name", "deployed", "units", "trunk", "embodiments", "instructions", "files"
    )
    trunk = _parse_trunk(reader.value("trunk"), f"{where}, 'trunk'")
    entries = reader.value("embodiments")
    if not isinstance(entries, dict) or not entries:
        raise InputError(f"{where}: expected an object with at least one entry in 'embodiments'")
    embodiments = {
        name: chunk_config.parse_config(entry, f"{where}, embodiment {name!r}")
        for name, entry in entries.items()
    }
    for name, model in embodiments.items():
        check_embodiment(name, model, trunk, where)
    deployed = reader.text("deployed")
    if deployed not in embodiments:
        raise InputError(
            f"{where}: expected one of the embodiments {sorted(embodiments)} in 'deployed', got "
            f"{deployed!r}"
        )
    config = VlaConfig(
        name=reader.text("name"),
        deployed=deployed,
        trunk=trunk,
        embodiments=embodiments,
        instructions=reader.names("instructions"),
    )
    _check_units(reader.value("units"), config, where)
    return config


def check_embodiment(name: str, model: ModelConfig, trunk: TrunkConfig, where: str) -> None:
    """Check that an embodiment fits the trunk.

    Raises:
        InputError: its name cannot name a part of the network, or it is of another kind, has a
            camera that the trunk does not know, or too long a window.
    """
    if not name.isidentifier():
        raise InputError(f"{where}: expected a name such as 'panda' of an embodiment, got {name!r}")
    unknown = sorted({camera.name for camera in model.spec.cameras} - set(trunk.cameras))
    if unknown:
        raise InputError(
            f"{where}, embodiment {name!r}: expected cameras out of {list(trunk.cameras)}, got "
            f"{unknown}"
        )
    if model.kind != "flow" or model.spec.observation_horizon > trunk.history:
        raise InputError(
            f"{where}, embodiment {name!r}: expected kind 'flow' and windows of at most "
            f"{trunk.history} observations, got {model.kind!r} and {model.spec.observation_horizon}"
        )


def _parse_trunk(data: Any, where: str) -> TrunkConfig:
    reader = Reader(data, where)
    reader.only(*TrunkConfig.__dataclass_fields__)
    width = reader.integer("width", 32, 4096)
    if width % 32:
        raise InputError(f"{where}: expected a multiple of 32 in 'width', got {width}")
    return TrunkConfig(
        width=width,
        context_depth=reader.integer("context_depth", 1, 64),
        depth=reader.integer("depth", 1, 64),
        text_size=reader.integer("text_size", 1, 8192),
        cameras=reader.names("cameras"),
        history=reader.integer("history", 1, 100),
    )


def _check_units(data: Any, config: VlaConfig, where: str) -> None:
    reader = Reader(data, f"{where}, 'units'")
    expected = units_of(config.model)
    reader.only(*expected)
    for name, unit in expected.items():
        if reader.text(name) != unit:
            raise InputError(
                f"{where}, 'units': expected {unit!r} for {name!r}, got {reader.text(name)!r}; "
                "convert the demonstrations and train again"
            )
