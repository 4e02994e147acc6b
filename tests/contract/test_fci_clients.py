"""The emulated control box against clients that others wrote: pylibfranka, franky-control."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from realign_franka_driver.arm import Arm
from realign_franka_driver.control_box import ControlBox
from realign_franka_driver.emulator import Emulator
from realign_franka_driver.errors import Error
from realign_franka_driver.layout import ROBOT_PORT

from policies.robots import get_robot

HERE = Path(__file__).parent
LOST = "communication_constraints_violation"
STOLEN = (LOST, "timeout", "Timeout")
pytestmark = pytest.mark.timeout(120)


def needs(module):
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason="needs pip install 'realign[franka]'")


def address():
    """One of this test's own: the ports are fixed."""
    address.count += 1
    return f"127.2.{os.getpid() % 250}.{address.count}"


address.count = 0


@pytest.fixture
def with_emulator(until_bound):
    """Gives what a client says of the emulator.

    A machine without a real-time kernel takes 20 ms from the client now and then: then the box is
    right to end the motion, and the scenario is played again.
    """

    def play(script, *arguments, faults="", tries=4):
        for _ in range(tries):
            own = address()
            options = ["--robot", "fr3", "--address", own, "--realtime-priority", "30"]
            words = [sys.executable, "-m", "realign_franka_driver.emulator", *options]
            robot = subprocess.Popen([*words, "--faults", faults])
            try:
                until_bound(own, ROBOT_PORT)
                words = [sys.executable, str(HERE / script), own, *arguments]
                client = subprocess.run(
                    words, capture_output=True, text=True, timeout=60, check=False
                )
            finally:
                robot.send_signal(signal.SIGINT)
                robot.wait(20.0)
            said = client.stdout + client.stderr
            if "silence" in faults or not any(word in said for word in STOLEN):
                break
        assert client.returncode == 0, client.stderr
        return json.loads(client.stdout)

    return play


@needs("pylibfranka")
def test_pylibfranka_moves_in_every_way(with_emulator):
    seen = with_emulator("fci_pylibfranka.py", "motions")
    assert seen["joint_position"]["joint"] == pytest.approx([0.1] * 7, abs=0.01)
    assert seen["joint_velocity"]["joint"] == pytest.approx([-0.1] * 7, abs=0.01)
    assert seen["cartesian_pose"]["y_m"] == pytest.approx(0.05, abs=5e-3)
    assert seen["cartesian_velocity"]["y_m"] == pytest.approx(-0.05, abs=5e-3)
    assert seen["torque"]["joint"] == pytest.approx([0.1] * 7, abs=0.03)
    for motion in seen.values():
        assert motion["cycles"] > 900  # of 1200: the rest is what a loaded machine skips


@needs("pylibfranka")
def test_pylibfranka_is_told_of_its_mistakes_in_libfrankas_words(with_emulator):
    seen = with_emulator("fci_pylibfranka.py", "errors")
    kind, text = seen["jump"]
    assert kind == "ControlException"
    assert text == (
        "libfranka: Move command aborted: motion aborted by reflex! "
        '["controller_torque_discontinuity"]'
    )
    assert seen["jump_mode"] == ["Reflex", '["controller_torque_discontinuity"]']
    assert seen["jump_next"] == (
        'libfranka: Move command rejected: command not possible in the current mode ("Reflex")!'
    )
    assert seen["jump_recovered"] == "Idle"
    assert seen["nan"] == ["ValueError", "Commanding value is infinite or NaN."]
    assert seen["nan_mode"] == ["Idle", "[]"]
    assert seen["nan_next"] == "moved"


@needs("pylibfranka")
@pytest.mark.parametrize(
    ("faults", "end", "mode", "recovered"),
    [
        (
            "reflex=joint_velocity_violation@1",
            "libfranka: Move command aborted: motion aborted by reflex! "
            '["joint_velocity_violation"]',
            "Reflex",
            "Idle",
        ),
        (
            "estop@1",
            "libfranka: Move command aborted: User Stop pressed!",
            "UserStopped",
            "libfranka: Automatic Error Recovery command rejected: command not possible in the "
            'current mode ("User stopped")!',
        ),
        (
            "silence@1:0.2",
            f'libfranka: Move command aborted: motion aborted by reflex! ["{LOST}"]',
            "Reflex",
            "Idle",
        ),
        ("silence@1", "libfranka: UDP receive: Timeout", None, None),
        ("loss:0.05", "moved", "Idle", "Idle"),
    ],
    ids=["reflex", "estop", "short_silence", "silence", "loss"],
)
def test_pylibfranka_sees_faults_as_on_a_robot(with_emulator, faults, end, mode, recovered):
    seen = with_emulator("fci_pylibfranka.py", "fault", faults=faults)
    assert seen["end"] == end
    assert seen.get("mode") == mode
    if recovered is not None:
        assert seen["recovered"] == recovered


@needs("pylibfranka")
def test_pylibfranka_settings_and_model(with_emulator):
    seen = with_emulator("fci_pylibfranka.py", "settings")
    assert seen["tool_moved_m"] == pytest.approx(0.1, abs=1e-3)
    assert seen["m_load"] == pytest.approx(0.3)
    # At rest the joints carry the arm: the model that libfranka makes agrees with the physics.
    assert seen["gravity"] == pytest.approx(seen["tau_J"], abs=0.5)
    assert max(map(abs, seen["tau_J"])) > 3.0
    assert all(0.0 < value < 10.0 for value in seen["mass"])
    assert seen["coriolis_at_rest"] == pytest.approx([0.0] * 7, abs=1e-3)
    assert seen["jacobian"] == 42


