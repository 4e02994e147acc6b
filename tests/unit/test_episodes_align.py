"""Alignment: grids, interpolation, hold, latency."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from policies.interface import Float
from sim2real.episodes.align import (
    SLACK_NS,
    estimate_latency_s,
    even_grid,
    hold_index,
    interpolate,
    lag_s,
    slerp,
)
from sim2real.episodes.episode import Episode

MS = 1_000_000
START = 1_700_000_000 * 10**9
steps_ms = st.lists(st.integers(1, 50), min_size=2, max_size=60)


def stamps_of(steps: list[int]) -> Any:
    return START + np.cumsum([0, *steps], dtype=np.int64) * MS


@given(steps=steps_ms, rate=st.sampled_from([50.0, 100.0, 333.3, 1000.0]))
def test_grid_is_even_and_inside(steps: list[int], rate: float) -> None:
    stamps = stamps_of(steps)
    grid = even_grid(int(stamps[0]), int(stamps[-1]), rate)
    assert grid[0] == stamps[0]
    assert grid[-1] <= stamps[-1] + SLACK_NS
    assert grid[-1] + 1e9 / rate > stamps[-1]
    np.testing.assert_allclose(grid - grid[0], np.arange(len(grid)) * 1e9 / rate, atol=0.5, rtol=0)


@given(steps=steps_ms, rate=st.sampled_from([50.0, 100.0, 250.0]), seed=st.integers(0, 99))
def test_interpolation_stays_between_neighbours_and_is_exact_on_lines(
    steps: list[int], rate: float, seed: int
) -> None:
    stamps = stamps_of(steps)
    grid = even_grid(int(stamps[0]), int(stamps[-1]), rate)
    values = np.random.default_rng(seed).normal(size=(len(stamps), 3))
    out = interpolate(stamps, values, grid)
    left = np.searchsorted(stamps, grid, side="right") - 1
    right = np.minimum(left + 1, len(stamps) - 1)
    low, high = np.minimum(values[left], values[right]), np.maximum(values[left], values[right])
    assert (out >= low - 1e-12).all()
    assert (out <= high + 1e-12).all()
    line = ((stamps - START) / 1e9)[:, None] * [1.0, -3.0]
    expected = ((grid - START) / 1e9)[:, None] * [1.0, -3.0]
    np.testing.assert_allclose(interpolate(stamps, line, grid), expected, atol=1e-12)


@given(seed=st.integers(0, 999), jitter=st.integers(-SLACK_NS, SLACK_NS))
def test_samples_on_the_grid_are_bit_exact(seed: int, jitter: int) -> None:
    grid = even_grid(START, START + 400 * MS, 50.0)
    values = np.random.default_rng(seed).normal(size=(len(grid), 2)) * 1e-3
    assert np.array_equal(interpolate(grid + jitter, values, grid), values)
    quat = np.random.default_rng(seed).normal(size=(len(grid), 4))
    quat /= np.linalg.norm(quat, axis=1, keepdims=True)
    assert np.array_equal(slerp(grid + jitter, quat, grid), quat)


@given(steps=steps_ms, data=st.data())
def test_hold_takes_the_last_command_that_is_not_in_the_future(
    steps: list[int], data: st.DataObject
) -> None:
    stamps = stamps_of(steps)
    times = START + np.sort(
        data.draw(st.lists(st.integers(-10 * MS, 3000 * MS), min_size=1, max_size=30))
    ).astype(np.int64)
    for time, held in zip(times, hold_index(stamps, times), strict=True):
        allowed = [i for i, s in enumerate(stamps) if s <= time + SLACK_NS]
        assert held == (allowed[-1] if allowed else -1)


@given(angle=st.floats(-3.0, 3.0), fraction=st.floats(0.0, 1.0), flip=st.booleans())
def test_slerp_turns_at_constant_rate_whatever_the_signs(
    angle: float, fraction: float, flip: bool
) -> None:
    ends = np.array([[1.0, 0.0, 0.0, 0.0], [np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)]])
    if flip:
        ends[1] *= -1.0
    time = np.array([START + round(fraction * 100 * MS)])
    assume(SLACK_NS < time[0] - START < 100 * MS - SLACK_NS)
    got = slerp(np.array([START, START + 100 * MS]), ends, time)[0]
    half = angle / 2 * (time[0] - START) / (100 * MS)
    np.testing.assert_allclose(got, [np.cos(half), 0, 0, np.sin(half)], atol=1e-9)


def smooth(t: Float, seed: int) -> Float:
    rng = np.random.default_rng(seed)
    terms = [rng.normal() * np.sin(w * t + rng.uniform(0, 6)) for w in rng.uniform(2, 12, 6)]
    return np.asarray(sum(terms), np.float64)


@settings(max_examples=30)
@given(delay=st.floats(0.0, 0.2), seed=st.integers(0, 999))
def test_lag_is_found_to_a_fraction_of_a_sample(delay: float, seed: int) -> None:
    t = np.arange(0.0, 8.0, 0.01)
    assert lag_s(smooth(t, seed), smooth(t - delay, seed), 0.01) == pytest.approx(delay, abs=2e-3)


def test_lag_needs_resemblance_and_motion() -> None:
    rng = np.random.default_rng(0)
    assert lag_s(rng.normal(size=500), rng.normal(size=500), 0.01) is None
    assert lag_s(np.zeros(500), rng.normal(size=500), 0.01) is None
    assert lag_s(np.ones(3), np.ones(3), 0.01) is None


@pytest.mark.parametrize("with_velocity", [True, False])
def test_latency_of_an_episode(with_velocity: bool) -> None:
    t = np.arange(0.0, 6.0, 0.01)
    action, q = (np.stack([smooth(t - d, j) for j in range(3)], 1) for d in (0.0, 0.033))
    velocity = (np.gradient(x, 0.01, axis=0) for x in (action, q))
    action_vel, qvel = velocity
    q[:, 2] = qvel[:, 2] = 0.0  # a joint that does not follow must not count
    episode = Episode(
        robot="x",
        robot_fingerprint="y",
        rate_hz=100.0,
        t_s=t,
        qpos_rad=q,
        qvel_rad_s=qvel,
        action_rad=action,
        action_vel_rad_s=action_vel if with_velocity else None,
    )
    assert estimate_latency_s([episode]) == pytest.approx(0.033, abs=2e-3)
    still = dataclasses.replace(episode, qpos_rad=0 * q, qvel_rad_s=0 * q)
    assert estimate_latency_s([still]) is None
