"""The Robotiq client on an emulated gripper: what it feels, what it reports, what it misses."""

from __future__ import annotations

import threading
import time

import pytest
from realign_serial_driver.emulator import GripperEmulator
from realign_serial_driver.pty_port import PtyPort
from realign_serial_driver.robotiq import GripperLost, Object, Robotiq
from realign_serial_driver.robotiq_model import GripperModel

from policies.errors import InputError

WAIT_S = 20.0


class Rig:
    """An emulated gripper in a thread, and a client of it."""

    def __init__(self, folder, object_m=None):
        self.model = GripperModel(object_m)
        self.emulator = GripperEmulator(PtyPort(folder / "port", 115200), self.model)
        self.thread = threading.Thread(target=self.emulator.run)
        self.thread.start()
        self.gripper = Robotiq(str(folder / "port"), wait_s=WAIT_S)

    def end_emulator(self):
        self.emulator.stop()
        self.thread.join()

    def wait(self, condition):
        """The first state that fits; one that does not answer in time is asked again."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            try:
                state = self.gripper.read()
            except GripperLost:
                continue
            if condition(state):
                return state
            time.sleep(0.01)
        raise AssertionError(state)


@pytest.fixture
def rig(tmp_path):
    made = []

    def make(**options):
        made.append(Rig(tmp_path, **options))
        return made[-1]

    yield make
    for one in made:
        one.end_emulator()
        one.gripper.close()
        one.emulator.port.close()


def test_object_is_felt_where_it_is(rig):
    made = rig(object_m=0.05)
    made.gripper.activate(WAIT_S)
    made.gripper.move(0.0, force_n=100.0)
    state = made.wait(lambda s: s.met is Object.GRASPED)
    assert state.holds
    assert state.width_m == pytest.approx(0.05, abs=1e-3)
    assert state.requested_m == 0.0
    assert state.current_a > 0.0
    assert made.model.output[2] & 0xFF == round(255 * 80 / 215)
    made.gripper.move(0.07)
    state = made.wait(lambda s: s.met is Object.AT_REQUEST)
    assert not state.holds
    assert state.width_m == pytest.approx(0.07, abs=1e-3)


def test_stop_keeps_the_fingers_where_they_are(rig):
    made = rig()
    made.gripper.activate(WAIT_S)
    made.gripper.move(0.0, speed_m_s=0.02)
    made.wait(lambda s: s.width_m < 0.08)
    made.gripper.stop()
    width = made.gripper.read().width_m
    assert width > 0.01
    time.sleep(0.3)
    assert made.wait(lambda s: True).width_m == pytest.approx(width, abs=1e-3)


def test_move_before_activation_is_a_fault_that_activation_clears(rig):
    made = rig()
    made.model.output[0] = 0
    made.gripper._write(0x0800, 255, 0)
    state = made.wait(lambda s: s.fault)
    assert state.fault_text == "must be activated before it moves"
    assert not state.activated
    made.gripper.activate(WAIT_S)
    assert made.gripper.read().fault_text == ""


def test_gripper_that_nobody_asked_for_a_second_says_so(rig):
    made = rig()
    made.gripper.activate(WAIT_S)
    time.sleep(1.3)
    assert made.wait(lambda s: s.fault).fault_text == "no communication for a second"


def test_gripper_that_goes_away_is_lost(rig):
    made = rig()
    made.end_emulator()
    with pytest.raises(GripperLost):
        made.gripper.read()
    assert made.gripper.lost >= 3


def test_no_gripper_on_a_port_is_one_sentence(tmp_path):
    port = PtyPort(tmp_path / "port", 115200)
    port.plug()
    with pytest.raises(InputError, match="none answers; check its 24 V supply"):
        Robotiq(str(tmp_path / "port"))
    port.close()
