"""Rows of the fault table that are about other processes than guard and driver; without ROS."""

import os
import signal
import threading
from array import array
from types import SimpleNamespace

import numpy as np
import pytest
from realign_policy.images import CameraStream

from policies.checkpoint import load_policy
from policies.diffusion.interface import CameraSpec
from policies.errors import InputError
from policies.interface import ActionChunk, Observation
from policies.robots import GO2, PANDA, SO101
from policies.runtime.engine import make_engine
from policies.runtime.failure import Failure
from policies.runtime.fault import Reason, State
from policies.runtime.guard import Guard
from policies.runtime.lifeline import Lifeline, hold_on, on_loss
from policies.runtime.planning import EngineConfig
from policies.runtime.watches import PictureWatch
from sim2real.testing.loop import LoopConfig, run_guarded

NS = 1_000_000_000
MS = 1_000_000


@pytest.mark.parametrize("robot", [PANDA, GO2])
def test_launcher_killed(robot, measured, monkeypatch):
    """The guard of a process that has been left alone stops, in whatever state it is."""
    monkeypatch.setattr("policies.runtime.lifeline._lost", [])
    guard, told = Guard(robot), threading.Event()
    guard.on_state(NS, NS, robot.default_rad, np.zeros(robot.n))
    if robot.floating_base:
        guard.on_base(NS, np.array([1.0, 0.0, 0.0, 0.0]), np.zeros(3), np.array([0.0, 0.0, 9.81]))
    assert guard.arm(NS) is None
    rows = robot.default_rad[None]
    assert guard.on_chunk(ActionChunk(stamp_ns=NS, dt_s=0.02, positions_rad=rows), NS) is None
    assert guard.state is State.ACTIVE
    on_loss(lambda: guard.stop(Reason.LAUNCHER_LOST, NS + MS))
    on_loss(told.set)
    lifeline = Lifeline()
    hold_on(lifeline.fd, 1e6)  # this process is not to end
    assert not told.wait(0.2)
    lifeline.cut()
    assert told.wait(30.0)
    assert guard.state is State.DAMP
    edge = guard.transitions[-1]
    assert edge.reason is Reason.LAUNCHER_LOST
    measured((edge.stamp_ns - NS) / NS)
    command = guard.tick(NS + 2 * MS)
    assert (command.positions_rad is None) == (robot.stop == "damp")
    assert guard.arm(NS + 3 * MS) is Reason.NOT_ARMED


# ---- cameras -----------------------------------------------------------------------------------


def picture(k):
    return bytes(np.random.default_rng(k).integers(0, 256, 300, dtype=np.uint8))


def test_camera_silent():
    watch = PictureWatch()
    assert watch.is_silent(0, 0.2)  # none has come
    watch.take(NS, picture(0))
    assert not watch.is_silent(NS + 200 * MS, 0.2)
    assert watch.is_silent(NS + 201 * MS, 0.2)
    assert watch.is_silent(NS - 201 * MS, 0.2)  # of another clock
    watch.take(NS + 300 * MS, picture(1))
    assert not watch.is_silent(NS + 300 * MS, 0.2)
    assert watch.is_silent(NS + 300 * MS + 1, 0.0)  # in lockstep it is the picture of that moment


@pytest.mark.parametrize(
    ("travel_rad", "changes", "seconds", "frozen"),
    [(0.3, False, 1.0, True), (0.3, True, 1.0, False), (0.1, False, 9.0, False)],
    ids=["frozen", "alive", "at rest"],
)
def test_camera_frozen(travel_rad, changes, seconds, frozen):
    watch, seen = PictureWatch(), []
    times = np.arange(0.0, seconds, 0.05)
    for k, t in enumerate(times):
        stamp = NS + round(t * NS)
        watch.take(stamp, picture(k if changes else 0))
        seen.append(watch.is_frozen(stamp, travel_rad * np.sin(3.0 * t) * np.ones(7)))
    assert seen[-1] == frozen
    if frozen:
        assert times[seen.index(True)] == pytest.approx(0.55, abs=0.051)
        watch.take(NS + round(seconds * NS), picture(1))
        assert not watch.is_frozen(NS + round(seconds * NS), np.zeros(7))


