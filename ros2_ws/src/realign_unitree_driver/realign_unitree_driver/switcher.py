"""The robot's motion switcher: which stock controller holds the motors, and making it let go."""

from __future__ import annotations

import json
import time
from typing import Any

from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration

from policies.errors import InputError
from realign_unitree_driver import idl
from realign_unitree_driver.dds import Participant, wait_until

CHECK_MODE, SELECT_MODE, RELEASE_MODE = 1001, 1002, 1003
REQUEST, RESPONSE = "rt/api/motion_switcher/request", "rt/api/motion_switcher/response"
_UNKNOWN_API = 3203
_ANSWER_S = 1.0
_RELEASE_S = 15.0
_QOS = Qos(Policy.Reliability.Reliable(duration(seconds=1)), Policy.History.KeepLast(10))


class SwitcherClient:
    """Requests to the motion switcher, one at a time."""

    def __init__(self, participant: Participant) -> None:
        dds = participant.dds
        self._writer = DataWriter(dds, Topic(dds, REQUEST, idl.Request), qos=_QOS)
        self._reader = DataReader(dds, Topic(dds, RESPONSE, idl.Response), qos=_QOS)
        self._number = time.monotonic_ns()

    def _ask(self, api: int, parameter: dict[str, str]) -> tuple[int, str]:
        """Result code and data of a request.

        Raises:
            TimeoutError: no answer.
        """
        self._number += 1
        header = idl.RequestHeader(
            identity=idl.RequestIdentity(id=self._number, api_id=api),
            lease=idl.RequestLease(id=0),
            policy=idl.RequestPolicy(priority=0, noreply=False),
        )
        parameters = json.dumps(parameter) if parameter else ""
        self._writer.write(idl.Request(header=header, parameter=parameters, binary=[]))
        answers: list[Any] = []

        def answered() -> bool:
            taken = self._reader.take(N=10)
            answers.extend(a for a in taken if a.header.identity.id == self._number)
            return bool(answers)

        if not wait_until(answered, _ANSWER_S):
            raise TimeoutError
        return answers[0].header.status.code, answers[0].data

    def active_mode(self, limit_s: float = 5.0) -> str:
        """Name of the stock controller that holds the motors; empty if none does.

        Args:
            limit_s: how long to go on asking, s: the first request may be sent before both sides
                have found each other.

        Raises:
            InputError: no answer, or one that makes no sense.
        """
        deadline = time.monotonic() + limit_s
        while True:
            try:
                code, data = self._ask(CHECK_MODE, {})
                break
            except TimeoutError:
                if time.monotonic() > deadline:
                    raise InputError(
                        "expected an answer of the robot's motion switcher, but none came within "
                        f"{limit_s:g} s; bring the robot into its debug mode (L2+R2 on the remote, "
                        "robot hanging) and turn the driver's `release` off"
                    ) from None
        try:
            return str(json.loads(data)["name"]) if code == 0 else f"code {code}"
        except (ValueError, KeyError, TypeError, RecursionError):
            raise InputError(
                f"expected the name of a controller from the motion switcher, got {data[:80]!r}; "
                "bring the robot into its debug mode and turn the driver's `release` off"
            ) from None

    def release(self, limit_s: float = _RELEASE_S) -> list[str]:
        """Make every stock controller let go of the motors; the robot goes limp.

        Returns:
            Names of the controllers that were released.

        Raises:
            InputError: one does not let go, or the switcher does not answer.
        """
        released: list[str] = []
        deadline = time.monotonic() + limit_s
        while name := self.active_mode():
            if time.monotonic() > deadline:
                raise InputError(
                    f"expected the controller {name!r} to let go of the motors, but it still holds "
                    f"them after {limit_s:g} s; switch it off in Unitree's app, or bring the robot "
                    "into its debug mode (L2+R2 on the remote, robot hanging)"
                )
            if name not in released:
                released.append(name)
            try:
                self._ask(RELEASE_MODE, {})
            except TimeoutError:
                continue
            time.sleep(0.1)
        return released


class SwitcherServer:
    """The robot's side, for the emulator.

    Args:
        participant: where.
        active: name of the stock controller that holds the motors at first; empty for none.
    """

    def __init__(self, participant: Participant, active: str) -> None:
        dds = participant.dds
        self._reader = DataReader(dds, Topic(dds, REQUEST, idl.Request), qos=_QOS)
        self._writer = DataWriter(dds, Topic(dds, RESPONSE, idl.Response), qos=_QOS)
        self.active = active

    def serve(self) -> None:
        """Answer what has been asked since the last call."""
        for request in self._reader.take(N=10):
            if not request.sample_info.valid_data:
                continue
            code, data = self._answer(request.header.identity.api_id, request.parameter)
            if request.header.policy.noreply:
                continue
            header = idl.ResponseHeader(
                identity=request.header.identity, status=idl.ResponseStatus(code=code)
            )
            self._writer.write(idl.Response(header=header, data=data, binary=[]))

    def _answer(self, api: int, parameter: str) -> tuple[int, str]:
        if api == CHECK_MODE:
            return 0, json.dumps({"form": "0", "name": self.active})
        if api == RELEASE_MODE:
            self.active = ""
            return 0, ""
        if api == SELECT_MODE:
            self.active = str(json.loads(parameter)["name"])
            return 0, ""
        return _UNKNOWN_API, ""
