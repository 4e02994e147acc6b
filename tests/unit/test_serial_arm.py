"""An arm on an emulated bus: greeting, cycles, calibration, homing, what goes wrong."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time

import numpy as np
import pytest
from realign_serial_driver import port as port_module
from realign_serial_driver import sts
from realign_serial_driver.arm import Arm, TorqueLimits
from realign_serial_driver.arm_calibration import (
    RAD_PER_STEP,
    from_lerobot,
    load_calibration,
    nominal_calibration,
)
from realign_serial_driver.bus import Bus, NoReply
from realign_serial_driver.core import ArmConfig, ArmCore, Mode, Stop
from realign_serial_driver.emulator import ArmEmulator
from realign_serial_driver.homing import Homing, home
from realign_serial_driver.port import PortLost, open_port
from realign_serial_driver.pty_port import PtyPort
from realign_serial_driver.servo_bench import ServoBench
from realign_serial_driver.servo_faults import parse_faults

from policies.errors import InputError
from policies.robots import get_robot

SO101 = get_robot("so101")
# Emulator and driver share an interpreter here: replies may be late.
SLACK_S = 0.2
PATIENT = ArmConfig(command_timeout_s=2.0, state_timeout_s=2.0)


class Rig:
    """An emulated arm in a thread, and a bus that leads to it."""

    def __init__(self, folder, **bench):
        bench["faults"] = parse_faults(bench.get("faults", ""))
        self.bench = ServoBench(SO101, **bench)
        self.link = folder / "port"
        self.emulator = ArmEmulator(PtyPort(self.link, 1_000_000), self.bench)
        self.thread = threading.Thread(target=self.emulator.run)
        self.thread.start()
        self.bus = Bus(open_port(str(self.link), 1_000_000, wait_s=20.0), slack_s=SLACK_S)

    def arm(self, calibration=None):
        return Arm(SO101, self.bus, calibration or self.bench.calibration)

    def close(self):
        self.emulator.stop()
        self.thread.join()
        self.emulator.port.close()
        self.bus.close()


@pytest.fixture
def rig(tmp_path):
    """Makes rigs, and ends them."""
    with contextlib.ExitStack() as stack:

        def make(**bench):
            made = Rig(tmp_path, **bench)
            stack.callback(made.close)
            return made

        yield make


def drive(arm, core, targets):
    """A cycle for each target; the readings."""
    readings = []
    for target in targets:
        core.on_command(target, time.monotonic_ns())
        readings.append(arm.cycle(core))
        time.sleep(0.002)
    return readings


# ---- cycles ------------------------------------------------------------------------------------


def test_arm_follows_by_name_through_servos_that_are_mounted_anyhow(rig):
    made = rig(seed=3)
    assert {servo.direction for servo in made.bench.calibration.servos} == {-1, 1}
    arm = made.arm()
    made.bus.slack_s = 0.05
    arm.greet()
    made.bus.slack_s = SLACK_S
    core = ArmCore(SO101, made.bench.calibration.limits_rad(SO101), PATIENT)
    goal = SO101.default_rad + np.array([0.3, 0.1, -0.1, -0.2, 0.2, 0.3])
    readings = drive(arm, core, [None] * 20 + [goal] * 300)
    assert arm.torque
    last = next(r for r in reversed(readings) if r is not None)
    truth = made.bench.stepper.state
    assert last.qpos_rad == pytest.approx(truth.qpos_rad, abs=0.01)
    assert np.abs(last.qpos_rad - goal).max() < 0.08  # it sags
    lift = SO101.joint_names.index("shoulder_lift")
    assert last.effort_nm[lift] * made.bench.stepper.effort_nm[lift] > 0.0


def test_switching_torque_on_does_not_make_the_arm_jump(rig):
    made = rig()
    for servo in made.bench.servos.values():
        servo.set(sts.GOAL_POSITION, 500)  # of another time
    arm = made.arm()
    core = ArmCore(SO101, made.bench.calibration.limits_rad(SO101), PATIENT)
    pose = made.bench.stepper.state.qpos_rad
    drive(arm, core, [pose] * 100)
    assert np.abs(made.bench.stepper.state.qpos_rad - pose).max() < 0.05
    assert np.abs(made.bench.stepper.state.qvel_rad_s).max() < 0.3


def test_torque_limits_reach_the_servos(rig):
    made = rig()
    arm = Arm(SO101, made.bus, made.bench.calibration, TorqueLimits(joints=0.6, gripper=0.3))
    core = ArmCore(SO101, made.bench.calibration.limits_rad(SO101), PATIENT)
    drive(arm, core, [SO101.default_rad] * 20)
    limits = [made.bench.servos[i].get(sts.TORQUE_LIMIT) for i in range(1, 7)]
    assert limits == [600] * 5 + [300]


def test_operator_lets_the_arm_go(rig):
    made = rig()
    arm = made.arm()
    core = ArmCore(SO101, made.bench.calibration.limits_rad(SO101), PATIENT)
    drive(arm, core, [SO101.default_rad] * 20)
    assert made.bench.torque
    core.stop(Stop.OPERATOR)
    drive(arm, core, [SO101.default_rad] * 5)
    assert not any(servo.get(sts.TORQUE_ENABLE) for servo in made.bench.servos.values())


def test_servos_that_lost_power_get_their_torque_back_after_a_reset(rig):
    made = rig()
    arm = made.arm()
    core = ArmCore(SO101, made.bench.calibration.limits_rad(SO101), PATIENT)
    drive(arm, core, [SO101.default_rad] * 20)
    for servo in made.bench.servos.values():  # as after a moment without supply
        servo.set(sts.TORQUE_ENABLE, 0)
        servo.set(sts.TORQUE_LIMIT, 1000)
    core.stop(Stop.SERVO_SILENT)
    core.reset()
    arm.torque = None
    drive(arm, core, [SO101.default_rad] * 20)
    assert made.bench.torque
    assert made.bench.servos[1].get(sts.TORQUE_LIMIT) == 800


@pytest.mark.parametrize(
    ("fault", "stop", "mode"),
    [
        ("dead=3@0.2", Stop.SERVO_SILENT, Mode.STOPPED),
        ("silent@0.2", Stop.SERVO_SILENT, Mode.STOPPED),
        ("hot=2@0.2", Stop.HOT, Mode.LIMP),
        ("overload=4@0.2", Stop.OVERLOAD, Mode.STOPPED),
        ("undervoltage@0.2", Stop.VOLTAGE, Mode.STOPPED),
    ],
)
def test_what_goes_wrong_on_the_bus_stops_the_arm(rig, fault, stop, mode):
    made = rig(faults=fault)
    made.bus.slack_s = 0.05
    arm = made.arm()
    config = ArmConfig(command_timeout_s=2.0, state_timeout_s=0.5)
    core = ArmCore(SO101, made.bench.calibration.limits_rad(SO101), config)
    deadline = time.monotonic() + 20.0
    while core.stopped_by is Stop.NONE and time.monotonic() < deadline:
        drive(arm, core, [SO101.default_rad])
    assert (core.stopped_by, core.mode) == (stop, mode)


def test_lost_and_damaged_replies_are_asked_for_again(rig):
    made = rig(faults="drop=0.05,noise=0.05")
    made.bus.slack_s = 0.03
    arm = made.arm()
    arm.greet()
    core = ArmCore(SO101, made.bench.calibration.limits_rad(SO101), PATIENT)
    readings = drive(arm, core, [SO101.default_rad] * 100)
    assert core.stopped_by is Stop.NONE
    assert made.bus.statistics.missing > 10
    assert sum(r is not None for r in readings) > 80
    assert arm.incomplete == sum(r is None for r in readings)
    whole = np.array([r.qpos_rad for r in readings if r is not None])
    assert np.abs(whole - SO101.default_rad).max() < 0.2  # nothing damaged got through


def test_a_port_that_goes_away_is_noticed(rig):
    made = rig()
    core = ArmCore(SO101, made.bench.calibration.limits_rad(SO101), PATIENT)
    drive(made.arm(), core, [SO101.default_rad] * 5)
    made.close()
    made.bus = Bus(made.bus.port)
    with pytest.raises(PortLost):
        drive(made.arm(), core, [SO101.default_rad] * 5)


# ---- greeting ----------------------------------------------------------------------------------


def servo_of(made, servo):
    return made.bench.servos[servo]


def renumber(made, first):
    for i, servo in enumerate(made.bench.servos.values()):
        servo.set(sts.ID, first + i)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: servo_of(m, 3).set(sts.ID, 9), "3 (elbow_flex) does not answer"),
        (lambda m: renumber(m, 40), "none answers; check the arm's power supply"),
        (lambda m: servo_of(m, 2).set(sts.MODEL, 1029), "got model 1029"),
        (lambda m: servo_of(m, 5).set(sts.OPERATING_MODE, 1), "position mode (0), got mode 1"),
        (lambda m: servo_of(m, 6).set(sts.HOMING_OFFSET, 5), "the servo has 5; use this arm's own"),
    ],
)
def test_other_servos_are_refused_with_one_sentence(rig, change, sentence):
    made = rig()
    made.bus.slack_s = 0.02
    arm = made.arm()
    change(made)
    with pytest.raises(InputError) as error:
        arm.greet()
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_servo_on_the_bus_is_refused(rig):
    made = rig()
    made.bench.servos[17] = type(made.bench.servos[1])(17)
    made.bus.slack_s = 0.02
    with pytest.raises(InputError, match=r"\[17\] answer too; take them off the bus"):
        made.arm().greet()


def test_a_port_that_is_used_is_refused(rig):
    made = rig()
    with pytest.raises(InputError, match="another program uses it; `fuser -v"):
        open_port(str(made.link), 1_000_000)


def test_a_port_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="but there is none"):
        open_port(str(tmp_path / "nothing"), 1_000_000)


def test_a_port_without_permission_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "port"
    path.touch()

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(port_module.serial, "Serial", refuse)
    with pytest.raises(InputError, match="usermod -aG dialout"):
        open_port(str(path), 1_000_000)


def test_a_file_is_no_port(tmp_path):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(InputError, match="use another port"):
        open_port(str(path), 1_000_000)


# ---- calibration -------------------------------------------------------------------------------


def lerobot(**changes):
    """A calibration file of LeRobot for an SO-101."""
    base = {"drive_mode": 0, "homing_offset": -500, "range_min": 900, "range_max": 3100}
    joints = {
        name: {"id": i + 1, **base, **changes.get(name, {})}
        for i, name in enumerate(SO101.joint_names)
    }
    joints["gripper"] |= {"range_min": 2000, "range_max": 3300}
    return joints


def test_lerobots_calibration_has_its_zero_in_the_middle_and_a_closed_gripper_below():
    found = from_lerobot(lerobot(elbow_flex={"drive_mode": 1}), SO101, "file")
    middle = np.full(6, 2000)
    assert found.to_rad(middle)[:5] == pytest.approx(np.zeros(5))
    closed = np.full(6, 2000)
    assert found.to_rad(closed)[5] == pytest.approx(SO101.lower_rad[5], abs=RAD_PER_STEP)
    up = found.to_rad(middle + 100)
    assert up[0] == pytest.approx(100 * RAD_PER_STEP)
    assert up[2] == pytest.approx(-100 * RAD_PER_STEP)
    assert (found.array("homing_offset_steps") == -500).all()


def test_goals_do_not_leave_the_calibrated_range():
    found = from_lerobot(lerobot(), SO101, "file")
    assert found.to_steps(np.full(6, 3.0)).tolist() == [3100] * 5 + [3300]
    low, high = found.limits_rad(SO101)
    assert (low >= SO101.lower_rad).all()
    assert (high <= SO101.upper_rad).all()
    assert low[0] == pytest.approx((900 - 2000) * RAD_PER_STEP)


def test_calibration_comes_back_from_its_file(tmp_path):
    nominal = nominal_calibration(SO101)
    nominal.save(tmp_path / "deep/so101.json", SO101)
    assert load_calibration(tmp_path / "deep/so101.json", SO101) == nominal
    (tmp_path / "lerobot.json").write_text(json.dumps(lerobot()))
    assert load_calibration(tmp_path / "lerobot.json", SO101).ids == nominal.ids


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "make it with `python -m realign_serial_driver.homing"),
        ("{", "expected JSON"),
        ("[]", "got list"),
        (json.dumps({"wheel": {}}), "expected the joints"),
        (json.dumps(lerobot(wrist_roll={"id": 1})), "different servo ids"),
        (json.dumps(lerobot(wrist_roll={"range_min": 4000})), "wrist_roll: expected a range"),
        (json.dumps(lerobot(wrist_roll={"homing_offset": 0.5})), "a whole number as homing_offset"),
        (json.dumps({"format": "realign-servo-calibration-1", "robot": "so100"}), "one of 'so100'"),
    ],
)
def test_bad_calibration_is_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "c.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError) as error:
        load_calibration(path, SO101)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


def test_other_robots_are_no_arms_of_bus_servos():
    with pytest.raises(InputError, match=r"out of \['so101'\], got 'panda'"):
        nominal_calibration(get_robot("panda"))


# ---- homing ------------------------------------------------------------------------------------


def test_homing_finds_what_the_arm_is(rig):
    made = rig(homed=False, seed=5)
    made.bench.move_to(SO101.default_rad)
    truth = made.bench.calibration
    steps = iter(["limp", "middle", "sweep"])

    def operator(text):
        step = next(steps)
        if step == "middle":
            assert not made.bench.torque
            made.bench.move_to(np.zeros(SO101.n))
        if step == "sweep":
            for pose in (SO101.lower_rad, SO101.upper_rad):
                made.bench.move_to(pose)
                time.sleep(0.3)

    found = home(
        Homing(SO101, made.bus),
        ask=operator,
        directions=truth.array("direction"),
        fast_replies=True,
        limits=True,
    )
    assert found.array("homing_offset_steps").tolist() == [
        made.bench.servos[i].get(sts.HOMING_OFFSET) for i in range(1, 7)
    ]
    assert found.ids == truth.ids
    for name in ("zero_steps", "homing_offset_steps", "lower_steps", "upper_steps"):
        assert np.abs(found.array(name) - truth.array(name)).max() <= 2, name
    assert [s.get(sts.LOWER_LIMIT) for s in made.bench.servos.values()] == found.array(
        "lower_steps"
    ).tolist()
    assert sum(servo.locked_writes for servo in made.bench.servos.values()) == 0
    assert all(servo.get(sts.LOCK) == 1 for servo in made.bench.servos.values())
    made.arm(found).greet()


def test_joint_that_was_not_moved_is_refused(rig):
    made = rig(homed=False)
    homing = Homing(SO101, made.bus)
    homing.watch_range()
    with pytest.raises(InputError, match="shoulder_pan: expected to be moved through about 220"):
        homing.calibration(np.zeros(6, dtype=np.int64), np.ones(6, dtype=np.int64))


def test_eeprom_is_written_through_its_own_door_only(rig):
    made = rig()
    with pytest.raises(ValueError, match="survives power-off"):
        made.bus.write(1, sts.HOMING_OFFSET, 5)
    made.bus.write_eeprom(1, sts.RETURN_DELAY, 7)
    assert made.bench.servos[1].get(sts.RETURN_DELAY) == 7
    assert made.bench.servos[1].get(sts.LOCK) == 1
    made.bus.slack_s = 0.02
    with pytest.raises(NoReply):
        made.bus.read(12, sts.POSITION)


# ---- emulator ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("storm@1", "expected a fault out of"),
        ("drop=2", "a share of replies after drop="),
        ("dead=3@x", "expected a fault like"),
        ("dead=9", "a servo out of [1, 2, 3, 4, 5, 6], got one of [9]"),
    ],
)
def test_bad_faults_are_one_sentence(text, sentence):
    with pytest.raises(InputError) as error:
        ServoBench(SO101, faults=parse_faults(text))
    assert sentence in str(error.value)


def test_emulated_wire_takes_its_time(tmp_path):
    port = PtyPort(tmp_path / "port", 10_000)  # 1 ms a byte
    port.plug()
    end = os.open(tmp_path / "port", os.O_RDWR | os.O_NOCTTY)
    try:
        start = time.monotonic_ns()
        os.write(end, bytes(10))
        data, at_ns = port.receive(start + 10**9)
        assert data == bytes(10)
        assert at_ns - start >= 10_000_000
        after_ns = at_ns + 300_000_000  # for a machine that does other things meanwhile
        port.send(bytes(10), after_ns=after_ns)
        fcntl.fcntl(end, fcntl.F_SETFL, os.O_NONBLOCK)
        port.receive(at_ns + 5_000_000)
        with pytest.raises(BlockingIOError):
            os.read(end, 100)
        assert port.receive(after_ns + 9_000_000) == (b"", after_ns + 9_000_000)
        port.receive(after_ns + 11_000_000)
        assert os.read(end, 100) == bytes(10)
    finally:
        os.close(end)
        port.close()
