"""Four tasks in one scene that only the instruction tells apart: pick up one of four things.

The Panda with its hand as a joint (:mod:`policies.robots.panda_hand`) sees through two cameras; its
state holds the joint positions and nothing of the things. They lie freely and are held by friction
between the fingers, or not at all. To lift a wrong thing is a failure, and which one was lifted is
kept, so that an evaluation can tell obedience from chance.
"""

from __future__ import annotations

import numpy as np

from policies.evaluation.environment import Seen
from policies.interface import Float
from policies.robots import get_robot
from sim2real.sim.kinematics import Kinematics
from sim2real.tasks.language_phrases import Phrasing
from sim2real.tasks.language_task import LanguageTask, told_tasks, told_thing
from sim2real.tasks.panda_scene import (
    CLOSE_VIEWS,
    NAMES,
    SMALL_HALF_SIZE_M,
    SMALL_THINGS,
    Views,
    draw_small_places,
)

PREFIX = "language-pick"
TASKS = told_tasks(PREFIX)
"""The first asks for another thing in every run, the others always for the same. It is made for
demonstrations: half of its runs start close above a thing, with the hand open, closed or in
between, as after a grasp that has failed."""
LIFT_M = 0.08
MAX_STEPS = 90
_ROBOT = get_robot("panda_hand")
_ARM = slice(0, 7)
_NEAR_SPREAD_RAD = 0.01
_NEAR_M = ((-0.05, -0.05, 0.05), (0.05, 0.05, 0.20))  # of the hand from a thing
_OPEN_M = 0.038


def lifted_thing(rise_m: Float) -> int | None:
    """Index of the thing that has been lifted, or None.

    Args:
        rise_m: how much higher than at the start the things are, (4,), m.
    """
    highest = int(np.argmax(rise_m))
    return highest if rise_m[highest] >= LIFT_M else None


class LanguagePick(LanguageTask):
    """The environment: state is the joint positions, action the commanded ones, rad and m.

    Args:
        task: one of :data:`TASKS`.
        instruction, phrasing, look_every: see :class:`LanguageTask`.
        views: where the front camera stands.

    Raises:
        InputError: no such task.
    """

    def __init__(
        self,
        task: str = PREFIX,
        *,
        instruction: str | None = None,
        phrasing: Phrasing = "train",
        views: Views = CLOSE_VIEWS,
        look_every: int = 1,
    ) -> None:
        _, thing = told_thing(task, TASKS)
        super().__init__(
            task,
            thing,
            robot=_ROBOT.name,
            deed="pick",
            things=SMALL_THINGS,
            solid=True,
            cameras=views.cameras(),
            max_steps=MAX_STEPS,
            instruction=instruction,
            phrasing=phrasing,
            look_every=look_every,
        )

    @property
    def lifted(self) -> int | None:
        """Index of the thing that was lifted, or None as yet."""
        return self.done_to

    @property
    def objects(self) -> Float:
        """Centres, m, and orientations, wxyz, of the things now, (4, 7)."""
        return self._stepper.things.poses

    @property
    def things_m(self) -> Float:
        """Where the centres of the things are now, (4, 3), m."""
        return self.objects[:, :3]

    def _draw_places(self, rng: np.random.Generator) -> Float:
        return draw_small_places(rng)

    def _draw_pose(self, rng: np.random.Generator) -> Float:
        if self._thing is not None or not rng.integers(2):
            return super()._draw_pose(rng)
        index = self.target if rng.integers(2) else int(rng.integers(len(NAMES)))
        goal_m = self.places_m[index] + rng.uniform(*_NEAR_M)
        pose = _ROBOT.default_rad.copy()
        for _ in range(_ITERATIONS):
            pose[_ARM] += hand_step(self.kinematics, pose, goal_m)
        pose[-1] = rng.choice([_OPEN_M, rng.uniform(0.0, _OPEN_M), 0.0])
        return self._spread(rng, pose, _NEAR_SPREAD_RAD)

    def _judge(self) -> int | None:
        return lifted_thing(self.things_m[:, 2] - self.places_m[:, 2])


