"""The task with two ways: its geometry, its expert, and why the mean of both is no way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.datasets.collect import collect
from policies.errors import InputError
from policies.evaluation.environment import Environment
from sim2real.tasks.obstacle import (
    GOAL_M,
    RADIUS_M,
    SPEC,
    START_M,
    Obstacle,
    ObstacleExpert,
    hits,
    side,
)
from sim2real.tasks.registry import make_environment, make_expert


@pytest.fixture(scope="module")
def demonstrations():
    return collect(Obstacle(), ObstacleExpert(), episodes=200, noise=0.05)


def test_the_expert_takes_both_ways_equally_often(demonstrations):
    sides = np.array([side(state) for state in demonstrations.state])
    assert set(sides) == {-1, 1}
    assert abs(sides.mean()) < 0.2  # 2.8 standard deviations
    starts = np.array([state[0] for state in demonstrations.state])
    assert abs(np.corrcoef(starts[:, 1], sides)[0, 1]) < 0.2  # the start does not tell the side


def test_every_demonstration_arrives_without_a_touch(demonstrations):
    for state in demonstrations.state:
        assert not hits(state)
        assert len(state) < SPEC.max_steps
        assert np.linalg.norm(state[-1] - GOAL_M) < 0.2


def test_the_mean_of_both_ways_leads_into_the_obstacle():
    environment, left, right = Obstacle(), ObstacleExpert(), ObstacleExpert()
    seen = environment.reset(0)
    left.reset(0)
    right.reset(0)
    left._side, right._side = 1.0, -1.0
    for _ in range(SPEC.max_steps):
        outcome = environment.step(0.5 * (left.act(seen) + right.act(seen)))
        seen = outcome.seen
        if outcome.done:
            break
    assert outcome.failure
    assert not outcome.success


@given(
    begin=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
    end=st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
)
def test_a_step_through_the_disc_is_seen_however_long_it_is(begin, end):
    path = np.array([begin, end])
    points = begin + np.linspace(0, 1, 2001)[:, None] * (path[1] - path[0])
    nearest = np.linalg.norm(points, axis=1).min()
    if abs(nearest - RADIUS_M) > 1e-3:
        assert hits(path) == (nearest < RADIUS_M)


def test_side_of_a_path():
    x = np.linspace(-1, 1, 50)
    assert side(np.stack([x, np.full(50, 0.6)], axis=1)) == 1
    assert side(np.stack([x, np.full(50, -0.6)], axis=1)) == -1
    assert side(np.array([START_M])) == 0


def test_environment_limits_speed_repeats_and_refuses_nan():
    environment = Obstacle()
    assert isinstance(environment, Environment)
    first = environment.reset(3).state
    moved = environment.step(np.array([30.0, 40.0])).seen.state - first
    np.testing.assert_allclose(moved, [0.06, 0.08])
    np.testing.assert_array_equal(environment.reset(3).state, first)
    with pytest.raises(InputError, match="finite"):
        environment.step(np.array([np.nan, 0.0]))


def test_tasks_are_found_by_name():
    environment = make_environment("obstacle")
    assert isinstance(make_expert(environment), ObstacleExpert)
    with pytest.raises(InputError, match="reach-v3"):
        make_environment("reach-v2")