def test_camera_garbled():
    camera = CameraSpec(name="front", height=10, width=10)
    good = {
        "encoding": "rgb8",
        "height": 10,
        "width": 10,
        "step": 30,
        "data": array("B", picture(0)),
    }
    stamp = SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=0))
    stream = CameraStream(camera, keep=1)
    for change in (
        {"data": array("B", picture(0)[:-1])},
        {"data": array("B")},
        {"step": 29},
        {"height": 11},
        {"width": 2**31},
        {"encoding": "rgb16"},
        {"encoding": ""},
    ):
        stream.take(SimpleNamespace(header=stamp, **(good | change)))
        with pytest.raises(InputError) as raised:
            stream.rgb()
        assert "\n" not in str(raised.value)
    stream.take(SimpleNamespace(header=stamp, **good))
    assert stream.rgb().shape == (10, 10, 3)


# ---- who evaluates the model -------------------------------------------------------------------


def run_until_lost(server, act, measured, words):
    """A run whose server does something at 1 s: the policy falls silent, the robot is stopped."""
    done = []

    def tick(loop):
        if not done and loop.now_ns >= 2 * NS:
            done.append(act())

    policy = load_policy(server.descriptor, PANDA)
    run = run_guarded(policy, PANDA, LoopConfig(duration_s=2.5), each_tick=tick)
    assert done
    assert words in run.policy_error
    assert [edge.new for edge in run.transitions][-2:] == [State.HOLD, State.DAMP]
    assert run.stopped_by is Reason.POLICY_SILENT
    assert np.isfinite(run.command_rad).all(axis=1).sum() > 50  # it moved, and then it braked
    measured(run.time_of(State.HOLD) - 1.0)


@pytest.fixture
def server(peers):
    with peers.server_process() as server:
        yield server


def test_server_killed(server, measured):
    run_until_lost(server, server.kill, measured, "the connection ended")


def test_server_slow(server, peers, measured):
    words = f"expected an answer within {peers.REPLY_S:g} s"
    run_until_lost(server, lambda: server.say("silence"), measured, words)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("nonsense", "expected"),
        ("nan", "NaN"),
        ("oversized", "expected at most 1048576 bytes, got more"),
        ("other_id", "got 1000000"),
    ],
)
def test_server_garbage(server, measured, word, said):
    run_until_lost(server, lambda: server.say(word), measured, said)


def test_worker_killed(peers, doubles, tmp_path, monkeypatch):
    """Killed between two answers: the next tick says so; activated again, there is another one."""
    doubles.play_lerobot(tmp_path, monkeypatch)
    policy = load_policy(doubles.lerobot_policy(tmp_path, "sway"), SO101)
    engine = make_engine(policy, EngineConfig(lockstep=True))
    images = {name: np.zeros((*size, 3), np.uint8) for name, size in doubles.CAMERAS.items()}

    def tick(k):
        return engine.tick(
            Observation(
                stamp_ns=NS + k * 50 * MS,
                qpos_rad=SO101.default_rad,
                qvel_rad_s=np.zeros(SO101.n),
                images=images,
            )
        )

    engine.reset(0)
    try:
        assert all(tick(k) is not None for k in range(5))
        (worker,) = peers.workers_of(os.getpid())
        os.kill(worker, signal.SIGKILL)
        answers = [tick(k) is not None for k in range(5, 15)]
        assert answers == sorted(answers, reverse=True)  # what was planned, then nothing
        assert answers.count(False) >= 6
        assert engine.failure.kind is Failure.SERVER_LOST
        engine.reset(0)
        assert tick(15) is not None
        assert peers.workers_of(os.getpid()) != [worker]
    finally:
        engine.close()
        policy.model.close()