_DOWN = np.diag([1.0, -1.0, -1.0])  # the hand's axes, when it points to the floor
_ITERATIONS = 30
_ROTATION_WEIGHT, _POSTURE_WEIGHT = 0.3, 0.02
_STEP_M = 0.04
_GAIN = 0.5
_SLOW_M, _SLOW_BELOW_M = 0.015, 0.06  # a step close to the thing, and where that is
_STEP_RAD = 0.12
_SLOPE = 3.0  # height above the thing, for each metre that the hand is aside of it
_ABOVE_M = 0.10
_CENTRED_M = 0.007
_BELOW_M = np.array([0.0, 0.0, -0.005])  # a ball that is held above its middle slips out
_CLOSING_M = 0.006
_CLOSED_M = SMALL_HALF_SIZE_M + 0.0025
_EMPTY_M = SMALL_HALF_SIZE_M - 0.008


def hand_step(kinematics: Kinematics, qpos: Float, goal_m: Float) -> Float:
    """Displacement of the arm's joints that brings the hand, pointing down, to a place, (7,), rad.

    Args:
        kinematics: of the arm with its hand.
        qpos: joint positions, (8,), rad and m.
        goal_m: where the finger tips shall be, (3,), m; the nearer, the more exact.
    """
    hand_m, rotation = kinematics.end_effector(qpos)
    turn = 0.5 * np.cross(rotation, _DOWN, axis=0).sum(axis=1)
    linear, angular = kinematics.jacobian(qpos)
    posture = 0.1 * (_ROBOT.default_rad - qpos)[_ARM]
    rows = np.vstack(
        [linear[:, _ARM], _ROTATION_WEIGHT * angular[:, _ARM], _POSTURE_WEIGHT * np.eye(7)]
    )
    wanted = np.concatenate([goal_m - hand_m, _ROTATION_WEIGHT * turn, _POSTURE_WEIGHT * posture])
    step, *_ = np.linalg.lstsq(rows, wanted, rcond=None)
    return np.asarray(step)


class LanguagePickExpert:
    """Knows where the thing is: comes down above it in a funnel, closes the hand, lifts.

    What it does depends on what is seen and not on what it did, so that a policy that sees one
    moment can do the same.

    Args:
        environment: the environment whose things it knows.
    """

    def __init__(self, environment: LanguagePick) -> None:
        self._environment = environment

    def reset(self, seed: int) -> None:
        """Nothing is kept from one moment to the next."""

    def act(self, seen: Seen) -> Float:
        """Next joint positions on the way, (8,), rad and m."""
        qpos = seen.state
        thing_m = self._environment.things_m[self._environment.target] + _BELOW_M
        hand_m, _ = self._environment.kinematics.end_effector(qpos)
        finger = float(qpos[-1])
        aside = float(np.linalg.norm((thing_m - hand_m)[:2]))
        height = float(hand_m[2] - thing_m[2])
        inside = aside < 2.0 * _CENTRED_M and abs(height) < 2.0 * _CENTRED_M
        centred = aside < _CENTRED_M and abs(height) < _CENTRED_M
        goal_m, grip = thing_m.copy(), _OPEN_M
        if inside and _EMPTY_M < finger < _CLOSED_M:
            goal_m, grip = hand_m + np.array([0.0, 0.0, 0.1]), finger - _CLOSING_M
        elif centred or (inside and finger < _OPEN_M - 0.004):
            grip = finger - _CLOSING_M
        else:
            goal_m[2] += np.clip(_SLOPE * (aside - _CENTRED_M), 0.0, _ABOVE_M)
        way = _GAIN * (goal_m - hand_m)
        longest_m = _SLOW_M if grip == _OPEN_M and height < _SLOW_BELOW_M else _STEP_M
        way *= min(1.0, longest_m / max(float(np.linalg.norm(way)), 1e-9))
        step = hand_step(self._environment.kinematics, qpos, hand_m + way)
        step *= min(1.0, _STEP_RAD / max(float(np.abs(step).max()), 1e-9))
        return np.append(qpos[_ARM] + step, grip)
