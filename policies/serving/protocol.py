"""What a policy server and its client say to each other.

The server speaks first: a map that describes the policy. Then the client asks, one map at a time:

- ``state`` (To, D), ``images`` of name -> (To, H, W, 3), ``prompt``, an instruction, and
  ``prefix`` of ``actions`` (Tp, A) and ``weights`` (Tp,), a plan to continue -> ``actions``
  (Tp, A), all in raw units;
- ``reset``, a seed -> ``reset``.

An answer repeats the ``request_id`` of its question. A text frame is an error, in one sentence.
That is openpi's public protocol with more keys: its client can ask, its servers can be asked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from policies.actor.config import Reader
from policies.diffusion.config import RobotBinding, parse_robot, parse_spec
from policies.diffusion.interface import ChunkSpec, Prefix, Window
from policies.errors import InputError
from policies.interface import Float

PROTOCOL = 1
UNITS = {
    "position": "rad",
    "velocity": "rad/s",
    "qpos": "rad",
    "qvel": "rad/s",
    "effort": "Nm",
    "command": "rad",
    "command_velocity": "rad/s",
    "tracking_error": "rad",
    "goal": "m",
}
"""Unit of each quantity that a state or an action of a robot can have."""
_SPARE_BYTES = 64 * 1024
MAX_PROMPT = 2000
"""Characters of an instruction."""
_ASK_KEYS = {"state", "images", "executed", "prefix", "prompt", "request_id"}


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a server tells of its policy.

    Attributes:
        spec: names, sizes and rates.
        robot: robot that it was made for, or None.
        sha256: hash over the checkpoint's files.
        instructed: it must be told in words what to do.
    """

    spec: ChunkSpec
    robot: RobotBinding | None
    sha256: str
    instructed: bool = False

    @property
    def question_bytes(self) -> int:
        """Bytes that a question can have at most."""
        spec = self.spec
        pixels = sum(3 * camera.height * camera.width for camera in spec.cameras)
        numbers = spec.observation_horizon * len(spec.state_names)
        plan = spec.prediction_horizon * (len(spec.action_names) + 1)
        return spec.observation_horizon * pixels + 8 * (numbers + plan) + _SPARE_BYTES


def units(names: tuple[str, ...]) -> list[str]:
    """Units of states or actions by their names; empty for a quantity of no robot."""
    return [UNITS.get(name.partition("/")[0], "") for name in names]


def dump_served(served: Served) -> dict[str, Any]:
    """The server's first message."""
    spec = served.spec
    return {
        "protocol": PROTOCOL,
        "spec": _lists(asdict(spec)),
        "state_units": units(spec.state_names),
        "action_units": units(spec.action_names),
        "camera_colours": ["rgb"] * len(spec.cameras),
        "robot": None if served.robot is None else asdict(served.robot),
        "sha256": served.sha256,
        "instructed": served.instructed,
    }


def parse_served(data: Mapping[str, Any], where: str) -> Served:
    """Read the server's first message.

    Args:
        data: as it came.
        where: name of the server in error texts.

    Raises:
        InputError: it is no server of this protocol, or it means other units.
    """
    reader = Reader(dict(data) if isinstance(data, Mapping) else data, where)
    if not reader.has("protocol"):
        told = str(sorted(map(str, data))[:8])[:200]
        raise InputError(
            f"{where}: expected a server of `realign serve`, got one that tells {told} "
            "of itself; describe its policy as docs/tutorials/serve_a_policy.md says"
        )
    if reader.value("protocol") != PROTOCOL:
        raise InputError(
            f"{where}: expected protocol {PROTOCOL}, got {reader.value('protocol')!r}; use the "
            "same version of realign on both sides"
        )
    spec = parse_spec(reader.value("spec"), f"{where}, 'spec'")
    for key, names in (("state_units", spec.state_names), ("action_units", spec.action_names)):
        found = reader.names(key)
        if len(found) != len(names):
            raise InputError(
                f"{where}: expected {len(names)} entries in {key!r}, got {len(found)}; name the "
                "unit of each"
            )
        for name, ours, theirs in zip(names, units(names), found, strict=True):
            if ours != theirs:
                raise InputError(
                    f"{where}: expected {name!r} in {ours!r}, got {theirs!r}; convert it there"
                )
    if list(reader.names("camera_colours")) != ["rgb"] * len(spec.cameras):
        raise InputError(f"{where}: expected cameras in rgb, got {reader.value('camera_colours')}")
    instructed = reader.value("instructed") if reader.has("instructed") else False
    if not isinstance(instructed, bool):
        raise InputError(f"{where}: expected true or false in 'instructed', got {instructed!r:.40}")
    return Served(
        spec=spec,
        robot=parse_robot(reader.value("robot"), f"{where}, 'robot'")
        if reader.has("robot")
        else None,
        sha256=reader.text("sha256"),
        instructed=instructed,
    )


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _lists(x) for key, x in value.items()}
    return [_lists(x) for x in value] if isinstance(value, tuple | list) else value


