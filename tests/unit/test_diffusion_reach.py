"""Training of the demo's flow policy, and the one that is committed."""

from pathlib import Path

import numpy as np
from numpy.testing import assert_allclose

import policies
from policies.checkpoint import inspect, load_policy
from policies.interface import Observation
from policies.robots import PANDA
from sim2real.tasks import train_reach_flow
from sim2real.tasks.reach import sample_goals
from sim2real.tasks.train_reach import CollectConfig, collect

CHECKPOINT = Path(policies.__file__).parent / "checkpoints" / "panda_reach"
QUICK = CollectConfig(goals=20, episodes=3, ticks=30, near_goal=5)


def test_training_writes_a_checkpoint_that_loads(tmp_path):
    inputs, targets = collect(PANDA, QUICK)
    train_reach_flow.fit(inputs, targets, tmp_path / "out", steps=3, seed=0, overwrite=False)
    policy = load_policy(tmp_path / "out", PANDA)
    assert policy.spec.needs == ("goal",)
    assert (policy.spec.horizon, policy.spec.rate_hz) == (8, 50.0)
    assert train_reach_flow.main(["--out", str(tmp_path / "out")]) == 2


def test_state_of_the_policy_is_what_was_collected(monkeypatch):
    """At rest in the default pose: command there, everything else zero, and the goal."""
    policy = load_policy(CHECKPOINT, PANDA)
    seen = []
    sample = policy.model.sample
    monkeypatch.setattr(
        policy.model, "sample", lambda window, **k: seen.append(window.state) or sample(window, **k)
    )
    goal = np.array([0.4, 0.1, 0.3])
    policy.act(
        Observation(stamp_ns=0, qpos_rad=PANDA.default_rad, qvel_rad_s=np.zeros(7), goal=goal)
    )
    expected = np.concatenate([PANDA.default_rad, np.zeros(21), goal])
    assert_allclose(seen[0][0, 0], expected)


def test_committed_policy_is_an_adaptive_flow_that_rests_at_its_goal():
    info = inspect(CHECKPOINT)
    assert (info["kind"], info["sampler"]["name"]) == ("flow", "adaptive")
    policy = load_policy(CHECKPOINT, PANDA)
    qpos, answers = PANDA.default_rad, 0
    goal = sample_goals(PANDA, 3, seed=5)[2]
    commands = []
    for tick in range(250):  # an arm that is where it is told to be
        chunk = policy.act(
            Observation(
                stamp_ns=tick * 20_000_000, qpos_rad=qpos, qvel_rad_s=np.zeros(7), goal=goal
            )
        )
        answers += len(chunk.positions_rad) == policy.spec.horizon
        commands.append(chunk.positions_rad[0])
        qpos = chunk.positions_rad[min(1, len(chunk.positions_rad) - 1)]
    # One evaluation of the network is a plan where the expert leaves no choice.
    assert policy.model.network_calls <= 1.2 * answers
    speed = np.abs(np.diff(commands, axis=0)) / 0.02
    assert speed[:50].max() > 0.3
    assert speed[-50:].max() < 0.01, "trembles at the goal"
