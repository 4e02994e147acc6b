"""Errors of replay on motions whose errors are known by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import InputError
from sim2real.replay.metrics import evaluate, horizon_frames

FRAMES, BODIES, JOINTS = 10, 4, 3


def motion(seed=0, windows=2):
    rng = np.random.default_rng(seed)
    bodies = rng.normal(size=(windows, FRAMES + 1, BODIES, 3))
    return bodies, rng.normal(size=(windows, FRAMES + 1, JOINTS))


def errors(bodies, logged, qpos, logged_qpos, ticks=(FRAMES, FRAMES), frames=(FRAMES,)):
    return evaluate(bodies, logged, qpos, logged_qpos, root=0, ticks=ticks, frames=frames).mean()


def test_identical_motions_have_no_error():
    bodies, qpos = motion()
    for values in errors(bodies, bodies, qpos, qpos).to_json().values():
        assert not np.any(values)


def test_offset_after_reset_counts_in_the_world_but_not_about_the_root():
    bodies, qpos = motion()
    moved = bodies.copy()
    moved[:, 1:] += [0.0, 0.006, 0.008]
    result = errors(moved, bodies, qpos, qpos)
    assert result.e_g_mpjpe_mm == pytest.approx([10.0])
    assert result.e_mpjpe_mm == pytest.approx([0.0], abs=1e-9)
    assert result.e_vel_mm_per_frame == pytest.approx([10.0 / FRAMES])  # one jump, at frame 1
    assert result.e_acc_mm_per_frame2 == pytest.approx([10.0 / (FRAMES - 1)])


def test_steady_drift_has_velocity_and_no_acceleration_error():
    bodies, qpos = motion()
    drift = bodies + 1e-3 * np.arange(FRAMES + 1)[:, None, None] * np.array([1.0, 0.0, 0.0])
    result = errors(drift, bodies, qpos, qpos, frames=(2, FRAMES))
    assert result.e_vel_mm_per_frame == pytest.approx([1.0, 1.0])
    assert result.e_acc_mm_per_frame2 == pytest.approx([0.0, 0.0], abs=1e-9)
    assert result.e_g_mpjpe_mm == pytest.approx([1.5, (FRAMES + 1) / 2.0])


def test_joint_errors_are_per_joint_and_overall():
    bodies, qpos = motion()
    result = errors(bodies, bodies, qpos + np.array([0.03, 0.0, 0.04]), qpos)
    assert result.qpos_rmse_per_joint_rad == pytest.approx(np.array([[0.03, 0.0, 0.04]]))
    assert result.qpos_rmse_rad == pytest.approx([np.sqrt((0.03**2 + 0.04**2) / 3.0)])


def test_a_short_window_counts_only_for_the_horizons_it_covers():
    bodies, qpos = motion()
    moved = bodies.copy()
    moved[1] += 1.0  # the second window is 4 ticks long
    moved[0, 1:] += [0.001, 0.0, 0.0]
    result = errors(moved, bodies, qpos, qpos, ticks=(FRAMES, 4), frames=(4, FRAMES))
    assert result.e_g_mpjpe_mm[0] > 100.0
    assert result.e_g_mpjpe_mm[1] == pytest.approx(1.0)


def test_no_window_for_a_horizon_is_refused():
    bodies, qpos = motion()
    with pytest.raises(InputError, match="at least 11 samples"):
        errors(bodies, bodies, qpos, qpos, ticks=(9, 9))


@pytest.mark.parametrize("horizon", [0.0, -1.0, 0.01, float("nan"), float("inf")])
def test_horizon_too_short_for_a_second_difference_is_refused(horizon):
    with pytest.raises(InputError, match="at least 2 control ticks"):
        horizon_frames([horizon], 100.0)


@given(st.integers(0, 2**16), st.integers(0, 2**16))
def test_moving_both_motions_together_changes_nothing(seed, other):
    (a, qa), (b, qb) = motion(seed), motion(other)
    shift = np.array([3.0, -2.0, 1.0])
    plain, moved = errors(a, b, qa, qb), errors(a + shift, b + shift, qa, qb)
    assert moved.e_g_mpjpe_mm == pytest.approx(plain.e_g_mpjpe_mm)
    assert moved.e_mpjpe_mm == pytest.approx(plain.e_mpjpe_mm)
    assert moved.e_acc_mm_per_frame2 == pytest.approx(plain.e_acc_mm_per_frame2)
