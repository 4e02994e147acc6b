"""Emulated serial devices as clients that others wrote see them: unmodified, on a pty."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sdk = pytest.importorskip("scservo_sdk", reason="needs feetech-servo-sdk")
minimalmodbus = pytest.importorskip("minimalmodbus", reason="needs minimalmodbus")
pymodbus_client = pytest.importorskip("pymodbus.client", reason="needs pymodbus")

IDS = (1, 2, 3, 4, 5, 6)
TORQUE_ENABLE, GOAL_POSITION, LOCK, PRESENT_POSITION = 40, 42, 55, 56
HOMING_OFFSET, STS3215 = 31, 777
OUTPUT, INPUT, DEVICE = 0x03E8, 0x07D0, 9


@pytest.fixture
def emulated(tmp_path):
    """Starts emulators; gives the path of each one's port and the JSON that it left."""
    with contextlib.ExitStack() as stack:

        def start(device: str, *options: str) -> tuple[str, Path, subprocess.Popen]:
            link, summary = tmp_path / device, tmp_path / f"{device}.json"
            words = ["--link", str(link), "--summary", str(summary), *options]
            process = subprocess.Popen(
                [sys.executable, "-m", "realign_serial_driver.emulator", device, *words]
            )
            stack.callback(process.wait, 20.0)
            stack.callback(process.send_signal, signal.SIGINT)
            deadline = time.monotonic() + 60.0
            while not link.is_symlink():
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            return str(link), summary, process

        yield start


def retried(port, call, good):
    """The first good answer of an SDK that waits for 34 ms and never clears what came too late."""
    answer = None
    for _ in range(20):
        try:
            answer = call()
        except IndexError:  # its ping, when it reads an answer to something else
            answer = None
        if answer is not None and good(answer):
            return answer
        time.sleep(0.1)
        port.ser.reset_input_buffer()
    raise AssertionError(answer)


# ---- feetech-servo-sdk -------------------------------------------------------------------------


@pytest.fixture
def feetech(emulated):
    """The SDK's port and packet handler on an emulated SO-101."""
    link, summary, process = emulated("arm", "--robot", "so101", "--seed", "4")
    port, packets = sdk.PortHandler(link), sdk.PacketHandler(0)
    assert port.openPort()
    yield port, packets, summary, process
    port.closePort()


def read(port, packets, size, servo, address):
    function = {1: packets.read1ByteTxRx, 2: packets.read2ByteTxRx}[size]
    value, _, error = retried(
        port, lambda: function(port, servo, address), lambda a: a[1] == sdk.COMM_SUCCESS
    )
    assert error == 0
    return value


def test_feetech_sdk_pings_reads_and_writes(feetech):
    port, packets, *_ = feetech
    for servo in IDS:
        model, _, _ = retried(
            port, lambda servo=servo: packets.ping(port, servo), lambda a: a[1] == sdk.COMM_SUCCESS
        )
        assert model == STS3215
    retried(port, lambda: packets.ping(port, 9), lambda a: a[1] == sdk.COMM_RX_TIMEOUT)
    assert read(port, packets, 1, 3, TORQUE_ENABLE) == 0
    retried(
        port,
        lambda: packets.write1ByteTxRx(port, 3, TORQUE_ENABLE, 1),
        lambda a: a == (sdk.COMM_SUCCESS, 0),
    )
    assert read(port, packets, 1, 3, TORQUE_ENABLE) == 1


def test_feetech_sdk_writes_eeprom_only_when_it_is_unlocked(feetech):
    port, packets, *_ = feetech
    before = read(port, packets, 2, 2, HOMING_OFFSET)
    for lock, expected in ((1, before), (0, 321)):
        retried(
            port,
            lambda lock=lock: packets.write1ByteTxRx(port, 2, LOCK, lock),
            lambda a: a[0] == sdk.COMM_SUCCESS,
        )
        packets.write2ByteTxRx(port, 2, HOMING_OFFSET, 321)
        assert read(port, packets, 2, 2, HOMING_OFFSET) == expected


