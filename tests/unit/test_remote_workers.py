"""The wire between realign and a simulator in another interpreter, and how it ends."""

from __future__ import annotations

import ast
import dataclasses
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from policies.errors import FaultError, InputError
from policies.robots import G1, PANDA
from sim2real.sim.gaps import Gap
from sim2real.sim.remote import open_engine, open_robot, simulator_python
from sim2real.sim.remote.description import describe
from sim2real.sim.remote.process import WORKERS, Limits, Worker
from sim2real.sim.remote.workers.wire import Memory, Motors, Refused
from sim2real.sim.stepper import Stepper

WORKER_FILES = sorted(WORKERS.glob("*.py"))
ENGINES = {
    "mujoco_worker": {"mujoco"},
    "sapien_worker": {"sapien"},
    "isaacgym_worker": {"isaacgym", "torch"},  # its tensors are PyTorch's
}
ECHO = '''
import os, sys, time
import numpy as np
from .wire import Refused, Simulator, serve

class Echo(Simulator):
    """Joints are where their set-points are; the first set-point can also be an order."""
    engine, version = "echo", "1"

    def __init__(self, robot):
        if robot["name"] == "refused":
            raise Refused("expected another robot")
        if robot["name"] == "broken":
            raise KeyError("no such mesh")
        self.path = os.environ.get("PYTHONPATH", "")

    def reset(self, start, out):
        out.qpos[:], out.qvel[:] = start.qpos, start.qvel
        out.base[:] = start.base

    def advance(self, setpoints, steps, out):
        order = setpoints[0, 0]
        if order == 100.0:
            time.sleep(60.0)
        if order == 101.0:
            print("out of memory", file=sys.stderr)
            os._exit(3)
        if order == 102.0:
            raise ArithmeticError("diverged")
        if order == 103.0:
            raise Refused("expected a smaller set-point")
        if order == 104.0:
            assert not self.path and not {"", os.getcwd()} & set(sys.path), sys.path
        each = len(setpoints) // len(out.qpos)
        out.qpos[:] = setpoints[each - 1 :: each]
        out.qvel[:] = steps
        out.base[:] = 1.0

if __name__ == "__main__":
    serve(Echo)
'''
ROBOT = {"name": "echo", "controlled": 2, "floating_base": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The worker files, and one more."""
    folder = tmp_path_factory.mktemp("echo")
    shutil.copytree(WORKERS, folder / "workers", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "workers/echo_worker.py").write_text(ECHO)
    return folder


@pytest.fixture
def echo(folder):
    """Starts echo workers, and ends them."""
    started = []

    def start(python=sys.executable, limits=None, **robot):
        worker = Worker("echo", python, {**ROBOT, **robot}, limits=limits, folder=folder)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.close()


def python38() -> str | None:
    """An interpreter of version 3.8 that has NumPy."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [os.environ.get("REALIGN_PYTHON38"), shutil.which("python3.8")]
    found += sorted(map(str, pyenv.glob("3.8*/bin/python")))
    check = "import sys, numpy; sys.exit(sys.version_info[:2] != (3, 8))"
    for python in filter(None, found):
        if subprocess.run([python, "-c", check], capture_output=True).returncode == 0:
            return python
    return None


def play(worker: Worker, setpoints: np.ndarray, ticks: int, steps: int = 4) -> np.ndarray:
    """Joint positions (B, ticks, 2) after set-points (B, S, 2)."""
    batch, count, _ = setpoints.shape
    call = worker.arrays(batch, ticks, count)
    call.start.qpos[:] = call.start.qvel[:] = call.start.base[:] = 0.0
    call.setpoints[:] = setpoints
    worker.send("rollout", batch, ticks, count, steps)
    worker.wait()
    return np.array(worker.arrays(batch, ticks, count).out.qpos)


# ---- worker files ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", WORKER_FILES, ids=lambda path: path.stem)
def test_worker_files_run_in_python_3_8_without_realign(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    allowed = {"numpy", "__future__", *ENGINES.get(path.stem, ())} | sys.stdlib_module_names
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert {alias.name.partition(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert (node.level, node.module) == (1, "wire")
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] in allowed
        elif isinstance(node, ast.Call):  # came with 3.9 and 3.10
            assert getattr(node.func, "attr", "") not in ("removeprefix", "removesuffix")
            assert "strict" not in {keyword.arg for keyword in node.keywords}


def test_the_wire_works_with_python_3_8(echo):
    python = python38()
    if python is None:
        pytest.skip("needs Python 3.8 with NumPy on the PATH, in pyenv or in REALIGN_PYTHON38")
    worker = echo(python)
    assert worker.hello["python"].startswith("3.8")
    setpoints = np.random.default_rng(0).normal(size=(3, 6, 2))
    np.testing.assert_array_equal(play(worker, setpoints, 3), setpoints[:, 1::2])


# ---- arrays ------------------------------------------------------------------------------------


def test_arrays_of_many_sizes_arrive_whole(echo):
    worker = echo()
    rng = np.random.default_rng(0)
    for batch, ticks, each in ((1, 1, 1), (50, 4, 3), (2, 1, 1), (3000, 5, 2), (1, 1, 1)):
        setpoints = rng.normal(size=(batch, ticks * each, 2))
        got = play(worker, setpoints, ticks)
        np.testing.assert_array_equal(got, setpoints[:, each - 1 :: each])


def test_memory_keeps_arrays_apart_and_only_grows():
    descriptor = os.memfd_create("test")
    ours, theirs = Memory(descriptor), Memory(descriptor)
    for batch in (2, 40, 3):
        here, there = (m.call(batch, 2, 4, 3, True) for m in (ours, theirs))
        arrays = [*here.start[:3], here.setpoints, *here.out]
        for i, array in enumerate(arrays):
            array[:] = i
        assert [np.unique(a).tolist() for a in arrays] == [[i] for i in range(len(arrays))]
        np.testing.assert_array_equal(there.setpoints, here.setpoints)
    assert os.fstat(descriptor).st_size >= 40 * (2 * 3 + 4 * 3 + 3 * 2 * 3 + 3 * 13) * 8
    os.close(descriptor)


def test_nothing_is_left_behind(echo, folder):
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    workers = [Worker("echo", sys.executable, ROBOT, folder=folder) for _ in range(2)]
    pids = [worker.pid for worker in workers]
    for worker in workers:
        worker.close()
        worker.close()
    assert len(os.listdir("/proc/self/fd")) == before
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


# ---- ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "python", "text"),
    [
        ("echo", "/no/such/python", "No such file or directory"),
        ("echo", "/bin/true", r"ended \(exit code 0\)"),
        ("nothing", sys.executable, "last words: .*No module named workers.nothing_worker"),
    ],
)
def test_a_worker_that_cannot_start_is_one_sentence(folder, engine, python, text):
    with pytest.raises(InputError, match=text) as error:
        Worker(engine, python, ROBOT, folder=folder)
    assert "\n" not in str(error.value)


def test_an_interpreter_may_be_given_relative_to_here(echo, monkeypatch):
    monkeypatch.chdir(Path(sys.executable).parent)
    worker = echo("./" + Path(sys.executable).name)
    assert play(worker, np.full((1, 1, 2), 0.5), 1).tolist() == [[[0.5, 0.5]]]


def test_a_missing_engine_is_named(folder):
    source = (folder / "workers/echo_worker.py").read_text()
    missing = folder / "workers/missing_worker.py"
    missing.write_text("import no_such_engine\n" + source)
    with pytest.raises(InputError, match=r"No module named 'no_such_engine'; install missing"):
        Worker("missing", sys.executable, ROBOT, folder=folder)


def test_worker_files_of_another_version_are_refused(tmp_path, folder):
    shutil.copytree(folder / "workers", tmp_path / "workers")
    wire = tmp_path / "workers/wire.py"
    wire.write_text(wire.read_text().replace("PROTOCOL = 1", "PROTOCOL = 0"))
    with pytest.raises(InputError, match="use the worker files of this version"):
        Worker("echo", sys.executable, ROBOT, folder=tmp_path)


def test_what_the_engine_says_of_the_robot_reaches_the_user(echo):
    with pytest.raises(InputError, match=r"^expected another robot$"):
        echo(name="refused")
    with pytest.raises(InputError, match="failed: KeyError: 'no such mesh'"):
        echo(name="broken")


def test_a_refused_call_leaves_the_worker_alive(echo):
    worker = echo()
    with pytest.raises(InputError, match=r"^expected a smaller set-point$"):
        play(worker, np.full((1, 1, 2), 103.0), 1)
    assert play(worker, np.full((1, 1, 2), 0.5), 1).tolist() == [[[0.5, 0.5]]]


@pytest.mark.parametrize(
    ("order", "text"),
    [
        (101.0, r"exit code 3\); its last words: out of memory"),
        (102.0, "ArithmeticError: diverged"),
    ],
)
def test_a_death_during_work_is_a_fault(echo, order, text):
    worker = echo()
    with pytest.raises(FaultError, match=text):
        play(worker, np.full((1, 1, 2), order), 1)
    with pytest.raises(FaultError, match="has been closed"):
        worker.send("rollout", 1, 1, 1, 1)


def test_a_worker_that_hangs_is_stopped(echo):
    worker = echo(limits=Limits(call_s=0.2, step_s=0.0))
    with pytest.raises(FaultError, match=r"no answer within 0.2 s"):
        play(worker, np.full((1, 1, 2), 100.0), 1)
    assert not Path(f"/proc/{worker.pid}").exists()


@pytest.mark.parametrize("busy", [False, True])
def test_a_worker_ends_with_its_client(folder, busy):
    code = f"""
import sys, numpy as np
from sim2real.sim.remote.process import Worker
from pathlib import Path
worker = Worker("echo", sys.executable, {ROBOT!r}, folder=Path({str(folder)!r}))
worker.arrays(1, 1, 1).setpoints[:] = 100.0
if {busy}:
    worker.send("advance", 1, 1, 1, 1)
print(worker.pid, flush=True)
sys.stdin.read()
"""
    client = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pid = int(client.stdout.readline())
    client.send_signal(signal.SIGKILL)
    client.communicate()
    deadline = time.monotonic() + 10.0
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
            break  # dead, and whoever inherits it may take its time
        time.sleep(0.05)
    assert time.monotonic() < deadline


def test_paths_of_this_interpreter_stay_here(echo, monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    other = tmp_path / "python"
    other.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    other.chmod(0o755)
    play(echo(str(other)), np.full((1, 1, 2), 104.0), 1)
    with pytest.raises(FaultError, match="AssertionError"):
        play(echo(), np.full((1, 1, 2), 104.0), 1)  # the same interpreter keeps them


# ---- descriptions ------------------------------------------------------------------------------


def test_a_description_is_plain_and_complete():
    robot = json.loads(json.dumps(describe(PANDA)))
    assert robot["joints"] == [*PANDA.joint_names, *PANDA.gripper.finger_joints]
    assert (robot["controlled"], robot["hold"]) == (7, [0.04, 0.04])
    assert robot["kp"][:7] == PANDA.kp_nm_rad.tolist()
    assert robot["limit"][7:] == [70.0, 70.0]
    assert robot["floor"] is None
    urdf = ElementTree.fromstring(robot["urdf"])
    assert not urdf.findall(".//collision") + urdf.findall(".//visual") + urdf.findall(".//mimic")
    assert set(robot["weightless"]) == {link.get("name") for link in urdf.findall("link")}
    legged = describe(G1)
    meshes = ElementTree.fromstring(legged["urdf"]).findall(".//collision//mesh")
    assert meshes
    assert all(Path(mesh.get("filename")).is_file() for mesh in meshes)
    assert legged["floor"] == {"friction": 1.0, "softness_s": None}
    assert legged["weightless"] == []


def test_a_gap_is_part_of_the_description():
    gap = Gap(
        strength={"*_knee_*": 0.5},
        offset_rad={"*": 0.01},
        mass={"pelvis": 2.0},
        payload_kg={"torso_link": 3.0},
        payload_com_m={"torso_link": (0.1, 0.0, -0.2)},
        floor_friction=0.7,
    )
    nominal, robot = describe(G1), describe(G1, gap)
    knee = robot["joints"].index("left_knee_joint")
    assert robot["kp"][knee] == 0.5 * nominal["kp"][knee]
    assert robot["limit"][knee] == 0.5 * nominal["limit"][knee]
    assert robot["offset"] == [0.01] * G1.n
    assert robot["floor"]["friction"] == 0.7
    urdf, plain = (ElementTree.fromstring(d["urdf"]) for d in (robot, nominal))
    mass = "link[@name='pelvis']/inertial/mass"
    assert float(urdf.find(mass).get("value")) == 2.0 * float(plain.find(mass).get("value"))
    load = urdf.find("link[@name='torso_link_payload']/inertial")
    assert load.find("mass").get("value") == "3.0"
    assert load.find("origin").get("xyz") == "0.1 0.0 -0.2"
    with pytest.raises(InputError, match="no body 'tail'"):
        describe(G1, Gap(payload_kg={"tail": 1.0}))


def test_motors_follow_the_law_in_the_order_of_the_engine():
    robot = {
        "name": "r",
        "joints": ["a", "b", "grip"],
        "controlled": 2,
        "hold": [0.03],
        "kp": [10.0, 20.0, 100.0],
        "kd": [1.0, 2.0, 0.0],
        "limit": [5.0, 3.0, 50.0],
        "damping": [0.1, 0.2, 0.0],
        "stiffness": [0.0, 4.0, 0.0],
        "spring_ref": [0.0, 1.0, 0.0],
        "offset": [0.0, 0.1, 0.0],
    }
    motors = Motors(robot, ["grip", "b", "a"])
    goal = motors.setpoints(np.array([0.2, 0.4]))
    np.testing.assert_allclose(goal, [0.03, 0.5, 0.2])
    motor, total = motors.torques(goal, np.array([0.0, 0.0, 0.1]), np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(motor, [3.0, 3.0, 0.0])  # 20 * 0.5 - 2 * 0.5 = 9 is too much
    np.testing.assert_allclose(total, [3.0, 3.0 + 4.0 - 0.1, -0.1])
    with pytest.raises(Refused, match="use the robot's own URDF"):
        Motors(robot, ["a", "b"])


# ---- by name -----------------------------------------------------------------------------------


def test_simulators_have_names(monkeypatch):
    monkeypatch.setenv("REALIGN_SAPIEN_PYTHON", "/opt/sapien/bin/python")
    assert simulator_python("sapien") == "/opt/sapien/bin/python"
    assert simulator_python("sapien", "/usr/bin/python3") == "/usr/bin/python3"
    assert simulator_python("isaacgym") == sys.executable
    with pytest.raises(InputError, match="out of"):
        open_engine("gazebo", PANDA)
    with pytest.raises(InputError, match="use mujoco-remote"):
        open_engine("mujoco", PANDA, python=sys.executable)
    assert isinstance(open_robot("mujoco", PANDA), Stepper)
    with open_engine("mujoco", PANDA, rate_hz=50.0) as engine:
        assert engine.rate_hz == 50.0
        assert engine.robot == dataclasses.replace(PANDA)
