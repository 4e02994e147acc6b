"""FCI records against struct formats, the model for clients, faults, and sentences of refusals."""

import os
import socket
import struct
import threading
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from realign_franka_driver import channel, layout
from realign_franka_driver.arm import Arm
from realign_franka_driver.control_box import ControlBox
from realign_franka_driver.errors import Error
from realign_franka_driver.faults import parse_faults
from realign_franka_driver.robot_model import robot_model
from realign_franka_driver.server import RobotServer

from policies.errors import InputError
from policies.robots import get_robot
from sim2real.run_config import RunConfig
from sim2real.run_franka import check

FR3, PANDA = get_robot("fr3"), get_robot("panda")
OWN = f"127.5.{os.getpid() % 250}"  # the ports are fixed, so the addresses are ours

# Sizes and order of libfranka's packed structs, as formats of Python's struct.
FORMATS = {
    "HEADER": "<3I",
    "CONNECT": "<2H",
    "MOVE": "<2I6dB7d",
    "ROBOT_COMMAND": "<Q7d7d16d6d2d2B7dB",
    "ROBOT_STATE": "<Q320f2B41B41BBf",
    "GRIPPER_HEADER": "<HII",
    "GRASP": "<5d",
    "GRIPPER_MOVE": "<2d",
    "GRIPPER_STATE": "<I2dBH",
}


@pytest.mark.parametrize("name", FORMATS)
def test_records_have_the_size_of_the_packed_structs(name):
    dtype = getattr(layout, name)
    text = FORMATS[name]
    assert dtype.itemsize == struct.calcsize(text)
    values = struct.unpack(text, bytes(dtype.itemsize))
    assert struct.pack(text, *values) == bytes(dtype.itemsize)


def test_state_and_command_have_the_sizes_that_clients_expect():
    assert layout.ROBOT_STATE.itemsize == 1377
    assert layout.ROBOT_COMMAND.itemsize == 371
    assert layout.HEADER.itemsize + layout.MOVE.itemsize == 125
    assert len(Error) == layout.ERROR_BITS


@pytest.mark.parametrize("robot", [FR3, PANDA], ids=lambda robot: robot.name)
def test_model_has_what_libfranka_looks_for(robot):
    model = ElementTree.fromstring(robot_model(robot))
    assert [e.get("name") for e in model.findall("link")] == [f"link{i}" for i in range(9)]
    joints = model.findall("joint")
    assert [e.get("name") for e in joints] == [f"fr3_joint{i}" for i in range(1, 9)]
    assert joints[-1].get("type") == "fixed"
    for i, joint in enumerate(joints[:-1]):
        limit = joint.find("limit")
        assert float(limit.get("upper")) == pytest.approx(robot.upper_rad[i], abs=1e-6)
        assert float(limit.get("velocity")) == pytest.approx(robot.velocity_limit_rad_s[i])
        extra = joint.find("position_based_velocity_limits")
        assert float(extra.get("deceleration_limit")) > 0.0
    masses = [float(e.get("value")) for e in model.iter("mass")]
    assert sum(masses) == pytest.approx(16.5, abs=1.0)


def test_joints_of_both_robots_have_the_same_place_under_their_own_names():
    a, b = Arm(FR3), Arm(PANDA)
    for pose in (FR3.default_rad, FR3.default_rad + 0.3):
        for ours, theirs in zip(
            a.kinematics.end_effector(pose), b.kinematics.end_effector(pose), strict=True
        ):
            assert ours == pytest.approx(theirs)
    assert FR3.fingerprint != PANDA.fingerprint


def test_faults_are_read():
    text = "reflex=joint_velocity_violation@2, silence@3:0.1,loss:0.05,version:9,estop@1"
    reflex, silence, loss, version, estop = parse_faults(text)
    assert (reflex.error, reflex.start_s) == (Error.JOINT_VELOCITY_VIOLATION, 2.0)
    assert silence.active(3.05)
    assert not silence.active(3.15)
    assert (loss.value, version.value) == (0.05, 9.0)
    assert estop.active(1e6)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("storm@1", "expected a fault out of"),
        ("silence@one", "expected a fault like"),
        ("loss:much", "expected a fault like"),
        ("reflex=hiccup@1", "expected a reflex out of"),
    ],
)
def test_bad_faults_are_refused(text, match):
    with pytest.raises(InputError, match=match):
        parse_faults(text)


