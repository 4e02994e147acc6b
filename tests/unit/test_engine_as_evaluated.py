"""A policy does in the ROS graph's engine what it did in its evaluation, step by step."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from policies.diffusion.chunk_policy import ChunkPolicy
from policies.diffusion.config import RobotBinding
from policies.diffusion.interface import ChunkSpec
from policies.evaluation.environment import EnvironmentSpec, Outcome, Seen
from policies.evaluation.loop import ExecutionConfig, run_batch
from policies.interface import Observation
from policies.messages import NS
from policies.robots import PANDA
from policies.runtime.action_queue import Hold
from policies.runtime.engine import make_engine
from policies.runtime.planning import EngineConfig

HORIZON, STEPS, RATE_HZ = 12, 70, 50.0
STATES = tuple(f"qpos/{name}" for name in PANDA.joint_names)
ACTIONS = tuple(f"position/{name}" for name in PANDA.joint_names)


class Model:
    """Wanders from where the arm is, drawn anew for each answer, and keeps what it is bound to."""

    def __init__(self):
        self.spec = ChunkSpec(
            name="wanderer",
            state_names=STATES,
            action_names=ACTIONS,
            observation_horizon=1,
            prediction_horizon=HORIZON,
            action_horizon=3,
            rate_hz=RATE_HZ,
        )
        pose = dict(zip(PANDA.joint_names, PANDA.default_rad.tolist(), strict=True))
        self.robot = RobotBinding(
            name=PANDA.name, fingerprint=PANDA.fingerprint, start_pose_rad=pose
        )
        self.reset(0)

    def reset(self, seed, batch=1):
        self.rng, self.network_calls = np.random.default_rng(7), 0
        self.asked = []

    def sample(self, window, *, executed=0, prefix=None):
        self.network_calls += 1
        weights = None if prefix is None else prefix.weights
        self.asked.append((window.state.copy(), executed, weights))
        steps = self.rng.normal(0.0, 0.01, (1, HORIZON, PANDA.n))
        plan = window.state[:, -1:] + np.cumsum(steps, axis=1)
        if prefix is None:
            return plan
        share = prefix.weights[:, None]
        return share * prefix.actions + (1.0 - share) * plan


class Arm:
    """An arm that is where it was told to be."""

    spec = EnvironmentSpec(
        name="arm",
        state_names=STATES,
        action_names=ACTIONS,
        rate_hz=RATE_HZ,
        max_steps=STEPS,
        hold=Hold(rest=tuple(PANDA.default_rad.tolist()), keep=(True,) * PANDA.n),
        smooth=(True,) * PANDA.n,
    )

    def reset(self, seed):
        return Seen(state=PANDA.default_rad.copy())

    def step(self, action):
        return Outcome(seen=Seen(state=action.copy()))


def evaluated(**config):
    model = Model()
    (run,), _ = run_batch(model, [Arm()], [0], ExecutionConfig(**config))
    return run.actions, model.asked


def in_the_graph(**config):
    model = Model()
    engine = make_engine(
        ChunkPolicy(model, PANDA, "0" * 64), EngineConfig(lockstep=True, deadline_s=1.0, **config)
    )
    engine.reset(0)
    qpos, sent = PANDA.default_rad.copy(), []
    for step in range(STEPS):
        chunk = engine.tick(
            Observation(
                stamp_ns=round(step * NS / RATE_HZ), qpos_rad=qpos, qvel_rad_s=np.zeros(PANDA.n)
            )
        )
        qpos = chunk.positions_rad[0].copy()
        sent.append(qpos)
    assert engine.failure is None
    return np.array(sent), model.asked, engine.report()


def test_an_executor_that_waits_is_the_same_without_delay():
    """With one, the engine stops a step later: the robot already has what follows the plan."""
    assert_array_equal(in_the_graph()[0], evaluated()[0])


@pytest.mark.parametrize("delay", [0, 1, 4])
@pytest.mark.parametrize(
    "how",
    [
        {"executor": "ensemble"},
        {"executor": "async"},
        {"executor": "async", "in_flight": 3, "action_horizon": 1},
        {"executor": "rtc"},
        {"executor": "rtc", "in_flight": 2, "action_horizon": 2},
        {"executor": "rtc", "in_flight": 2, "action_horizon": 2, "fade": 0},
        {"executor": "rtc", "fade": 2},
    ],
    ids=lambda how: "-".join(map(str, how.values())),
)
def test_engine_and_evaluation_do_the_same(how, delay):
    wanted, questions = evaluated(delay_steps=delay, **how)
    sent, asked, report = in_the_graph(inference_delay_steps=delay, **how)
    assert np.ptp(wanted, axis=0).min() > 0.01, "it moves"
    assert_array_equal(sent, wanted)
    assert len(asked) == len(questions)
    for ours, theirs in zip(asked, questions, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert_array_equal(a, b)
    assert report["stalls"] == 0


def test_more_requests_and_a_bond_that_fades_make_a_difference():
    """Otherwise the options would not have arrived where they act."""
    plain = {"executor": "rtc", "action_horizon": 2, "inference_delay_steps": 4}
    runs = [in_the_graph(**plain, **more) for more in ({}, {"in_flight": 2}, {"fade": 0})]
    assert len(runs[1][1]) > 1.5 * len(runs[0][1])
    assert not np.array_equal(runs[2][0], runs[0][0])
    free = [weights for _, _, weights in runs[2][1] if weights is not None]
    assert all(np.isin(weights, (0.0, 1.0)).all() for weights in free)
