"""Fixtures and settings that every test shares: real data, and a ROS graph of its own."""

from __future__ import annotations

import functools
import importlib.util
import os
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import hypothesis
import numpy as np
import pytest

from policies.interface import RobotSpec

REPO = Path(__file__).resolve().parents[1]
# Their tests run in real time, with several processes each: one at a time, and first (`make test`),
# so that no worker that has given way gets them.
BUSY_FOLDERS = ("contract", "faults", "sim_in_the_loop")
FASTDDS_PROFILE = REPO / "ros2_ws/src/realign_bringup/realign_bringup/fastdds.xml"


def this_worker() -> tuple[int, int]:
    """Number of this xdist worker, and how many there are."""
    name = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    return int(name.removeprefix("gw")), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def ros_domain_id(worker: int) -> int:
    """A domain per test session and xdist worker, 20 to 99.

    From 102 on the ports of a domain fall into Linux's ephemeral range.
    """
    session = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    return 20 + (session + worker) % 80


def pytest_configure() -> None:
    """No test fails for its time; a graph of its own before anything imports rclpy.

    Child processes inherit the environment.
    """
    hypothesis.settings.register_profile(
        "any machine", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("any machine")
    os.environ["ROS_DOMAIN_ID"] = str(ros_domain_id(this_worker()[0]))
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = str(FASTDDS_PROFILE)


def is_busy(file: Path) -> bool:
    """Whether the tests in a file start robots and graphs."""
    return file.parent.name in BUSY_FOLDERS


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Let the worker that runs the graphs go before the others."""
    if "PYTEST_XDIST_WORKER" in os.environ and not is_busy(item.path):
        give_way()


@functools.cache
def give_way() -> None:
    """From now on, this process and its children run when a graph leaves a core to them.

    Niceness counts inside a session where the kernel groups processes by it, hence one of its own.
    """
    os.setsid()
    os.nice(10)
    autogroup = Path("/proc/self/autogroup")
    if autogroup.exists():
        autogroup.write_text("10")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Another try for what runs in real time; skip what needs ROS where there is none."""
    if config.pluginmanager.has_plugin("rerunfailures"):
        for item in filter(lambda item: is_busy(item.path), items):
            item.add_marker(pytest.mark.flaky(reruns=1, rerun_except="from pytest-timeout"))
    if importlib.util.find_spec("rclpy") is not None:
        return
    skip = pytest.mark.skip(reason="needs ROS 2 (rclpy): pip install 'realign[ros]', or source one")
    for item in items:
        if "ros" in item.keywords:
            item.add_marker(skip)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep all that starts robots and graphs in one worker, and a file in one, too."""
    from xdist.scheduler import LoadScopeScheduling

    class GraphsTogether(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.split("::")[0]
            return "graphs" if is_busy(Path(file)) else file

    return GraphsTogether(config, log)


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the repository."""
    return REPO


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real logs and released policies; skips where it is absent."""
    folder = Path(os.environ.get("REALIGN_SHARED_DATA", REPO.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"needs the real data folder (REALIGN_SHARED_DATA), none at {folder}")
    return folder


@pytest.fixture(scope="session")
def hold_policy(tmp_path_factory) -> Callable[[RobotSpec], Path]:
    """Makes a 50 Hz actor that holds a robot's default pose: a network whose answer is zero."""
    made: dict[str, Path] = {}

    def make(robot: RobotSpec) -> Path:
        if robot.name not in made:
            made[robot.name] = tmp_path_factory.mktemp("policies") / f"hold_{robot.name}"
            _save_hold_policy(robot, made[robot.name])
        return made[robot.name]

    return make


def _save_hold_policy(robot: RobotSpec, folder: Path) -> None:
    from policies.actor.config import ActionConfig, ActorConfig
    from policies.actor.mlp import mlp_onnx
    from policies.checkpoint import save_checkpoint
    from policies.processors import TermConfig

    sizes, names = (2 * robot.n, 32, robot.n), robot.joint_names
    weights = [np.zeros((b, a), np.float32) for a, b in pairwise(sizes)]
    model = mlp_onnx(weights, [np.zeros(n, np.float32) for n in sizes[1:]])
    config = ActorConfig(
        name="hold",
        robot=robot.name,
        robot_fingerprint=robot.fingerprint,
        rate_hz=50.0,
        action=ActionConfig(type="position_offset_from_default", joints=names, scale=0.25),
        hold_pose_rad={},
        observation=(
            TermConfig(term="joint_pos", scale=1.0, joints=names),
            TermConfig(term="joint_vel", scale=0.05, joints=names),
        ),
        duration_s=None,
        start_pose_rad=dict(zip(names, robot.default_rad.tolist(), strict=True)),
    )
    save_checkpoint(folder, config, model)


@pytest.fixture(scope="session")
def load_module() -> Callable[[Path], ModuleType]:
    """Loads a module of the tests by its path; they are no package."""

    def load(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def doubles(load_module) -> ModuleType:
    """See ``doubles.py``."""
    return load_module(Path(__file__).with_name("doubles.py"))


@pytest.fixture(scope="session")
def running(doubles) -> Callable[..., Any]:
    """A policy server in a thread, see ``doubles.py``."""
    return doubles.running


@pytest.fixture(scope="session")
def domain() -> int:
    """The ROS domain of these tests."""
    return int(os.environ["ROS_DOMAIN_ID"])


@pytest.fixture(scope="session")
def dds_domains() -> Iterator[int]:
    """DDS domains for robots of a test's own: each once, and none that a graph of ours uses."""
    from sim2real.run_unitree import emulated_domain

    worker, workers = this_worker()
    graphs = {ros_domain_id(number) for number in range(workers)}
    taken = graphs | {emulated_domain(domain) for domain in graphs}
    free = [domain for domain in range(1, 101) if domain not in taken]
    start = ros_domain_id(0) % len(free)  # other sessions begin elsewhere
    return iter((free[start:] + free[:start])[worker::workers])


@pytest.fixture
def until_bound() -> Callable[[str, int], None]:
    """Waits for a server; a connection of our own would take its client's place."""

    def wait(address: str, port: int) -> None:
        host = "".join(f"{int(part):02X}" for part in reversed(address.split(".")))
        deadline = time.monotonic() + 60.0
        while f"{host}:{port:04X}" not in Path("/proc/net/tcp").read_text():
            assert time.monotonic() < deadline, f"nobody listens on {address}:{port}"
            time.sleep(0.02)

    return wait


@pytest.fixture
def ros_context():
    """An initialised rclpy context, shut down after the test."""
    rclpy = pytest.importorskip("rclpy")
    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    context.try_shutdown()
