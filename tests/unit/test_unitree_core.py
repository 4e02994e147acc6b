"""Watchdog, motor tables, remote and stamps of the Unitree driver; the clock is passed in."""

from dataclasses import replace

import numpy as np
import pytest
from realign_unitree_driver import remote
from realign_unitree_driver.core import DriverConfig, DriverCore, Mode, Stop
from realign_unitree_driver.ticks import TickClock
from realign_unitree_driver.wiring import G1 as G1_WIRING
from realign_unitree_driver.wiring import GO2 as GO2_WIRING
from realign_unitree_driver.wiring import POS_STOP_RAD, WIRINGS, get_wiring

from policies.errors import InputError
from policies.robots import get_robot

G1, GO2 = get_robot("g1"), get_robot("go2")
MS = 1_000_000
PERIOD = 2 * MS


class Rig:
    """A core with a clock, and a robot that reports what it is told to."""

    def __init__(self, robot=G1, **config):
        self.robot = robot
        self.wiring = get_wiring(robot)
        machine = self.wiring.mode_machine or 0
        self.core = DriverCore(robot, self.wiring, DriverConfig(**config), mode_machine=machine)
        self.state = self.wiring.low_state.new().data
        if machine:
            self.state["mode_machine"] = machine
        self.now = 1_000_000_000
        self.pose = robot.default_rad + 0.05
        self.silent = False

    def run(self, seconds, target=None):
        """Tick at 500 Hz; a command every 5 ms where there is a target (False: damping)."""
        commands = []
        for k in range(round(seconds * 500)):
            self.now += PERIOD
            if not self.silent:
                self.state["motor_state"]["q"][self.core.index] = self.pose
                self.core.on_state(self.state, self.now)
            if target is not None and k % 3 == 0:
                self.core.on_command(None if target is False else target, self.now)
            data = self.core.tick(self.now).data
            commands.append(data["motor_cmd"].copy())
        return commands

    def assert_damping(self, command):
        used = command[self.core.index]
        assert (used["kp"] == 0.0).all()
        assert (used["kd"] == self.core.config.damping_kd_nm_s_rad).all()
        assert (used["tau"] == 0.0).all()


@pytest.mark.parametrize("robot", [G1, GO2], ids=lambda robot: robot.name)
def test_damps_until_the_first_command_then_tracks_by_name(robot):
    rig = Rig(robot)
    rig.assert_damping(rig.run(0.1)[-1])
    target = robot.default_rad + np.linspace(-0.1, 0.1, robot.n)
    command = rig.run(0.1, target)[-1]
    assert rig.core.mode is Mode.TRACKING
    for i, name in enumerate(robot.joint_names):
        motor = rig.wiring.motors.index(name)
        assert command["q"][motor] == pytest.approx(target[i], abs=1e-6)
        assert command["kp"][motor] == robot.kp_nm_rad[i]
        assert command["mode"][motor] == 1
    assert rig.core.message.is_intact


def test_commands_that_stay_away_hold_the_measured_pose_then_damp_for_good():
    rig = Rig()
    rig.run(0.1, rig.robot.default_rad)
    assert rig.core.mode is Mode.TRACKING
    silent = rig.run(0.7)
    modes = [bool((c["kp"][rig.core.index] > 0).any()) for c in silent]
    assert modes.index(False) * 0.002 == pytest.approx(0.05 + 0.5, abs=0.01)
    held = silent[round(0.3 / 0.002)]["q"][rig.core.index]
    assert held == pytest.approx(rig.pose, abs=1e-6)
    steps = np.diff([c["q"][rig.core.index] for c in silent[: modes.index(False)]], axis=0)
    assert np.abs(steps).max() < 0.05 * PERIOD / (0.1 * 1e9) * 1.01 + 1e-6  # no step signal
    assert rig.core.stopped_by is Stop.COMMANDS_SILENT
    rig.assert_damping(rig.run(0.1, rig.robot.default_rad)[-1])
    rig.core.reset()
    rig.assert_damping(rig.run(0.1)[-1])
    rig.run(0.1, rig.robot.default_rad)
    assert rig.core.mode is Mode.TRACKING


