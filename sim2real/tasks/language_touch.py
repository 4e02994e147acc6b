"""Four tasks in one scene that only the instruction tells apart: touch one of four things.

An arm sees through two cameras (:mod:`sim2real.tasks.touch_scenes`): the Panda, or a SO-101 in a
smaller scene of the same things. Its state holds the joint positions and nothing of the things. To
touch the wrong thing is a failure, and which one was touched is kept, so that an evaluation can
tell obedience from chance.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.evaluation.environment import EnvironmentSpec, Outcome, Seen
from policies.interface import Float, RobotSpec
from policies.robots import get_robot
from policies.runtime.action_queue import Hold
from policies.runtime.upsampling import Upsampler
from sim2real.sim.camera_rig import CameraRig
from sim2real.sim.kinematics import Kinematics
from sim2real.sim.stepper import Stepper, default_state
from sim2real.tasks.language_phrases import Phrasing, draw_phrase
from sim2real.tasks.panda_scene import NAMES, THINGS, Views
from sim2real.tasks.reach import solve_goal
from sim2real.tasks.touch_scenes import PANDA_TOUCH, SO101_TOUCH, TouchScene

PREFIX = "language-touch"
SCENES = {PREFIX: PANDA_TOUCH, f"{PREFIX}-so101": SO101_TOUCH}
"""Task that asks for another thing in every run -> its scene."""
TASKS = tuple(task for scene in SCENES for task in (scene, *(f"{scene}-{name}" for name in NAMES)))
"""Those that end with the name of a thing always ask for the same."""
_START_SPREAD_RAD = 0.05
_STEP_RAD = 0.08
_GAIN = 0.4
_UP = np.array([0.0, 0.0, 1.0])


def _spec(task: str, robot: RobotSpec) -> EnvironmentSpec:
    return EnvironmentSpec(
        name=task,
        state_names=tuple(f"qpos/{joint}" for joint in robot.joint_names),
        action_names=tuple(f"position/{joint}" for joint in robot.joint_names),
        rate_hz=10.0,
        max_steps=60,
        hold=Hold(rest=tuple(robot.default_rad.tolist()), keep=(True,) * robot.n),
        smooth=(True,) * robot.n,
    )


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


class LanguageTouch:
    """The environment: state is the joint positions, action the commanded ones, rad.

    The scene of a seed is the same whatever is asked for.

    Args:
        task: one of :data:`TASKS`.
        instruction: what the policy is told in every run, whatever the task counts as success;
            None to say what the task is.
        phrasing: words that are used to say it.
        views: where the Panda's front camera stands; None for where it usually does.
        look_every: steps from one image to the next; in between the last one is shown again. A
            policy that is asked every so many steps sees the same and waits less for the cameras.

    Attributes:
        scene: arm and things.
        robot: the arm.
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
        views: Views | None = None,
        look_every: int = 1,
    ) -> None:
        if task not in TASKS:
            raise InputError(f"task: expected one out of {list(TASKS)}, got {task!r}")
        stem, _, name = task.rpartition("-")
        self._thing = NAMES.index(name) if name in NAMES else None
        self.scene = scene = SCENES[task if self._thing is None else stem]
        self._said, self._phrasing = instruction, phrasing
        self.robot = robot = get_robot(scene.robot)
        self.spec = _spec(task, robot)
        self.kinematics = Kinematics(robot)
        self._stepper = Stepper(robot)
        things = tuple(replace(thing, half_size_m=scene.half_size_m) for thing in THINGS)
        self._rig = CameraRig(robot, things, views.cameras() if views else scene.cameras)
        self._upsampler = Upsampler(round(robot.control_rate_hz / self.spec.rate_hz))
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
        self.places_m = self.scene.places(rng)
        self.target = seed % len(THINGS) if self._thing is None else self._thing
        self.touched = None
        self._steps = 0
        said = self._said
        self.instruction = (
            draw_phrase(NAMES[self.target], self._phrasing, seed) if said is None else said
        )
        robot = self.robot
        pose = robot.default_rad + rng.normal(0.0, _START_SPREAD_RAD, robot.n)
        pose = np.clip(pose, robot.lower_rad, robot.upper_rad)
        self._stepper.reset(default_state(robot, pose))
        self._upsampler.reset()
        self._upsampler.commands(pose)
        return self._seen()

    def step(self, action: Float) -> Outcome:
        """Go to the commanded positions, (n,), rad, in 0.1 s.

        Raises:
            InputError: the action is not finite.
        """
        robot = self.robot
        if action.shape != (robot.n,) or not np.isfinite(action).all():
            raise InputError(f"{PREFIX}: expected {robot.n} finite positions, got {action}")
        limited = np.clip(action, robot.lower_rad, robot.upper_rad)
        for command in self._upsampler.commands(limited):
            self._stepper.step(command)
        if self.touched is None:
            self.touched = nearest_thing(self.places_m, self.hand_m, self.scene)
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
