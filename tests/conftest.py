"""Fixtures and settings that every test shares: real data, and a ROS graph of its own."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
# Their tests run in real time, with several processes each: one at a time.
BUSY_FOLDERS = ("contract", "faults", "sim_in_the_loop")
FASTDDS_PROFILE = REPO / "ros2_ws/src/realign_bringup/realign_bringup/fastdds.xml"


def ros_domain_id() -> int:
    """A domain per test session and xdist worker, 20 to 99.

    From 102 on the ports of a domain fall into Linux's ephemeral range.
    """
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        return 20 + os.getpid() % 80
    return 20 + (os.getppid() + 1 + int(worker.removeprefix("gw"))) % 80


def pytest_configure() -> None:
    """Isolate the graph before anything imports rclpy; child processes inherit it."""
    os.environ["ROS_DOMAIN_ID"] = str(ros_domain_id())
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = str(FASTDDS_PROFILE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs ROS where there is none; keep what starts robots and graphs in one worker."""
    for item in items:
        busy = item.path.parent.name in BUSY_FOLDERS
        item.add_marker(pytest.mark.xdist_group("graphs" if busy else item.path.stem))
    if importlib.util.find_spec("rclpy") is not None:
        return
    skip = pytest.mark.skip(reason="needs ROS 2 (rclpy): pip install 'realign[ros]', or source one")
    for item in items:
        if "ros" in item.keywords:
            item.add_marker(skip)


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


@pytest.fixture
def ros_context():
    """An initialised rclpy context, shut down after the test."""
    rclpy = pytest.importorskip("rclpy")
    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    context.try_shutdown()
