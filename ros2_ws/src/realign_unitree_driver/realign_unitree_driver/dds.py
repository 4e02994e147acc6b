"""DDS as the robot speaks it: a participant on one interface, raw low-level topics, publishers.

Samples go in and out as :class:`~realign_unitree_driver.layout.Message`, not as IDL objects, which
take a hundred times longer to build than there is time for at 500 Hz.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from collections.abc import Callable
from typing import Any

from policies.errors import InputError
from realign_unitree_driver.layout import (
    GO_LOW_CMD,
    GO_LOW_STATE,
    HG_LOW_CMD,
    HG_LOW_STATE,
    Message,
    MessageType,
)

try:
    from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication
    from cyclonedds.core import (
        DDSException,
        InstanceState,
        ReadCondition,
        SampleState,
        ViewState,
    )
    from cyclonedds.domain import Domain, DomainParticipant
    from cyclonedds.idl import make_idl_struct
    from cyclonedds.idl.annotations import autoid, final
    from cyclonedds.pub import DataWriter
    from cyclonedds.qos import Policy, Qos
    from cyclonedds.sub import DataReader
    from cyclonedds.topic import Topic
    from cyclonedds.util import duration
except ModuleNotFoundError as error:
    raise InputError(
        "expected CycloneDDS for a Unitree robot, but it is not installed; "
        "run: pip install 'realign[unitree]'"
    ) from error

from realign_unitree_driver import idl

LOW_CMD, LOW_STATE = "rt/lowcmd", "rt/lowstate"
LOOPBACK = "lo"
_ROBOT_ADDRESS = "192.168.123.161"
_IDL = {
    HG_LOW_CMD: idl.HgLowCmd,
    HG_LOW_STATE: idl.HgLowState,
    GO_LOW_CMD: idl.GoLowCmd,
    GO_LOW_STATE: idl.GoLowState,
}
_READ_AT_ONCE = 16
# Reliable, because that matches every reader; a slow one must not hold the loop up.
_WRITE_QOS = Qos(
    Policy.Reliability.Reliable(duration(microseconds=500)),
    Policy.History.KeepLast(1),
    Policy.DataRepresentation(use_cdrv0_representation=True, use_xcdrv2_representation=False),
)
_READ_QOS = Qos(Policy.Reliability.BestEffort, Policy.History.KeepLast(_READ_AT_ONCE))


def check_network(network: str) -> None:
    """Refuse a network interface or address that this machine has not.

    Raises:
        InputError: no such interface, no such address of ours.
    """
    interfaces = [name for _, name in socket.if_nameindex()]
    if network in interfaces:
        return
    try:
        address = ipaddress.ip_address(network)
    except ValueError:
        raise InputError(
            f"expected a network interface out of {interfaces} or an address of this machine, got "
            f"{network!r}; give the one whose cable leads to the robot (see `ip addr`)"
        ) from None
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((network, 0))
        except OSError:
            raise InputError(
                f"expected an address of this machine, got {network}; set the interface that leads "
                f"to the robot to 192.168.123.x first (the robot itself is {_ROBOT_ADDRESS})"
            ) from None


def configuration(network: str) -> str:
    """CycloneDDS configuration for one interface; the loopback has no multicast."""
    kind = "name" if network in [name for _, name in socket.if_nameindex()] else "address"
    interface = f'<Interfaces><NetworkInterface {kind}="{network}"/></Interfaces>'
    if network not in (LOOPBACK, "127.0.0.1"):
        return f"<CycloneDDS><Domain><General>{interface}</General></Domain></CycloneDDS>"
    return (
        f"<CycloneDDS><Domain><General>{interface}<AllowMulticast>false</AllowMulticast></General>"
        "<Discovery><ParticipantIndex>auto</ParticipantIndex>"
        '<Peers><Peer address="127.0.0.1"/></Peers></Discovery></Domain></CycloneDDS>'
    )


_DOMAINS: dict[int, Domain] = {}


class Participant:
    """One DDS participant, and what it has heard of others' publishers.

    Args:
        network: interface name or own address.
        domain: DDS domain.

    Raises:
        InputError: no such interface, or DDS cannot use it.
    """

    def __init__(self, network: str, domain: int) -> None:
        check_network(network)
        self.network, self.domain_id = network, domain
        try:
            # A process configures a domain once, for all its participants.
            if domain not in _DOMAINS:
                _DOMAINS[domain] = Domain(domain, configuration(network))
            self.dds = DomainParticipant(domain)
        except DDSException as error:
            raise InputError(
                f"expected to join DDS domain {domain} on {network}, but DDS refused ({error}); "
                "check that the interface is up and has an address (see `ip addr`)"
            ) from None
        self._endpoints = BuiltinDataReader(self.dds, BuiltinTopicDcpsPublication)
        self._news = ReadCondition(
            self._endpoints, ViewState.Any | SampleState.NotRead | InstanceState.Any
        )
        self._publishers: dict[Any, tuple[str, str]] = {}

    def publishers(self, topic: str) -> list[str]:
        """Type name of each publisher of ``topic`` that is not ours, as known at this moment."""
        for endpoint in self._endpoints.take(N=64, condition=self._news):
            if endpoint.sample_info.instance_state != InstanceState.Alive:
                self._publishers.pop(endpoint.key, None)
            elif endpoint.participant_key != self.dds.guid:
                self._publishers[endpoint.key] = (endpoint.topic_name, endpoint.type_name)
        return [type_name for name, type_name in self._publishers.values() if name == topic]


class RawWriter:
    """Publisher of low-level messages.

    Args:
        participant: where.
        topic: DDS topic name.
        kind: message type.
    """

    def __init__(self, participant: Participant, topic: str, kind: MessageType) -> None:
        raw = _raw_type(kind)
        self._sample = raw.__new__(raw)
        self._writer = DataWriter(
            participant.dds, Topic(participant.dds, topic, raw), qos=_WRITE_QOS
        )
        self.missed = 0

    def write(self, message: Message) -> None:
        """Send; a sample that cannot be sent at once is counted in ``missed``."""
        self._sample.message = message
        try:
            self._writer.write(self._sample)
        except DDSException:
            self.missed += 1


class RawReader:
    """Subscription to low-level messages.

    Args:
        participant: where.
        topic: DDS topic name.
        kind: message type.
    """

    def __init__(self, participant: Participant, topic: str, kind: MessageType) -> None:
        self._reader = DataReader(
            participant.dds, Topic(participant.dds, topic, _raw_type(kind)), qos=_READ_QOS
        )
        self.damaged = 0

    def take(self) -> list[Message]:
        """All new messages with the right checksum, oldest first; others are counted."""
        messages = []
        for sample in self._reader.take(N=_READ_AT_ONCE):
            message = getattr(sample, "message", None)
            if message is not None and message.is_intact:
                messages.append(message)
            elif sample.sample_info.valid_data:
                self.damaged += 1
        return messages


def _raw_type(kind: MessageType) -> Any:
    """The IDL type of ``kind``, whose objects carry a :class:`Message` instead of fields."""
    base = _IDL[kind]

    def serialize(self: Any, *_: Any, **__: Any) -> bytes:
        return self.message.encode()

    def deserialize(cls: Any, data: bytes, *_: Any, **__: Any) -> Any:
        sample = cls.__new__(cls)
        sample.message = None
        with contextlib.suppress(InputError):
            sample.message = kind.decode(data)
        return sample

    def deserialize_key(cls: Any, *_: Any, **__: Any) -> Any:
        return cls.__new__(cls)  # of a publisher that has gone; these types have no key

    # Not a subclass of `base`: that would be another type on the wire.
    raw: Any = make_idl_struct(
        f"Raw{base.__name__}",
        base.__idl_typename__,
        dict(base.__annotations__),
        dataclassify=False,
    )
    raw.serialize, raw.deserialize = serialize, classmethod(deserialize)
    raw.deserialize_key = classmethod(deserialize_key)
    return final(autoid("sequential")(raw))


def wait_until(condition: Callable[[], bool], limit_s: float) -> bool:
    """Poll ``condition`` every 5 ms; False where it stays false for ``limit_s``."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
