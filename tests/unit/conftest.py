"""Logs that several unit tests learn from."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from policies.robots import PANDA
from sim2real.episodes.episode import Episode
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import Stepper, default_state


@pytest.fixture(scope="session")
def swinging_arm() -> Callable[[int, Gap, float], Episode]:
    """Episode of a Panda with a gap whose joints follow sines: of a seed, a gap, seconds."""

    def record(seed: int, gap: Gap, seconds: float) -> Episode:
        rng = np.random.default_rng(seed)
        t = np.arange(round(100 * seconds)) / 100.0
        speed, phase = rng.uniform(1.5, 4.0, PANDA.n), rng.uniform(0.0, 6.28, PANDA.n)
        action = PANDA.default_rad + 0.25 * np.sin(speed * t[:, None] + phase)
        stepper = Stepper(PANDA, gap)
        stepper.reset(default_state(PANDA, action[0]))
        states = []
        for target in action:
            states.append(stepper.state)
            stepper.step(target)
        return Episode(
            robot="panda",
            robot_fingerprint=PANDA.fingerprint,
            rate_hz=100.0,
            t_s=t,
            action_rad=action,
            qpos_rad=np.array([s.qpos_rad for s in states]),
            qvel_rad_s=np.array([s.qvel_rad_s for s in states]),
        )

    return record
