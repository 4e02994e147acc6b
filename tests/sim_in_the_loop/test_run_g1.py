"""ASAP's released policies through the ROS graph, in lockstep and in real time."""

import numpy as np
import pytest

from sim2real.bags.reader import read_bag
from sim2real.run import run
from sim2real.run_config import RunConfig

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]
MOTIONS = ("CR7_level1", "jump_forward_level1", "kick_level1", "side_jump_level1")
SLOW_SEEDS = [pytest.param(s, marks=pytest.mark.slow) for s in (1, 2)]


@pytest.mark.parametrize("seed", [0, *SLOW_SEEDS])
@pytest.mark.parametrize("lockstep", [True, False], ids=["lockstep", "realtime"])
@pytest.mark.parametrize("motion", MOTIONS)
def test_released_policy_finishes_its_motion_upright(
    asap_checkpoints, domain, until_undisturbed, motion, lockstep, seed
):
    config = RunConfig(
        robot="g1",
        policy=asap_checkpoints[motion],
        lockstep=lockstep,
        seed=seed,
        domain_id=domain,
    )
    result = until_undisturbed(lambda _: run(config, progress=False))
    assert result["completed"], (result["stopped_by"], result["transitions"])
    assert not result["fell"]
    assert result["min_base_height_m"] > 0.4
    assert result["max_tilt_rad"] < np.pi / 4
    assert result["guard"]["state"] == "active"
    assert result["guard"]["refused"] == 0


def test_lockstep_is_bit_reproducible_and_the_bag_is_whole(asap_checkpoints, domain, tmp_path):
    bags = []
    for i in range(2):
        result = run(
            RunConfig(
                robot="g1",
                policy=asap_checkpoints["side_jump_level1"],
                lockstep=True,
                seed=3,
                record=tmp_path / f"bag{i}",
                domain_id=domain,
            ),
            progress=False,
        )
        bags.append(read_bag(tmp_path / f"bag{i}"))
    for topic in ("/joint_states", "/joint_command", "/action_chunk", "/imu", "/odom"):
        first, second = (bag.columns(topic) for bag in bags)
        assert len(first) == result["steps"]
        assert np.array_equal(first.stamp_ns, second.stamp_ns), topic
        for key, values in first.arrays.items():
            assert np.array_equal(values, second.arrays[key], equal_nan=True), (topic, key)


def test_bag_tells_where_it_comes_from(asap_checkpoints, domain, tmp_path):
    run(
        RunConfig(
            robot="g1",
            policy=asap_checkpoints["side_jump_level1"],
            lockstep=True,
            seed=5,
            gap="hidden:3",
            duration_s=0.5,
            record=tmp_path / "bag",
            domain_id=domain,
        ),
        progress=False,
    )
    provenance = read_bag(tmp_path / "bag").info.provenance
    assert provenance["robot"] == "g1"
    assert provenance["seed"] == "5"
    assert provenance["gap"] == "hidden"
    assert len(provenance["policy_sha256"]) == 64
    assert provenance["git_commit"]
