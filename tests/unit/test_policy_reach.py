"""The reach policy of the Panda: expert, cloning, and the committed checkpoint in closed loop."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import policies
from policies.actor.mlp import mlp_onnx
from policies.checkpoint import load_policy
from policies.errors import InputError
from policies.expert.reach import ReachExpert
from policies.interface import Observation
from policies.processors import ActorState, ObservationBuilder, TermConfig
from policies.robots import G1, PANDA
from policies.train import CloneConfig, clone
from sim2real.sim.gaps import make_gap
from sim2real.sim.kinematics import Kinematics
from sim2real.tasks import train_reach
from sim2real.tasks.reach import (
    BOX_LOWER_M,
    BOX_UPPER_M,
    evaluate_reach,
    sample_goals,
    solve_goal,
)

CHECKPOINT = Path(policies.__file__).parent / "checkpoints" / "panda_reach"
QUICK = train_reach.CollectConfig(goals=20, episodes=3, ticks=30, near_goal=5)


@pytest.fixture(scope="module")
def kinematics():
    return Kinematics(PANDA)


def test_jacobian_is_the_derivative(kinematics):
    qpos = PANDA.default_rad + 0.1
    linear, angular = kinematics.jacobian(qpos)
    position, rotation = kinematics.end_effector(qpos)
    for i, step in enumerate(1e-6 * np.eye(7)):
        moved, turned = kinematics.end_effector(qpos + step)
        assert_allclose((moved - position) / 1e-6, linear[:, i], atol=1e-5)
        spin = np.cross(angular[:, i], rotation, axisb=0).T
        assert_allclose((turned - rotation) / 1e-6, spin, atol=1e-5)


def test_goal_pose_reaches_the_goal_and_is_continuous(kinematics):
    for goal in sample_goals(PANDA, 10, seed=3):
        pose = solve_goal(kinematics, goal)
        assert np.linalg.norm(kinematics.end_effector(pose)[0] - goal) < 1e-3
        assert np.all(pose > PANDA.lower_rad)
        assert np.all(pose < PANDA.upper_rad)
        near = solve_goal(kinematics, goal + np.array([0.0, 0.002, 0.0]))
        if near is not None:
            assert np.abs(near - pose).max() < 0.03
    assert solve_goal(kinematics, np.array([2.0, 0.0, 0.5])) is None


def test_goals_are_reproducible_and_in_the_box():
    goals = sample_goals(PANDA, 6, seed=5)
    assert goals.shape == (6, 3)
    assert np.all(goals >= BOX_LOWER_M)
    assert np.all(goals <= BOX_UPPER_M)
    assert_array_equal(goals, sample_goals(PANDA, 6, seed=5))
    assert np.any(goals != sample_goals(PANDA, 6, seed=6))
    assert sample_goals(PANDA, 0, seed=0).shape == (0, 3)
    with pytest.raises(InputError, match="g1"):
        sample_goals(G1, 3, seed=0)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(-3.0, 1.0))
def test_expert_never_exceeds_its_limits(seed, log_scale):
    rng = np.random.default_rng(seed)
    expert = ReachExpert(PANDA)
    error = 10**log_scale * rng.standard_normal((5, 7))
    velocity = 0.3 * rng.standard_normal((5, 7))
    acceleration = expert.acceleration(error, velocity)
    limit = expert.config.acceleration_fraction * PANDA.array("acceleration_limit_rad_s2")
    assert np.all(np.abs(acceleration) <= limit * (1 + 1e-9))


def test_expert_arrives_from_rest_and_stops():
    expert = ReachExpert(PANDA)
    goal = PANDA.default_rad + np.array([0.6, 0.9, -0.4, 0.8, 0.1, -0.7, 0.0])
    zero = np.zeros(7)
    plan = expert.plan(goal, PANDA.default_rad, zero, zero, 200)
    path = PANDA.default_rad + np.cumsum(plan, axis=0) * 0.02
    assert_allclose(path[-1], goal, atol=1e-3)
    assert np.abs(plan[-1]).max() < 1e-3
    assert np.all(np.abs(plan) <= expert.config.velocity_fraction * PANDA.velocity_limit_rad_s)


def test_clone_fits_and_folds():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.0, 1.0, (4000, 3)) * [1.0, 100.0, 0.01] + [0.0, 50.0, 3.0]
    y = np.stack([0.5 * x[:, 0] + 7.0, np.sin(x[:, 1] / 50.0)], axis=1)
    config = CloneConfig(hidden=(32, 32), steps=800, batch=128)
    network = clone(x, y, config)
    assert network.held_out_rmse.max() < 0.05
    session = ort.InferenceSession(mlp_onnx(network.weights, network.biases))
    x32 = x[:50].astype(np.float32)
    onnx = np.concatenate([session.run(None, {"observation": row[None]})[0] for row in x32])
    assert_allclose(onnx, y[:50], atol=0.2)
    hidden = x32.astype(np.float64)
    for weight, bias in zip(network.weights[:-1], network.biases[:-1], strict=True):
        hidden = hidden @ weight.T + bias
        hidden = np.where(hidden > 0.0, hidden, np.expm1(np.minimum(hidden, 0.0)))
    assert_allclose(onnx, hidden @ network.weights[-1].T + network.biases[-1], atol=1e-3)


def test_cloning_repeats():
    x = np.random.default_rng(0).standard_normal((400, 3))
    config = CloneConfig(hidden=(16,), steps=20, batch=64)
    first, again = clone(x, x**2, config), clone(x, x**2, config)
    other = clone(x, x**2, CloneConfig(hidden=(16,), steps=20, batch=64, seed=1))
    for a, b, c in zip(first.weights, again.weights, other.weights, strict=True):
        assert_array_equal(a, b)
        assert np.any(a != c)


def test_exported_network_equals_torch():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    layers = [torch.nn.Linear(31, 64), torch.nn.ELU(), torch.nn.Linear(64, 49)]
    network = torch.nn.Sequential(*layers)
    arrays = [p.detach().numpy() for p in network.parameters()]
    session = ort.InferenceSession(mlp_onnx(arrays[0::2], arrays[1::2]))
    x = torch.randn(1, 31)
    out = session.run(None, {"observation": x.numpy()})[0]
    assert_allclose(out, network(x).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("x", "y", "text"),
    [
        (np.zeros((9, 2)), np.zeros((8, 2)), "got \\(9, 2\\)"),
        (np.full((900, 2), np.nan), np.zeros((900, 2)), "finite"),
        (np.zeros((9, 2)), np.zeros((9, 2)), "more than 512"),
    ],
)
def test_clone_refuses_bad_samples(x, y, text):
    with pytest.raises(InputError, match=text):
        clone(x, y, CloneConfig())


def test_training_inputs_are_what_the_policy_sees():
    rng = np.random.default_rng(0)
    command, velocity, qpos, qvel = (rng.standard_normal((1, 7)) for _ in range(4))
    goal = rng.standard_normal((1, 3))
    states = train_reach.States(
        command_rad=command, command_vel_rad_s=velocity, qpos_rad=qpos, qvel_rad_s=qvel
    )
    builder = ObservationBuilder(
        PANDA,
        [TermConfig(term=term) for term in train_reach.TERMS],
        action_joints=PANDA.joint_names,
        action_size=49,
        rate_hz=50.0,
        duration_s=None,
    )
    builder.build(
        Observation(stamp_ns=0, qpos_rad=qpos[0], qvel_rad_s=qvel[0], goal=goal[0]),
        ActorState(
            tick=0,
            last_action=np.zeros(49, np.float32),
            command_rad=command[0],
            command_vel_rad_s=velocity[0],
        ),
    )
    assert_allclose(states.vectors(PANDA, goal), builder.vector, rtol=1e-6)


def test_data_are_finite_and_repeat():
    inputs, targets = train_reach.collect(PANDA, QUICK)
    assert inputs.shape == (3 * 90 + 100, 31)
    assert targets.shape == (370, 49)
    assert np.isfinite(inputs).all()
    assert np.isfinite(targets).all()
    again, _ = train_reach.collect(PANDA, QUICK)
    assert_array_equal(inputs, again)


def test_training_writes_a_checkpoint_that_loads(tmp_path):
    train_reach.train_reach(
        tmp_path / "out",
        collect_config=QUICK,
        clone_config=CloneConfig(hidden=(8,), steps=5, batch=64),
        overwrite=False,
    )
    assert load_policy(tmp_path / "out", PANDA).spec.needs == ("goal",)
    assert train_reach.main(["--out", str(tmp_path / "out")]) == 2


@pytest.mark.parametrize("gap", ["none", "hidden:7"])
@pytest.mark.parametrize("from_default", [True, False])
def test_committed_policy_reaches_its_goals_gently(gap, from_default):
    result = evaluate_reach(
        load_policy(CHECKPOINT, PANDA),
        PANDA,
        sample_goals(PANDA, 12, seed=11),
        gap=make_gap(PANDA, gap),
        from_default=from_default,
    )
    assert result.success(0.03) >= 0.95
    assert result.velocity_ratio.max() <= 0.5 + 1e-6
    assert result.acceleration_ratio.max() <= 1.0
    assert result.lead_rad.max() < 0.2


def test_committed_checkpoint_is_small():
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) < 1_000_000
