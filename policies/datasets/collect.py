"""Demonstrations from a scripted expert."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from policies.datasets.demonstrations import Demonstrations
from policies.errors import InputError
from policies.evaluation.environment import Environment, Expert
from policies.interface import Float

_ATTEMPTS = 4
_SEEDS_APART = 10_000


def collect(
    environment: Environment,
    expert: Expert,
    *,
    episodes: int,
    seed: int = 0,
    noise: float = 0.0,
    linger: int = 0,
    report: Callable[[int], None] | None = None,
) -> Demonstrations:
    """Record successful runs of an expert.

    Args:
        environment: the task.
        expert: who solves it.
        episodes: runs to keep; those that fail are not kept.
        seed: of everything random; run i of seed s is the same whatever ``episodes`` is.
        noise: standard deviation of noise on the actions that are done, raw units, on the entries
            that :attr:`EnvironmentSpec.smooth` marks. What is recorded is what the expert wanted,
            so the data show how to come back from where the noise led (Laskey et al. 2017).
        linger: steps that are recorded beyond success. A policy that has only seen runs that end
            where success begins stops just short of it.
        report: called with 1 for each run that is kept.

    Raises:
        InputError: too few runs succeed.
    """
    if episodes < 1 or noise < 0.0 or linger < 0:
        raise InputError(
            "demonstrations: expected at least 1 episode, and noise and lingering of at least 0, "
            f"got {episodes}, {noise} and {linger}"
        )
    spec = environment.spec
    data = Demonstrations(
        state_names=spec.state_names,
        action_names=spec.action_names,
        rate_hz=spec.rate_hz,
        state=[],
        action=[],
    )
    for attempt in range(_ATTEMPTS * episodes):
        if len(data) == episodes:
            break
        run_seed = seed * _SEEDS_APART + attempt
        rows = _run(environment, expert, run_seed, noise, linger)
        if rows is None:
            continue
        states, actions, images, instruction = rows
        data.state.append(states)
        data.action.append(actions)
        data.task.append(instruction or spec.name)
        for name, frames in images.items():
            data.images.setdefault(name, []).append(frames)
        if report:
            report(1)
    if len(data) < episodes:
        raise InputError(
            f"demonstrations of {spec.name}: expected {episodes} successful runs, got {len(data)} "
            f"in {_ATTEMPTS * episodes} attempts; ask for less noise"
        )
    return data


def _run(
    environment: Environment, expert: Expert, seed: int, noise: float, linger: int
) -> tuple[Float, Float, dict[str, NDArray[np.uint8]], str | None] | None:
    """States, actions, images and instruction of one run, or None if it failed."""
    spec = environment.spec
    rng = np.random.default_rng([seed, 2])
    scale = noise * np.array(spec.smooth, dtype=np.float64)
    seen = environment.reset(seed)
    expert.reset(seed)
    states, actions, images = [], [], []
    left: int | None = None  # steps to go, once success is reached
    for _ in range(spec.max_steps + linger):
        states.append(seen.state)
        images.append(seen.images)
        actions.append(expert.act(seen))
        outcome = environment.step(actions[-1] + scale * rng.normal(size=len(scale)))
        seen = outcome.seen
        if left is None and outcome.success:
            left = linger
        if left == 0:
            cameras = {name: np.stack([image[name] for image in images]) for name in seen.images}
            return np.array(states), np.array(actions), cameras, seen.instruction
        if left is not None:
            left -= 1
        if outcome.failure:
            return None
    return None
