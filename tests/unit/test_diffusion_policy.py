"""Generative models as policies of a robot, and as checkpoints on the command line."""

import dataclasses
import json

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from policies.checkpoint import inspect, load_policy
from policies.datasets.demonstrations import Demonstrations
from policies.diffusion.checkpoint import save_chunk_model
from policies.diffusion.chunk_policy import bind_robot
from policies.diffusion.config import NetworkConfig
from policies.diffusion.export import export_onnx
from policies.diffusion.trainer import TrainConfig, train_model
from policies.errors import InputError
from policies.interface import Observation, Policy
from policies.robots import G1, PANDA
from sim2real import cli

NAMES = PANDA.joint_names
MOVED = NAMES[2:4]
DT_NS = 20_000_000


def demonstrations(quantity, cameras=False):
    """Two joints move; the others are not commanded. The goal tells where to."""
    rng = np.random.default_rng(0)
    state, action, images = [], [], []
    for _ in range(6):
        q = PANDA.default_rad + 0.3 * np.cumsum(0.05 * rng.standard_normal((30, 7)), axis=0)
        goal = np.broadcast_to(rng.uniform(size=3), (30, 3))
        state.append(np.hstack([q[:, ::-1], q * 0.1, goal]))
        action.append(q[:, 2:4] if quantity == "position" else 0.3 * rng.standard_normal((30, 2)))
        images.append(rng.integers(256, size=(30, 8, 8, 3), dtype=np.uint8))
    return Demonstrations(
        state_names=(
            *(f"qpos/{name}" for name in NAMES[::-1]),
            *(f"qvel/{name}" for name in NAMES),
            *(f"goal/{axis}" for axis in "xyz"),
        ),
        action_names=tuple(f"{quantity}/{name}" for name in MOVED),
        rate_hz=50.0,
        state=state,
        action=action,
        images={"wrist": images} if cameras else {},
        task=["move"] * 6,
    )


def make(path, quantity="position", kind="flow", robot=PANDA, cameras=False):
    demos = demonstrations(quantity, cameras)
    first = np.mean([rows[0] for rows in demos.state], axis=0)
    config = TrainConfig(
        kind=kind,
        name="arm",
        network=NetworkConfig(width=32, depth=1),
        prediction_horizon=8,
        action_horizon=4,
        steps=5,
        batch=16,
    )
    binding = bind_robot(demos.state_names, demos.action_names, first, robot) if robot else None
    trained = train_model(demos, config, robot=binding)
    save_chunk_model(path, trained.config, export_onnx(trained.config, trained.network))
    return path


@pytest.fixture(scope="module")
def positions(tmp_path_factory):
    return make(tmp_path_factory.mktemp("positions") / "ckpt")


@pytest.fixture(scope="module")
def velocities(tmp_path_factory):
    return make(tmp_path_factory.mktemp("velocities") / "ckpt", "velocity")


def observation(tick=0, **changes):
    base = Observation(
        stamp_ns=10**9 + tick * DT_NS,
        qpos_rad=PANDA.default_rad + 0.01 * tick,
        qvel_rad_s=np.linspace(0.0, 0.06, 7),
        goal=np.array([0.1, 0.2, 0.3]),
    )
    return dataclasses.replace(base, **changes)


def test_state_is_filled_by_name_and_keeps_history(positions, monkeypatch):
    policy = load_policy(positions, PANDA)
    assert isinstance(policy, Policy)
    assert policy.spec.needs == ("goal",)
    assert (policy.spec.horizon, policy.spec.rate_hz, policy.spec.action_dt_s) == (8, 50.0, 0.02)
    seen = []
    sample = policy.model.sample
    monkeypatch.setattr(
        policy.model, "sample", lambda window, **k: seen.append((window, k)) or sample(window, **k)
    )
    for tick in range(5):
        policy.act(observation(tick))
    assert [k["executed"] for _, k in seen] == [0, 4]
    first, second = (window.state[0] for window, _ in seen)
    assert_array_equal(first[0], first[1])
    assert_allclose(first[0, :7], PANDA.default_rad[::-1])
    assert_allclose(second[0, :7], PANDA.default_rad[::-1] + 0.03)
    assert_allclose(second[1, :7], PANDA.default_rad[::-1] + 0.04)
    assert_allclose(second[1, 7:14], np.linspace(0.0, 0.06, 7))
    assert_allclose(second[1, 14:], [0.1, 0.2, 0.3])