@needs("pylibfranka")
def test_pylibfranka_gripper(with_emulator):
    seen = with_emulator("fci_pylibfranka.py", "gripper")
    assert seen["version"] == 3
    assert seen["open"] == pytest.approx(0.08)
    assert seen["homed"]
    assert seen["moved"]
    assert seen["stopped"]
    assert seen["width"] == pytest.approx(0.03, abs=3e-3)
    assert not seen["grasped"]  # there is nothing between the fingers


@needs("pylibfranka")
def test_pylibfranka_is_told_of_another_version(with_emulator):
    seen = with_emulator("fci_pylibfranka.py", "connect", faults="version:9")
    assert "Incompatible library version (server version: 9, library version: 10)" in seen["error"]


@needs("franky")
def test_franky_moves_in_every_way(with_emulator):
    seen = with_emulator("fci_franky.py")
    assert seen["joint"]["joint"] == pytest.approx([0.1] * 7, abs=0.01)
    assert seen["cartesian"]["hand_m"] == pytest.approx([0.05, 0.0, 0.0], abs=5e-3)
    assert max(seen["joint_velocity"]["joint"]) < -0.02
    assert seen["cartesian_velocity"]["hand_m"][2] > 0.01
    assert seen["ticks"] == 50
    assert seen["tracker"]["joint"][:4] == pytest.approx([0.1] * 4, abs=0.05)
    assert seen["recovered"]


NAMES_IN_ORDER = """
import sys, time, pylibfranka
robot = pylibfranka.Robot(sys.argv[1], pylibfranka.RealtimeConfig.kIgnore)
seen, end = "", time.monotonic() + 60.0
while time.monotonic() < end and seen != "[]":
    text = str(robot.read_once().current_errors)
    if text != seen:
        print(text, flush=True)
    seen = text
"""


@needs("pylibfranka")
def test_every_error_has_the_bit_by_which_libfranka_knows_it():
    own = address()
    box = ControlBox(Arm(get_robot("fr3")))
    box.errors = {Error(0)}
    emulator = Emulator(box, address=own)

    def play():
        while emulator.running:
            emulator.period()
            time.sleep(0.001)

    thread = threading.Thread(target=play)
    thread.start()
    names = []
    try:
        words = [sys.executable, "-c", NAMES_IN_ORDER, own]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as client:
            for line in client.stdout:  # the next one when the client has seen this one
                names.append(line.strip())
                box.errors = {Error(len(names))} if len(names) < len(Error) else set()
    finally:
        emulator.stop()
        thread.join()
    *names, none = names
    assert none == "[]"
    assert len(names) == len(Error)
    for error, name in zip(Error, names, strict=True):
        assert name.lower().startswith(f'["{error.name.lower()}'), name


# ---- our own client ----------------------------------------------------------------------------

FOUND_IN_REFLEX = """
import json, sys, pylibfranka
from realign_franka_driver.fci import FrankaRobot, MotionEnded
robot = FrankaRobot(sys.argv[1])
robot.begin()
out = {"refused": "", "realtime": ""}
try:
    for _ in range(50):
        robot.read()
        robot.write([5.0] * 7)
except MotionEnded as error:
    out["ended"] = str(error)
try:
    robot.begin()
except MotionEnded as error:
    out["refused"] = str(error)
models = [robot.model]  # pylibfranka wants them alive
del robot
again = FrankaRobot(sys.argv[1])
out["found"] = again.reflex
again.recover()
again.begin()
for _ in range(50):
    again.read()
    again.write([0.0] * 7)
again.read()
again.write([0.0] * 7, finish=True)
out["mode"] = again.read().robot_mode.name
print(json.dumps(out))
"""


CONNECT = """
import json, sys
from policies.errors import InputError
from realign_franka_driver.fci import connect
try:
    connect(sys.argv[1], enforce_realtime=False)
    print(json.dumps({"error": ""}))
except InputError as error:
    print(json.dumps({"error": str(error)}))
"""


@needs("pylibfranka")
def test_our_client_finds_a_robot_in_reflex_and_recovers_it(with_emulator, tmp_path):
    script = tmp_path / "client.py"
    script.write_text(FOUND_IN_REFLEX)
    seen = with_emulator(str(script))
    assert "controller_torque_discontinuity" in seen["ended"]
    assert seen["ended"].startswith("Move command aborted")
    assert 'not possible in the current mode ("Reflex")' in seen["refused"]
    assert "controller_torque_discontinuity" in seen["found"]
    assert seen["mode"] == "Idle"


@needs("pylibfranka")
@pytest.mark.parametrize(
    ("own", "match"),
    [
        ("127.9.9.9", "connection was refused; unlock the joints and activate FCI"),
        ("no.such.robot.invalid", "none answers"),
    ],
)
def test_our_client_says_what_to_do(own, match):
    words = [sys.executable, "-c", CONNECT, own]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    seen = json.loads(done.stdout)["error"]
    assert match in seen
    assert own in seen
    assert "\n" not in seen


@needs("pylibfranka")
@pytest.mark.skipif(Path("/sys/kernel/realtime").exists(), reason="this kernel is a real-time one")
def test_our_client_says_that_the_kernel_is_not_a_real_time_one(with_emulator, tmp_path):
    script = tmp_path / "client.py"
    script.write_text(CONNECT.replace("False", "True"))
    assert (
        "boot one, or leave the parameter enforce_realtime" in with_emulator(str(script))["error"]
    )
