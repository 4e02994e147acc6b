"""From noise to a plan: samplers in NumPy over any estimate of the clean actions.

They are written for the mixture ``noisy = alpha clean + sigma noise``
(:mod:`policies.diffusion.process`), of which DDPM, score and flow models are cases: what is called
DDIM for the first is Euler's method for the other two.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from policies.diffusion.process import Flow, Process, spread
from policies.interface import Float


class Estimated(NamedTuple):
    """An answer of a network.

    Attributes:
        clean: estimate of the clean actions, (B, Tp, A).
        spread: root-mean-square error that the network expects of it at that level, in units of
            the flow's velocity, (B,), or None where it was not trained to tell.
    """

    clean: Float
    spread: Float | None = None


class Estimator(Protocol):
    """Estimates the clean actions behind noisy ones."""

    def __call__(self, noisy: Float, level: Float, rows: NDArray[np.intp]) -> Estimated:
        """Estimate.

        Args:
            noisy: noisy actions, (b, Tp, A).
            level: noise level of each run (b,) or of each step (b, Tp).
            rows: which runs of the batch these are, (b,).
        """


def _all(noisy: Float) -> NDArray[np.intp]:
    return np.arange(len(noisy))


def ddpm(
    estimator: Estimator, process: Process, noise: Float, rng: np.random.Generator, steps: int
) -> Float:
    """Ancestral sampling (Ho et al. 2020), with the smaller of the two variances.

    Args:
        estimator: the model.
        process: with which it was trained.
        noise: standard Gaussian, (B, Tp, A).
        rng: for the noise that is added between levels.
        steps: levels that are visited.
    """
    return ddim(estimator, process, noise, steps, eta=1.0, rng=rng)


def ddim(
    estimator: Estimator,
    process: Process,
    noise: Float,
    steps: int,
    *,
    eta: float = 0.0,
    rng: np.random.Generator | None = None,
) -> Float:
    """First-order steps between levels (Song et al. 2021); for scores and flows Euler's method.

    Args:
        estimator: the model.
        process: with which it was trained.
        noise: standard Gaussian, (B, Tp, A).
        steps: evaluations.
        eta: 0 for none, 1 for as much fresh noise as ancestral sampling adds.
        rng: for fresh noise.
    """
    ladder = process.ladder(steps)
    at = process.coefficients(ladder)
    alpha, sigma = at.alpha, at.sigma
    ratio = (alpha[:-1] * sigma[1:] / (alpha[1:] * sigma[:-1])) ** 2
    fresh = eta * sigma[1:] * np.sqrt(np.maximum(1.0 - ratio, 0.0))
    kept = np.sqrt(np.maximum(sigma[1:] ** 2 - fresh**2, 0.0)) / sigma[:-1]
    x, rows = sigma[0] * noise, _all(noise)
    levels = np.repeat(ladder[:, None], len(noise), axis=1)
    for i in range(len(ladder) - 1):
        clean = estimator(x, levels[i], rows).clean
        x = alpha[i + 1] * clean + kept[i] * (x - alpha[i] * clean)
        if eta > 0.0 and rng is not None:
            x = x + fresh[i] * rng.standard_normal(x.shape)
    return estimator(x, levels[-1], rows).clean


def dpm_solver(estimator: Estimator, process: Process, noise: Float, steps: int) -> Float:
    """DPM-Solver++ 2M (Lu et al. 2022): second order from the last two estimates.

    The last step is of first order, which is what few steps need.

    Args:
        estimator: the model.
        process: with which it was trained; its first level must hold some signal.
        noise: standard Gaussian, (B, Tp, A).
        steps: evaluations.
    """
    ladder = process.ladder(steps)
    scale = process.coefficients(ladder)
    log_snr = np.log(scale.alpha / scale.sigma)
    x = scale.sigma[0] * noise
    before: Float | None = None
    for i in range(len(ladder)):
        clean = estimator(x, np.full(len(x), ladder[i]), _all(x)).clean
        if i + 1 == len(ladder):
            return clean
        h = log_snr[i + 1] - log_snr[i]
        guess = clean
        if before is not None:
            ratio = h / (log_snr[i] - log_snr[i - 1])
            guess = clean + 0.5 * ratio * (clean - before)
        x = scale.sigma[i + 1] / scale.sigma[i] * x - scale.alpha[i + 1] * np.expm1(-h) * guess
        before = clean
    return x


def heun(estimator: Estimator, process: Process, noise: Float, steps: int) -> Float:
    """Heun's method on the probability flow of Karras et al. (2022): two evaluations a step.

    Args:
        estimator: the model.
        process: with which it was trained; a level is sigma, and alpha is 1.
        noise: standard Gaussian, (B, Tp, A).
        steps: steps; the last has one evaluation.
    """
    ladder = np.append(process.ladder(steps), 0.0)
    x = ladder[0] * noise
    for now, after in pairwise(ladder):
        slope = (x - estimator(x, np.full(len(x), now), _all(x)).clean) / now
        ahead = x + (after - now) * slope
        if after > 0.0:
            end = (ahead - estimator(ahead, np.full(len(x), after), _all(x)).clean) / after
            ahead = x + (after - now) * 0.5 * (slope + end)
        x = ahead
    return x


def adaptive_flow(
    estimator: Estimator, noise: Float, *, tolerance: float, steps: int
) -> tuple[Float, NDArray[np.intp]]:
    """Flow with steps as long as the expected error allows (AdaFlow, Hu et al. 2024).

    A step is ``tolerance / spread`` long: where the actions are determined by the observation, the
    first reaches the end.

    Args:
        estimator: a flow model that tells its spread.
        noise: standard Gaussian, (B, Tp, A).
        tolerance: error that one step may make, in units of normalised actions.
        steps: at most so many.

    Returns:
        Clean actions (B, Tp, A) and the evaluations that each run took (B,).
    """
    x, time = noise.copy(), np.zeros(len(noise))
    calls = np.zeros(len(noise), dtype=np.intp)
    flow = Flow()
    while (rows := np.flatnonzero(time < 1.0)).size:
        now = time[rows]
        clean, error = estimator(x[rows], now, rows)
        if error is None:
            raise ValueError("adaptive steps need a model that tells its spread")
        calls[rows] += 1
        step = np.maximum(tolerance / np.maximum(error, 1e-9), 1.0 / steps)
        after = np.where(now + step > 1.0 - 0.5 / steps, 1.0, now + step)
        sigma = spread(flow.coefficients(now).sigma)
        share = spread(after - now) / sigma
        x[rows] = np.where(spread(after) < 1.0, x[rows] + share * (clean - x[rows]), clean)
        time[rows] = after
    return x, calls
