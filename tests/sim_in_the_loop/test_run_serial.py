"""A policy through the ROS graph, the serial driver and a pty to the emulated arm, and back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from policies.errors import FaultError, InputError
from policies.robots import SO101
from sim2real.bags.reader import read_bag
from sim2real.run import run
from sim2real.run_config import RunConfig
from sim2real.tasks.swing import save_swing

pytest.importorskip("serial", reason="needs pyserial: pip install 'realign[serial]'")
pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]


@pytest.fixture(scope="session")
def swing(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("swing") / "policy"
    save_swing(folder, SO101)
    return folder


def run_with(swing, domain, **changes):
    config = {"robot": "so101", "policy": swing, "driver": "serial", "duration_s": 2.2, "seed": 2}
    return run(RunConfig(domain_id=domain, **{**config, **changes}), progress=False)


def assert_ran(result):
    """It ran to its end; a busy machine may have paused the policy on the way."""
    what = (result["stopped_by"], result["driver_stops"], result["transitions"])
    assert result["driver_stops"] == [], what
    assert result["stopped_by"] in (None, "policy_silent", "overrun"), what
    assert result["guard"]["state"] in ("active", "hold"), what
    assert result["duration_s"] >= 2.1, what


def test_policy_moves_the_arm_over_its_bus(swing, domain, tmp_path):
    result = run_with(swing, domain, record=tmp_path / "bag")
    assert_ran(result)
    bag = read_bag(tmp_path / "bag")
    assert bag.info.provenance["driver"] == "serial"
    columns = bag.columns_of(dict.fromkeys(("/joint_states", "/joint_command"), SO101.joint_names))
    states, commands = columns["/joint_states"], columns["/joint_command"]
    assert len(states) == pytest.approx(result["steps"], abs=5)
    way = np.ptp(states.arrays["position"], axis=0)
    assert (way > 0.2).all()  # every joint swings through 0.4 rad in 2 s
    assert np.abs(np.median(states.arrays["velocity"], axis=0)).max() < 0.5
    told = commands.arrays["position"][:, 0]
    seen = states.arrays["position"]
    assert np.abs(told[-1] - seen[-1]).max() < 0.15


def test_simulator_alone_plays_the_same_robot(swing, domain):
    result = run_with(swing, domain, driver="mujoco", lockstep=True)
    assert result["completed"], (result["stopped_by"], result["transitions"])


@pytest.mark.parametrize(
    ("fault", "stop"),
    [
        ("overload=3@0.8", "a servo is overloaded"),
        ("hot=2@0.8", "a servo is too hot"),
        pytest.param(
            "undervoltage@0.8", "the servos' voltage is out of range", marks=pytest.mark.slow
        ),
    ],
)
def test_what_a_servo_reports_stops_arm_and_guard(swing, domain, fault, stop):
    result = run_with(swing, domain, faults=fault)
    assert result["driver_stops"][0] == stop
    assert result["guard"]["state"] == "damp"
    assert not result["completed"]


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        ("dead=3@0.8", r"a servo does not answer \(elbow_flex\)"),
        pytest.param("silent@0.8", "a servo does not answer", marks=pytest.mark.slow),
        ("unplugged@0.8", "serial port went away|emulator process ended"),
    ],
)
def test_arm_that_falls_silent_ends_the_run(swing, domain, fault, sentence):
    with pytest.raises(FaultError, match=sentence):
        run_with(swing, domain, duration_s=20.0, faults=fault)


def test_one_lost_reply_in_a_hundred_changes_nothing(swing, domain):
    assert_ran(run_with(swing, domain, faults="drop=0.01"))


@pytest.fixture
def arm(tmp_path):
    """An emulated arm that is not the graph's: its port and calibration."""
    link, calibration = tmp_path / "port", tmp_path / "calibration.json"
    words = ["arm", "--link", str(link), "--calibration", str(calibration)]
    words += ["--realtime-priority", "21"]
    process = subprocess.Popen([sys.executable, "-m", "realign_serial_driver.emulator", *words])
    deadline = time.monotonic() + 60.0
    while not link.is_symlink():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield link, calibration
    process.send_signal(signal.SIGINT)
    process.wait(20.0)


@pytest.fixture
def operator():
    """Somebody who starts the arm; how many joint states had been sent until then."""
    import rclpy
    from sensor_msgs.msg import JointState
    from std_srvs.srv import Trigger

    rclpy.init()
    node, states, before = rclpy.create_node("operator"), [], []
    node.create_subscription(JointState, "joint_states", states.append, 10)
    client = node.create_client(Trigger, "/serial_driver/start")
    ended = threading.Event()

    def look(seconds):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not ended.is_set():
            rclpy.spin_once(node, timeout_sec=0.05)

    def start():
        while not (client.service_is_ready() or ended.is_set()):
            look(0.1)
        look(2.0)
        before.append(len(states))
        client.call_async(Trigger.Request())
        while not ended.is_set():
            look(0.1)

    thread = threading.Thread(target=start)
    thread.start()
    yield before
    ended.set()
    thread.join()
    node.destroy_node()
    rclpy.shutdown()


def test_real_arm_needs_its_own_calibration(swing, domain, arm, tmp_path, monkeypatch):
    link, _ = arm
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"make it with `python -m realign_serial_driver\.homing"):
        run_with(swing, domain, port=str(link))


def test_real_arm_waits_for_an_operator(swing, domain, arm, tmp_path, monkeypatch, operator):
    link, calibration = arm
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "realign").mkdir()
    calibration.rename(tmp_path / "realign/so101.json")
    assert_ran(run_with(swing, domain, port=str(link)))
    assert operator == [0]


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"port": "/dev/ttyNOTHING"}, "expected a serial port /dev/ttyNOTHING, but there is none"),
        ({"port": "/dev/ttyACM0", "gap": "payload"}, "expected no --gap"),
        ({"network": "eth0"}, "got --network eth0; use --port"),
        ({"lockstep": True}, "leave --lockstep out"),
        ({"faults": "storm@1"}, "expected a fault out of"),
        ({"faults": "dead=9@1"}, "a servo out of"),
    ],
)
def test_bad_input_is_one_sentence(swing, domain, changes, match):
    with pytest.raises(InputError, match=match):
        run_with(swing, domain, **changes)


def test_killed_driver_is_a_fault_and_leaves_no_process(swing, domain, graphs, when_moving):
    def kill(graph):
        driver = next(p for p in graph.processes if p.name == "driver")
        os.kill(driver.popen.pid, signal.SIGKILL)

    when_moving(kill)
    with pytest.raises(FaultError, match="driver"):
        run_with(swing, domain, duration_s=60.0)
    assert all(p.popen.poll() is not None for p in graphs[0].processes)
