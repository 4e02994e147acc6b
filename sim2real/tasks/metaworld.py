"""Meta-World 3 tasks with state input, and its scripted experts (``realign[metaworld]``).

A state is what Meta-World observes without its copy of the step before, which a policy's window
has anyway: hand, gripper opening, two objects, goal. An action is a displacement of the hand and
the closing of the gripper, each within [-1, 1].
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from policies.errors import InputError
from policies.evaluation.environment import EnvironmentSpec, Outcome, Seen
from policies.interface import Float
from policies.runtime.action_queue import Hold

TASKS = ("reach-v3", "drawer-open-v3", "pick-place-v3", "peg-insert-side-v3")
TOLD_TASKS = ("push-v3", "drawer-close-v3")
"""Those that are used only together with others, see :mod:`sim2real.tasks.language_metaworld`."""
_POSE = ("x", "y", "z", "qx", "qy", "qz", "qw")
_NAMES = (
    *(f"hand_{axis}" for axis in "xyz"),
    "gripper_opening",
    *(f"object{i}_{entry}" for i in (1, 2) for entry in _POSE),
    *(f"goal_{axis}" for axis in "xyz"),
)
_CURRENT = 18
_RATE_HZ = 80.0
_MAX_STEPS = 300


class MetaWorld:
    """One Meta-World task; goal and objects are drawn anew for each seed."""

    def __init__(self, name: str) -> None:
        """Build it.

        Args:
            name: one of :data:`TASKS` or :data:`TOLD_TASKS`.

        Raises:
            InputError: no such task.
        """
        if name not in (*TASKS, *TOLD_TASKS):
            raise InputError(f"task: expected one out of {list(TASKS)}, got {name!r}")
        classes = importlib.import_module("metaworld.env_dict").ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE
        self._env: Any = classes[f"{name}-goal-observable"](seed=0)
        # Otherwise each reset brings back what was drawn first.
        self._env._freeze_rand_vec = False
        self._env.seeded_rand_vec = True
        # Meta-World counts steps and ends after 500: the loop that runs it does that.
        self._env.max_path_length = np.inf
        self.spec = EnvironmentSpec(
            name=name,
            state_names=_NAMES,
            action_names=("dx", "dy", "dz", "gripper"),
            rate_hz=_RATE_HZ,
            max_steps=_MAX_STEPS,
            hold=Hold(rest=(0.0, 0.0, 0.0, 0.0), keep=(False, False, False, True)),
            smooth=(True, True, True, False),
        )

    def reset(self, seed: int) -> Seen:
        """Start anew with the goal and objects of ``seed``."""
        self._env.seed(seed)
        self._observed, _ = self._env.reset()
        return self._seen()

    def step(self, action: Float) -> Outcome:
        """Do one action, clipped to [-1, 1]."""
        limited = np.clip(action, -1.0, 1.0).astype(np.float32)
        self._observed, _, _, _, info = self._env.step(limited)
        return Outcome(seen=self._seen(), success=bool(info["success"] > 0.0))

    @property
    def observed(self) -> Float:
        """The last observation as Meta-World gives it, (39,)."""
        return np.asarray(self._observed, dtype=np.float64)

    def _seen(self) -> Seen:
        return Seen(state=np.concatenate([self.observed[:_CURRENT], self.observed[-3:]]))


class MetaWorldExpert:
    """Meta-World's own scripted policy for a task."""

    def __init__(self, environment: MetaWorld) -> None:
        """Take the policy for an environment, whose whole observation it reads."""
        policies = importlib.import_module("metaworld.policies").ENV_POLICY_MAP
        self._environment = environment
        self._policy: Any = policies[environment.spec.name]()

    def reset(self, seed: int) -> None:
        """It has no memory."""

    def act(self, seen: Seen) -> Float:
        """What it would do, clipped to what can be done, (4,)."""
        action = self._policy.get_action(self._environment.observed)
        return np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
