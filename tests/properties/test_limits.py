"""Whatever the targets are, commands stay inside the limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.interface import ActionChunk
from policies.robots import G1, PANDA
from policies.runtime.guard import Guard
from policies.runtime.guard_config import GuardConfig
from policies.runtime.limits import Limiter, limits_of

SEEDS = st.integers(0, 2**32 - 1)


def random_targets(rng, limits, steps):
    """Jumps, noise, ramps and constants, far beyond the range too."""
    n = len(limits.lower_rad)
    kind = rng.integers(4)
    scale = rng.choice([0.01, 0.3, 3.0, 30.0])
    if kind == 0:
        return rng.normal(0.0, scale, (steps, n))
    if kind == 1:
        return np.repeat(rng.normal(0.0, scale, (steps // 10 + 1, n)), 10, axis=0)[:steps]
    if kind == 2:
        return np.cumsum(rng.normal(0.0, scale / 10, (steps, n)), axis=0)
    return np.tile(rng.normal(0.0, scale, n), (steps, 1))


@settings(max_examples=150)
@given(seed=SEEDS)
def test_position_commands_keep_position_velocity_and_acceleration(seed):
    rng = np.random.default_rng(seed)
    limits = limits_of(PANDA)
    limiter = Limiter(limits)
    start = rng.uniform(limits.lower_rad, limits.upper_rad)
    limiter.start(start)
    dt = float(rng.choice([0.001, 0.005, 0.01, 0.02]))
    path = np.array([limiter.follow(t, dt)[0] for t in random_targets(rng, limits, 300)])
    velocity = np.diff(path, axis=0, prepend=start[None]) / dt
    acceleration = np.diff(velocity, axis=0, prepend=np.zeros((1, PANDA.n))) / dt
    assert (path >= limits.lower_rad - 1e-9).all()
    assert (path <= limits.upper_rad + 1e-9).all()
    assert (np.abs(velocity) <= limits.velocity_rad_s * (1 + 1e-6)).all()
    assert (np.abs(acceleration) <= limits.acceleration_rad_s2 * (1 + 1e-4) + 1e-6).all()


@settings(max_examples=60)
@given(seed=SEEDS)
def test_limiter_is_transparent_for_a_feasible_motion(seed):
    rng = np.random.default_rng(seed)
    limits = limits_of(PANDA)
    limiter = Limiter(limits)
    center = 0.5 * (limits.lower_rad + limits.upper_rad)
    limiter.start(center)
    t = np.arange(400)[:, None] * 0.01
    frequency = rng.uniform(0.3, 1.0, PANDA.n)
    amplitude = 0.3 * limits.acceleration_rad_s2 / (2 * np.pi * frequency) ** 2
    amplitude = np.minimum(amplitude, 0.2)
    targets = center + amplitude * (1 - np.cos(2 * np.pi * frequency * t)) / 2
    out = [limiter.follow(target, 0.01) for target in targets]
    assert np.abs(np.array([o[0] for o in out]) - targets).max() < 2e-4


def test_limiter_reaches_a_far_target_without_overshoot():
    limits = limits_of(PANDA)
    limiter = Limiter(limits)
    start = 0.5 * (limits.lower_rad + limits.upper_rad)
    limiter.start(start)
    target = start + 0.4
    path = np.array([limiter.follow(target, 0.01)[0] for _ in range(300)])
    assert np.abs(path[-1] - target).max() < 1e-3
    assert (path <= target + 5e-3).all()


@settings(max_examples=100)
@given(seed=SEEDS)
def test_stop_ends_at_rest_within_the_acceleration_limit(seed):
    rng = np.random.default_rng(seed)
    limits = limits_of(PANDA)
    limiter = Limiter(limits)
    limiter.start(0.5 * (limits.lower_rad + limits.upper_rad))
    for target in random_targets(rng, limits, 100):
        limiter.follow(target, 0.01)
    path = np.array([limiter.stop(0.01) for _ in range(100)])
    assert (limiter.velocity_rad_s == 0.0).all()
    assert (path >= limits.lower_rad - 1e-9).all()
    assert (path <= limits.upper_rad + 1e-9).all()


@pytest.mark.parametrize("robot", [G1, PANDA])
@settings(max_examples=100)
@given(seed=SEEDS)
def test_no_chunk_gets_an_unsafe_command_through_the_guard(robot, seed):
    rng = np.random.default_rng(seed)
    guard = Guard(robot, GuardConfig(refusals_per_s=10_000))
    limits = limits_of(robot)
    qpos, now = np.array(robot.default_rad), 10**10
    guard.on_state(now, now, qpos, np.zeros(robot.n))
    guard.on_base(now, np.array([1.0, 0, 0, 0]), np.zeros(3))
    assert guard.arm(now) is None
    for k in range(60):
        now += 10_000_000
        guard.on_state(now, now, qpos + 1e-9 * k, np.zeros(robot.n))
        guard.on_base(now, np.array([1.0, 0, 0, 0]), np.zeros(3))
        rows = rng.normal(0.0, rng.choice([0.1, 1.0, 10.0]), (rng.integers(1, 9), robot.n))
        if rng.random() < 0.2:
            rows[rng.integers(len(rows)), rng.integers(robot.n)] = rng.choice([np.nan, np.inf])
        guard.on_chunk(ActionChunk(stamp_ns=now, dt_s=0.02, positions_rad=rows), now)
        command = guard.tick(now)
        if command is None or command.positions_rad is None:
            continue
        assert np.isfinite(command.positions_rad).all()
        assert (command.positions_rad >= limits.lower_rad - 1e-9).all()
        assert (command.positions_rad <= limits.upper_rad + 1e-9).all()
