"""Checkpoints for runs of the whole graph."""

from pathlib import Path

import pytest

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
