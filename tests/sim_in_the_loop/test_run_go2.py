"""A Go2 that stands: the simulator's driver in lockstep and in real time."""

from itertools import pairwise

import numpy as np
import pytest

from policies.actor.config import ActionConfig, ActorConfig
from policies.actor.mlp import mlp_onnx
from policies.checkpoint import save_checkpoint
from policies.processors import TermConfig
from policies.robots import GO2
from sim2real.bags.reader import read_bag
from sim2real.run import run
from sim2real.run_config import RunConfig

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def stand(tmp_path_factory):
    """A 50 Hz actor that holds the default pose: a network whose answer is zero."""
    sizes = (24, 8, GO2.n)
    weights = [np.zeros((b, a), np.float32) for a, b in pairwise(sizes)]
    model = mlp_onnx(weights, [np.zeros(n, np.float32) for n in sizes[1:]])
    config = ActorConfig(
        name="stand",
        robot=GO2.name,
        robot_fingerprint=GO2.fingerprint,
        rate_hz=50.0,
        action=ActionConfig(
            type="position_offset_from_default", joints=GO2.joint_names, scale=0.25
        ),
        hold_pose_rad={},
        observation=(
            TermConfig(term="joint_pos", scale=1.0, joints=GO2.joint_names),
            TermConfig(term="joint_vel", scale=0.05, joints=GO2.joint_names),
        ),
        duration_s=None,
        start_pose_rad=dict(zip(GO2.joint_names, GO2.default_rad.tolist(), strict=True)),
    )
    folder = tmp_path_factory.mktemp("policies") / "stand"
    save_checkpoint(folder, config, model)
    return folder


@pytest.mark.parametrize("lockstep", [True, False], ids=["lockstep", "realtime"])
def test_go2_stands(stand, domain, tmp_path, lockstep):
    bag = tmp_path / "bag"
    config = RunConfig(
        robot="go2",
        policy=stand,
        lockstep=lockstep,
        duration_s=2.0,
        record=bag,
        domain_id=domain,
    )
    result = run(config, progress=False)
    assert result["completed"], (result["stopped_by"], result["transitions"])
    assert result["min_base_height_m"] > 0.2
    states = read_bag(bag).columns("/joint_states")
    rate = GO2.control_rate_hz if lockstep else GO2.state_rate_hz
    assert np.allclose(np.diff(states.stamp_ns[-100:]), 1e9 / rate)
    assert np.abs(states.arrays["position"][-1] - GO2.default_rad).max() < 0.15
