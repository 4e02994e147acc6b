"""What the tests of the fault table share: scripted policies, and a place for measured times."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from policies.interface import ActionChunk, Observation, PolicySpec, RobotSpec
from policies.runtime.fault_table import FAULT_TABLE
from sim2real.shared_memory import find_leftovers

HERE = Path(__file__).parent
LIMITS = {row.name: row.limit_s for row in FAULT_TABLE}
_MEASURED = pytest.StashKey[dict[str, dict[str, float]]]()


class Scripted:
    """A policy that answers with what a function of (time since its start, observation) says."""

    def __init__(
        self,
        robot: RobotSpec,
        script: Callable[[float, Observation], np.ndarray] | None = None,
        *,
        rate_hz: float = 50.0,
    ) -> None:
        self.robot = robot
        self.script = script or (lambda t, observation: robot.default_rad)
        self.start_ns: int | None = None
        self.spec = PolicySpec(
            name="scripted",
            robot=robot.name,
            robot_fingerprint=robot.fingerprint,
            rate_hz=rate_hz,
            action_dt_s=1.0 / rate_hz,
            horizon=1,
            duration_s=None,
            start_pose_rad=tuple(robot.default_rad.tolist()),
            needs=(),
            sha256="0" * 64,
        )

    def reset(self, seed: int) -> None:
        self.start_ns = None

    def act(self, observation: Observation) -> ActionChunk:
        if self.start_ns is None:
            self.start_ns = observation.stamp_ns
        rows = self.script((observation.stamp_ns - self.start_ns) / 1e9, observation)
        return ActionChunk(
            stamp_ns=observation.stamp_ns,
            dt_s=self.spec.action_dt_s,
            positions_rad=np.atleast_2d(rows),
        )


@pytest.fixture
def scripted() -> type[Scripted]:
    return Scripted


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fault-results", type=Path, help="JSON file for the measured times")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_MEASURED] = {}


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Notes the time from a fault to its reaction, s, under the name of the test.

    In robot time it must keep the limit of the table. Wall time (``busy=True``) depends on what
    else the machine does: it is only noted.
    """
    name = request.node.originalname.removeprefix("test_")

    def note(seconds: float, *, busy: bool = False) -> None:
        limit = LIMITS[name.removesuffix("_in_graph")]
        assert seconds >= 0.0
        if not busy:
            assert limit is not None
            assert seconds <= limit + 1e-9, f"{seconds} s, promised {limit} s"
        seen = request.config.stash[_MEASURED].setdefault(name, {"runs": 0, "max_s": 0.0})
        seen["runs"] += 1
        seen["max_s"] = max(seen["max_s"], round(seconds, 4))

    return note


def pytest_sessionfinish(session: pytest.Session) -> None:
    path = session.config.getoption("--fault-results")
    if path is not None:
        content = dict(sorted(session.config.stash[_MEASURED].items()))
        path.write_text(json.dumps(content, indent=1) + "\n")


@pytest.fixture
def record_faulty_run(load_module) -> Callable[..., list[list[Any]]]:
    """See ``faulty_run.py``."""
    return load_module(HERE / "faulty_run.py").record_faulty_run


@pytest.fixture(scope="session")
def peers(load_module) -> ModuleType:
    """See ``peers.py``."""
    return load_module(HERE / "peers.py")


@pytest.fixture(scope="module")
def open_live_graph(
    tmp_path_factory: pytest.TempPathFactory,
    load_module: Callable[[Path], ModuleType],
    domain: int,
) -> Iterator[Callable[..., Any]]:
    """Opens graphs that are closed when the tests of a module are done."""
    rclpy = pytest.importorskip("rclpy")
    context = rclpy.Context()
    rclpy.init(context=context)
    module = load_module(HERE / "live_graph.py")
    opened = []

    def open_one(**options: Any) -> Any:
        folder = tmp_path_factory.mktemp("graph")
        opened.append(module.LiveGraph(folder, domain, context, **options))
        return opened[-1]

    yield open_one
    for graph in opened:
        graph.close()
    context.try_shutdown()
    find_leftovers(remove=True)
