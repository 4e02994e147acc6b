"""Watchdog of a servo arm; the clock is passed in."""

from dataclasses import replace

import numpy as np
import pytest
from realign_serial_driver.core import ArmConfig, ArmCore, Mode, Stop

from policies.robots import get_robot

SO101 = get_robot("so101")
LIMITS = (SO101.lower_rad, SO101.upper_rad)
IDS = (1, 2, 3, 4, 5, 6)
MS = 1_000_000
PERIOD = 5 * MS


class Rig:
    """A core with a clock, and an arm that is always a little behind its goal."""

    def __init__(self, robot=SO101, **config):
        self.core = ArmCore(robot, LIMITS, ArmConfig(**config))
        self.now = 1_000_000_000
        self.pose = robot.default_rad.copy()
        self.sag = 0.03
        self.blocked = False
        self.errors = dict.fromkeys(IDS, 0)
        self.orders = []

    def run(self, seconds, target=None):
        """Cycles at 200 Hz, a command each where there is a target (False: the guard's stop)."""
        orders = []
        for _ in range(round(seconds * 200)):
            self.now += PERIOD
            self.core.on_replies(self.errors, self.now)
            self.core.on_state(self.pose)
            if target is not None:
                self.core.on_command(None if target is False else target, self.now)
            order = self.core.tick(self.now)
            if order.torque and order.goal_rad is not None and not self.blocked:
                self.pose = order.goal_rad + self.sag
            orders.append(order)
        return orders


def test_nothing_is_told_before_the_first_command():
    for order in Rig().run(0.1) + Rig().run(0.1, False):
        assert order.torque is None
        assert order.goal_rad is None


def test_first_goal_is_where_the_arm_is_and_no_goal_is_faster_than_the_joints():
    rig = Rig()
    rig.pose = SO101.default_rad + 0.4  # the wrist beyond its range, as an arm may lie
    start = rig.pose.copy()
    orders = rig.run(0.5, SO101.default_rad)
    goals = np.array([order.goal_rad for order in orders])
    assert np.abs(goals[0] - start).max() < 1.5 * 3.0 * 0.005 + 1e-9
    assert np.abs(np.diff(goals, axis=0)).max() < 1.5 * 3.0 * 0.005 + 1e-9
    assert goals[-1] == pytest.approx(SO101.default_rad)
    assert all(order.torque for order in orders)


def test_goals_stay_in_the_calibrated_range():
    rig = Rig()
    goals = rig.run(2.0, SO101.upper_rad + 1.0)
    assert (goals[-1].goal_rad <= SO101.upper_rad).all()
    assert goals[-1].goal_rad == pytest.approx(SO101.upper_rad)


def test_commands_that_stay_away_hold_then_only_an_operator_goes_on():
    rig = Rig()
    last = rig.run(0.2, SO101.default_rad)[-1].goal_rad
    silent = rig.run(0.04)
    assert rig.core.mode is Mode.TRACKING
    rig.run(0.03)
    assert rig.core.mode is Mode.HOLD
    silent += rig.run(0.6)
    assert rig.core.mode is Mode.STOPPED
    assert rig.core.stopped_by is Stop.COMMANDS_SILENT
    for order in silent:  # held at the goal that carries the arm, not where it sags to
        assert order.torque
        assert order.goal_rad == pytest.approx(last)
    assert rig.run(0.1, SO101.default_rad + 0.2)[-1].goal_rad == pytest.approx(last)
    rig.core.reset()
    assert rig.run(0.1)[-1].torque is None
    rig.run(0.3, SO101.default_rad + 0.2)
    assert rig.core.mode is Mode.TRACKING


def test_commands_that_come_back_during_the_hold_go_on():
    rig = Rig()
    rig.run(0.2, SO101.default_rad)
    rig.run(0.3)
    assert rig.core.mode is Mode.HOLD
    rig.run(0.1, SO101.default_rad)
    assert rig.core.mode is Mode.TRACKING
    assert rig.core.stopped_by is Stop.NONE


def test_a_held_goal_is_not_far_from_an_arm_that_is_blocked():
    rig = Rig()
    rig.run(0.2, SO101.default_rad)
    rig.pose = SO101.default_rad - 0.5  # it was pushed away
    rig.now += 60 * MS
    rig.core.on_state(rig.pose)
    rig.core.on_replies(rig.errors, rig.now)
    rig.core.tick(rig.now)
    held = rig.core._target
    assert held == pytest.approx(rig.pose + 0.1)


