"""The e-stop button in a running graph, and the gripper node, each on its emulated port."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from policies.robots import SO101
from sim2real.graph import Graph, ros_environment
from sim2real.run import run
from sim2real.run_config import RunConfig
from sim2real.tasks.swing import save_swing

pytest.importorskip("serial", reason="needs pyserial: pip install 'realign[serial]'")
pytest.importorskip("pymodbus", reason="needs pymodbus: pip install 'realign[serial]'")
pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]
WAIT_S = 60.0


@pytest.fixture
def started(tmp_path, domain):
    """Starts programs of the package in the test's domain, and ends them."""
    with contextlib.ExitStack() as stack:

        def start(module: str, *words: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", f"realign_serial_driver.{module}", *words],
                env=ros_environment(domain),
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(_end, process)
            return process

        yield start


def _end(process):
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGINT)
    process.wait(20.0)


def device(started, tmp_path, name, *options):
    """An emulated device and the path of its port."""
    link = tmp_path / name
    process = started("emulator", name, "--link", str(link), *options)
    wait_for(link.is_symlink)
    return process, str(link)


def node(started, module, **parameters):
    words = [word for key, value in parameters.items() for word in ("-p", f"{key}:={value}")]
    return started(module, "--ros-args", *words)


def wait_for(condition, spin=lambda: time.sleep(0.02)):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        spin()


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("press", "estop"),
        ("freeze", "estop"),
        ("unplug", "estop"),
        ("kill its node", "operator_lost"),
    ],
)
def test_button_stops_the_guard_of_a_moving_arm(
    started, tmp_path, domain, ros_context, monkeypatch, deed, reason
):
    rclpy = pytest.importorskip("rclpy")
    from rclpy.executors import SingleThreadedExecutor
    from trajectory_msgs.msg import JointTrajectory

    button, port = device(started, tmp_path, "button")
    watcher = node(started, "estop_node", port=port)
    start = Graph.start

    def start_watched(graph, name, module, parameters):
        watched = {"operator_timeout_s": 2.0} if name == "guard" else {}
        return start(graph, name, module, parameters | watched)

    monkeypatch.setattr(Graph, "start", start_watched)
    save_swing(tmp_path / "swing", SO101)
    moving = threading.Event()
    ear = rclpy.create_node("ear", context=ros_context)
    ear.create_subscription(JointTrajectory, "joint_command", lambda _: moving.set(), 10)
    executor = SingleThreadedExecutor(context=ros_context)
    executor.add_node(ear)

    def act():
        wait_for(moving.is_set, spin=lambda: executor.spin_once(timeout_sec=0.05))
        time.sleep(0.5)
        if deed == "kill its node":
            watcher.kill()
            return
        signals = {"press": signal.SIGUSR1, "freeze": signal.SIGSTOP, "unplug": signal.SIGKILL}
        os.kill(button.pid, signals[deed])

    operator = threading.Thread(target=act)
    operator.start()
    config = RunConfig(
        robot="so101",
        policy=tmp_path / "swing",
        driver="serial",
        duration_s=5.0,
        domain_id=domain,
    )
    result = run(config, progress=False)
    operator.join()
    executor.shutdown()
    ear.destroy_node()
    assert result["stopped_by"] == reason
    assert result["guard"]["state"] == "damp"


def test_button_that_never_says_a_word_is_refused(started, tmp_path):
    _, port = device(started, tmp_path, "gripper")  # which speaks when it is asked
    process = node(started, "estop_node", port=port)
    assert process.wait(WAIT_S) == 2
    assert "expected lines of an e-stop button" in process.stderr.read()


def test_gripper_node_activates_moves_and_feels(started, tmp_path, ros_context):
    rclpy = pytest.importorskip("rclpy")
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import JointState
    from std_msgs.msg import Float64
    from std_srvs.srv import Trigger

    _, port = device(started, tmp_path, "gripper", "--object-m", "0.03")
    node(started, "gripper_node", port=port)
    hand = rclpy.create_node("hand", context=ros_context)
    widths, health = [], []
    hand.create_subscription(
        JointState, "gripper_state", lambda m: widths.append(m.position[0]), 10
    )
    hand.create_subscription(
        DiagnosticArray, "/diagnostics", lambda m: health.append(m.status[0]), 10
    )
    orders = hand.create_publisher(Float64, "gripper_command", 10)
    activate = hand.create_client(Trigger, "gripper_driver/activate")
    executor = SingleThreadedExecutor(context=ros_context)
    executor.add_node(hand)

    def wait(condition):
        wait_for(condition, spin=lambda: executor.spin_once(timeout_sec=0.05))

    def go(width_m, at_m):
        widths.clear()
        orders.publish(Float64(data=width_m))
        wait(lambda: widths and abs(widths[-1] - at_m) < 0.001)

    try:
        wait(lambda: widths and activate.service_is_ready() and orders.get_subscription_count())
        orders.publish(Float64(data=0.02))  # before it is activated: nothing moves
        answer = activate.call_async(Trigger.Request())
        wait(answer.done)
        assert answer.result().success
        widths.clear()
        wait(lambda: len(widths) > 20)
        assert min(widths) > 0.084
        go(0.05, 0.05)
        go(0.0, 0.03)
        wait(lambda: health and health[-1].message == "grasped")
        go(float("nan"), 0.03)
        go(0.085, 0.085)
    finally:
        executor.shutdown()
        hand.destroy_node()


def test_no_gripper_is_one_sentence(started, tmp_path):
    _, port = device(started, tmp_path, "button")
    process = node(started, "gripper_node", port=port)
    assert process.wait(WAIT_S) == 2
    assert "expected a Robotiq gripper on" in process.stderr.read()


def test_homing_imports_from_lerobot_without_a_port(tmp_path):
    joints = {
        name: {
            "id": i + 1,
            "drive_mode": 0,
            "homing_offset": 10,
            "range_min": 800,
            "range_max": 3200,
        }
        for i, name in enumerate(SO101.joint_names)
    }
    source, out = tmp_path / "lerobot.json", tmp_path / "so101.json"
    source.write_text(json.dumps(joints))
    words = ["--lerobot", str(source), "--out", str(out)]
    command = [sys.executable, "-m", "realign_serial_driver.homing", *words]
    assert subprocess.run(command, check=False).returncode == 0
    assert json.loads(Path(out).read_text())["joints"]["elbow_flex"]["zero_steps"] == 2000
    again = subprocess.run(command, check=False, capture_output=True, text=True)
    assert again.returncode == 2
    assert "exists already" in again.stderr
