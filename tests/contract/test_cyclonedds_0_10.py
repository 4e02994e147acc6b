"""The Unitree driver and emulator against a peer with the robot's own version of CycloneDDS.

Needs an interpreter with ``cyclonedds==0.10.2`` (see docs/robots/g1.md), named by
REALIGN_CYCLONEDDS_0_10_PYTHON; what that needs in LD_LIBRARY_PATH is up to the caller.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("cyclonedds", reason="needs CycloneDDS: pip install 'realign[unitree]'")

from realign_unitree_driver import channel, wire_process
from realign_unitree_driver.wire_process import Wire, WireConfig, WireLoop, make_core

PEER = Path(__file__).with_name("cyclonedds_0_10_peer.py")
IDL = Path(wire_process.__file__).with_name("idl.py")


@pytest.fixture(scope="module")
def peer():
    """Start the peer in a role on a domain."""
    python = os.environ.get("REALIGN_CYCLONEDDS_0_10_PYTHON")
    if not python:
        pytest.skip("needs CycloneDDS 0.10.2: set REALIGN_CYCLONEDDS_0_10_PYTHON to its python")
    started = []

    def start(role, domain):
        words = [python, str(PEER), role, str(domain), str(IDL)]
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def answer(process):
    out, _ = process.communicate(timeout=40.0)
    assert process.returncode == 0  # 139 where a type object is one that 0.10 does not know
    return json.loads(out)


def test_stock_peer_drives_the_emulated_robot(peer, tmp_path, dds_domains):
    domain = next(dds_domains)
    summary = tmp_path / "emulator.json"
    words = ["--robot", "g1", "--domain", str(domain), "--summary", str(summary)]
    emulator = subprocess.Popen([sys.executable, "-m", "realign_unitree_driver.emulator", *words])
    try:
        seen = answer(peer("user", domain))
    finally:
        emulator.send_signal(signal.SIGINT)
        emulator.wait(10.0)
    assert json.loads(seen["before"])["name"] == "ai"
    assert json.loads(seen["after"])["name"] == ""
    assert seen["heard"] > 50  # as many as its own pace leaves room for
    assert seen["damaged"] == 0
    robot = json.loads(summary.read_text())
    assert robot["commands"] > 100
    assert robot["refused"] == {}
    assert robot["damaged"] == 0
    assert robot["moved_s"] > 0.5


def test_driver_talks_to_a_stock_robot(peer, monkeypatch, dds_domains):
    monkeypatch.setattr(wire_process, "_FIRST_STATE_S", 20.0)
    domain = next(dds_domains)
    process = peer("robot", domain)
    wire = Wire(WireConfig(robot="g1", network="lo", domain=domain, release=False))
    wire.greet()
    node, end = channel.channel_pair()
    loop = WireLoop(wire, make_core(wire), end)
    thread = threading.Thread(target=loop.run)
    thread.start()
    seen = answer(process)
    loop.finish()
    thread.join()
    node.close()
    end.close()
    assert seen["heard"] >= 50
    assert seen["damaged"] == 0
    assert wire.reader.damaged == 0