def test_plan_is_followed_by_stamps_and_other_joints_are_held(positions):
    policy = load_policy(positions, PANDA)
    first = policy.act(observation(0))
    assert first.positions_rad.shape == (8, 7)
    assert_array_equal(policy.act(observation(1)).positions_rad, first.positions_rad[1:])
    assert_array_equal(policy.act(observation(3)).positions_rad, first.positions_rad[3:])
    fresh = policy.act(observation(4))
    assert fresh.positions_rad.shape == (8, 7)
    still = [i for i, name in enumerate(NAMES) if name not in MOVED]
    start = np.array(policy.spec.start_pose_rad)
    assert_array_equal(fresh.positions_rad[:, still], np.tile(start[still], (8, 1)))
    assert np.any(fresh.positions_rad[:, 2:4] != start[2:4])
    policy.reset(0)
    assert_array_equal(policy.act(observation(0)).positions_rad, first.positions_rad)


def test_velocities_become_a_stream_within_the_limits(velocities):
    policy = load_policy(velocities, PANDA)
    assert policy.spec.horizon == 9
    stream, measured = [], PANDA.default_rad
    for tick in range(40):
        chunk = policy.act(observation(tick, qpos_rad=measured))
        stream.append(chunk.positions_rad[0])
        measured = chunk.positions_rad[1]
    moved = np.array(stream)[:, 2:4]
    assert_allclose(moved[0], PANDA.default_rad[2:4])
    assert np.ptp(moved) > 0.0
    speed = np.diff(moved, axis=0) / 0.02
    limit = PANDA.array("acceleration_limit_rad_s2")[2:4]
    assert np.all(np.abs(np.diff(speed, axis=0)) / 0.02 <= 0.5 * limit)


def test_images_are_passed_on_and_missing_ones_named(tmp_path):
    policy = load_policy(make(tmp_path / "ckpt", cameras=True), PANDA)
    with pytest.raises(InputError, match="'wrist'"):
        policy.act(observation())
    images = {"wrist": np.zeros((8, 8, 3), np.uint8)}
    assert policy.act(observation(images=images)).positions_rad.shape == (8, 7)
    policy.reset(0)
    with pytest.raises(InputError, match="camera 'wrist'"):
        policy.act(observation(images={"wrist": np.zeros((9, 8, 3), np.uint8)}))


def test_what_does_not_fit_is_refused(positions, tmp_path):
    policy = load_policy(positions, PANDA)
    with pytest.raises(InputError, match="goal"):
        policy.act(observation(goal=None))
    with pytest.raises(InputError, match="robot panda"):
        load_policy(positions, G1)
    with pytest.raises(InputError, match="for no robot"):
        load_policy(make(tmp_path / "ckpt", robot=None), PANDA)
    for state, action, match in (
        (["qpos/elbow"], ["position/panda_joint1"], "qpos/elbow"),
        (["qpos/panda_joint1"], ["position/elbow"], "position/elbow"),
        (["qpos/panda_joint1"], ["torque/panda_joint1"], "torque"),
        (["goal/x"], ["position/panda_joint1", "velocity/panda_joint2"], "velocity/panda_joint2"),
    ):
        with pytest.raises(InputError, match=match):
            bind_robot(state, action, np.zeros(1), PANDA)


@pytest.mark.parametrize("kind", ["streaming", "mlp"])
def test_every_kind_runs_on_the_robot(tmp_path, kind):
    policy = load_policy(make(tmp_path / "ckpt", kind=kind), PANDA)
    for tick in range(9):
        assert np.isfinite(policy.act(observation(tick)).positions_rad).all()


def test_inspect(positions, tmp_path, capsys):
    info = inspect(positions)
    assert info["topics"] == ["goal", "joint_states"]
    assert (info["kind"], info["robot"]) == ("flow", "panda")
    out = tmp_path / "info.json"
    assert cli.main(["policy", "inspect", str(positions), "--json", str(out)]) == 0
    assert "position/panda_joint3" in capsys.readouterr().out
    assert json.loads(out.read_text())["sha256"] == info["sha256"]
    assert inspect(make(tmp_path / "none", robot=None))["topics"] is None
