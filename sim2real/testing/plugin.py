"""pytest plugin: run *your* policy in the loop, behind the guard, with faults, in your own tests.

    pytest --realign-robot panda --realign-policy CHECKPOINT

Installed with realign; it adds options and fixtures and does nothing else until one is used.
Without ``--realign-policy`` the tests that use them are skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from policies.interface import Policy, RobotSpec
    from sim2real.testing.loop import GuardedRun
    from sim2real.testing.success import Success


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of the plugin."""
    group = parser.getgroup("realign", "robot policies in the loop")
    group.addoption("--realign-robot", default="", help="robot, e.g. panda or g1")
    group.addoption("--realign-policy", default="", help="checkpoint directory of the policy")
    group.addoption(
        "--realign-runs", type=int, default=20, help="runs of realign_success (default: 20)"
    )
    group.addoption("--realign-seed", type=int, default=0, help="first seed (default: 0)")


def pytest_report_header(config: pytest.Config) -> str | None:
    """Which policy is on trial."""
    policy = config.getoption("--realign-policy")
    return f"realign: {policy} on {config.getoption('--realign-robot')}" if policy else None


@pytest.fixture(scope="session")
def realign_robot(request: pytest.FixtureRequest) -> RobotSpec:
    """The robot that ``--realign-robot`` names."""
    from policies.errors import InputError
    from policies.robots import get_robot

    name = request.config.getoption("--realign-robot")
    if not name:
        pytest.skip("needs --realign-robot and --realign-policy")
    try:
        return get_robot(name)
    except InputError as error:
        raise pytest.UsageError(f"--realign-robot: {error}") from None


@pytest.fixture(scope="session")
def realign_policy(request: pytest.FixtureRequest, realign_robot: RobotSpec) -> Policy:
    """The policy of ``--realign-policy``, checked against the robot, loaded once."""
    from policies.checkpoint import load_policy
    from policies.errors import InputError

    path = request.config.getoption("--realign-policy")
    if not path:
        pytest.skip("needs --realign-policy")
    try:
        return load_policy(Path(path), realign_robot)
    except InputError as error:
        raise pytest.UsageError(f"--realign-policy: {error}") from None


@pytest.fixture
def realign_run(
    request: pytest.FixtureRequest, realign_policy: Policy, realign_robot: RobotSpec
) -> Callable[..., GuardedRun]:
    """Runs the policy once in lockstep; takes the fields of :class:`LoopConfig` by name."""
    from sim2real.testing.loop import LoopConfig, run_guarded

    def run(**config: Any) -> GuardedRun:
        config.setdefault("seed", request.config.getoption("--realign-seed"))
        return run_guarded(realign_policy, realign_robot, LoopConfig(**config))

    return run


@pytest.fixture
def realign_success(
    request: pytest.FixtureRequest, realign_run: Callable[..., GuardedRun]
) -> Callable[..., Success]:
    """Runs the policy from several seeds; gives the share of successes with its interval.

    Takes the fields of :class:`LoopConfig` by name, ``runs`` and ``tolerance_m``.
    """
    from sim2real.testing.success import success_of

    first = request.config.getoption("--realign-seed")

    def measure(*, runs: int | None = None, tolerance_m: float = 0.03, **config: Any) -> Success:
        count = request.config.getoption("--realign-runs") if runs is None else runs
        if count < 1:
            raise pytest.UsageError(f"--realign-runs: expected a positive number, got {count}")
        done = [realign_run(seed=first + k, **config) for k in range(count)]
        return success_of(done, tolerance_m)

    return measure


@pytest.fixture
def realign_graph(
    request: pytest.FixtureRequest, realign_policy: Policy, realign_robot: RobotSpec
) -> Callable[..., dict[str, Any]]:
    """Runs the policy once through the ROS graph; takes the fields of ``RunConfig`` by name.

    Skips where there is no ROS.
    """
    pytest.importorskip("rclpy", reason="needs ROS 2: pip install 'realign[ros]', or source one")
    from sim2real.run import run
    from sim2real.run_config import RunConfig

    path = Path(request.config.getoption("--realign-policy"))

    def run_graph(**config: Any) -> dict[str, Any]:
        config.setdefault("lockstep", True)
        config.setdefault("seed", request.config.getoption("--realign-seed"))
        return run(RunConfig(robot=realign_robot.name, policy=path, **config), progress=False)

    return run_graph
