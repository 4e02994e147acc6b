"""OnnxActor: chunks, plans that last several ticks, and streams within limits."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from policies.actor.config import ActionConfig, ActorConfig
from policies.actor.mlp import mlp_onnx
from policies.actor.onnx_actor import OnnxActor
from policies.errors import InputError
from policies.interface import Observation
from policies.processors import TermConfig
from policies.robots import PANDA

NAMES = PANDA.joint_names
TICK_NS = 20_000_000
HORIZON, REPLAN = 8, 4


def actor(bias, weight=None, terms=("goal_position",), **action):
    sizes = {"goal_position": 3}
    n_in = sum(sizes.get(term, 7) for term in terms)
    joints = action.pop("joints", NAMES)
    weight = np.zeros((len(bias), n_in), np.float32) if weight is None else weight
    config = ActorConfig(
        name="test",
        robot="panda",
        robot_fingerprint=PANDA.fingerprint,
        rate_hz=50.0,
        action=ActionConfig(joints=joints, **action),
        hold_pose_rad={
            name: float(x)
            for name, x in zip(NAMES, PANDA.default_rad, strict=True)
            if name not in joints
        },
        observation=tuple(TermConfig(term=term) for term in terms),
        duration_s=None,
        start_pose_rad=dict(zip(NAMES, PANDA.default_rad.tolist(), strict=True)),
    )
    return OnnxActor(config, PANDA, mlp_onnx([weight], [np.asarray(bias, np.float32)]), "")


def velocity_actor(bias, **action):
    options = dict(type="command_velocity", horizon=HORIZON, replan_every=REPLAN)
    return actor(bias, **(options | action))


def seen(tick, qpos=PANDA.default_rad, goal=(0.0, 0.0, 0.0)):
    return Observation(
        stamp_ns=tick * TICK_NS,
        qpos_rad=np.array(qpos),
        qvel_rad_s=np.zeros(7),
        goal=np.array(goal),
    )


def test_offset_from_default_scales_clips_and_holds():
    policy = actor(
        [0.4, -9.0],
        type="position_offset_from_default",
        joints=(NAMES[3], NAMES[1]),
        scale=0.5,
        clip=2.0,
    )
    chunk = policy.act(seen(7))
    expected = PANDA.default_rad.copy()
    expected[3] += 0.2
    expected[1] -= 1.0
    assert chunk.stamp_ns == 7 * TICK_NS
    assert chunk.positions_rad.dtype == np.float64
    assert_allclose(chunk.positions_rad, expected[None], rtol=1e-6)


def test_last_action_is_fed_back():
    # output = 1 + 0.5 x last output: 1, 1.5, 1.75, ...
    policy = actor(
        np.ones(7),
        0.5 * np.eye(7, dtype=np.float32),
        terms=("last_action",),
        type="position_offset_from_default",
    )
    offsets = [policy.act(seen(k)).positions_rad[0, 0] for k in range(3)]
    assert_allclose(offsets, [1.0, 1.5, 1.75])
    policy.reset(0)
    assert policy.act(seen(0)).positions_rad[0, 0] == 1.0


def test_every_observation_is_answered_and_the_plan_is_shared():
    rng = np.random.default_rng(0)
    policy = velocity_actor(0.05 * rng.standard_normal((HORIZON - 1) * 7))
    chunks = [policy.act(seen(k)) for k in range(REPLAN + 1)]
    assert [len(c.positions_rad) for c in chunks] == [8, 7, 6, 5, 8]
    assert [c.stamp_ns for c in chunks] == [k * TICK_NS for k in range(REPLAN + 1)]
    for k in range(1, REPLAN):
        assert_array_equal(chunks[k].positions_rad, chunks[0].positions_rad[k:])
    # the next plan goes on from where the last one is at its stamp
    assert_array_equal(chunks[REPLAN].positions_rad[0], chunks[0].positions_rad[REPLAN])


def test_a_plan_starts_at_the_measured_position():
    policy = velocity_actor(np.ones((HORIZON - 1) * 7))
    qpos = PANDA.default_rad + 0.05
    assert_array_equal(policy.act(seen(0, qpos)).positions_rad[0], qpos)


def test_lost_observations_do_not_shift_the_plan():
    policy = velocity_actor(np.full((HORIZON - 1) * 7, 0.02))
    first = policy.act(seen(0)).positions_rad
    assert_array_equal(policy.act(seen(3)).positions_rad, first[3:])
    late = policy.act(seen(6)).positions_rad  # past replan_every: a new plan
    assert len(late) == HORIZON
    assert_array_equal(late[0], first[6])
    assert_allclose(late[1], first[6] + 0.02 * 0.02)


def test_a_plan_that_ran_out_has_stopped():
    policy = velocity_actor(np.full((HORIZON - 1) * 7, 1.0))
    first = policy.act(seen(0)).positions_rad
    later = policy.act(seen(50)).positions_rad
    slew = PANDA.array("acceleration_limit_rad_s2") * 0.02
    assert_array_equal(later[0], first[-1])
    assert_allclose(later[1] - later[0], slew * 0.02)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 1.0), st.floats(0.1, 1.0))
def test_any_network_gives_a_stream_within_limits(seed, velocity, acceleration):
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(((HORIZON - 1) * 7, 3)).astype(np.float32)
    policy = velocity_actor(
        3.0 * rng.standard_normal((HORIZON - 1) * 7),
        weight=weight,
        velocity_fraction=velocity,
        acceleration_fraction=acceleration,
    )
    stream, qpos = [PANDA.default_rad, PANDA.default_rad], PANDA.default_rad.copy()
    for k in range(12):  # too short to reach a joint limit
        stream.append(policy.act(seen(k, qpos, rng.standard_normal(3))).positions_rad[0])
        qpos = stream[-1]
    speed = np.diff(stream, axis=0) / 0.02
    assert np.all(np.abs(speed) <= velocity * PANDA.velocity_limit_rad_s + 1e-9)
    change = np.abs(np.diff(speed, axis=0)) / 0.02
    assert np.all(change <= acceleration * PANDA.array("acceleration_limit_rad_s2") + 1e-7)


def test_command_cannot_run_away_from_a_blocked_arm():
    policy = velocity_actor(np.full((HORIZON - 1) * 7, 0.5), max_lead_rad=0.1)
    for k in range(400):
        command = policy.act(seen(k)).positions_rad
    lead = np.abs(command - PANDA.default_rad).max()
    assert 0.1 < lead <= 0.1 + HORIZON * 0.5 * 0.02 + 1e-9


def test_command_stays_within_position_limits():
    policy = velocity_actor(np.full((HORIZON - 1) * 7, 1.0))
    command = PANDA.default_rad
    for k in range(400):
        command = policy.act(seen(k, command)).positions_rad[0]
        assert np.all(command <= PANDA.upper_rad)


def test_same_input_same_answer_after_reset():
    rng = np.random.default_rng(1)
    policy = velocity_actor(0.1 * rng.standard_normal((HORIZON - 1) * 7))
    first = [policy.act(seen(k)).positions_rad.copy() for k in range(9)]
    policy.reset(3)
    second = [policy.act(seen(k)).positions_rad for k in range(9)]
    for a, b in zip(first, second, strict=True):
        assert_array_equal(a, b)


def test_answers_are_not_overwritten_later():
    policy = velocity_actor(np.full((HORIZON - 1) * 7, 0.1))
    first = policy.act(seen(0)).positions_rad
    kept = first.copy()
    for k in range(1, 10):
        policy.act(seen(k))
    assert_array_equal(first, kept)


def test_missing_goal_is_an_input_error():
    policy = velocity_actor(np.zeros((HORIZON - 1) * 7))
    with pytest.raises(InputError, match="goal"):
        policy.act(dataclasses.replace(seen(0), goal=None))
