"""Four tasks in one scene that only the instruction tells apart: touch one of four things.

An arm sees through two cameras (:mod:`sim2real.tasks.touch_scenes`): the Panda, or a SO-101 in a
smaller scene of the same things. Its state holds the joint positions and nothing of the things. To
touch the wrong thing is a failure, and which one was touched is kept, so that an evaluation can
tell obedience from chance.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from policies.errors import InputError
from policies.evaluation.environment import Seen
from policies.interface import Float
from sim2real.tasks.language_phrases import Phrasing
from sim2real.tasks.language_task import LanguageTask, told_tasks, told_thing
from sim2real.tasks.panda_scene import THINGS, Views
from sim2real.tasks.reach import solve_goal
from sim2real.tasks.touch_scenes import PANDA_TOUCH, SO101_TOUCH, TouchScene

PREFIX = "language-touch"
SCENES = {PREFIX: PANDA_TOUCH, f"{PREFIX}-so101": SO101_TOUCH}
"""Task that asks for another thing in every run -> its scene."""
TASKS = tuple(task for scene in SCENES for task in told_tasks(scene))
"""Those that end with the name of a thing always ask for the same."""
_MAX_STEPS = 60
_STEP_RAD = 0.08
_GAIN = 0.4
_UP = np.array([0.0, 0.0, 1.0])


def nearest_thing(places_m: Float, hand_m: Float, scene: TouchScene = PANDA_TOUCH) -> int | None:
    """Index of the thing whose top the finger tips touch, or None.

    Args:
        places_m: centres of the things, (4, 3), m.
        hand_m: finger tips, (3,), m.
        scene: tells how large the things are, and how near is touching.
    """
    away = np.linalg.norm(places_m + scene.half_size_m * _UP - hand_m, axis=1)
    nearest = int(np.argmin(away))
    return nearest if away[nearest] < scene.tolerance_m else None


class LanguageTouch(LanguageTask):
    """The environment: state is the joint positions, action the commanded ones, rad.

    Args:
        task: one of :data:`TASKS`.
        instruction, phrasing, look_every: see :class:`LanguageTask`.
        views: where the Panda's front camera stands; None for where it usually does.

    Attributes:
        scene: arm and things.

    Raises:
        InputError: no such task.
    """

    def __init__(
        self,
        task: str = PREFIX,
        *,
        instruction: str | None = None,
        phrasing: Phrasing = "train",
        views: Views | None = None,
        look_every: int = 1,
    ) -> None:
        name, thing = told_thing(task, TASKS)
        self.scene = scene = SCENES[name]
        super().__init__(
            task,
            thing,
            robot=scene.robot,
            deed="touch",
            things=[replace(one, half_size_m=scene.half_size_m) for one in THINGS],
            solid=False,
            cameras=views.cameras() if views else scene.cameras,
            max_steps=_MAX_STEPS,
            instruction=instruction,
            phrasing=phrasing,
            look_every=look_every,
        )

    @property
    def touched(self) -> int | None:
        """Index of the thing that was touched, or None as yet."""
        return self.done_to

    def _draw_places(self, rng: np.random.Generator) -> Float:
        return self.scene.places(rng)

    def _judge(self) -> int | None:
        return nearest_thing(self.places_m, self.hand_m, self.scene)


class LanguageTouchExpert:
    """Knows where the thing is: goes above it, then down.

    Args:
        environment: the environment whose things it knows.
    """

    def __init__(self, environment: LanguageTouch) -> None:
        self._environment = environment

    def reset(self, seed: int) -> None:
        """Solve for the two poses.

        Raises:
            InputError: the thing is out of reach.
        """
        environment = self._environment
        scene = environment.scene
        self._goal_m = environment.places_m[environment.target] + scene.half_size_m * _UP
        poses = [
            solve_goal(environment.kinematics, self._goal_m + height_m * _UP)
            for height_m in (scene.above_m, 0.0)
        ]
        if poses[0] is None or poses[1] is None:
            raise InputError(f"{PREFIX}: expected a thing within reach, got {self._goal_m}")
        self._above, self._on = poses[0], poses[1]

    def act(self, seen: Seen) -> Float:
        """Next joint positions on the way, (n,), rad."""
        environment = self._environment
        aside = np.linalg.norm((environment.hand_m - self._goal_m)[:2])
        pose = self._on if aside < environment.scene.aside_m else self._above
        way = np.clip(_GAIN * (pose - seen.state), -_STEP_RAD, _STEP_RAD)
        # An arm that nothing holds up against gravity hangs below what it is told.
        sag = environment.kinematics.gravity_nm(seen.state) / environment.robot.kp_nm_rad
        return np.asarray(seen.state + way + sag)
