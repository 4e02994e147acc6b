"""What nodes share beside data: who hears whom, chunks, health, the ends of their processes."""

import json
import time

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from std_msgs.msg import Header

from policies import messages as wire
from policies.errors import InputError
from policies.interface import ActionChunk
from policies.robots import SO101
from policies.runtime.packets import channel_pair, receive, send
from realign_driver.audience import Audience, announce
from realign_driver.chunks import ChunkPublisher
from realign_driver.emulation import Pace
from realign_driver.health import Health, HealthPublisher
from realign_driver.process import refusing, write_summary
from realign_driver.program import step
from realign_driver.qos import LATCHED
from realign_driver.robot_process import NodeEnd

pytestmark = pytest.mark.ros
TARGET = np.linspace(-0.5, 0.5, SO101.n)
NUMBER = np.dtype([("value", "<i8")])


@pytest.fixture
def node():
    rclpy.init()
    node = rclpy.create_node("library")
    yield node
    node.destroy_node()
    rclpy.try_shutdown()


def spin_until(node, condition, seconds=30.0):
    """Serve a node until the condition is true; with less than 30 s, for that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            assert seconds < 30.0
            return
        rclpy.spin_once(node, timeout_sec=0.05)


def number(value):
    return np.array([(value,)], dtype=NUMBER)[0]


def test_robot_begins_when_all_whom_it_waits_for_hear_it(node):
    audience = Audience(node, "library,recorder")
    heard = node.create_subscription(Header, "joint_states", lambda _: None, 1)
    announce(node, [heard])
    spin_until(node, lambda: False, seconds=0.2)
    assert audience._missing == {"library", "recorder"}  # nobody publishes what it must hear
    node.create_publisher(Header, "joint_states", 1)
    spin_until(node, lambda: audience._missing == {"recorder"})
    assert not audience.complete
    late = node.create_publisher(Header, "ready", LATCHED)
    late.publish(Header(frame_id="recorder"))
    spin_until(node, lambda: audience.complete)
    assert Audience(node, "").complete


def test_chunk_is_repeated_for_its_stamp_until_it_is_forgotten(node):
    chunks, sent = ChunkPublisher(node, SO101), []
    chunks._publisher = type("", (), {"publish": lambda _, m: sent.append(m)})()
    assert chunks.silent
    assert not chunks.repeat(7, older=True)
    plan = np.stack([TARGET, 2 * TARGET])
    chunks.publish(ActionChunk(stamp_ns=7, dt_s=0.02, positions_rad=plan))
    assert not chunks.silent
    assert not chunks.repeat(8)
    assert chunks.repeat(7)
    assert chunks.repeat(8, older=True)
    assert len(sent) == 3
    names = wire.NameMap(SO101.joint_names, "action_chunk")
    for message in sent:
        chunk = wire.trajectory_to_chunk(message, names)
        assert (chunk.stamp_ns, chunk.dt_s) == (7, 0.02)
        np.testing.assert_array_equal(chunk.positions_rad, plan)
    chunks.forget()
    assert chunks.silent
    assert not chunks.repeat(7)


@pytest.mark.parametrize(
    ("is_error", "is_warning", "level"),
    [
        (False, False, DiagnosticStatus.OK),
        (False, True, DiagnosticStatus.WARN),
        (True, False, DiagnosticStatus.ERROR),
        (True, True, DiagnosticStatus.ERROR),
    ],
)
def test_health_has_the_level_of_the_worst(node, is_error, is_warning, level):
    sent: list[DiagnosticArray] = []
    health = HealthPublisher(node, "realign arm", "so101")
    health._publisher = type("", (), {"publish": lambda _, m: sent.append(m)})()
    values = {"lost": 3, "gap_ms": "p50 2"}
    told = Health(message="warm", values=values, is_error=is_error, is_warning=is_warning)
    health.publish(told, stamp_ns=3_000_000_007)
    (status,) = sent[0].status
    assert (status.level, status.name, status.message) == (level, "realign arm", "warm")
    assert status.hardware_id == "so101"
    assert {v.key: v.value for v in status.values} == {"lost": "3", "gap_ms": "p50 2"}
    assert wire.stamp_to_ns(sent[0].header.stamp) == 3_000_000_007


def test_node_is_served_until_its_work_is_done(node):
    waits = iter([0.0, 0.0, None])
    step(node, lambda: next(waits))
    assert next(waits, "asked no more") == "asked no more"


def test_summary_is_made_only_where_it_is_asked_for(tmp_path):
    write_summary("", lambda: pytest.fail("nobody asked"))
    write_summary(str(tmp_path / "s.json"), lambda: {"states": 3})
    assert json.loads((tmp_path / "s.json").read_text()) == {"states": 3}


def test_what_is_refused_ends_the_process_with_its_sentence(capsys):
    with pytest.raises(SystemExit) as ended, refusing():
        raise InputError("expected a robot, got none; name one")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "realign: expected a robot, got none; name one\n"


def test_death_of_the_node_is_noticed_once_on_either_way():
    for notice in (lambda end: list(end.commands(NUMBER)), lambda end: end.send(number(1))):
        ours, theirs = channel_pair()
        deaths: list[int] = []
        end = NodeEnd(theirs, lambda: deaths.append(1))  # noqa: B023
        send(ours, number(4))
        send(ours, number(5))
        assert [int(record["value"]) for record in end.commands(NUMBER)] == [4, 5]
        end.send(number(6))
        assert receive(ours, NUMBER, wait_s=10.0)["value"] == 6
        assert end.alive
        ours.close()
        for _ in range(2):
            notice(end)
            assert not end.alive
            assert deaths == [1]


def test_without_a_node_nothing_is_heard_or_sent():
    end = NodeEnd(None, lambda: pytest.fail("nobody died"))
    end.send(number(1))
    assert list(end.commands(NUMBER)) == []
    assert not end.alive


def test_emulated_robot_loses_the_time_that_it_does_not_get():
    pace = Pace(1_000_000, patience=5)
    pace.start()
    began = pace._deadline_ns
    pace.wait(began + 5_000_000)  # which is caught up with
    assert pace.lost_s == 0.0
    assert pace._deadline_ns == began + 1_000_000
    pace.wait(began + 21_000_000)
    assert pace.lost_s == 0.02
    assert pace._deadline_ns == began + 22_000_000
