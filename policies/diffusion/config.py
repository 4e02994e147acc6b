"""config.json of a generative policy: the dataclasses, and a strict reader with clear errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from policies.actor.config import Reader
from policies.diffusion.interface import CameraSpec, ChunkSpec
from policies.diffusion.normaliser import Normaliser
from policies.diffusion.process import PREDICTIONS, Prediction
from policies.errors import InputError

SCHEMA = 1
KIND = "chunk_model"

SAMPLERS: dict[str, tuple[str, ...]] = {
    "ddpm": ("ddim", "ddpm", "dpm_solver"),
    "edm": ("dpm_solver", "euler", "heun"),
    "flow": ("flow", "adaptive"),
    "streaming": ("streaming",),
    "vqbet": ("autoregressive",),
    "mlp": ("regression",),
}
"""Kind of model -> the samplers that can run it, the default first."""

NETWORKS = ("resmlp", "unet", "transformer")
PRIMERS = ("denoise", "zero", "constant")
CODE_GROUPS, CODES = 2, 32
"""Codebooks of a ``vqbet`` model, and codes in each."""

_STEPS = {
    "ddpm": 100,
    "streaming": 4,
    "autoregressive": CODE_GROUPS + 1,
    "regression": 1,
}
_DEFAULT_STEPS = 10
_MAX_NAMES, _MAX_STEPS = 10_000, 10_000


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Shape of the network.

    Attributes:
        type: one of :data:`NETWORKS`.
        width: units of a layer; channels of the first level of a ``unet``.
        depth: residual blocks, or levels of a ``unet`` (each twice as wide, half as long).
        image_features: numbers that the image encoder makes of each image.
    """

    type: str = "resmlp"
    width: int = 256
    depth: int = 3
    image_features: int = 64


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """How a model is run.

    Attributes:
        name: one of :data:`SAMPLERS`.
        steps: evaluations for a chunk; for ``streaming`` those that an action sees on its way from
            noise to clean; for ``adaptive`` the largest number.
        tolerance: error that an ``adaptive`` step may make, in units of normalised actions.
        primer: start of a ``streaming`` plan: denoised from scratch, or steps of normalised
            ``zero``, or the ``constant`` mean first action of the demonstrations.
    """

    name: str
    steps: int
    tolerance: float = 0.15
    primer: str = "denoise"


@dataclass(frozen=True, kw_only=True)
class RobotBinding:
    """The robot that a model was made for.

    Attributes:
        name: robot name.
        fingerprint: :attr:`policies.interface.RobotSpec.fingerprint`.
        start_pose_rad: joint name -> position in which the model expects to start.
    """

    name: str
    fingerprint: str
    start_pose_rad: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """All of config.json but the hashes of the files.

    Attributes:
        spec: sizes, names, rates.
        kind: a key of :data:`SAMPLERS`.
        network: shape of the network.
        sampler: how it is run unless asked otherwise.
        diffusion_steps: noise levels of a ``ddpm`` model.
        prediction: what the network answers, see
            :data:`policies.diffusion.process.PREDICTIONS`; None for other kinds.
        state, action: normalisation.
        first_action: mean first action of the demonstrations, raw units, (A,).
        robot: robot that it was made for, or None.
        provenance: where it comes from, free text by key.
    """

    spec: ChunkSpec
    kind: str
    network: NetworkConfig
    sampler: SamplerConfig
    diffusion_steps: int
    state: Normaliser
    action: Normaliser
    first_action: tuple[float, ...]
    prediction: Prediction | None = None
    robot: RobotBinding | None = None
    provenance: dict[str, str] = field(default_factory=dict)


def make_sampler(
    kind: str,
    *,
    name: str | None = None,
    steps: int | None = None,
    tolerance: float | None = None,
    primer: str | None = None,
    base: SamplerConfig | None = None,
) -> SamplerConfig:
    """Sampler of a kind of model; what is not given comes from ``base`` or is the usual.

    Raises:
        InputError: no such sampler for this kind, or a number out of range.
    """
    known = SAMPLERS[kind]
    if name is None:
        name = base.name if base else known[0]
    if name not in known:
        raise InputError(
            f"sampler: expected one out of {list(known)} for a model of kind {kind!r}, got {name!r}"
        )
    if base is None or base.name != name:
        base = SamplerConfig(name=name, steps=_STEPS.get(name, _DEFAULT_STEPS))
    data = {
        "name": name,
        "steps": base.steps if steps is None else steps,
        "tolerance": base.tolerance if tolerance is None else tolerance,
        "primer": base.primer if primer is None else primer,
    }
    return _parse_sampler(data, kind, "sampler")


def _parse_sampler(data: Any, kind: str, where: str) -> SamplerConfig:
    reader = Reader(data, where)
    reader.only(*SamplerConfig.__dataclass_fields__)
    return SamplerConfig(
        name=_choice(reader, "name", SAMPLERS[kind], where),
        steps=reader.integer("steps", 1, _MAX_STEPS),
        tolerance=reader.number("tolerance", above=0.0),
        primer=_choice(reader, "primer", PRIMERS, where),
    )


def _choice(reader: Reader, key: str, known: tuple[str, ...], where: str) -> str:
    value = reader.text(key)
    if value not in known:
        raise InputError(f"{where}: expected {key!r} out of {list(known)}, got {value!r}")
    return value