def test_commands_that_come_back_during_the_hold_are_blended_in():
    rig = Rig()
    rig.run(0.1, rig.robot.default_rad)
    held = rig.run(0.3)[-1]["q"][rig.core.index]
    back = rig.run(0.2, rig.robot.default_rad)
    first = np.abs(back[0]["q"][rig.core.index] - held).max()
    assert first < 0.002
    assert back[-1]["q"][rig.core.index] == pytest.approx(rig.robot.default_rad, abs=1e-6)
    assert rig.core.stopped_by is Stop.NONE


def test_damping_by_the_guard_is_not_a_fault_when_its_commands_end():
    rig = Rig()
    rig.run(0.1, rig.robot.default_rad)
    rig.assert_damping(rig.run(0.1, False)[-1])
    rig.assert_damping(rig.run(1.0)[-1])
    assert rig.core.mode is Mode.WAITING
    assert rig.core.stopped_by is Stop.NONE


def test_silent_robot_is_damped_and_stays_so_when_it_speaks_again():
    rig = Rig()
    rig.run(0.1, rig.robot.default_rad)
    rig.silent = True
    commands = rig.run(0.2, rig.robot.default_rad)
    damped = [bool((c["kp"][rig.core.index] == 0).all()) for c in commands]
    assert damped.index(True) * 0.002 == pytest.approx(0.1, abs=0.005)
    rig.silent = False
    rig.assert_damping(rig.run(0.1, rig.robot.default_rad)[-1])
    assert rig.core.stopped_by is Stop.ROBOT_SILENT


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("wireless_remote", remote.remote_bytes(["L2", "B"]), Stop.REMOTE),
        ("wireless_remote", remote.remote_bytes(["select"]), Stop.REMOTE),
        ("mode_machine", 4, Stop.WRONG_MODE),
        ("mode_pr", 1, Stop.WRONG_MODE),
    ],
)
def test_what_the_robot_says_stops_it(field, value, reason):
    rig = Rig()
    rig.run(0.1, rig.robot.default_rad)
    rig.state[field] = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
    rig.assert_damping(rig.run(0.2, rig.robot.default_rad)[-1])
    assert rig.core.stopped_by is reason


@pytest.mark.parametrize(("case", "winding", "stops"), [(84, 119, False), (86, 40, True)])
def test_hot_motor_stops_the_robot(case, winding, stops):
    rig = Rig()
    rig.state["motor_state"]["temperature"][7] = (case, winding)
    rig.run(0.02, rig.robot.default_rad)
    assert (rig.core.stopped_by is Stop.HOT) is stops


def test_other_keys_do_not_stop():
    rig = Rig()
    keys = np.frombuffer(remote.remote_bytes(["A", "L2"]), np.uint8)
    rig.state["wireless_remote"] = keys
    rig.run(0.02, rig.robot.default_rad)
    assert rig.core.mode is Mode.TRACKING
    assert remote.wants_arm(remote.pressed(remote.remote_bytes(["A"])))
    assert not remote.wants_arm(rig.core.keys)


def test_command_with_nan_damps():
    rig = Rig()
    bad = rig.robot.default_rad.copy()
    bad[3] = np.nan
    rig.assert_damping(rig.run(0.01, bad)[-1])
    assert rig.core.stopped_by is Stop.BAD_COMMAND


def test_first_reason_is_kept():
    rig = Rig()
    rig.core.stop(Stop.HOT)
    rig.core.stop(Stop.REMOTE)
    assert rig.core.stopped_by is Stop.HOT


# ---- motor tables ------------------------------------------------------------------------------


def test_every_wiring_has_a_motor_for_every_joint_and_slots_for_every_motor():
    for name, wiring in WIRINGS.items():
        robot = get_robot(name)
        assert sorted(wiring.motors) == sorted(robot.joint_names)
        assert len(wiring.motors) <= wiring.low_cmd.dtype["motor_cmd"].shape[0]


