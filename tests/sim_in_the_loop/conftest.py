"""Checkpoints for runs of the whole graph."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policies.errors import FaultError

ATTEMPTS = 5
MOTIONS = ("CR7_level1", "jump_forward_level1", "kick_level1", "side_jump_level1")


@pytest.fixture(scope="session")
def asap_checkpoints(shared_data, tmp_path_factory) -> dict[str, Path]:
    """ASAP's released motion-tracking policies, imported."""
    from policies.actor.asap import import_asap

    folder = tmp_path_factory.mktemp("asap")
    source = shared_data / "asap_g1"
    for name in MOTIONS:
        onnx = source / "policies" / f"{name}.onnx"
        import_asap(onnx, source / "asap_g1.json", name, folder / name)
    return {name: folder / name for name in MOTIONS}


@pytest.fixture
def domain() -> int:
    """The test session's own ROS domain."""
    import os

    return int(os.environ["ROS_DOMAIN_ID"])


@pytest.fixture
def until_undisturbed() -> Callable[..., dict[str, Any]]:
    """Repeats a run that a loaded machine without real-time kernel may interrupt (and must).

    The guard holds when the policy is late; ``starved`` is what the robot's fault says then.
    """

    def repeat(play: Callable[[int], dict[str, Any]], starved: str | None = None) -> dict[str, Any]:
        for attempt in range(ATTEMPTS):
            try:
                result = play(attempt)
            except FaultError as error:
                if starved is None or starved not in str(error) or attempt == ATTEMPTS - 1:
                    raise
                continue
            if result["stopped_by"] not in ("policy_silent", "overrun"):
                break
        return result

    return repeat
