"""A task with two equally good ways: round an obstacle on the left or on the right.

A point in the plane starts before a disc and has to get behind it. The expert takes either side
with equal probability, whatever the start; the mean of what it does leads into the disc. NumPy
only, so that it runs in tests.
"""

from __future__ import annotations

import numpy as np

from policies.errors import InputError
from policies.evaluation.environment import EnvironmentSpec, Outcome, Seen
from policies.interface import Float
from policies.runtime.action_queue import Hold

RADIUS_M = 0.5
GOAL_M = (1.0, 0.0)
START_M = (-1.0, 0.0)
_START_SPREAD_M = 0.02
_GOAL_RADIUS_M = 0.1
_SPEED_M_S = 0.6
_SPEED_LIMIT_M_S = 1.0
_CLEARANCE_M = 0.2
_LOOKAHEAD_M = 0.12

SPEC = EnvironmentSpec(
    name="obstacle",
    state_names=("x", "y"),
    action_names=("vx", "vy"),
    rate_hz=10.0,
    max_steps=80,
    hold=Hold(rest=(0.0, 0.0), keep=(False, False)),
    smooth=(True, True),
)


class Obstacle:
    """The environment: state is the position, m; action is the velocity, m/s."""

    spec = SPEC

    def __init__(self) -> None:
        self._position = np.array(START_M)

    def reset(self, seed: int) -> Seen:
        """Start anew at a random place near the start."""
        spread = np.random.default_rng(seed).uniform(-_START_SPREAD_M, _START_SPREAD_M, 2)
        self._position = np.array(START_M) + spread
        return self._seen()

    def step(self, action: Float) -> Outcome:
        """Move for one step; speed is limited to 1 m/s.

        Raises:
            InputError: the action is not finite.
        """
        if action.shape != (2,) or not np.isfinite(action).all():
            raise InputError(f"obstacle: expected 2 finite velocities, got {action}")
        speed = max(float(np.linalg.norm(action)), 1e-12)
        before = self._position
        self._position = before + action * min(1.0, _SPEED_LIMIT_M_S / speed) / SPEC.rate_hz
        return Outcome(
            seen=self._seen(),
            success=bool(np.linalg.norm(self._position - GOAL_M) < _GOAL_RADIUS_M),
            failure=hits(np.stack([before, self._position])),
        )

    def _seen(self) -> Seen:
        return Seen(state=self._position.copy())


class ObstacleExpert:
    """Follows one of two paths round the disc, at constant speed."""

    def reset(self, seed: int) -> None:
        """Choose a side."""
        self._side = 1.0 if np.random.default_rng([seed, 3]).random() < 0.5 else -1.0

    def act(self, seen: Seen) -> Float:
        """Velocity towards a point of the path ahead, (2,), m/s."""
        ahead = seen.state[0] + _LOOKAHEAD_M
        bow = np.cos(0.5 * np.pi * np.clip(ahead, -1.0, 1.0))
        height = self._side * (RADIUS_M + _CLEARANCE_M) * bow
        towards = np.array([min(ahead, GOAL_M[0]), height]) - seen.state
        return np.asarray(_SPEED_M_S * towards / max(float(np.linalg.norm(towards)), 1e-9))


def hits(path: Float) -> bool:
    """True if a path (T, 2), m, runs through the disc."""
    begin, end = path[:-1], path[1:]
    along = end - begin
    length2 = np.maximum((along**2).sum(axis=1), 1e-12)
    share = np.clip(-(begin * along).sum(axis=1) / length2, 0.0, 1.0)
    nearest = begin + share[:, None] * along
    return bool((np.linalg.norm(nearest, axis=1) < RADIUS_M).any())


def side(states: Float) -> int:
    """Side on which a path (T, 2), m, passes the obstacle: 1 left, -1 right, 0 not at all."""
    beside = states[np.abs(states[:, 0]) < 0.5 * RADIUS_M, 1]
    return int(np.sign(beside.mean())) if len(beside) else 0