def _parse_camera(data: Any, where: str) -> CameraSpec:
    reader = Reader(data, where)
    reader.only("name", "height", "width")
    return CameraSpec(
        name=reader.text("name"),
        height=reader.integer("height", 8, 4096),
        width=reader.integer("width", 8, 4096),
    )


def parse_spec(data: Any, where: str) -> ChunkSpec:
    """Read a :class:`policies.diffusion.interface.ChunkSpec` out of JSON.

    Args:
        data: the parsed object.
        where: its name in error texts.

    Raises:
        InputError: a key is missing, unknown, or of the wrong kind.
    """
    reader = Reader(data, where)
    reader.only(*ChunkSpec.__dataclass_fields__)
    cameras = reader.value("cameras")
    if not isinstance(cameras, list):
        raise InputError(f"{where}: expected a list in 'cameras'")
    horizon = reader.integer("prediction_horizon", 1, 1000)
    names = {key: reader.names(key) for key in ("state_names", "action_names")}
    for key, value in names.items():
        if not value or len(set(value)) != len(value) or len(value) > _MAX_NAMES:
            raise InputError(f"{where}: expected each name once and at least one in {key!r}")
    return ChunkSpec(
        name=reader.text("name"),
        state_names=names["state_names"],
        action_names=names["action_names"],
        cameras=tuple(
            _parse_camera(camera, f"{where}, cameras[{i}]") for i, camera in enumerate(cameras)
        ),
        observation_horizon=reader.integer("observation_horizon", 1, 100),
        prediction_horizon=horizon,
        action_horizon=reader.integer("action_horizon", 1, horizon),
        rate_hz=reader.number("rate_hz", above=0.0),
    )


def _parse_network(data: Any, where: str) -> NetworkConfig:
    reader = Reader(data, where)
    reader.only(*NetworkConfig.__dataclass_fields__)
    return NetworkConfig(
        type=_choice(reader, "type", NETWORKS, where),
        width=reader.integer("width", 8, 8192),
        depth=reader.integer("depth", 1, 64),
        image_features=reader.integer("image_features", 1, 4096),
    )


def _parse_normaliser(data: Any, size: int, where: str) -> Normaliser:
    reader = Reader(data, where)
    reader.only(*Normaliser.__dataclass_fields__)
    arrays = {key: tuple(reader.numbers(key)) for key in Normaliser.__dataclass_fields__}
    for key, values in arrays.items():
        if len(values) != size:
            raise InputError(f"{where}: expected {size} numbers in {key!r}, got {len(values)}")
    if min(arrays["scale"]) <= 0.0:
        raise InputError(f"{where}: expected positive numbers in 'scale'")
    return Normaliser(**arrays)


def _parse_prediction(reader: Reader, kind: str, where: str) -> Prediction | None:
    if kind not in PREDICTIONS:
        return None
    return cast(Prediction, _choice(reader, "prediction", PREDICTIONS[kind], where))


def parse_robot(data: Any, where: str) -> RobotBinding:
    """Read a :class:`RobotBinding` out of JSON.

    Args:
        data: the parsed object.
        where: its name in error texts.

    Raises:
        InputError: a key is missing, unknown, or of the wrong kind.
    """
    reader = Reader(data, where)
    reader.only(*RobotBinding.__dataclass_fields__)
    return RobotBinding(
        name=reader.text("name"),
        fingerprint=reader.text("fingerprint"),
        start_pose_rad=reader.by_name("start_pose_rad"),
    )


def parse_config(data: Mapping[str, Any], where: str) -> ModelConfig:
    """Read a :class:`ModelConfig` out of the content of config.json.

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
            f"and {reader.text('type')!r}; train or export the policy again with this version"
        )
    reader.only("schema", "type", "files", *ModelConfig.__dataclass_fields__)
    kind = _choice(reader, "kind", tuple(SAMPLERS), where)
    spec = parse_spec(reader.value("spec"), f"{where}, 'spec'")
    if kind == "streaming" and spec.prediction_horizon % spec.action_horizon:
        raise InputError(
            f"{where}: expected a prediction horizon of a streaming model that is a multiple of "
            f"the action horizon, got {spec.prediction_horizon} and {spec.action_horizon}"
        )
    provenance = Reader(reader.value("provenance"), f"{where}, 'provenance'")
    actions = len(spec.action_names)
    first = tuple(reader.numbers("first_action"))
    if len(first) != actions:
        raise InputError(f"{where}: expected {actions} numbers in 'first_action', got {len(first)}")
    return ModelConfig(
        spec=spec,
        kind=kind,
        network=_parse_network(reader.value("network"), f"{where}, 'network'"),
        sampler=_parse_sampler(reader.value("sampler"), kind, f"{where}, 'sampler'"),
        diffusion_steps=reader.integer("diffusion_steps", 1, _MAX_STEPS),
        prediction=_parse_prediction(reader, kind, where),
        state=_parse_normaliser(reader.value("state"), len(spec.state_names), f"{where}, 'state'"),
        action=_parse_normaliser(reader.value("action"), actions, f"{where}, 'action'"),
        first_action=first,
        robot=parse_robot(reader.value("robot"), f"{where}, 'robot'")
        if reader.has("robot")
        else None,
        provenance={key: provenance.text(key) for key in reader.value("provenance")},
    )


def dump_config(config: ModelConfig) -> dict[str, Any]:
    """The content of config.json for ``config``; :func:`parse_config` reads it back."""
    return {"schema": SCHEMA, "type": KIND} | asdict(config)
