"""A Go2 that stands: the simulator's driver in lockstep and in real time."""

from pathlib import Path

import numpy as np
import pytest

from policies.robots import GO2
from sim2real.bags.reader import read_bag
from sim2real.run import run
from sim2real.run_config import RunConfig

pytestmark = [pytest.mark.ros, pytest.mark.timeout(120)]


@pytest.mark.parametrize("lockstep", [True, False], ids=["lockstep", "realtime"])
def test_go2_stands(hold_policy, domain, tmp_path, until_undisturbed, lockstep):
    def play(attempt):
        config = RunConfig(
            robot="go2",
            policy=hold_policy(GO2),
            lockstep=lockstep,
            duration_s=2.0,
            record=tmp_path / f"bag{attempt}",
            domain_id=domain,
        )
        return run(config, progress=False)

    result = until_undisturbed(play)
    assert result["completed"], (result["stopped_by"], result["transitions"])
    assert result["min_base_height_m"] > 0.2
    states = read_bag(Path(result["bag"])).columns("/joint_states")
    rate = GO2.control_rate_hz if lockstep else GO2.state_rate_hz
    assert np.allclose(np.diff(states.stamp_ns[-100:]), 1e9 / rate)
    assert np.abs(states.arrays["position"][-1] - GO2.default_rad).max() < 0.15
