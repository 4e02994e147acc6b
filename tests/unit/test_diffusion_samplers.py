"""Samplers on densities whose best estimate is known, and beside the schedulers of diffusers."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from policies.diffusion.process import (
    Flow,
    Karras,
    Regression,
    Rolling,
    VariancePreserving,
    spread,
)
from policies.diffusion.samplers import Estimated, adaptive_flow, ddim, ddpm, dpm_solver, heun
from policies.diffusion.streaming import RollingPlan

SHAPE = (4000, 4, 2)


def gaussian(process, mean=0.3, std=0.2, calls=None):
    """Best estimator for independent Gaussian actions: the posterior mean."""

    def estimate(noisy, level, rows):
        at = process.coefficients(level)
        alpha, sigma = spread(at.alpha), spread(at.sigma)
        if calls is not None:
            calls.append(level)
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        return Estimated(mean + gain * (noisy - alpha * mean))

    return estimate


def mixture(process, modes, weights=None, std=0.05):
    """Best estimator, and its error, for whole plans at one of some values (M, Tp, A)."""
    modes = np.asarray(modes, dtype=float)
    weights = np.ones(len(modes)) if weights is None else np.asarray(weights)

    def estimate(noisy, level, rows):
        at = process.coefficients(level)
        alpha, sigma = spread(at.alpha)[:, None], spread(at.sigma)[:, None]
        total = alpha**2 * std**2 + sigma**2
        miss = noisy[:, None] - alpha * modes[None]
        logit = np.log(weights)[None] - 0.5 * np.sum(miss**2 / total, axis=(2, 3))
        share = np.exp(logit - logit.max(axis=1, keepdims=True))
        share /= share.sum(axis=1, keepdims=True)
        each = modes[None] + alpha * std**2 / total * miss
        share = share[..., None, None]
        mean = np.sum(share * each, axis=1)
        variance = np.sum(share * (each - mean[:, None]) ** 2, axis=1) + std**2
        left = np.maximum(sigma[:, 0, 0, 0], 1e-9)
        return Estimated(mean, np.sqrt(variance.mean(axis=(1, 2))) / left)

    return estimate


def from_answer(at, answer, noisy):
    gains = at.gains()
    return gains.output * answer + gains.noisy * noisy


def noise(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal(shape)


def moments(samples):
    return float(samples.mean()), float(samples.std())


def test_ddpm_recovers_mean_and_variance():
    process = VariancePreserving(100)
    samples = ddpm(gaussian(process), process, noise(), np.random.default_rng(1), 100)
    assert_allclose(moments(samples), (0.3, 0.2), atol=0.015)


@pytest.mark.parametrize(
    ("sample", "process", "steps"),
    [
        (ddim, VariancePreserving(100), 100),
        (dpm_solver, VariancePreserving(100), 50),
        (ddim, Karras(), 100),
        (dpm_solver, Karras(), 20),
        (heun, Karras(), 20),
        (ddim, Flow(), 100),
    ],
)
def test_deterministic_samplers_recover_mean_and_variance(sample, process, steps):
    samples = sample(gaussian(process), process, noise(), steps)
    assert_allclose(moments(samples), (0.3, 0.2), atol=0.015)


@pytest.mark.parametrize("process", [VariancePreserving(100), Karras(), Flow()])
def test_more_steps_come_closer(process):
    """Against the exact map of the probability flow, which is linear for a Gaussian."""
    start = noise(shape=(50, 4, 2))
    exact = ddim(gaussian(process), process, start, 100)
    errors = [np.abs(ddim(gaussian(process), process, start, n) - exact).mean() for n in (2, 5, 20)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02


def test_second_order_is_more_accurate_than_first():
    process = Karras()
    start = noise(shape=(50, 4, 2))
    exact = heun(gaussian(process), process, start, 400)
    first = np.abs(ddim(gaussian(process), process, start, 20) - exact).mean()
    for sample in (heun, dpm_solver):
        assert np.abs(sample(gaussian(process), process, start, 20) - exact).mean() < 0.5 * first


@pytest.mark.parametrize(
    ("sample", "process"),
    [(ddim, VariancePreserving(100)), (dpm_solver, Karras()), (ddim, Flow())],
)
def test_both_modes_of_a_mixture_are_found(sample, process):
    modes = np.stack([np.full(SHAPE[1:], -0.6), np.full(SHAPE[1:], 0.6)])
    estimate = mixture(process, modes, weights=(0.3, 0.7))
    samples = sample(estimate, process, noise(), 20)
    assert np.all(np.abs(np.abs(samples) - 0.6) < 0.35)
    upper = samples[:, 0, 0] > 0
    assert np.all((samples > 0) == upper[:, None, None]), "a plan mixes the modes"
    assert_allclose(upper.mean(), 0.7, atol=0.1)


def test_regression_asks_once_and_for_no_actions():
    seen = []
    process = Regression()

    def estimate(noisy, level, rows):
        at = process.coefficients(level)
        seen.append(spread(at.scale) * noisy)
        return Estimated(from_answer(at, np.full_like(noisy, 0.4), noisy))

    samples = ddim(estimate, process, noise(), 1)
    assert_allclose(samples, 0.4)
    assert len(seen) == 1
    assert not seen[0].any()


def test_estimate_inverts_the_target_of_every_process():
    rng = np.random.default_rng(0)
    clean, eps = rng.standard_normal((2, 6, 4, 2))
    for process in (
        VariancePreserving(100, "epsilon"),
        VariancePreserving(100, "v"),
        Karras(),
        Flow("velocity"),
        Flow("preconditioned"),
        Rolling(horizon=4, execute=2),
    ):
        at = process.coefficients(process.draw(rng, 6))
        noisy = spread(at.alpha) * clean + spread(at.sigma) * eps
        target = spread(at.clean) * clean + spread(at.noise) * eps
        assert_allclose(from_answer(at, target, noisy), clean, atol=1e-6)


def test_adaptive_flow_takes_one_step_where_the_action_is_unimodal():
    flow = Flow()
    one, calls = adaptive_flow(
        mixture(flow, np.full((1, *SHAPE[1:]), 0.5)), noise(), tolerance=0.2, steps=10
    )
    assert calls.max() == 1
    assert_allclose(one, 0.5, atol=0.02)
    modes = np.stack([np.full(SHAPE[1:], -0.6), np.full(SHAPE[1:], 0.6)])
    two, more = adaptive_flow(mixture(flow, modes), noise(), tolerance=0.2, steps=10)
    assert 2 <= more.mean() < 10
    assert np.mean(np.abs(np.abs(two) - 0.6) < 0.2) > 0.97
    single, _ = adaptive_flow(mixture(flow, modes), noise(), tolerance=10.0, steps=10)
    assert np.abs(single).mean() < 0.3, "one step averages the modes"


def test_adaptive_flow_treats_each_run_for_itself():
    flow = Flow()
    modes = np.stack([np.full(SHAPE[1:], -0.6), np.full(SHAPE[1:], 0.6)])
    sure, unsure = mixture(flow, modes[:1]), mixture(flow, modes)

    def estimate(noisy, level, rows):
        a, b = sure(noisy, level, rows), unsure(noisy, level, rows)
        pick = rows < 5
        return Estimated(
            np.where(pick[:, None, None], a.clean, b.clean), np.where(pick, a.spread, b.spread)
        )

    _, calls = adaptive_flow(estimate, noise(shape=(10, 4, 2)), tolerance=0.2, steps=10)
    assert np.all(calls[:5] == 1)
    assert np.all(calls[5:] > 1)


# ---- streaming ---------------------------------------------------------------------------------


def test_rolling_plan_keeps_its_levels_and_costs_what_it_should():
    process = Rolling(horizon=8, execute=4)
    calls = []
    estimator = gaussian(process, calls=calls)
    plan = RollingPlan(process, (50, 8, 2), 8, "denoise", np.zeros(2), np.random.default_rng(0))
    plan.settle(estimator)
    assert len(calls) == 8
    assert_allclose(plan.level, [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5])
    for executed, expected in ((4, 4), (4, 4), (2, 4), (1, 4), (0, 0)):
        calls.clear()
        ahead = plan.noisy[:, executed:4].copy()
        plan.advance(executed)
        plan.settle(estimator)
        assert len(calls) == expected
        assert_allclose(plan.level, process.rest())
        # What was decided stays, to the last bit.
        assert np.array_equal(plan.noisy[:, : 4 - executed], ahead)


@pytest.mark.parametrize("primer", ["denoise", "zero", "constant"])
def test_streaming_recovers_mean_and_variance(primer):
    process = Rolling(horizon=8, execute=2)
    rng = np.random.default_rng(0)
    plan = RollingPlan(process, (2000, 8, 2), 40, primer, np.full(2, 0.9), rng)
    estimator = gaussian(process)
    for _ in range(5):
        actions = plan.settle(estimator)
        plan.advance(2)
    assert_allclose(moments(actions[:, :2]), (0.3, 0.2), atol=0.02)


def test_primers_start_where_they_say():
    process = Rolling(horizon=8, execute=4)
    make = lambda primer: RollingPlan(  # noqa: E731
        process, (4000, 8, 1), 8, primer, np.full(1, 0.8), np.random.default_rng(0)
    )
    assert_allclose(make("denoise").level, 0.0)
    assert_allclose(make("zero").level, [0.5] * 4 + [0.0] * 4)
    assert_allclose(make("zero").noisy[:, :4].mean(), 0.0, atol=0.02)
    assert_allclose(make("constant").noisy[:, :4].mean(), 0.4, atol=0.02)


def test_pinned_steps_stay():
    process = Rolling(horizon=8, execute=4)
    plan = RollingPlan(process, (3, 8, 2), 8, "denoise", np.zeros(2), np.random.default_rng(0))
    held = np.arange(8) < 3
    plan.pin(np.full((3, 8, 2), 0.77), held)
    actions = plan.settle(gaussian(process))
    assert_allclose(actions[:, :3], 0.77)
    assert np.all(np.abs(actions[:, 3:] - 0.77) > 1e-3)


def test_levels_drawn_for_training_cover_what_streaming_meets():
    process = Rolling(horizon=8, execute=4)
    drawn = process.draw(np.random.default_rng(0), 4000)
    assert drawn.shape == (4000, 8)
    assert drawn.min() >= 0.0
    assert drawn.max() <= 1.0
    assert np.all(np.diff(drawn, axis=1) <= 1e-12), "a step ahead is never cleaner"
    seen = []
    estimator = gaussian(process, calls=seen)
    plan = RollingPlan(process, (1, 8, 1), 8, "denoise", np.zeros(1), np.random.default_rng(0))
    for executed in (4, 4, 2, 3):
        plan.settle(estimator)
        plan.advance(executed)
    for level in seen:
        assert np.abs(drawn - level).max(axis=1).min() < 0.1


# ---- diffusers ---------------------------------------------------------------------------------


def run_scheduler(scheduler, process, start, timesteps):
    torch = pytest.importorskip("torch")
    estimate = gaussian(process)
    x = torch.from_numpy(start)
    for k in timesteps:
        level = np.full(len(start), float(k))
        at = process.coefficients(level)
        clean = estimate(x.numpy(), level, np.arange(len(start))).clean
        eps = (x.numpy() - spread(at.alpha) * clean) / spread(at.sigma)
        x = scheduler.step(torch.from_numpy(eps), int(k), x).prev_sample
    return x.numpy()


SCHEDULE = {"num_train_timesteps": 100, "beta_schedule": "squaredcos_cap_v2"}


def test_cosine_schedule_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.DDPMScheduler(**SCHEDULE)
    assert_allclose(VariancePreserving(100).alpha_bar, scheduler.alphas_cumprod, rtol=1e-4)


def test_ddim_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    process = VariancePreserving(100)
    scheduler = diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, timestep_spacing="trailing")
    scheduler.set_timesteps(10)
    start = noise(shape=(20, 4, 2))
    sigma = process.coefficients(process.ladder(10)[:1]).sigma[0]
    theirs = run_scheduler(scheduler, process, sigma * start, scheduler.timesteps)
    ours = ddim(gaussian(process), process, start, 10)
    assert_allclose(ours, theirs, atol=1e-3)


def test_dpm_solver_is_that_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    process = VariancePreserving(100)
    scheduler = diffusers.DPMSolverMultistepScheduler(**SCHEDULE, final_sigmas_type="zero")
    scheduler.set_timesteps(timesteps=[int(k) for k in process.ladder(20)])
    start = noise(shape=(20, 4, 2))
    sigma = process.coefficients(process.ladder(20)[:1]).sigma[0]
    theirs = run_scheduler(scheduler, process, sigma * start, scheduler.timesteps)
    assert_allclose(dpm_solver(gaussian(process), process, start, 20), theirs, atol=1e-3)


def test_ddpm_has_the_moments_of_diffusers():
    diffusers = pytest.importorskip("diffusers")
    process = VariancePreserving(100)
    scheduler = diffusers.DDPMScheduler(**SCHEDULE, clip_sample=False)
    scheduler.set_timesteps(100)
    theirs = run_scheduler(scheduler, process, noise(), scheduler.timesteps)
    ours = ddpm(gaussian(process), process, noise(), np.random.default_rng(1), 100)
    assert_allclose(moments(ours), moments(theirs), atol=0.01)
