"""A checkpoint directory that says where its model is, instead of holding one.

Whoever loads policies (nodes, drivers, launch files) takes it like any other checkpoint: the names,
rates and the robot stand in it, and the server is asked whether they are still true when the policy
is activated.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.actor.config import Reader
from policies.checkpoint_files import CONFIG_FILE, read_config
from policies.diffusion.chunk_policy import ChunkPolicy
from policies.errors import InputError
from policies.interface import RobotSpec
from policies.robots import get_robot

if TYPE_CHECKING:
    from policies.serving.client import Dialect
    from policies.serving.protocol import Served

KIND = "remote_policy"
SCHEMA = 1


def write_descriptor(
    folder: Path, url: str, served: Served, *, token_file: Path | None, reply_s: float
) -> None:
    """Write the descriptor of a server's policy into a folder.

    Args:
        folder: an existing directory.
        url: ``ws://HOST:PORT``.
        served: what the server tells of its policy.
        token_file: file with the server's token; its content stays there.
        reply_s: time for an answer, s.
    """
    from policies.serving.protocol import dump_served

    data = {
        "schema": SCHEMA,
        "type": KIND,
        "url": url,
        "token_file": None if token_file is None else str(token_file.resolve()),
        "reply_s": reply_s,
        "served": dump_served(served),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def load_policy(path: Path, robot: RobotSpec) -> ChunkPolicy:
    """The policy that a descriptor speaks of; nothing is connected yet.

    Args:
        path: directory of the descriptor.
        robot: the robot that it shall run on.

    Raises:
        InputError: a key is missing, unknown or of the wrong kind, or the policy is not for this
            robot.
    """
    from policies.serving.client import RemoteConfig, RemoteModel
    from policies.serving.protocol import parse_served
    from policies.serving.server import read_token

    where = str(path)
    reader = Reader(read_config(Path(path))[0], where)
    reader.only("schema", "type", "url", "token_file", "reply_s", "served", "dialect")
    if reader.value("schema") != SCHEMA:
        raise InputError(f"{where}: expected schema {SCHEMA}, got {reader.value('schema')!r}")
    served = parse_served(reader.value("served"), f"{where}, 'served'")
    token = Path(reader.text("token_file")) if reader.has("token_file") else None
    config = RemoteConfig(
        url=reader.text("url"),
        token=read_token(token),
        reply_s=reader.number("reply_s", above=0.0, high=600.0),
    )
    dialect = None
    if reader.has("dialect"):
        dialect = _parse_dialect(reader.value("dialect"), served, f"{where}, 'dialect'")
    model = RemoteModel(served, config, dialect)
    return ChunkPolicy(model, robot, served.sha256, instructed=served.instructed)


def describe(path: Path) -> dict[str, Any]:
    """What a descriptor says, JSON-ready, after all checks of :func:`load_policy`.

    Raises:
        InputError: as :func:`load_policy`.
    """
    from policies.serving.protocol import dump_served, parse_served

    where, data = str(path), read_config(Path(path))[0]
    served = parse_served(Reader(data, where).value("served"), f"{where}, 'served'")
    if served.robot is None:
        raise InputError(f"{where}: expected a policy of a robot, got one of a task without one")
    policy = load_policy(path, get_robot(served.robot.name))
    return {
        "name": policy.spec.name,
        "type": KIND,
        "url": data["url"],
        "protocol": "realign" if data.get("dialect") is None else "openpi",
        "robot": policy.spec.robot,
        "robot_fingerprint": policy.spec.robot_fingerprint,
        "rate_hz": policy.spec.rate_hz,
        "duration_s": None,
        "topics": sorted(
            [
                *(f"{camera.name}/image_raw" for camera in served.spec.cameras),
                *({"goal", "instruction"} & set(policy.spec.needs)),
                "joint_states",
            ]
        ),
        "spec": dump_served(served)["spec"],
        "sha256": served.sha256,
    }


def _parse_dialect(data: Any, served: Served, where: str) -> Dialect:
    from policies.serving.client import Dialect

    reader = Reader(data, where)
    reader.only("state", "images", "actions", "prompt")
    spec, given = served.spec, reader.value("state")
    if not isinstance(given, dict) or not all(isinstance(row, list) for row in given.values()):
        raise InputError(f"{where}: expected lists of states by key in 'state'")
    state = {key: tuple(row) for key, row in given.items()}
    for entry in (entry for row in state.values() for entry in row):
        known = entry in spec.state_names if isinstance(entry, str) else type(entry) in (int, float)
        if not known:
            raise InputError(
                f"{where}: expected states out of {list(spec.state_names)} or numbers in 'state', "
                f"got {entry!r}"
            )
    columns = reader.value("actions")
    if not isinstance(columns, list) or sorted(filter(None, columns)) != sorted(spec.action_names):
        raise InputError(
            f"{where}: expected each of {list(spec.action_names)} once in 'actions', and null for "
            f"columns that are left out, got {columns}"
        )
    images = Reader(reader.value("images"), f"{where}, 'images'")
    cameras = [camera.name for camera in spec.cameras]
    images.only(*cameras)
    prompt = None
    if reader.has("prompt"):
        words = reader.names("prompt")
        if len(words) != 2:
            raise InputError(
                f"{where}: expected the key and the text in 'prompt', got {len(words)}"
            )
        prompt = words[0], words[1]
    return Dialect(
        state=state,
        images={name: images.text(name) for name in cameras},
        actions=tuple(columns),
        prompt=prompt,
    )
