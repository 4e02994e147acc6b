"""Rows of the fault table that are about other processes than guard and driver; without ROS."""

import threading

import numpy as np
import pytest

from policies.interface import ActionChunk
from policies.robots import GO2, PANDA
from policies.runtime.fault import Reason, State
from policies.runtime.guard import Guard
from policies.runtime.lifeline import Lifeline, hold_on, on_loss

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
