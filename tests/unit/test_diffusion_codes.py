"""Residual codes of plans, and the policy that predicts them."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from policies.datasets.demonstrations import Demonstrations
from policies.diffusion.checkpoint import load_chunk_model, read_chunk_checkpoint, save_chunk_model
from policies.diffusion.codes import ResidualCodes, fit_codes, load_codes
from policies.diffusion.config import NetworkConfig
from policies.diffusion.export import export_onnx
from policies.diffusion.interface import Prefix, Window
from policies.diffusion.steering import CostGuide, point_cost
from policies.diffusion.trainer import TrainConfig, train_model
from policies.errors import InputError

SHAPE = (4, 2)
CODES = ResidualCodes(
    vectors=np.stack([np.full((2, *SHAPE), 0.5), np.full((2, *SHAPE), 0.1)])
    * np.array([-1.0, 1.0])[None, :, None, None],
    error=np.array([0.1, 0.05]),
)


def clusters(rng, count=400):
    """Plans near one of four, each in one of two variants."""
    coarse = rng.standard_normal((4, *SHAPE))
    fine = 0.2 * rng.standard_normal((2, *SHAPE))
    plans = coarse[rng.integers(4, size=count)] + fine[rng.integers(2, size=count)]
    return plans + 0.01 * rng.standard_normal(plans.shape)


def test_codes_are_found_and_none_is_unused():
    rng = np.random.default_rng(0)
    plans = clusters(rng)
    codes = fit_codes(plans, rng, groups=2, codes=8)
    picked = codes.assign(plans)
    assert all(len(np.unique(column)) == 8 for column in picked.T)
    for groups in (0, 1, 2):
        left = np.sqrt(np.mean((plans - codes.plan(picked, groups)) ** 2))
        if groups:
            assert_allclose(left, codes.error[groups - 1], rtol=1e-6)
    assert codes.error[1] <= codes.error[0] < 0.02


def test_codes_survive_the_file_and_damage_is_refused():
    again = load_codes(CODES.dump(), SHAPE, "file")
    assert_array_equal(again.vectors, CODES.vectors)
    for data, shape in ((b"nothing", SHAPE), (CODES.dump(), (5, 2)), (CODES.dump()[:-9], SHAPE)):
        with pytest.raises(InputError, match="file"):
            load_codes(data, shape, "file")
    with pytest.raises(InputError, match="at least 32"):
        fit_codes(np.zeros((31, *SHAPE)), np.random.default_rng(0))


def answer(logits, offset=0.0):
    def network(plan, done):
        assert set(np.unique(done)) <= {0.0, 0.5, 1.0}
        return np.full(plan.shape, offset, np.float32), np.tile(logits, (len(plan), 1))

    return network


def test_codes_are_drawn_as_often_as_the_logits_say():
    logits = np.log(np.array([0.2, 0.8, 0.5, 0.5], np.float32))
    plans = CODES.sample(answer(logits, 0.01), 4000, np.random.default_rng(0))
    values, counts = np.unique(plans[:, 0, 0].round(6), return_counts=True)
    assert_allclose(values, [-0.59, -0.39, 0.41, 0.61])
    assert_allclose(counts / 4000, [0.1, 0.1, 0.4, 0.4], atol=0.03)


def test_prefix_decides_between_codes():
    logits = np.log(np.array([0.2, 0.8, 0.5, 0.5], np.float32))
    actions = np.full((500, *SHAPE), -0.4)
    weights = np.array([1.0, 1.0, 0.0, 0.0])[:, None]
    plans = CODES.sample(answer(logits), 500, np.random.default_rng(0), prefix=(actions, weights))
    assert_allclose(plans[:, :2], -0.4)
    assert np.mean(np.abs(plans[:, 2:] + 0.4) < 1e-6) > 0.95


def fork(count=24, length=20):
    """Left or right at random, as far as the state tells."""
    rng = np.random.default_rng(0)
    x = np.linspace(-1.0, 1.0, length)
    state, action = [], []
    for i in range(count):
        path = np.stack([x, (-1.0) ** i * (0.8 + 0.05 * rng.standard_normal()) * (x + 1)], axis=1)
        state.append(path)
        action.append(np.vstack([path[1:], path[-1:]]))
    return Demonstrations(
        state_names=("x", "y"),
        action_names=("x", "y"),
        rate_hz=10.0,
        state=state,
        action=action,
        task=["fork"] * count,
    )


CONFIG = TrainConfig(
    kind="vqbet",
    name="fork",
    network=NetworkConfig(width=64, depth=2),
    steps=400,
    batch=128,
    learning_rate=3e-3,
)


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    path = tmp_path_factory.mktemp("codes") / "ckpt"
    trained = train_model(fork(), CONFIG)
    save_chunk_model(
        path, trained.config, export_onnx(trained.config, trained.network, trained.codes)
    )
    return path


def window(batch):
    return Window(state=np.tile(np.array([-1.0, 0.0]), (batch, 2, 1)))


def test_learned_policy_goes_both_ways(learned):
    model = load_chunk_model(learned)
    model.reset(0, batch=200)
    plan = model.sample(window(200))
    assert model.network_calls == 3
    assert 0.25 < np.mean(plan[:, 15, 1] > 0) < 0.75
    expected = 0.8 * (2.0 * 16 / 19)
    assert np.mean(np.abs(np.abs(plan[:, 15, 1]) - expected) < 0.3) > 0.9
    assert_allclose(np.median(plan[:, 15, 0]), -1.0 + 2.0 * 16 / 19, atol=0.1)
    running = np.repeat(plan[np.argmax(plan[:, 15, 1])][None], 200, axis=0)
    weights = np.where(np.arange(16) < 8, 1.0, 0.0)
    bound = model.sample(window(200), prefix=Prefix(actions=running, weights=weights))
    assert_allclose(bound[:, :8], running[:, :8], atol=1e-9)
    assert np.mean(bound[:, 15, 1] > 0) > 0.97


def test_checkpoint_needs_its_codes(learned, tmp_path):
    checkpoint = read_chunk_checkpoint(learned)
    assert "codes.safetensors" in checkpoint.files
    content = {k: v for k, v in checkpoint.content.items() if k != "codes.safetensors"}
    with pytest.raises(InputError, match=r"codes\.safetensors"):
        save_chunk_model(tmp_path / "ckpt", checkpoint.config, content)
    eager = load_chunk_model(learned, backend="torch").sample(window(1))
    assert_allclose(load_chunk_model(learned).sample(window(1)), eager, atol=1e-3)


def test_steering_is_refused(learned):
    model = load_chunk_model(learned)
    model.guides = (CostGuide(gradient=point_cost(np.zeros(2), columns=(0, 1)), rate=1.0),)
    with pytest.raises(InputError, match="kind 'vqbet'"):
        model.sample(window(1))


def test_short_data_is_refused():
    short = fork(2, 8)
    with pytest.raises(InputError, match="32 codes"):
        train_model(short, dataclasses.replace(CONFIG, steps=1))
