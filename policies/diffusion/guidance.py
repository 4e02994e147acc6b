"""What else a plan shall be while it emerges from noise: a plan that goes on, a wish come true.

A prefix is blended into each estimate of the clean plan. The sampler then leads the noisy plan
along a path on which the prefix is what it will become, and the network completes it.

A wish about part of a plan, such as where it shall end, has to change the rest as well: the
correction goes through the transposed Jacobian of the estimate (pseudo-inverse guidance, Song et
al. 2023). For the best estimate under Gaussian noise the Jacobian is a covariance over the noise's
variance, hence symmetric, so a product with it from the left is one from the right: the difference
between two estimates. So guidance takes a second evaluation of the exported network, and no graph
of its derivative.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from policies.diffusion.process import Process, spread
from policies.diffusion.samplers import Estimated, Estimator
from policies.interface import Float

Wish = Callable[[Float, NDArray[np.intp]], Float]
"""Estimate of the clean plan (b, Tp, A) and rows (b,) -> what it should be instead."""

_PROBE = 0.1
_LARGEST_GAIN = 5.0


def blended(estimator: Estimator, actions: Float, weights: Float) -> Estimator:
    """Estimator of plans that begin as another one goes on.

    Args:
        estimator: the model.
        actions: normalised, (B, Tp, A).
        weights: how far each step is bound to them, (Tp, 1).
    """

    def estimate(noisy: Float, level: Float, rows: NDArray[np.intp]) -> Estimated:
        free = estimator(noisy, level, rows)
        return free._replace(clean=free.clean + weights * (actions[rows] - free.clean))

    return estimate


def pulled(estimator: Estimator, process: Process, wish: Wish) -> Estimator:
    """Estimator of plans that come closer to a wish, as far as the model allows.

    Args:
        estimator: the model.
        process: with which it was trained.
        wish: what is wanted instead of an estimate.
    """

    def estimate(noisy: Float, level: Float, rows: NDArray[np.intp]) -> Estimated:
        first = estimator(noisy, level, rows)
        change = wish(first.clean, rows) - first.clean
        size = np.abs(change).max(axis=(1, 2), keepdims=True)
        if not size.any():
            return first
        at = process.coefficients(level)
        alpha, sigma = spread(at.alpha), spread(at.sigma)
        # A probe that is small against the noise, so that the difference is a derivative.
        share = np.maximum(_PROBE * sigma / np.maximum(size, 1e-9), 1e-9)
        probed = estimator(noisy + share * change, level, rows).clean
        turned = (probed - first.clean) / share
        gain = np.minimum((alpha**2 + sigma**2) / np.maximum(alpha, 1e-9), _LARGEST_GAIN)
        return first._replace(clean=first.clean + gain * turned)

    return estimate