def test_address_in_use_is_one_sentence():
    box = ControlBox(Arm(FR3))
    first = RobotServer(box, "<robot/>", f"{OWN}.1", layout.ROBOT_VERSION)
    try:
        with pytest.raises(InputError, match=r"expected to serve 127[0-9.]*:1337"):
            RobotServer(box, "<robot/>", f"{OWN}.1", layout.ROBOT_VERSION)
    finally:
        first.link.close()


@pytest.mark.parametrize(
    "bad",
    [
        bytes(64),  # a size of zero
        struct.pack("<3I", 0, 1, 2**31),  # a size that nobody has
        struct.pack("<3I", 1, 1, 16) + bytes(4),  # a Move that is too short
        struct.pack("<3I", 99, 1, 12),  # no such command
        bytes(range(256)) * 4,
    ],
)
def test_garbage_on_the_command_port_harms_nobody(bad):
    box = ControlBox(Arm(FR3))
    server = RobotServer(box, "<robot/>", f"{OWN}.2", layout.ROBOT_VERSION)
    try:
        for rounds in range(2):  # the second client gets its turn after the first
            with socket.create_connection((f"{OWN}.2", layout.ROBOT_PORT), timeout=2.0) as client:
                client.sendall(bad if rounds == 0 else _hello(7))
                for _ in range(20):
                    server.serve()
                    box.tick(server.command(box.ticks))
                    server.publish()
                if rounds:
                    client.settimeout(2.0)
                    head = np.frombuffer(client.recv(15), layout.HEADER, 1)[0]
                    assert int(head["id"]) == 7
            for _ in range(3):
                server.serve()
    finally:
        server.link.close()


def _hello(identity):
    payload = layout.pack(layout.CONNECT, version=layout.ROBOT_VERSION, udp_port=5000)
    return layout.message(layout.HEADER, layout.Command.CONNECT, identity, payload)


def test_only_the_command_for_the_last_state_counts():
    box = ControlBox(Arm(FR3))
    server = RobotServer(box, "<robot/>", f"{OWN}.3", layout.ROBOT_VERSION)
    listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    listener.bind(("127.0.0.1", 0))
    listener.settimeout(2.0)
    try:
        server.link._host = "127.0.0.1"
        server.link.answer_to(listener.getsockname()[1])
        box.tick(None)
        server.publish()
        packet, robot = listener.recvfrom(2048)
        assert len(packet) == 1377
        for identity in (box.ticks - 1, box.ticks):
            listener.sendto(layout.pack(layout.ROBOT_COMMAND, message_id=identity), robot)
        listener.sendto(b"short", robot)
        found = server.command(box.ticks)
        assert int(found["message_id"]) == box.ticks
        assert server.malformed == 1
        for field in ("q", "tau"):
            bad = layout.pack(layout.ROBOT_COMMAND, message_id=box.ticks, **{field: np.nan})
            listener.sendto(bad, robot)
            assert server.command(box.ticks) is None
        assert server.malformed == 3
        listener.sendto(layout.pack(layout.ROBOT_COMMAND, message_id=box.ticks - 1), robot)
        assert server.command(box.ticks) is None
    finally:
        listener.close()
        server.link.close()


def test_death_of_one_side_of_the_channel_is_seen_by_the_other():
    ours, theirs = channel.channel_pair()
    channel.send(ours, channel.command(channel.TRACK, np.arange(7.0)))
    record = channel.receive(theirs, channel.COMMAND)
    assert record["q"].tolist() == list(range(7))
    assert channel.receive(theirs, channel.COMMAND) is None
    threading.Timer(0.05, ours.close).start()
    with pytest.raises(channel.Closed):
        channel.receive(theirs, channel.COMMAND, wait_s=5.0)
    theirs.close()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"robot": "g1"}, "expected --robot panda or fr3"),
        ({"robot": "panda", "network": "172.16.0.2"}, "expected --robot fr3 for a real arm"),
        ({"robot": "fr3", "lockstep": True}, "leave --lockstep out"),
        ({"robot": "fr3", "port": "/dev/ttyACM0"}, "use --network"),
    ],
)
def test_runs_that_cannot_work_are_refused(changes, match):
    pytest.importorskip("pylibfranka", reason="needs pip install 'realign[franka]'")
    with pytest.raises(InputError, match=match):
        check(RunConfig(policy=Path("p"), driver="franka", **changes))
