"""MuJoCo Warp steps the robots as MuJoCo does; needs the optional mujoco-warp."""

import importlib.util

import numpy as np
import pytest

from policies.errors import InputError
from policies.robots import G1, PANDA
from sim2real.sim.batch import BatchStepper
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import default_state
from sim2real.sim.warp import WarpStepper

INSTALLED = importlib.util.find_spec("mujoco_warp") is not None


def test_without_the_package_or_a_gpu_one_sentence_says_so():
    if INSTALLED:
        import warp

        if warp.is_cuda_available():
            pytest.skip("mujoco-warp is installed and finds a GPU")
    with pytest.raises(InputError, match="NVIDIA GPU" if INSTALLED else "pip install"):
        WarpStepper(PANDA)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not INSTALLED, reason="needs mujoco-warp: pip install mujoco-warp")
@pytest.mark.parametrize("robot", [PANDA, G1], ids=lambda r: r.name)
def test_warp_steps_as_mujoco_does(robot):
    """Slow: Warp compiles its kernels on first use; runs on a GPU if there is one."""
    import warp

    device = "cuda:0" if warp.is_cuda_available() else "cpu"
    gap = Gap(name="late", delay_s=0.0075, strength={"*": 0.9})
    plain, other = BatchStepper(robot, gap), WarpStepper(robot, gap, device=device)
    rng = np.random.default_rng(0)
    state = default_state(robot).map(lambda x: np.tile(x, (3, 1)))
    targets = robot.default_rad + 0.1 * rng.standard_normal((3, 3, robot.n))
    before = robot.default_rad + 0.1 * rng.standard_normal((3, plain.delay_ticks, robot.n))
    delta = 0.05 * rng.standard_normal(targets.shape)
    want = plain.step(state, targets, before, delta)
    got = other.step(state, targets, before, delta)
    np.testing.assert_allclose(got.qpos_rad, want.qpos_rad, atol=2e-4)
    np.testing.assert_allclose(got.qvel_rad_s, want.qvel_rad_s, atol=2e-2)
    again = other.step(state, targets, before, delta)
    np.testing.assert_array_equal(again.qpos_rad, got.qpos_rad)  # no memory of the call before
    with pytest.raises(InputError, match="one model for all"):
        other.run(state, targets, models=[plain.model] * 3)
    plain.close(), other.close()
