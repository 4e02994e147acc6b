"""Unitree's messages over real DDS on the loopback, and what is refused at start."""

import contextlib
import json
import threading
import time

import pytest

pytest.importorskip("cyclonedds", reason="needs CycloneDDS: pip install 'realign[unitree]'")

from realign_unitree_driver import idl, wire_process
from realign_unitree_driver.dds import (
    LOW_CMD,
    LOW_STATE,
    Participant,
    RawReader,
    RawWriter,
    wait_until,
)
from realign_unitree_driver.layout import GO_LOW_STATE, HG_LOW_CMD, HG_LOW_STATE
from realign_unitree_driver.switcher import SwitcherClient, SwitcherServer
from realign_unitree_driver.wire_process import Wire, WireConfig

from policies.errors import InputError
from policies.robots import get_robot

G1, GO2 = get_robot("g1"), get_robot("go2")


@pytest.fixture
def participant(dds_domains):
    return Participant("lo", next(dds_domains))


@pytest.fixture
def quick(monkeypatch):
    """Shorter patience than with a robot."""
    monkeypatch.setattr(wire_process, "_FIRST_STATE_S", 1.0)
    monkeypatch.setattr(wire_process, "_LISTEN_S", 0.2)
    monkeypatch.setattr(wire_process, "_LAST_DAMPING_S", 0.2)


@contextlib.contextmanager
def repeated(write):
    """Call ``write`` at 100 Hz in a thread."""
    running = threading.Event()
    running.set()

    def loop():
        while running.is_set():
            write()
            time.sleep(0.01)

    thread = threading.Thread(target=loop)
    thread.start()
    yield
    running.clear()
    thread.join()


def wire(participant, **options) -> Wire:
    robot = options.pop("robot", "g1")
    config = WireConfig(robot=robot, network="lo", domain=participant.domain_id, **options)
    return Wire(config, participant)


def alive(kind, **fields):
    """A LowState of a robot with all motors in place."""
    message = kind.new()
    motors = 29 if kind is HG_LOW_STATE else 12
    message.data["motor_state"]["q"][:motors] = 0.1
    for name, value in {"mode_machine": 5, **fields}.items():
        if name in message.data.dtype.names:
            message.data[name] = value
    message.seal()
    return message


# ---- bytes -------------------------------------------------------------------------------------


def test_raw_and_object_peers_understand_each_other(participant):
    from cyclonedds.pub import DataWriter
    from cyclonedds.sub import DataReader
    from cyclonedds.topic import Topic

    raw = RawWriter(participant, LOW_STATE, HG_LOW_STATE)
    objects = DataReader(participant.dds, Topic(participant.dds, LOW_STATE, idl.HgLowState))
    message = alive(HG_LOW_STATE, tick=7)
    got = []
    with repeated(lambda: raw.write(message)):
        assert wait_until(lambda: bool(got.extend(objects.take(10)) or got), 30.0)
    assert got[0].tick == 7
    assert got[0].motor_state[28].q == pytest.approx(0.1)
    assert got[0].crc == message.data["crc"]

    back = DataWriter(participant.dds, Topic(participant.dds, LOW_STATE, idl.HgLowState))
    reader = RawReader(participant, LOW_STATE, HG_LOW_STATE)
    heard = []
    with repeated(lambda: back.write(got[0])):
        assert wait_until(lambda: bool(heard.extend(reader.take()) or heard), 30.0)
    assert heard[0].buffer.tobytes() == message.buffer.tobytes()
    got[0].crc ^= 1
    reader.take()
    damaged = []
    with repeated(lambda: back.write(got[0])):
        assert wait_until(lambda: bool(damaged.extend(reader.take()) or reader.damaged), 30.0)
    assert damaged == []


# ---- what is refused at start ------------------------------------------------------------------


def test_wrong_network_is_refused(dds_domains):
    with pytest.raises(InputError, match=r"interface out of \[.*'lo'.*got 'eth77'"):
        Participant("eth77", next(dds_domains))
    with pytest.raises(InputError, match=r"address of this machine, got 192\.0\.2\.1"):
        Participant("192.0.2.1", next(dds_domains))


@pytest.mark.usefixtures("quick")
def test_domain_without_robot_is_refused(participant):
    with pytest.raises(InputError, match="none came within 1 s; check that the robot is on"):
        wire(participant).greet()


@pytest.mark.usefixtures("quick")
def test_robot_of_another_family_is_refused(participant, dds_domains):
    other = Participant("lo", participant.domain_id)
    writer, message = RawWriter(other, LOW_STATE, GO_LOW_STATE), alive(GO_LOW_STATE)
    with (
        repeated(lambda: writer.write(message)),
        pytest.raises(InputError, match="publishes unitree_go::msg::dds_::LowState_"),
    ):
        wire(participant).greet()


@pytest.mark.usefixtures("quick")
def test_damaged_states_and_another_type_are_refused(participant):
    other = Participant("lo", participant.domain_id)
    writer, message = RawWriter(other, LOW_STATE, HG_LOW_STATE), alive(HG_LOW_STATE)
    message.data["crc"] ^= 1
    with repeated(lambda: writer.write(message)):
        with pytest.raises(InputError, match="are damaged"):
            wire(participant).greet()
        message.data["mode_machine"] = 4
        message.seal()
        with pytest.raises(InputError, match=r"reports 4 \(G1, 23 joints"):
            wire(participant).greet()


@pytest.mark.usefixtures("quick")
def test_another_commander_is_refused(participant):
    other = Participant("lo", participant.domain_id)
    writer, message = RawWriter(other, LOW_STATE, HG_LOW_STATE), alive(HG_LOW_STATE)
    commander = RawWriter(other, LOW_CMD, HG_LOW_CMD)
    with (
        repeated(lambda: writer.write(message)),
        pytest.raises(InputError, match=r"only publisher of rt/lowcmd, but there is 1"),
    ):
        wire(participant).greet()
    assert commander.missed == 0


def test_motion_switcher_is_asked_until_it_lets_go(participant):
    other = Participant("lo", participant.domain_id)
    server = SwitcherServer(other, "ai")
    with repeated(server.serve):
        client = SwitcherClient(participant)
        assert client.active_mode() == "ai"
        assert client.release() == ["ai"]
        assert client.active_mode() == ""
    with pytest.raises(
        InputError, match=r"none came within 0\.1 s; bring the robot into its debug"
    ):
        SwitcherClient(participant).active_mode(limit_s=0.1)


def test_controller_that_does_not_let_go_is_refused(participant, monkeypatch):
    other = Participant("lo", participant.domain_id)
    server = SwitcherServer(other, "normal")
    monkeypatch.setattr(server, "_answer", lambda api, _: (0, json.dumps({"name": "normal"})))
    with repeated(server.serve), pytest.raises(InputError, match="'normal' to let go"):
        SwitcherClient(participant).release(limit_s=0.5)
