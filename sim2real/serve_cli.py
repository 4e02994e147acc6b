"""What ``realign serve`` does, and how ``realign run`` finds a policy that is served."""

from __future__ import annotations

import contextlib
import logging
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

from policies.errors import FaultError, InputError
from policies.interface import Policy
from policies.runtime.failure import Failure, PolicyFailureError

if TYPE_CHECKING:
    from policies.diffusion.chunk_policy import RobotModel
    from policies.serving.protocol import Served

REMOTE = ("ws://", "wss://")
CONNECT_S = 10.0


def serve_command(
    policy: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    certificate: Path | None = None,
    key: Path | None = None,
    backend: Literal["lerobot"] | None = None,
    python: str | None = None,
    robot: str | None = None,
    map: Path | None = None,
    vlm: Path | None = None,
) -> None:
    """Answer for a policy over a websocket, in a process or on a machine of its own.

    One robot at a time: realign run --policy ws://HOST:PORT, or any client of openpi's protocol.
    Ends with Ctrl-C.

    Args:
        policy: checkpoint directory of a policy that plans chunks of actions, or a checkpoint
            folder as LeRobot writes it.
        host: address to listen on; others than the loopback need a token.
        port: TCP port; 0 for any that is free.
        token_file: file with the token that a client must know, at least 16 characters.
        certificate: PEM file with the certificate to encrypt with, then those that signed it;
            clients then say wss://HOST:PORT.
        key: PEM file with the private key of the certificate.
        backend: what evaluates it; default as the checkpoint says. lerobot is for a LeRobot folder,
            and for a checkpoint made of one by realign policy import lerobot.
        python: interpreter that has the backend's packages; default for lerobot is
            REALIGN_LEROBOT_PYTHON.
        robot: robot that a LeRobot folder shall run on, with --map. Without them it is served in
            LeRobot's own numbers, which a client must know and realign run does not take.
        map: JSON that says what the numbers of a LeRobot folder are, as for realign policy import
            lerobot.
        vlm: folder with settings and tokenizer of the vision-language model of a SmolVLA.
    """
    from policies.runtime.planning import Connected
    from policies.serving.server import PolicyServer, ServeConfig, read_token

    token = read_token(token_file)
    config = ServeConfig(host=host, port=port, token=token, certificate=certificate, key=key)
    model, served = _open(policy, backend, python, robot, map, vlm)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("websockets").setLevel(logging.CRITICAL)  # strangers do not fill the log
    server = PolicyServer(model, served, config)
    whose = served.robot.name if served.robot is not None else "no robot, in LeRobot's own numbers"
    scheme = "ws" if certificate is None else "wss"
    print(f"{served.spec.name} for {whose}: {scheme}://{host}:{server.port}", flush=True)

    def stop(signum: int, frame: FrameType | None) -> None:
        threading.Thread(target=server.close).start()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        server.serve_forever()
    finally:
        if isinstance(model, Connected):
            model.close()


def _open(
    policy: Path,
    backend: str | None,
    python: str | None,
    robot: str | None,
    map_file: Path | None,
    vlm: Path | None,
) -> tuple[RobotModel, Served]:
    """The model of a policy, to be evaluated where the options say, and what is told of it."""
    from policies.robots import get_robot
    from policies.vla.lerobot.model import RunConfig
    from policies.vla.lerobot.served import is_folder, open_folder

    if is_folder(policy):
        spec = None if robot is None else get_robot(robot)
        run = RunConfig(python=python)
        return open_folder(policy, robot=spec, map_file=map_file, vlm=vlm, run=run)
    if (robot, map_file, vlm) != (None, None, None):
        raise InputError(
            f"--robot, --map and --vlm: expected a checkpoint folder as LeRobot writes it, got "
            f"{policy}, which says all of it by itself; leave them out"
        )
    return _open_checkpoint(policy, backend, python)


def _open_checkpoint(
    policy: Path, backend: str | None, python: str | None
) -> tuple[RobotModel, Served]:
    from policies.checkpoint import inspect, load_policy
    from policies.diffusion.chunk_policy import ChunkPolicy
    from policies.robots import get_robot
    from policies.serving.protocol import Served
    from policies.vla.lerobot.checkpoint import load_policy as load_lerobot_policy
    from policies.vla.lerobot.config import KIND
    from policies.vla.lerobot.model import RunConfig

    spec, kind = get_robot(robot_of(policy)), inspect(policy)["type"]
    if kind == KIND:
        loaded: Policy = load_lerobot_policy(policy, spec, RunConfig(python=python))
    elif backend is not None or python is not None:
        raise InputError(
            f"--backend and --python: expected a LeRobot folder or a checkpoint made by realign "
            f"policy import lerobot, got {policy} of type {kind!r}, which runs in this "
            "interpreter; leave them out"
        )
    else:
        loaded = load_policy(policy, spec)
    if not isinstance(loaded, ChunkPolicy):
        raise InputError(
            f"{policy}: expected a policy that plans chunks of actions, got one that answers each "
            "observation; it belongs beside the robot: realign run --policy CHECKPOINT"
        )
    model = loaded.model
    served = Served(
        spec=model.spec,
        robot=model.robot,
        sha256=loaded.spec.sha256,
        instructed="instruction" in loaded.spec.needs,
    )
    return model, served


def robot_of(policy: Path) -> str:
    """Robot that a checkpoint was made for.

    Raises:
        InputError: it is none, or was made for no robot.
    """
    from policies.checkpoint import inspect

    robot = inspect(policy)["robot"]
    if not isinstance(robot, str):
        raise InputError(f"{policy}: expected a policy of a robot, got one of a task without one")
    return robot


@contextlib.contextmanager
def local_policy(policy: str, *, token_file: Path | None, reply_s: float) -> Iterator[Path]:
    """The checkpoint directory of a policy; for one that is served, a description of it.

    Args:
        policy: checkpoint directory, or ``ws://HOST:PORT``.
        token_file: file with the server's token.
        reply_s: time for an answer, s.

    Raises:
        InputError: there is no server, or not one of realign, or it refuses us.
    """
    if not policy.startswith(REMOTE):
        if token_file is not None:
            raise InputError(
                f"expected no --token-file for the checkpoint {policy}; it is for a policy at "
                "ws://HOST:PORT"
            )
        yield Path(policy)
        return
    from policies.serving.client import RemoteConfig, open_session
    from policies.serving.descriptor import write_descriptor
    from policies.serving.protocol import parse_served
    from policies.serving.server import read_token

    token = read_token(token_file)
    config = RemoteConfig(url=policy, token=token, connect_s=CONNECT_S, reply_s=reply_s)
    try:
        session = open_session(config)
    except PolicyFailureError as error:
        if error.kind in (Failure.SERVER_LOST, Failure.SERVER_REFUSED):
            raise InputError(f"--policy {error}") from error
        raise FaultError(f"--policy {error}") from error
    session.close()
    served = parse_served(session.greeting, policy)
    if served.robot is None:
        raise InputError(
            f"--policy {policy}: expected the policy of a robot, got {served.spec.name!r} for no "
            "robot; a LeRobot folder is served for one with --robot and --map"
        )
    with tempfile.TemporaryDirectory(prefix="realign_remote_") as name:
        folder = Path(name)
        write_descriptor(folder, policy, served, token_file=token_file, reply_s=reply_s)
        yield folder
