"""``realign doctor``: what is installed, what is missing, and how to get it."""

from __future__ import annotations

import importlib
import importlib.util
import json as jsonlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import policies
from policies.errors import InputError
from sim2real.shared_memory import SHARED_MEMORY, find_leftovers


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the table.

    Attributes:
        name: what was looked for.
        found: version or description, None where it is missing.
        needed_for: what does not work without it.
        get: how to get it.
        main_job: True if ``realign demo`` cannot run without it.
    """

    name: str
    found: str | None
    needed_for: str
    get: str
    main_job: bool = False


def doctor_command(json: bool = False) -> None:
    """Show what is installed, what is missing, and how to get it.

    Args:
        json: print JSON instead of a table.

    Raises:
        InputError: something that the main job needs is missing.
    """
    findings = examine()
    if json:
        print(jsonlib.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        print(table(findings))
    missing = [finding for finding in findings if finding.main_job and finding.found is None]
    if missing:
        raise InputError(
            "expected everything that `realign demo` needs, but "
            f"{', '.join(finding.name for finding in missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing; run: "
            f"{'; '.join(dict.fromkeys(finding.get for finding in missing))}"
        )


def examine() -> list[Finding]:
    """Look at this interpreter and machine, in the order of the table."""
    return [*_main_job(), *_optional()]


def table(findings: list[Finding]) -> str:
    """The findings as text, what is missing with the way to get it."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        if finding.found is not None:
            lines.append(f"ok       {finding.name:<{width}}  {finding.found}")
        else:
            mark = "MISSING" if finding.main_job else "-"
            lines.append(f"{mark:<7}  {finding.name:<{width}}  for {finding.needed_for}")
            lines.append(f"{'':<7}  {'':<{width}}  get it: {finding.get}")
    return "\n".join(lines)


def _main_job() -> list[Finding]:
    sim, train = _extra("sim"), _extra("train")
    simulation = "run --driver mujoco, replay, delta, demo"
    python = sys.version.split()[0] if sys.version_info >= (3, 10) else None
    before = (
        ("Python", python, "everything", "install Python 3.10 or newer"),
        ("ROS 2", _ros(), "run, demo (bags, episodes, replay and delta work without)", _ROS),
    )
    after = (
        ("MuJoCo", _version("mujoco"), simulation, sim),
        ("robot models", _robot_models(), simulation, sim),
        ("ONNX Runtime", _version("onnxruntime"), "running a policy", "pip install realign"),
        ("PyTorch", _version("torch"), "delta train, demo", train),
        ("committed policy", _checkpoints(), "demo", _RESTORE),
    )
    memory = Finding(
        name="shared memory",
        found=_shared_memory(),
        needed_for="run, demo: what killed processes have left takes up half of it",
        get="realign run, as the user whose processes were killed, clears it first",
    )
    return [*_findings(before, main_job=True), memory, *_findings(after, main_job=True)]


def _optional() -> list[Finding]:
    calibration = _extra("calibration")
    rows = (
        ("colcon", shutil.which("colcon"), "building ros2_ws with an apt ROS 2", _COLCON),
        ("ros2 launch", _launch(), "launch/*.launch.py", _APT),
        (
            "GPU",
            _gpu(),
            "policy train, finetune --physics warp: faster; the CPU does as well",
            _DRIVER,
        ),
        ("pinocchio", _version("pin"), "calibrate hand-eye", calibration),
        ("OpenCV", _opencv(), "calibrate", calibration),
        (
            "pyserial",
            _version("pyserial"),
            "run --driver serial (SO-101), Robotiq gripper, e-stop button",
            _extra("serial"),
        ),
        ("cyclonedds", _version("cyclonedds"), "run --driver unitree", _extra("unitree")),
        ("pylibfranka", _version("pylibfranka"), "run --driver franka", _extra("franka")),
        (
            "websockets",
            _version("websockets"),
            "serve, run --policy ws://HOST:PORT",
            _extra("serving"),
        ),
        (
            "LeRobot",
            _lerobot(),
            "running LeRobot checkpoints",
            "docs/tutorials/run_a_lerobot_policy.md",
        ),
        ("SAPIEN", _simulator("sapien"), "run --engine sapien (PhysX)", _SAPIEN),
        ("Isaac Gym", _simulator("isaacgym"), "run --engine isaacgym", _ISAAC),
    )
    return _findings(rows, main_job=False)


