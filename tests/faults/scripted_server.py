"""A server of the reach policy that does as it is told on its standard input, a word a line.

Prints its address. ``good`` answers with a robot that stands; the other words are in ``LIES``.
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
from websockets.sync.server import ServerConnection, serve

import policies
from policies.checkpoint import load_policy
from policies.robots import PANDA
from policies.serving.protocol import Served, dump_served
from policies.serving.wire import pack, unpack

CHECKPOINT = Path(policies.__file__).parent / "checkpoints" / "panda_reach"


def good(question: dict[str, Any]) -> dict[str, Any]:
    """A plan that stays where it is."""
    return {"actions": np.zeros((7, 7)), "request_id": question["request_id"]}


LIES = {
    "silence": lambda question: None,
    "nonsense": lambda question: b"\xc1\xff\x00",
    "nan": lambda question: pack(good(question) | {"actions": np.full((7, 7), np.nan)}),
    "oversized": lambda question: b"\x00" * (2 << 20),
    "other_id": lambda question: pack(good(question) | {"request_id": 10**6}),
}


def main() -> None:
    """Serve until killed."""
    policy = load_policy(CHECKPOINT, PANDA)
    served = Served(spec=policy.model.spec, robot=policy.model.robot, sha256=policy.spec.sha256)
    mode = ["good"]

    def handle(connection: ServerConnection) -> None:
        connection.send(pack(dump_served(served)))
        for data in connection:
            question = unpack(data)
            if "reset" in question:
                connection.send(pack(question))
            elif mode[0] == "good":
                connection.send(pack(good(question)))
            elif (lie := LIES[mode[0]](question)) is not None:
                connection.send(lie)

    server = serve(handle, "127.0.0.1", 0, compression=None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"ws://127.0.0.1:{server.socket.getsockname()[1]}", flush=True)
    for line in sys.stdin:
        mode[0] = line.strip()
        print(mode[0], flush=True)


if __name__ == "__main__":
    main()
