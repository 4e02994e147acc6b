"""config.json of an actor checkpoint: the dataclasses, and a strict reader with clear errors."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from policies.errors import InputError
from policies.processors import HISTORY, JOINT_TERMS, TERMS, TermConfig

SCHEMA = 1
KIND = "onnx_actor"
ACTION_TYPES = ("position_offset_from_default", "command_velocity")
_MAX_DIGITS = 300
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_MAX_HISTORY = 1000
_MAX_HORIZON = 1000


@dataclass(frozen=True, kw_only=True)
class ActionConfig:
    """What the network's output means; it is read row-major as (steps, joints).

    ``position_offset_from_default``: command = default pose + scale x clip(output), for each of
    ``horizon`` steps.

    ``command_velocity``: velocity of the command = scale x clip(output), in rad/s, for each of
    the ``horizon - 1`` intervals between steps; step 0 is the command in force. Velocity and
    acceleration of the resulting stream are limited to the stated fractions of the robot's
    limits, so the stream is continuous by construction; the plan starts at most ``max_lead_rad``
    away from the measured position, so that it cannot run away from an arm that is blocked.

    Attributes:
        type: one of :data:`ACTION_TYPES`.
        joints: commanded joints by name, in the order of the output.
        scale: rad (or rad/s) per unit of output.
        clip: bound on the magnitude of an output, before scaling.
        dt_s: time between the steps of a chunk, s.
        horizon: steps in a chunk.
        replan_every: steps of a plan that are carried out before the network is asked again.
        velocity_fraction, acceleration_fraction: limits of a ``command_velocity`` stream.
        max_lead_rad: see above, rad.
    """

    type: str
    joints: tuple[str, ...]
    scale: float = 1.0
    clip: float = 100.0
    dt_s: float = 0.02
    horizon: int = 1
    replan_every: int = 1
    velocity_fraction: float = 1.0
    acceleration_fraction: float = 1.0
    max_lead_rad: float = 0.5


@dataclass(frozen=True, kw_only=True)
class ActorConfig:
    """All of config.json but the hashes of the files.

    Attributes:
        name: checkpoint name.
        robot: robot name.
        robot_fingerprint: :attr:`policies.interface.RobotSpec.fingerprint`.
        rate_hz: how often the policy wants an observation, Hz.
        action: meaning of the output.
        hold_pose_rad: joint name -> position of the joints that the policy does not command.
        observation: terms of the input, in order.
        duration_s: motion length, s, or None for an endless policy.
        start_pose_rad: joint name -> position in which the policy expects to start, all joints.
        source: where it comes from, free text by key.
    """

    name: str
    robot: str
    robot_fingerprint: str
    rate_hz: float
    action: ActionConfig
    hold_pose_rad: dict[str, float]
    observation: tuple[TermConfig, ...]
    duration_s: float | None
    start_pose_rad: dict[str, float]
    source: dict[str, str] = field(default_factory=dict)


def read_json(text: str, what: str) -> dict[str, Any]:
    """Strict JSON object: no duplicate keys, no NaN or Infinity, no integer that no float holds.

    Raises:
        InputError: not such a text; ``what`` names it.
    """

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in items:
            if key in out:
                raise InputError(
                    f"{what}: expected each key once, got {key!r} twice; remove one of them"
                )
            out[key] = value
        return out

    def constant(value: str) -> float:
        raise InputError(f"{what}: expected finite numbers, got {value}; correct the file")

    def integer(digits: str) -> int:
        if len(digits) > _MAX_DIGITS:
            raise InputError(
                f"{what}: expected integers of at most {_MAX_DIGITS} digits, got one of "
                f"{len(digits)}; correct the file"
            )
        return int(digits)

    try:
        data = json.loads(text, object_pairs_hook=pairs, parse_constant=constant, parse_int=integer)
        if _SURROGATE.search(text):
            json.dumps(data, ensure_ascii=False).encode()
    except (json.JSONDecodeError, RecursionError) as error:
        reason = error if isinstance(error, json.JSONDecodeError) else "nested too deeply"
        raise InputError(f"{what}: expected JSON, got something else ({reason})") from error
    except UnicodeEncodeError:  # half of a pair of surrogates, which nothing can print
        raise InputError(f"{what}: expected text of whole characters, got half of one") from None
    if not isinstance(data, dict):
        raise InputError(f"{what}: expected a JSON object, got {type(data).__name__}")
    return data


class Reader:
    """Takes typed values out of a JSON object and says what is wrong with them.

    Args:
        data: the object.
        where: its name in error texts.

    Raises:
        InputError: by every method, when the value is absent or of another kind.
    """

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise InputError(f"{where}: expected an object, got {_show(data)}")
        self._data = cast("dict[str, Any]", data)
        self._where = where

    def only(self, *known: str) -> None:
        """Refuse keys other than ``known``: a misspelt one must not be ignored."""
        unknown = sorted(set(self._data) - set(known))
        if unknown:
            raise InputError(f"{self._where}: expected keys out of {list(known)}, got {unknown}")

    def has(self, key: str) -> bool:
        """True if ``key`` is there and not null."""
        return self._data.get(key) is not None

    def value(self, key: str) -> Any:
        """Any value."""
        if key not in self._data:
            raise InputError(f"{self._where}: expected the key {key!r}, but it is missing")
        return self._data[key]

    def text(self, key: str) -> str:
        """A string that is not empty."""
        value = self.value(key)
        if not isinstance(value, str) or not value:
            raise InputError(f"{self._where}: expected text in {key!r}, got {_show(value)}")
        return value

    def number(
        self, key: str, *, low: float = -math.inf, high: float = math.inf, above: float = -math.inf
    ) -> float:
        """A finite number in [low, high] and greater than ``above``."""
        return _number(self.value(key), f"{self._where}, {key!r}", low, high, above)

    def integer(self, key: str, low: int, high: int) -> int:
        """An integer in [low, high]."""
        value = self.value(key)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise InputError(
                f"{self._where}: expected an integer from {low} to {high} in {key!r}, "
                f"got {_show(value)}"
            )
        return value

    def names(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        value = self.value(key)
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise InputError(f"{self._where}: expected a list of names in {key!r}")
        return tuple(value)

    def numbers(self, key: str) -> list[float]:
        """A list of finite numbers."""
        value = self.value(key)
        if not isinstance(value, list):
            raise InputError(f"{self._where}: expected a list of numbers in {key!r}")
        return [_number(v, f"{self._where}, {key!r}") for v in value]

    def by_name(self, key: str) -> dict[str, float]:
        """An object from names to finite numbers."""
        value = self.value(key)
        if not isinstance(value, dict):
            raise InputError(f"{self._where}: expected an object of numbers in {key!r}")
        return {k: _number(v, f"{self._where}, {key!r}, {k!r}") for k, v in value.items()}


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _number(
    value: Any,
    where: str,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
) -> float:
    number = not isinstance(value, bool) and isinstance(value, (int, float))
    if not number or not math.isfinite(value) or not low <= value <= high or value <= above:
        bound = f" above {above:g}" if math.isfinite(above) else ""
        bound += f" from {low:g}" if math.isfinite(low) else ""
        bound += f" up to {high:g}" if math.isfinite(high) else ""
        raise InputError(f"{where}: expected a finite number{bound}, got {_show(value)}")
    return float(value)


def _parse_term(data: Any, where: str, *, nested: bool = False) -> TermConfig:
    reader = Reader(data, where)
    reader.only("term", "scale", "joints", "history", "terms")
    term = reader.text("term")
    if term not in TERMS and (nested or term != HISTORY):
        known = sorted(TERMS if nested else (*TERMS, HISTORY))
        raise InputError(f"{where}: expected a term out of {known}, got {term!r}")
    if nested and reader.has("history"):
        raise InputError(f"{where}: expected no 'history' inside a group, got one; remove it")
    if reader.has("joints") and term not in JOINT_TERMS:
        raise InputError(f"{where}: expected no 'joints' for the term {term!r}; remove them")
    if reader.has("terms") != (term == HISTORY):
        raise InputError(f"{where}: expected 'terms' in a {HISTORY!r} group and nowhere else")
    members: tuple[TermConfig, ...] = ()
    if term == HISTORY:
        entries = reader.value("terms")
        if not isinstance(entries, list) or not entries:
            raise InputError(f"{where}: expected a list of terms in 'terms'")
        members = tuple(
            _parse_term(entry, f"{where}, terms[{i}]", nested=True)
            for i, entry in enumerate(entries)
        )
    return TermConfig(
        term=term,
        scale=reader.number("scale") if reader.has("scale") else 1.0,
        joints=reader.names("joints") if reader.has("joints") else None,
        history=reader.integer("history", 1, _MAX_HISTORY) if reader.has("history") else 1,
        terms=members,
    )


def _parse_action(data: Any, where: str) -> ActionConfig:
    reader = Reader(data, where)
    reader.only(*ActionConfig.__dataclass_fields__)
    kind = reader.text("type")
    if kind not in ACTION_TYPES:
        raise InputError(f"{where}: expected a type out of {list(ACTION_TYPES)}, got {kind!r}")
    horizon = reader.integer("horizon", 2 if kind == "command_velocity" else 1, _MAX_HORIZON)
    return ActionConfig(
        type=kind,
        joints=reader.names("joints"),
        scale=reader.number("scale"),
        clip=reader.number("clip", above=0.0),
        dt_s=reader.number("dt_s", above=0.0),
        horizon=horizon,
        replan_every=reader.integer("replan_every", 1, horizon),
        velocity_fraction=reader.number("velocity_fraction", above=0.0, high=1.0),
        acceleration_fraction=reader.number("acceleration_fraction", above=0.0, high=1.0),
        max_lead_rad=reader.number("max_lead_rad", above=0.0),
    )


def parse_config(data: Mapping[str, Any], where: str) -> ActorConfig:
    """Read an :class:`ActorConfig` out of the content of config.json.

    Args:
        data: the parsed JSON object; its key ``files`` is left to the checkpoint.
        where: name of the file in error texts.

    Raises:
        InputError: a key is missing, unknown, or of the wrong kind.
    """
    reader = Reader(data, where)
    if reader.value("schema") != SCHEMA:
        raise InputError(
            f"{where}: expected checkpoint schema {SCHEMA}, got {_show(reader.value('schema'))}; "
            "export the policy again with this version"
        )
    if reader.text("kind") != KIND:
        raise InputError(
            f"{where}: expected kind {KIND!r} (a policy that performs a motion, made by `realign "
            f"policy import asap`), got {reader.text('kind')!r}; give another checkpoint"
        )
    reader.only("schema", "kind", "files", *ActorConfig.__dataclass_fields__)
    observation = reader.value("observation")
    if not isinstance(observation, list) or not observation:
        raise InputError(f"{where}: expected a list of terms in 'observation'")
    source = Reader(reader.value("source"), f"{where}, 'source'")
    return ActorConfig(
        name=reader.text("name"),
        robot=reader.text("robot"),
        robot_fingerprint=reader.text("robot_fingerprint"),
        rate_hz=reader.number("rate_hz", above=0.0),
        action=_parse_action(reader.value("action"), f"{where}, 'action'"),
        hold_pose_rad=reader.by_name("hold_pose_rad"),
        observation=tuple(
            _parse_term(entry, f"{where}, observation[{i}]") for i, entry in enumerate(observation)
        ),
        duration_s=reader.number("duration_s", above=0.0) if reader.has("duration_s") else None,
        start_pose_rad=reader.by_name("start_pose_rad"),
        source={key: source.text(key) for key in reader.value("source")},
    )


def _dump_term(config: TermConfig) -> dict[str, Any]:
    out: dict[str, Any] = {"term": config.term}
    if config.term == HISTORY:
        return out | {
            "history": config.history,
            "terms": [_dump_term(member) for member in config.terms],
        }
    out["scale"] = config.scale
    if config.joints is not None:
        out["joints"] = list(config.joints)
    return out | ({"history": config.history} if config.history != 1 else {})


def dump_config(config: ActorConfig) -> dict[str, Any]:
    """The content of config.json for ``config``; :func:`parse_config` reads it back."""
    out: dict[str, Any] = {"schema": SCHEMA, "kind": KIND} | asdict(config)
    out["action"]["joints"] = list(config.action.joints)
    out["observation"] = [_dump_term(term) for term in config.observation]
    return out
