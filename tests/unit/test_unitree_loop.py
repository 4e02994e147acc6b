"""The Unitree wire process's loop against the emulated robot in a process of its own."""

import json
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

pytest.importorskip("cyclonedds", reason="needs CycloneDDS: pip install 'realign[unitree]'")

from realign_unitree_driver import channel, wire_process
from realign_unitree_driver.core import DriverConfig, DriverCore, Mode, Stop
from realign_unitree_driver.dds import LOW_CMD, Participant, RawWriter, wait_until
from realign_unitree_driver.wire_process import Wire, WireConfig, WireLoop

from policies.robots import get_robot

GO2 = get_robot("go2")


class Rig:
    """The emulated robot in a process, and a wire loop in a thread of this one."""

    def __init__(self, folder, domain, robot="go2", faults=""):
        self.summary_path = folder / "emulator.json"
        words = ["--robot", robot, "--domain", str(domain), "--faults", faults]
        words += ["--summary", str(self.summary_path)]
        self.emulator = subprocess.Popen(
            [sys.executable, "-m", "realign_unitree_driver.emulator", *words]
        )
        config = WireConfig(robot=robot, network="lo", domain=domain)
        try:
            self.wire = Wire(config, Participant("lo", domain))
            self.wire.greet()
        except BaseException:
            self.emulator.kill()
            raise
        # Patient, so that a busy machine is not taken for a fault.
        patient = DriverConfig(command_timeout_s=2.0, state_timeout_s=1.0)
        machine = self.wire.wiring.mode_machine or 0
        self.core = DriverCore(self.wire.robot, self.wire.wiring, patient, mode_machine=machine)
        self.node, end = channel.channel_pair()
        self.loop = WireLoop(self.wire, self.core, end)
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()

    def command(self, target, until, limit_s=60.0):
        """Send set-points at 200 Hz until a state packet satisfies ``until``, and return it."""
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            channel.send(self.node, channel.command(channel.TRACK, target))
            while (record := channel.receive(self.node, channel.STATE)) is not None:
                if until(record):
                    return record
            time.sleep(0.005)
        raise AssertionError(f"waited in vain; mode {self.core.mode}, {self.core.stopped_by}")

    def end_emulator(self):
        """End it, and read what it saw."""
        if self.emulator.poll() is None:
            self.emulator.send_signal(signal.SIGINT)
            self.emulator.wait(30.0)
        return json.loads(self.summary_path.read_text())

    def close(self):
        """End everything."""
        self.loop.finish()
        self.thread.join()
        self.end_emulator()


@pytest.fixture
def rig(tmp_path, dds_domains, monkeypatch):
    monkeypatch.setattr(wire_process, "_LISTEN_S", 0.2)
    monkeypatch.setattr(wire_process, "_LAST_DAMPING_S", 0.2)
    monkeypatch.setattr(wire_process, "_FIRST_STATE_S", 20.0)
    rigs = []

    def make(**options):
        rigs.append(Rig(tmp_path, next(dds_domains), **options))
        return rigs[-1]

    yield make
    for made in rigs:
        made.close()


def is_tracking(record) -> bool:
    return Mode(int(record["mode"])) is Mode.TRACKING


def is_stopped_by(reason):
    return lambda record: record["stop"].decode() == reason.value


def test_go2_stands_and_finishes_in_damping(rig):
    made = rig()
    started = []

    def has_stood(record):
        if is_tracking(record) and not started:
            started.append(record["stamp_ns"])
        return bool(started) and record["stamp_ns"] - started[0] > 1e9

    record = made.command(GO2.default_rad, has_stood)
    assert np.abs(channel.joints(GO2, record, "q") - GO2.default_rad).max() < 0.15
    assert record["accel_m_s2"][2] == pytest.approx(9.81, abs=1.5)
    channel.send(made.node, channel.command(channel.FINISH))
    made.thread.join(30.0)
    assert not made.thread.is_alive()
    assert made.core.stopped_by is Stop.FINISHED
    seen = made.end_emulator()
    assert not seen["fell"]
    assert seen["refused"] == {}
    assert seen["damaged"] == seen["commands_too_early"] == 0
    assert seen["commands"] > 50


def test_death_of_the_node_damps_until_the_robot_is_gone(rig, monkeypatch):
    monkeypatch.setattr(wire_process, "_ROBOT_GONE_S", 1.0)
    made = rig()
    made.command(GO2.default_rad, is_tracking)
    made.node.close()
    assert wait_until(lambda: made.core.mode is Mode.DAMP, 30.0)
    assert made.core.stopped_by is Stop.NODE_DIED
    time.sleep(0.5)
    assert made.thread.is_alive()  # goes on damping
    made.end_emulator()
    made.thread.join(30.0)
    assert not made.thread.is_alive()


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ("silent@0.2", Stop.ROBOT_SILENT),
        ("bad_crc@0.2", Stop.ROBOT_SILENT),
        ("keys=L2+B@0.2:0.1", Stop.REMOTE),
        ("hot@0.2", Stop.HOT),
        ("foreign", Stop.SECOND_COMMANDER),
    ],
)
def test_fault_damps_and_the_node_is_told(rig, faults, reason):
    made = rig(faults="" if faults == "foreign" else faults)
    made.command(GO2.default_rad, is_tracking)
    if faults == "foreign":
        other = Participant("lo", made.wire.participant.domain_id)
        writer = RawWriter(other, LOW_CMD, made.wire.wiring.low_cmd)
        assert writer.missed == 0
    record = made.command(GO2.default_rad, is_stopped_by(reason))
    assert Mode(int(record["mode"])) is Mode.DAMP
    assert made.core.mode is Mode.DAMP
    assert made.wire.reader.damaged > 0 or faults != "bad_crc@0.2"