def _findings(rows: Iterable[tuple[str, str | None, str, str]], *, main_job: bool) -> list[Finding]:
    return [
        Finding(name=name, found=found, needed_for=needed_for, get=get, main_job=main_job)
        for name, found, needed_for, get in rows
    ]


def _extra(name: str) -> str:
    return f'pip install "realign[{name}]"'


_ROS = f"{_extra('ros')}, or source an apt ROS 2"
_RESTORE = "restore policies/checkpoints from the repository"
_COLCON = "apt install python3-colcon-common-extensions"
_APT = (
    "apt install ros-$ROS_DISTRO-launch-ros and source ROS (not on PyPI; `realign run` needs none)"
)
_DRIVER = "install the NVIDIA driver"
_SAPIEN = (
    "python3 -m venv sapien && sapien/bin/pip install sapien, "
    "then export REALIGN_SAPIEN_PYTHON=$PWD/sapien/bin/python"
)
_ISAAC = (
    "download it from NVIDIA (not on PyPI) into a Python 3.8 environment, "
    "then export REALIGN_ISAACGYM_PYTHON=.../bin/python"
)
_IMPORT_S = 20.0


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _simulator(name: str) -> str | None:
    """Interpreter in which the engine of a simulator imports."""
    if importlib.util.find_spec("mujoco") is None:  # describes the robot to every engine
        return None
    from sim2real.sim.remote import simulator_python

    python = simulator_python(name)
    if python == sys.executable and importlib.util.find_spec(name) is None:
        return None  # saves starting an interpreter
    return python if _succeeds(python, f"import {name}") else None


def _lerobot() -> str | None:
    """Interpreter that evaluates LeRobot checkpoints."""
    from policies.vla.lerobot.process import PYTHON_VARIABLE

    python = os.environ.get(PYTHON_VARIABLE, "")
    # Importing LeRobot takes many seconds; that it is there is enough.
    look = "import importlib.util, sys; sys.exit(importlib.util.find_spec('lerobot') is None)"
    return python if python and _succeeds(python, look) else None


def _succeeds(python: str, program: str) -> bool:
    try:
        subprocess.run([python, "-c", program], check=True, capture_output=True, timeout=_IMPORT_S)
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _ros() -> str | None:
    """Import rclpy for real: a wheel or a sourced set-up whose libraries do not load is no ROS."""
    try:
        importlib.import_module("rclpy")
        rmw = importlib.import_module("rclpy.utilities").get_rmw_implementation_identifier()
    except (ImportError, RuntimeError):
        return None
    wheel = _version("ros-rclpy")
    distribution = os.environ.get("ROS_DISTRO")
    source = f"wheels, rclpy {wheel}" if wheel else f"apt, {distribution or 'unknown distribution'}"
    return f"{source}, {rmw}"


def _shared_memory() -> str | None:
    """What killed processes have left; None where it takes up half of what there is."""
    left = find_leftovers()
    total = shutil.disk_usage(SHARED_MEMORY).total / 1e6 if SHARED_MEMORY.is_dir() else 0.0
    if left.megabytes > 0.5 * total:
        return None
    if not left.count:
        return "nothing left behind"
    return (
        f"{left.count} segments of killed processes, {left.megabytes:.0f} MB; the next run clears"
    )


def _robot_models() -> str | None:
    """Version of example-robot-data if the models of all robots are there."""
    from policies.robots import ROBOTS

    if importlib.util.find_spec("mujoco") is None:
        return _version("example-robot-data")
    from sim2real.sim.model import robot_data_dir

    try:
        folder = robot_data_dir()
    except InputError:
        return None
    if not all((folder / robot.urdf).is_file() for robot in ROBOTS.values()):
        return None
    return f"example-robot-data {_version('example-robot-data') or ''}: {', '.join(ROBOTS)}"


def _checkpoints() -> str | None:
    root = Path(policies.__file__).parent / "checkpoints"
    names = sorted(path.parent.name for path in root.glob("**/config.json"))
    return ", ".join(names) or None


def _gpu() -> str | None:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    answer = subprocess.run(
        [tool, "--query-gpu=name", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    names = answer.stdout.split("\n")[0].strip()
    return names if answer.returncode == 0 and names else None


def _opencv() -> str | None:
    for name in ("opencv-contrib-python-headless", "opencv-contrib-python", "opencv-python"):
        if version := _version(name):
            return version
    return None


def _launch() -> str | None:
    """The ROS package ``launch_ros``; PyPI's ``launch`` is an unrelated program."""
    return "found" if importlib.util.find_spec("launch_ros") else None