# ---- questions -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question to a model."""

    window: Window
    executed: int
    prefix: Prefix | None


def dump_question(
    window: Window, executed: int, prefix: Prefix | None, request_id: int
) -> dict[str, Any]:
    """A question for one run, B = 1."""
    message: dict[str, Any] = {
        "request_id": request_id,
        "state": window.state[0],
        "images": {name: past[0] for name, past in window.images.items()},
        "executed": executed,
    }
    if window.instructions:
        message["prompt"] = window.instructions[0]
    if prefix is not None:
        message["prefix"] = {"actions": prefix.actions[0], "weights": prefix.weights}
    return message


def parse_question(message: Mapping[str, Any], spec: ChunkSpec) -> Question:
    """Read a question.

    Args:
        message: as it came.
        spec: of the model that is asked. Where one observation is enough for it, the axis of the
            last To may be left out.

    Raises:
        InputError: a part is missing, unknown, or of the wrong shape or kind.
    """
    unknown = sorted(set(message) - _ASK_KEYS)
    if unknown:
        names = [key[:40] for key in unknown[:5]]
        raise InputError(f"request: expected keys out of {sorted(_ASK_KEYS)}, got {names}")
    past = spec.observation_horizon
    state = _numbers(message.get("state"), (past, len(spec.state_names)), "state")
    given = message.get("images") or {}
    wanted = {camera.name: camera for camera in spec.cameras}
    if not isinstance(given, dict) or set(given) != set(wanted):
        found = sorted(map(str, given)) if isinstance(given, dict) else type(given).__name__
        raise InputError(f"request: expected images of the cameras {sorted(wanted)}, got {found}")
    images = {}
    for name, camera in wanted.items():
        shape = (past, camera.height, camera.width, 3)
        image = _shaped(given[name], shape, f"image {name!r}")
        if image.dtype != np.uint8:
            raise InputError(f"request: expected uint8 in image {name!r}, got {image.dtype}")
        images[name] = image[None]
    executed = message.get("executed", 0)
    if type(executed) is not int or not 0 <= executed < 1_000_000:
        raise InputError(f"request: expected a number of steps in 'executed', got {executed!r:.40}")
    prompt = message.get("prompt")
    if prompt is not None and (not isinstance(prompt, str) or len(prompt) > MAX_PROMPT):
        raise InputError(f"request: expected text of up to {MAX_PROMPT} characters in 'prompt'")
    return Question(
        window=Window(
            state=state[None], images=images, instructions=() if prompt is None else (prompt,)
        ),
        executed=executed,
        prefix=_parse_prefix(message.get("prefix"), spec),
    )


def _parse_prefix(data: Any, spec: ChunkSpec) -> Prefix | None:
    if data is None:
        return None
    if not isinstance(data, dict) or set(data) != {"actions", "weights"}:
        raise InputError("request: expected 'actions' and 'weights' in 'prefix', got other keys")
    horizon = spec.prediction_horizon
    actions = _numbers(data["actions"], (horizon, len(spec.action_names)), "prefix actions")
    weights = _numbers(data["weights"], (horizon,), "prefix weights")
    if weights.min() < 0.0 or weights.max() > 1.0:
        raise InputError("request: expected weights within [0, 1] in 'prefix'")
    return Prefix(actions=actions[None], weights=weights)


def parse_actions(message: Mapping[str, Any], spec: ChunkSpec) -> Float:
    """Actions out of an answer, (1, Tp, A); longer chunks are cut.

    Raises:
        InputError: they are missing, too few, of another width, or not finite.
    """
    actions = message.get("actions")
    if isinstance(actions, np.ndarray) and actions.ndim == 2:
        actions = actions[: spec.prediction_horizon]
    shape = (spec.prediction_horizon, len(spec.action_names))
    return _numbers(actions, shape, "actions", what="answer")[None]


def _shaped(value: Any, shape: tuple[int, ...], name: str, what: str = "request") -> Any:
    if not isinstance(value, np.ndarray):
        raise InputError(f"{what}: expected an array in {name!r}, got a {type(value).__name__}")
    if shape[0] == 1 and value.shape == shape[1:]:
        value = value[None]
    if value.shape != shape:
        raise InputError(f"{what}: expected {name!r} of shape {shape}, got {value.shape}")
    return value


def _numbers(value: Any, shape: tuple[int, ...], name: str, what: str = "request") -> Float:
    numbers = np.asarray(_shaped(value, shape, name, what), dtype=np.float64)
    if not np.isfinite(numbers).all():
        raise InputError(f"{what}: expected finite numbers in {name!r}, got NaN or infinity")
    return numbers
