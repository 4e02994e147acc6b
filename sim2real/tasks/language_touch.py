"""Four tasks in one scene that only the instruction tells apart: touch one of four things.

The Panda sees through two cameras (:mod:`sim2real.tasks.panda_scene`); its state holds the joint
positions and nothing of the things. To touch the wrong thing is a failure, and which one was
touched is kept, so that an evaluation can tell obedience from chance.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.evaluation.environment import EnvironmentSpec, Outcome, Seen
from policies.interface import Float
from policies.robots import get_robot
from policies.runtime.action_queue import Hold
from policies.runtime.upsampling import Upsampler
from sim2real.sim.camera_rig import CameraRig
from sim2real.sim.kinematics import Kinematics
from sim2real.sim.stepper import Stepper, default_state
from sim2real.tasks.language_phrases import Phrasing, draw_phrase
from sim2real.tasks.panda_scene import HALF_SIZE_M, NAMES, THINGS, USUAL_VIEWS, Views, draw_places
from sim2real.tasks.reach import solve_goal

PREFIX = "language-touch"
TASKS = (PREFIX, *(f"{PREFIX}-{name}" for name in NAMES))
"""The first asks for another thing in every run, the others always for the same."""
TOLERANCE_M = 0.04
_ROBOT = get_robot("panda")
_TOP_M = np.array([0.0, 0.0, HALF_SIZE_M])
_START_SPREAD_RAD = 0.05
_STEP_RAD = 0.08
_GAIN = 0.4
_ABOVE_M = np.array([0.0, 0.0, 0.10])
_ASIDE_M = 0.03  # sideways distance from which the hand may come down

SPEC = EnvironmentSpec(
    name=PREFIX,
    state_names=tuple(f"qpos/{joint}" for joint in _ROBOT.joint_names),
    action_names=tuple(f"position/{joint}" for joint in _ROBOT.joint_names),
    rate_hz=10.0,
    max_steps=60,
    hold=Hold(rest=tuple(_ROBOT.default_rad.tolist()), keep=(True,) * _ROBOT.n),
    smooth=(True,) * _ROBOT.n,
)


def nearest_thing(places_m: Float, hand_m: Float) -> int | None:
    """Index of the thing whose top the finger tips touch, or None.

    Args:
        places_m: centres of the things, (4, 3), m.
        hand_m: finger tips, (3,), m.
    """
    away = np.linalg.norm(places_m + _TOP_M - hand_m, axis=1)
    nearest = int(np.argmin(away))
    return nearest if away[nearest] < TOLERANCE_M else None


class LanguageTouch:
    """The environment: state is the joint positions, action the commanded ones, rad.

    The scene of a seed is the same whatever is asked for.

    Args:
        task: one of :data:`TASKS`.
        instruction: what the policy is told in every run, whatever the task counts as success;
            None to say what the task is.
        phrasing: words that are used to say it.
        views: where the front camera stands.
        look_every: steps from one image to the next; in between the last one is shown again. A
            policy that is asked every so many steps sees the same and waits less for the cameras.

    Attributes:
        target: index of the thing that this run is about.
        touched: index of the thing that was touched, or None as yet.
        places_m: centres of the things, (4, 3), m.

    Raises:
        InputError: no such task.
    """

    def __init__(
        self,
        task: str = PREFIX,
        *,
        instruction: str | None = None,
        phrasing: Phrasing = "train",
        views: Views = USUAL_VIEWS,
        look_every: int = 1,
    ) -> None:
        if task not in TASKS:
            raise InputError(f"task: expected one out of {list(TASKS)}, got {task!r}")
        self.spec = replace(SPEC, name=task)
        self._thing = NAMES.index(task.removeprefix(f"{PREFIX}-")) if task != PREFIX else None
        self._said, self._phrasing = instruction, phrasing
        self.kinematics = Kinematics(_ROBOT)
        self._stepper = Stepper(_ROBOT)
        self._rig = CameraRig(_ROBOT, THINGS, views.cameras())
        self._upsampler = Upsampler(round(_ROBOT.control_rate_hz / SPEC.rate_hz))
        self.target, self.touched = 0, None
        self.places_m: Float = np.zeros((len(THINGS), 3))
        self.instruction = ""
        self._look_every, self._steps = look_every, 0
        self._images: dict[str, NDArray[np.uint8]] = {}

    target: int
    touched: int | None

    def reset(self, seed: int) -> Seen:
        """Start near the default pose, with the places of ``seed``."""
        rng = np.random.default_rng(seed)
        self.places_m = draw_places(rng)
        self.target = seed % len(THINGS) if self._thing is None else self._thing
        self.touched = None
        self._steps = 0
        said = self._said
        self.instruction = (
            draw_phrase(NAMES[self.target], self._phrasing, seed) if said is None else said
        )
        pose = _ROBOT.default_rad + rng.normal(0.0, _START_SPREAD_RAD, _ROBOT.n)
        pose = np.clip(pose, _ROBOT.lower_rad, _ROBOT.upper_rad)
        self._stepper.reset(default_state(_ROBOT, pose))
        self._upsampler.reset()
        self._upsampler.commands(pose)
        return self._seen()

    def step(self, action: Float) -> Outcome:
        """Go to the commanded positions, (7,), rad, in 0.1 s.

        Raises:
            InputError: the action is not finite.
        """
        if action.shape != (_ROBOT.n,) or not np.isfinite(action).all():
            raise InputError(f"{PREFIX}: expected {_ROBOT.n} finite positions, got {action}")
        limited = np.clip(action, _ROBOT.lower_rad, _ROBOT.upper_rad)
        for command in self._upsampler.commands(limited):
            self._stepper.step(command)
        if self.touched is None:
            self.touched = nearest_thing(self.places_m, self.hand_m)
        return Outcome(
            seen=self._seen(),
            success=self.touched == self.target,
            failure=self.touched not in (None, self.target),
        )

    @property
    def hand_m(self) -> Float:
        """Position of the finger tips in the world, (3,), m."""
        return self.kinematics.end_effector(self._stepper.state.qpos_rad)[0]

    def _seen(self) -> Seen:
        qpos = self._stepper.state.qpos_rad
        if self._steps % self._look_every == 0:
            self._images = dict(self._rig.images(qpos, self.places_m))
        self._steps += 1
        return Seen(state=qpos.copy(), images=dict(self._images), instruction=self.instruction)


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
        self._goal_m = environment.places_m[environment.target] + _TOP_M
        poses = [
            solve_goal(environment.kinematics, goal)
            for goal in (self._goal_m + _ABOVE_M, self._goal_m)
        ]
        if poses[0] is None or poses[1] is None:
            raise InputError(f"{PREFIX}: expected a thing within reach, got {self._goal_m}")
        self._above, self._on = poses[0], poses[1]

    def act(self, seen: Seen) -> Float:
        """Next joint positions on the way, (7,), rad."""
        aside = np.linalg.norm((self._environment.hand_m - self._goal_m)[:2])
        pose = self._on if aside < _ASIDE_M else self._above
        way = np.clip(_GAIN * (pose - seen.state), -_STEP_RAD, _STEP_RAD)
        return np.asarray(seen.state + way)