def test_feetech_sdk_moves_the_arm_by_sync_write_and_sees_it_by_sync_read(feetech):
    port, packets, summary, process = feetech
    states = sdk.GroupSyncRead(port, packets, PRESENT_POSITION, 4)
    goals = sdk.GroupSyncWrite(port, packets, GOAL_POSITION, 2)
    for servo in IDS:
        assert states.addParam(servo)

    def positions():
        retried(
            port,
            states.txRxPacket,
            lambda result: (
                result == sdk.COMM_SUCCESS
                and all(states.isAvailable(servo, PRESENT_POSITION, 2) for servo in IDS)
            ),
        )
        return [states.getData(servo, PRESENT_POSITION, 2) for servo in IDS]

    start = positions()
    wanted = [position + 120 for position in start]
    for servo, goal in zip(IDS, wanted, strict=True):
        assert goals.addParam(servo, [sdk.SCS_LOBYTE(goal), sdk.SCS_HIBYTE(goal)])
    assert goals.txPacket() == sdk.COMM_SUCCESS
    for servo in IDS:
        retried(
            port,
            lambda servo=servo: packets.write1ByteTxRx(port, servo, TORQUE_ENABLE, 1),
            lambda a: a[0] == sdk.COMM_SUCCESS,
        )
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        now = positions()
        # The arm sags: within 3 degrees of the goal, which is 10 away from the start.
        if all(abs(a - b) < 34 for a, b in zip(now, wanted, strict=True)):
            break
        time.sleep(0.05)
    assert max(abs(a - b) for a, b in zip(now, wanted, strict=True)) < 34
    assert min(a - b for a, b in zip(now, start, strict=True)) > 80
    process.send_signal(signal.SIGINT)
    process.wait(20.0)
    assert json.loads(summary.read_text())["torque"]


# ---- Modbus ------------------------------------------------------------------------------------


class PymodbusClient:
    """pymodbus, as its documentation uses it."""

    def __init__(self, link):
        self.client = pymodbus_client.ModbusSerialClient(link, baudrate=115200, timeout=1)
        assert self.client.connect()

    def write(self, values):
        answer = self.client.write_registers(OUTPUT, values, device_id=DEVICE)
        assert not answer.isError()

    def read(self):
        answer = self.client.read_input_registers(INPUT, count=3, device_id=DEVICE)
        assert not answer.isError()
        return answer.registers

    def read_outside(self):
        return self.client.read_input_registers(0, count=3, device_id=DEVICE).isError()

    def close(self):
        self.client.close()


class MinimalmodbusClient:
    """minimalmodbus, as its documentation uses it."""

    def __init__(self, link):
        self.client = minimalmodbus.Instrument(link, DEVICE)
        self.client.serial.baudrate = 115200
        self.client.serial.timeout = 1.0

    def write(self, values):
        self.client.write_registers(OUTPUT, values)

    def read(self):
        return self.client.read_registers(INPUT, 3, functioncode=3)

    def read_outside(self):
        try:
            self.client.read_registers(0, 3, functioncode=4)
        except minimalmodbus.IllegalRequestError:
            return True
        return False

    def close(self):
        self.client.serial.close()


@pytest.mark.parametrize("client", [PymodbusClient, MinimalmodbusClient])
def test_modbus_clients_activate_the_gripper_and_grasp(client, emulated):
    link, *_ = emulated("gripper", "--object-m", "0.04")
    gripper = client(link)
    try:
        assert gripper.read()[0] >> 8 & 0x31 == 0
        gripper.write([0x0100, 0, 0])
        wait_for(gripper, lambda status, _: status >> 4 & 3 == 3)
        gripper.write([0x0900, 255, 0xFF80])
        status, position = wait_for(gripper, lambda status, _: status >> 6 == 2)
        assert status & 9 == 9
        assert position == pytest.approx(3 + (1 - 0.04 / 0.085) * 227, abs=2)
        gripper.write([0x0900, 0, 0xFF80])
        wait_for(gripper, lambda status, position: status >> 6 == 3 and position <= 4)
        assert gripper.read_outside()
    finally:
        gripper.close()


def wait_for(gripper, fits):
    """Status byte and position once they fit."""
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        first, _, third = gripper.read()
        if fits(first >> 8, third >> 8):
            return first >> 8, third >> 8
        time.sleep(0.02)
    raise AssertionError((first, third))