def test_single_ankle_motors_need_a_robot_that_has_them():
    with pytest.raises(InputError, match="left_ankle_pitch_joint"):
        G1_WIRING.index(G1, "ab")
    with pytest.raises(InputError, match="expected ankle mode pr for go2"):
        GO2_WIRING.index(GO2, "ab")
    names = G1_WIRING.names("ab")
    joints = tuple(replace(j, name=n) for j, n in zip(G1.joints, names, strict=True))
    single = replace(G1, joints=joints)
    assert list(G1_WIRING.index(single, "ab")) == list(range(29))
    assert G1_WIRING.new_command("ab", 5).data["mode_pr"] == 1
    assert names[4:6] == ("left_ankle_b_joint", "left_ankle_a_joint")


def test_go2_command_has_its_head_and_no_position_for_unused_motors():
    data = GO2_WIRING.new_command("pr", 0).data
    assert tuple(data["head"]) == (0xFE, 0xEF)
    assert data["level_flag"] == 0xFF
    assert (data["motor_cmd"]["q"][12:] == np.float32(POS_STOP_RAD)).all()
    assert (data["motor_cmd"]["mode"][12:] == 0).all()


def alive(wiring, motors):
    state = wiring.low_state.new().data
    state["motor_state"]["q"][:motors] = 0.1
    if wiring.mode_machine is not None:
        state["mode_machine"] = wiring.mode_machine
    return state


def test_robot_of_another_type_is_refused():
    G1_WIRING.check_type(alive(G1_WIRING, 29), None)
    GO2_WIRING.check_type(alive(GO2_WIRING, 12), None)
    small = alive(G1_WIRING, 29)
    small["mode_machine"] = 4
    with pytest.raises(InputError, match=r"mode_machine 5 .*reports 4 \(G1, 23 joints"):
        G1_WIRING.check_type(small, None)
    G1_WIRING.check_type(small, 4)
    with pytest.raises(InputError, match="20 answer"):
        GO2_WIRING.check_type(alive(GO2_WIRING, 20), None)
    with pytest.raises(InputError, match=r"right_wrist_yaw_joint.* report nothing"):
        G1_WIRING.check_type(alive(G1_WIRING, 28), None)


def test_other_robots_have_no_wiring():
    with pytest.raises(InputError, match="expected a Unitree robot"):
        get_wiring(get_robot("panda"))


# ---- stamps ------------------------------------------------------------------------------------


def test_stamps_are_even_however_messages_travel():
    clock, rng = TickClock(), np.random.default_rng(0)
    sent = 50_000_000_000 + np.arange(5000) * PERIOD
    received = sent + (0.3 + rng.exponential(0.4, 5000)) * MS
    ticks = 2**32 - 1000 + 2 * np.arange(5000)  # wraps
    stamps = np.array(
        [clock.stamp_ns(int(t) % 2**32, int(r)) for t, r in zip(ticks, received, strict=True)]
    )
    settled = stamps[2500:]
    assert (np.diff(settled) == PERIOD).all()
    assert np.abs(settled - sent[2500:]).max() < 1.5 * MS


def test_stamps_follow_a_robot_clock_that_drifts_and_one_that_starts_again():
    clock = TickClock()
    error = 0
    for k in range(20_000):  # 40 s, 200 ppm slow
        now = 1_000_000_000 + int(k * PERIOD * 1.0002)
        error = clock.stamp_ns(2 * k, now) - now
        assert abs(error) < 2 * MS
    stamps = [clock.stamp_ns(2 * k, now + k * PERIOD) - (now + k * PERIOD) for k in range(1, 40)]
    assert abs(stamps[-1]) < MS


def test_one_late_message_moves_no_stamp():
    clock = TickClock()
    for k in range(100):
        clock.stamp_ns(2 * k, k * PERIOD)
    assert clock.stamp_ns(200, 100 * PERIOD + 80 * MS) == 100 * PERIOD
    assert clock.stamp_ns(202, 101 * PERIOD) == 101 * PERIOD
