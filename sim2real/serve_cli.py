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
from typing import Literal

from policies.errors import FaultError, InputError
from policies.interface import Policy
from policies.runtime.failure import Failure, PolicyFailureError

REMOTE = ("ws://", "wss://")
CONNECT_S = 10.0


def serve_command(
    policy: Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    token_file: Path | None = None,
    backend: Literal["lerobot"] | None = None,
    python: str | None = None,
) -> None:
    """Answer for a policy over a websocket, in a process or on a machine of its own.

    One robot at a time: realign run --policy ws://HOST:PORT, or any client of openpi's protocol.
    Ends with Ctrl-C.

    Args:
        policy: checkpoint directory of a policy that plans chunks of actions.
        host: address to listen on; others than the loopback need a token.
        port: TCP port; 0 for any that is free.
        token_file: file with the token that a client must know, at least 16 characters.
        backend: what evaluates it; default as the checkpoint says. lerobot is for a checkpoint made
            by realign policy import lerobot.
        python: interpreter that has the backend's packages; default for lerobot is
            REALIGN_LEROBOT_PYTHON.
    """
    from policies.diffusion.chunk_policy import ChunkPolicy
    from policies.runtime.planning import Connected
    from policies.serving.protocol import Served
    from policies.serving.server import PolicyServer, ServeConfig, read_token

    config = ServeConfig(host=host, port=port, token=read_token(token_file))
    loaded = _load(policy, backend, python)
    if not isinstance(loaded, ChunkPolicy):
        raise InputError(
            f"{policy}: expected a policy that plans chunks of actions, got one that answers each "
            "observation; it belongs beside the robot: realign run --policy CHECKPOINT"
        )
    model = loaded.model
    served = Served(spec=model.spec, robot=model.robot, sha256=loaded.spec.sha256)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("websockets").setLevel(logging.WARNING)
    server = PolicyServer(model, served, config)
    print(f"{loaded.spec.name} for {loaded.spec.robot}: ws://{host}:{server.port}", flush=True)

    def stop(signum: int, frame: FrameType | None) -> None:
        threading.Thread(target=server.close).start()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    try:
        server.serve_forever()
    finally:
        if isinstance(model, Connected):
            model.close()


def _load(policy: Path, backend: str | None, python: str | None) -> Policy:
    """The policy, to be evaluated where the options say."""
    from policies.checkpoint import inspect, load_policy
    from policies.robots import get_robot
    from policies.vla.lerobot.checkpoint import load_policy as load_lerobot_policy
    from policies.vla.lerobot.config import KIND
    from policies.vla.lerobot.model import RunConfig

    robot = get_robot(robot_of(policy))
    kind = inspect(policy)["type"]
    if kind == KIND:
        return load_lerobot_policy(policy, robot, RunConfig(python=python))
    if backend is not None or python is not None:
        raise InputError(
            f"--backend and --python: expected a checkpoint made by realign policy import lerobot, "
            f"got {policy} of type {kind!r}, which runs in this interpreter; leave them out"
        )
    return load_policy(policy, robot)


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
        InputError: there is no server, or not one of realign.
    """
    if not policy.startswith(REMOTE):
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
        if error.kind is Failure.SERVER_LOST:
            raise InputError(f"--policy {error}") from error
        raise FaultError(f"--policy {error}") from error
    session.close()
    served = parse_served(session.greeting, policy)
    with tempfile.TemporaryDirectory(prefix="realign_remote_") as name:
        folder = Path(name)
        write_descriptor(folder, policy, served, token_file=token_file, reply_s=reply_s)
        yield folder
