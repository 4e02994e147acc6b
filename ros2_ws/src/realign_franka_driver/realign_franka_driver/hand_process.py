"""The process that talks to the gripper, whose commands block for as long as the fingers move.

python -m realign_franka_driver.hand_process '{"network": "172.16.0.2", "channel_fd": 7, ...}'
"""

from __future__ import annotations

import json
import signal
import socket
import sys
from typing import Any

import numpy as np
import pylibfranka

from realign_franka_driver import channel

SPEED_M_S = 0.1
_SAME_M = 1e-3
_WAIT_S = 0.05


class HandLoop:
    """Obeys the newest command, and says how far the hand is open.

    Args:
        hand: libfranka's gripper.
        end: socket to the driver node.
    """

    def __init__(self, hand: Any, end: socket.socket) -> None:
        self.hand, self.end = hand, end
        self._state = np.zeros((), dtype=channel.HAND_STATE)
        self._asked_m: float | None = None

    def run(self) -> None:
        """Go on until the node is gone."""
        try:
            while True:
                record = channel.receive(self.end, channel.HAND_COMMAND, wait_s=_WAIT_S)
                while (newer := channel.receive(self.end, channel.HAND_COMMAND)) is not None:
                    record = newer
                if record is not None:
                    self._obey(record)
                self._report()
        except channel.Closed:
            return

    def _obey(self, record: Any) -> None:
        width = float(record["width_m"])
        try:
            if int(record["kind"]) == channel.HOME_HAND:
                self._asked_m = None
                done = self.hand.homing()
            elif self._asked_m is not None and abs(width - self._asked_m) < _SAME_M:
                return
            else:
                self._asked_m = width
                done = self.hand.move(width, SPEED_M_S)
            problem = "" if done else "the fingers did not get there"
        except (pylibfranka.CommandException, pylibfranka.NetworkException) as error:
            problem = str(error).removeprefix("libfranka gripper: ").strip()
        self._state["error"] = problem.encode()[:120]

    def _report(self) -> None:
        try:
            state = self.hand.read_once()
        except pylibfranka.NetworkException as error:
            self._state["error"] = str(error).encode()[:120]
        else:
            self._state["width_m"], self._state["max_width_m"] = state.width, state.max_width
            self._state["is_grasped"] = state.is_grasped
        channel.send(self.end, self._state)


def main() -> None:
    """Run until the node is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the node says when it is over
    config = json.loads(sys.argv[1])
    end = socket.socket(fileno=config["channel_fd"])
    try:
        hand = pylibfranka.Gripper(config["network"])
    except (pylibfranka.FrankaException, RuntimeError) as error:
        print(f"no gripper: {error}", file=sys.stderr)
        raise SystemExit(0) from None
    HandLoop(hand, end).run()


if __name__ == "__main__":
    main()