@pytest.mark.parametrize("stop", ["brake", "damp"])
def test_the_guards_stop_holds_or_lets_go_as_the_robot_says(stop):
    rig = Rig(replace(SO101, stop=stop))
    rig.run(0.2, SO101.default_rad)
    order = rig.run(0.1, False)[-1]
    assert order.torque is (stop == "brake")
    rig.run(1.0)  # and is no fault when commands end with it
    assert rig.core.stopped_by is Stop.NONE
    assert rig.run(0.1)[-1].torque is (stop == "brake")


@pytest.mark.parametrize(
    ("bits", "reason", "mode"),
    [
        (1, Stop.VOLTAGE, Mode.STOPPED),
        (2, Stop.ANGLE, Mode.STOPPED),
        (4, Stop.HOT, Mode.LIMP),
        (8, Stop.OVERCURRENT, Mode.STOPPED),
        (32, Stop.OVERLOAD, Mode.STOPPED),
    ],
)
def test_error_bits_of_a_servo_stop_the_arm(bits, reason, mode):
    rig = Rig()
    rig.run(0.2, SO101.default_rad)
    rig.errors[4] = bits
    rig.run(0.01, SO101.default_rad)
    assert rig.core.mode is Mode.TRACKING  # a single odd reply is not a fault
    order = rig.run(0.05, SO101.default_rad)[-1]
    assert (rig.core.mode, rig.core.stopped_by) == (mode, reason)
    assert order.torque is (mode is Mode.STOPPED)
    rig.errors[4] = 0
    rig.run(0.1, SO101.default_rad)
    assert rig.core.mode is mode


def test_an_overloaded_arm_stops_pushing():
    rig = Rig()
    rig.run(0.2, SO101.default_rad)
    rig.blocked = True
    pushing = rig.run(0.2, SO101.default_rad + 0.2)[-1]
    assert np.abs(pushing.goal_rad - rig.pose).max() > 0.15
    rig.errors[2] = 32
    order = rig.run(0.1, SO101.default_rad + 0.2)[-1]
    assert order.goal_rad == pytest.approx(rig.pose)


def test_hot_servo_is_let_go_and_stays_so():
    rig = Rig()
    rig.run(0.2, SO101.default_rad)
    rig.core.on_temperature(64.0)
    assert rig.core.mode is Mode.TRACKING
    rig.core.on_temperature(66.0)
    assert rig.run(0.1, SO101.default_rad)[-1].torque is False
    assert rig.core.stopped_by is Stop.HOT


def test_heat_lets_go_of_an_arm_that_is_held_already():
    rig = Rig()
    rig.run(0.2, SO101.default_rad)
    rig.run(1.0)
    rig.core.on_temperature(66.0)
    assert rig.run(0.1)[-1].torque is False
    assert rig.core.stopped_by is Stop.HOT


def test_a_servo_that_falls_silent_stops_the_arm():
    rig = Rig()
    rig.run(0.2, SO101.default_rad)
    del rig.errors[3]
    rig.run(0.08, SO101.default_rad)
    assert rig.core.mode is Mode.TRACKING
    rig.run(0.04, SO101.default_rad)
    assert rig.core.stopped_by is Stop.SERVO_SILENT
    assert rig.core.silent(rig.now) == [3]
    assert rig.core.mode is Mode.STOPPED


def test_a_pause_of_our_own_is_not_the_servos():
    rig = Rig()
    rig.run(0.2, SO101.default_rad)
    rig.now += 300 * MS
    del rig.errors[3]  # and its reply got lost when we came back
    rig.run(0.01, SO101.default_rad)
    rig.errors[3] = 0
    rig.run(0.1, SO101.default_rad)
    assert rig.core.stopped_by is Stop.NONE


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_command_that_is_not_finite_stops_the_arm(value):
    rig = Rig()
    last = rig.run(0.2, SO101.default_rad)[-1].goal_rad
    bad = SO101.default_rad.copy()
    bad[3] = value
    order = rig.run(0.1, bad)[-1]
    assert rig.core.stopped_by is Stop.BAD_COMMAND
    assert order.goal_rad == pytest.approx(last)


def test_operator_releases_the_torque_in_every_state():
    for before in (None, SO101.default_rad):
        rig = Rig()
        rig.run(0.1, before)
        rig.core.stop(Stop.OPERATOR)
        assert rig.run(0.1, SO101.default_rad)[-1].torque is False
