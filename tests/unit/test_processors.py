"""Observation terms and their history."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from policies.errors import InputError
from policies.interface import Observation
from policies.processors import (
    TERMS,
    ActorState,
    ObservationBuilder,
    TermConfig,
    projected_gravity,
)
from policies.robots import G1, PANDA


def builder(*terms, robot=PANDA, size=7, duration_s=2.0):
    return ObservationBuilder(
        robot,
        terms,
        action_joints=robot.joint_names,
        action_size=size,
        rate_hz=50.0,
        duration_s=duration_s,
    )


def observation(k=0, robot=PANDA, **fields):
    return Observation(
        stamp_ns=k * 20_000_000,
        qpos_rad=robot.default_rad + 0.01 * np.arange(robot.n) + k,
        qvel_rad_s=-np.arange(robot.n) - 100.0 * k,
        **fields,
    )


def state(k=0, n=7):
    return ActorState(
        tick=k,
        last_action=np.full(n, 0.5 + k, dtype=np.float32),
        command_rad=PANDA.default_rad + 0.2,
        command_vel_rad_s=np.full(7, 0.3),
    )


def test_each_term_has_its_value_and_scale():
    build = builder(
        TermConfig(term="joint_pos", scale=2.0, joints=PANDA.joint_names[5:3:-1]),
        TermConfig(term="joint_vel", scale=0.05, joints=PANDA.joint_names[:2]),
        TermConfig(term="last_action", scale=3.0),
        TermConfig(term="last_command", scale=10.0),
        TermConfig(term="command_velocity"),
        TermConfig(term="tracking_error", scale=100.0),
        TermConfig(term="motion_phase", scale=4.0),
        TermConfig(term="goal_position", scale=0.5),
    )
    build.build(observation(goal=np.array([1.0, 2.0, 3.0])), state(k=25))
    expected = [0.1, 0.08, 0.0, -0.05, *[76.5] * 7, *[2.0] * 7, *[0.3] * 7]
    expected += [20.0 - k for k in range(7)] + [1.0, 0.5, 1.0, 1.5]

    assert_allclose(build.vector[0], expected, rtol=1e-6)
    assert build.needs == ("goal",)
    assert build.needs_command


@given(st.tuples(*[st.floats(-1.0, 1.0)] * 4).filter(lambda q: np.linalg.norm(q) > 0.1))
def test_projected_gravity_is_the_rotated_vector(q):
    w, x, y, z = np.array(q) / np.linalg.norm(q)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    gravity = projected_gravity(np.array([w, x, y, z]))
    assert_allclose(gravity, rotation.T @ [0.0, 0.0, -1.0], atol=1e-12)


def test_base_terms_and_needs():
    build = builder(
        TermConfig(term="base_ang_vel", scale=0.25),
        TermConfig(term="projected_gravity"),
        robot=G1,
        size=29,
    )
    base = dict(base_quat_wxyz=np.array([1.0, 0, 0, 0]), base_ang_vel_rad_s=np.array([4.0, 8.0, 0]))
    build.build(observation(robot=G1, **base), state(n=29))
    assert_array_equal(build.vector[0], [1.0, 2.0, 0.0, 0.0, 0.0, -1.0])
    assert build.needs == ("base_ang_vel_rad_s", "base_quat_wxyz")
    with pytest.raises(InputError, match="expected base_quat_wxyz"):
        build.build(
            observation(robot=G1, base_ang_vel_rad_s=base["base_ang_vel_rad_s"]), state(n=29)
        )


@given(st.integers(1, 6), st.integers(1, 9))
def test_term_history_is_newest_first_with_the_present(length, ticks):
    joint = PANDA.joint_names[:2]
    build = builder(TermConfig(term="joint_vel", joints=joint, history=length))
    for k in range(ticks):
        build.build(observation(k), state(k))
    seen = [[-100.0 * k, -1.0 - 100.0 * k] for k in range(ticks)][::-1]
    expected = (seen + [[0.0, 0.0]] * length)[:length]
    assert_allclose(build.vector[0], np.ravel(expected))


@given(st.integers(1, 5), st.integers(1, 8))
def test_grouped_history_leaves_the_present_out(length, ticks):
    vel = TermConfig(term="joint_vel", joints=PANDA.joint_names[1:2])
    phase = TermConfig(term="motion_phase", scale=100.0)
    build = builder(phase, TermConfig(term="history", history=length, terms=(vel, phase)))
    for k in range(ticks):
        build.build(observation(k), state(k))
    past = range(ticks - 2, -1, -1)
    pad = [0.0] * length
    velocities = ([-1.0 - 100.0 * k for k in past] + pad)[:length]
    phases = ([float(k) for k in past] + pad)[:length]
    assert_allclose(build.vector[0], [ticks - 1.0, *velocities, *phases], rtol=1e-6)
    build.reset()
    build.build(observation(0), state(0))
    assert_array_equal(build.vector[0], np.zeros(1 + 2 * length))


def test_phase_stays_at_one():
    build = builder(TermConfig(term="motion_phase"))
    build.build(observation(), state(k=1000))
    assert build.vector[0, 0] == 1.0


@pytest.mark.parametrize(
    ("term", "text"),
    [
        (TermConfig(term="joint_position"), "expected a term out of"),
        (TermConfig(term="projected_gravity"), "floating base"),
        (TermConfig(term="joint_pos", joints=("panda_joint1",) * 2), "appears twice"),
        (TermConfig(term="joint_pos", joints=("elbow",)), "elbow"),
        (TermConfig(term="goal_position", joints=("panda_joint1",)), "expected no joints"),
    ],
)
def test_impossible_terms_are_refused(term, text):
    with pytest.raises(InputError, match=text):
        builder(term)


def test_phase_needs_a_duration():
    with pytest.raises(InputError, match="duration_s"):
        builder(TermConfig(term="motion_phase"), duration_s=None)


def test_every_listed_term_can_be_built():
    for term in TERMS:
        assert builder(TermConfig(term=term), robot=G1, size=29).size > 0
