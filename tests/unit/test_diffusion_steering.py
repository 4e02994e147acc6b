"""Steering, composition and prefixes, on models whose density is known."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from policies.diffusion.config import ModelConfig, NetworkConfig, make_sampler
from policies.diffusion.interface import ChunkModel, ChunkSpec, Prefix, Window
from policies.diffusion.model import GenerativeModel
from policies.diffusion.normaliser import Normaliser
from policies.diffusion.process import spread
from policies.diffusion.steering import Composed, CostGuide, point_cost, trajectory_cost
from policies.errors import InputError

HORIZON, WINDOW, COUNT = 16, Window(state=np.zeros((400, 1, 1))), 400
SPEC = ChunkSpec(
    name="known",
    state_names=("s",),
    action_names=("x", "y"),
    observation_horizon=1,
    prediction_horizon=HORIZON,
    action_horizon=8,
    rate_hz=10.0,
)
NORMALISER = Normaliser(centre=(0.5, 0.0), scale=(2.0, 2.0), lower=(-1.5, -2.0), upper=(2.5, 2.0))
NOTHING = Normaliser(centre=(0.0,), scale=(1.0,), lower=(0.0,), upper=(0.0,))


class Known:
    """A backend that answers as a perfectly trained network: plans near one of some (M, Tp, 2)."""

    def __init__(self, kind, plans, std=0.05):
        self.plans = NORMALISER.normalise(np.asarray(plans, dtype=float))
        self.std = std
        self.model = None

    def encode(self, state, images):
        return state[:, 0]

    def denoise(self, noisy, time, condition):
        level = {"ddpm": lambda t: np.round(t * 100), "flow": lambda t: t, "streaming": lambda t: t}
        at = self.model.process.coefficients(level[self.model.config.kind](time.astype(float)))
        alpha, sigma = spread(at.alpha), spread(at.sigma)
        total = (alpha**2 * self.std**2 + sigma**2)[:, None]
        miss = noisy[:, None] - alpha[:, None] * self.plans[None]
        logit = -0.5 * np.sum(miss**2 / total, axis=(2, 3))
        share = np.exp(logit - logit.max(axis=1, keepdims=True))
        share = (share / share.sum(axis=1, keepdims=True))[..., None, None]
        each = self.plans[None] + alpha[:, None] * self.std**2 / total * miss
        clean = np.sum(share * each, axis=1)
        eps = (noisy - alpha * clean) / np.maximum(sigma, 1e-6)
        return spread(at.clean) * clean + spread(at.noise) * eps, np.zeros(len(noisy))


def known(plans, kind="flow", sampler=None, steps=20):
    config = ModelConfig(
        spec=SPEC,
        kind=kind,
        network=NetworkConfig(),
        sampler=make_sampler(kind, name=sampler, steps=steps),
        diffusion_steps=100,
        state=NOTHING,
        action=NORMALISER,
        first_action=(0.0, 0.0),
        prediction="v" if kind == "ddpm" else "velocity",
    )
    backend = Known(kind, plans)
    model = backend.model = GenerativeModel(config, backend)
    model.reset(0, COUNT)
    return model


def to(x, y):
    """A straight plan from the origin to a point."""
    return np.linspace(0.0, 1.0, HORIZON)[:, None] * np.array([x, y])


LEFT, RIGHT, AHEAD = to(1.0, 1.0), to(1.0, -1.0), to(1.0, 0.0)


@pytest.mark.parametrize("kind", ["flow", "ddpm", "streaming"])
def test_without_steering_both_modes_come(kind):
    plan = known([LEFT, RIGHT], kind).sample(WINDOW)
    assert 0.3 < np.mean(plan[:, -1, 1] > 0) < 0.7
    assert np.mean(np.abs(np.abs(plan[:, -1, 1]) - 1.0) < 0.3) > 0.95


def steered(kind, gradient, rate):
    model = known([LEFT, RIGHT], kind, steps=10)
    model.guides = (CostGuide(gradient=gradient, rate=rate),)
    plan = model.sample(WINDOW)
    assert model.network_calls == 20
    return plan


@pytest.mark.parametrize("kind", ["flow", "ddpm"])
def test_point_nudges_choose_the_mode(kind):
    plan = steered(kind, point_cost(np.array([1.0, 1.0]), columns=(0, 1), step=15), 5.0)
    assert np.mean(plan[:, -1, 1] > 0) > 0.95
    # All of the plan has turned, not only the step that was spoken of.
    assert np.mean(np.abs(plan[:, 8] - LEFT[8]).max(axis=1) < 0.3) > 0.95


def test_sketched_path_chooses_the_mode():
    path = np.linspace(0.0, -1.0, HORIZON)[:, None]
    plan = steered("flow", trajectory_cost(path, columns=(1,)), 1.0)
    assert np.mean(plan[:, -1, 1] < 0) > 0.95


def test_point_cost_takes_the_nearest_step_or_the_one_that_is_named():
    plan = np.stack([LEFT, RIGHT])
    near = point_cost(np.array([0.5, 0.5]), columns=(0, 1))(plan)
    assert np.flatnonzero(near[0].any(axis=1)).tolist() in ([7], [8])
    named = point_cost(np.array([0.5, 0.5]), columns=(0, 1), step=3)(plan)
    assert_allclose(named[:, 3], plan[:, 3] - 0.5)
    assert not np.delete(named, 3, axis=1).any()
    with pytest.raises(InputError, match="rate"):
        CostGuide(gradient=point_cost(np.zeros(2), columns=(0, 1)), rate=0.0)


def test_composition_picks_what_both_models_do():
    one, two = known([LEFT, AHEAD]), known([AHEAD, RIGHT])
    for model in (one, two):
        assert np.mean(np.abs(model.sample(WINDOW)[:, -1, 1]) < 0.3) < 0.7
    both = Composed([one, two], [0.5, 0.5])
    assert isinstance(both, ChunkModel)
    both.reset(0, COUNT)
    plan = both.sample(WINDOW)
    assert np.mean(np.abs(plan[:, -1, 1]) < 0.5) > 0.85
    assert both.network_calls == 40


def test_composition_of_all_the_weight_is_the_one_model():
    one, two = known([LEFT]), known([RIGHT])
    both = Composed([one, two], [3.0, 0.0])
    both.reset(5, COUNT)
    plan = both.sample(WINDOW)
    one.reset(5, COUNT)
    assert_allclose(plan, one.sample(WINDOW), atol=1e-12)


def test_composition_refuses_what_does_not_belong_together():
    one = known([LEFT])
    with pytest.raises(InputError, match="two models"):
        Composed([one], [1.0])
    with pytest.raises(InputError, match="one kind"):
        Composed([one, known([LEFT], "ddpm")], [1.0, 1.0])
    other = known([LEFT])
    wide = dataclasses.replace(NORMALISER, scale=(3.0, 2.0))
    other.config = dataclasses.replace(other.config, action=wide)
    with pytest.raises(InputError, match="normalisation"):
        Composed([one, other], [1.0, 1.0])


# ---- continuing a plan -------------------------------------------------------------------------


def fan():
    """Straight plans to many sides: how one begins tells how it goes on."""
    return [to(1.0, side) for side in np.linspace(-1.0, 1.0, 21)]


def mask(held, overlap):
    steps = np.arange(HORIZON)
    soft = np.clip((overlap - steps) / (overlap - held + 1), 0.0, 1.0)
    return np.where(steps < held, 1.0, np.where(steps < overlap, soft, 0.0))


@pytest.mark.parametrize(
    ("kind", "sampler"),
    [("flow", "flow"), ("flow", "adaptive"), ("ddpm", "ddim"), ("ddpm", "ddpm")],
)
def test_prefix_is_continued_without_a_jump(kind, sampler):
    model = known(fan(), kind, sampler, steps=100 if sampler == "ddpm" else 10)
    free = model.sample(WINDOW)
    running = np.broadcast_to(to(1.0, 0.7), (COUNT, HORIZON, 2)).copy()
    jump = np.linalg.norm(free[:, 6] - running[:, 5], axis=1)
    running[:, 12:] = np.nan
    plan = model.sample(WINDOW, prefix=Prefix(actions=running, weights=mask(6, 12)))
    assert_allclose(plan[:, :6], running[:, :6], atol=1e-9)
    assert np.median(np.linalg.norm(np.diff(plan, axis=1)[:, 5], axis=1)) < 0.5 * np.median(jump)
    # What comes after the prefix has been drawn along.
    miss = np.abs(plan[:, -1, 1] - 0.7).mean()
    assert miss < 0.8 * np.abs(free[:, -1, 1] - 0.7).mean()


def test_streaming_pins_the_prefix():
    model = known(fan(), "streaming", steps=16)
    running = np.broadcast_to(to(1.0, -0.7), (COUNT, HORIZON, 2)).copy()
    plan = model.sample(WINDOW, prefix=Prefix(actions=running, weights=mask(4, 8)))
    assert_allclose(plan[:, :4], running[:, :4], atol=1e-9)
    assert np.mean(plan[:, 7, 1] < 0) > 0.95


def test_no_weight_changes_nothing():
    model = known([LEFT, RIGHT])
    free = model.sample(WINDOW)
    model.reset(0, COUNT)
    nothing = Prefix(actions=np.full((COUNT, HORIZON, 2), np.nan), weights=np.zeros(HORIZON))
    assert_array_equal(model.sample(WINDOW, prefix=nothing), free)
