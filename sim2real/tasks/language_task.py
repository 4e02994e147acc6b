"""What the language tasks have in common: a scene that does not tell what is meant, and words.

An arm sees four things through cameras; its state holds the joint positions and nothing of the
things. What is asked for is told by the instruction alone. To do it to another thing is a failure,
and to which one it was done is kept, so that an evaluation can tell obedience from chance.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from policies.evaluation.environment import EnvironmentSpec, Outcome, Seen
from policies.interface import Float, RobotSpec
from policies.robots import get_robot
from policies.runtime.action_queue import Hold
from policies.runtime.upsampling import Upsampler
from sim2real.sim.camera_rig import CameraRig, RigCamera
from sim2real.sim.kinematics import Kinematics
from sim2real.sim.scene import SceneObject
from sim2real.sim.stepper import Stepper, default_state
from sim2real.tasks.language_phrases import Deed, Phrasing, draw_phrase
from sim2real.tasks.panda_scene import NAMES

RATE_HZ = 10.0
START_SPREAD_RAD = 0.05


def told_tasks(prefix: str) -> tuple[str, ...]:
    """Names of a task that asks for another thing in every run, and of those with always one."""
    return (prefix, *(f"{prefix}-{name}" for name in NAMES))


def told_thing(task: str, tasks: Sequence[str]) -> tuple[str, int | None]:
    """Name of the scene of a task, and index of the thing that it always asks for.

    Raises:
        InputError: the task is not one of ``tasks``.
    """
    if task not in tasks:
        raise InputError(f"task: expected one out of {list(tasks)}, got {task!r}")
    stem, _, name = task.rpartition("-")
    return (stem, NAMES.index(name)) if name in NAMES else (task, None)


class LanguageTask(ABC):
    """An environment: state is the joint positions, action the commanded ones, rad (or m).

    The scene of a seed is the same whatever is asked for.

    Args:
        task: its name.
        thing: index of the thing that it always asks for, or None.
        robot: name of the arm.
        deed: what shall be done to a thing.
        things: on the floor.
        solid: the arm can push and grasp the things; else they are only seen.
        cameras: who looks at them.
        max_steps: steps after which a run has failed.
        instruction: what the policy is told in every run, whatever the task counts as success;
            None to say what the task is.
        phrasing: words that are used to say it.
        look_every: steps from one image to the next; in between the last one is shown again. A
            policy that is asked every so many steps sees the same and waits less for the cameras.

    Attributes:
        robot: the arm.
        kinematics: of the arm.
        target: index of the thing that this run is about.
        done_to: index of the thing that it was done to, or None as yet.
        places_m: centres of the things at the start, (4, 3), m.
        instruction: what the policy is told.
    """

    target: int
    done_to: int | None

    def __init__(
        self,
        task: str,
        thing: int | None,
        *,
        robot: str,
        deed: Deed,
        things: Sequence[SceneObject],
        solid: bool,
        cameras: Sequence[RigCamera],
        max_steps: int,
        instruction: str | None,
        phrasing: Phrasing,
        look_every: int,
    ) -> None:
        self.robot = arm = get_robot(robot)
        self.spec = task_spec(task, arm, max_steps)
        self.kinematics = Kinematics(arm)
        self._thing, self._deed, self._solid = thing, deed, solid
        self._said, self._phrasing = instruction, phrasing
        self._stepper = Stepper(arm, objects=things if solid else ())
        self._rig = CameraRig(arm, things, cameras)
        self._upsampler = Upsampler(round(arm.control_rate_hz / RATE_HZ))
        self.target, self.done_to = 0, None
        self.places_m: Float = np.zeros((len(things), 3))
        self.instruction = ""
        self._look_every, self._steps = look_every, 0
        self._images: dict[str, NDArray[np.uint8]] = {}

    @abstractmethod
    def _draw_places(self, rng: np.random.Generator) -> Float:
        """Centres of the things, (4, 3), m."""

    def _draw_pose(self, rng: np.random.Generator) -> Float:
        """Pose to start from, (n,), rad."""
        return self._spread(rng, self.robot.default_rad, START_SPREAD_RAD)

    def _spread(self, rng: np.random.Generator, pose: Float, spread_rad: float) -> Float:
        """A pose near ``pose``, (n,); what slides stays where it is."""
        turning = [not joint.sliding for joint in self.robot.joints]
        out = pose.copy()
        out[turning] += rng.normal(0.0, spread_rad, sum(turning))
        return out

    @abstractmethod
    def _judge(self) -> int | None:
        """Index of the thing that it is being done to, or None."""

    @property
    def objects(self) -> Float:
        """Where the things are, as :meth:`sim2real.sim.camera_rig.CameraRig.images` takes it."""
        return self.places_m

    @property
    def hand_m(self) -> Float:
        """Position of the finger tips in the world, (3,), m."""
        return self.kinematics.end_effector(self._stepper.state.qpos_rad)[0]

    def reset(self, seed: int) -> Seen:
        """Start near the default pose, with the places of ``seed``."""
        rng = np.random.default_rng(seed)
        self.places_m = self._draw_places(rng)
        self.target = seed % len(NAMES) if self._thing is None else self._thing
        self.done_to = None
        self._steps = 0
        words = draw_phrase(NAMES[self.target], self._phrasing, seed, self._deed)
        self.instruction = words if self._said is None else self._said
        pose = np.clip(self._draw_pose(rng), self.robot.lower_rad, self.robot.upper_rad)
        if self._solid:
            self._stepper.things.place(self.places_m)
        self._stepper.reset(default_state(self.robot, pose))
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
            raise InputError(f"{self.spec.name}: expected {robot.n} finite positions, got {action}")
        limited = np.clip(action, robot.lower_rad, robot.upper_rad)
        for command in self._upsampler.commands(limited):
            self._stepper.step(command)
        if self.done_to is None:
            self.done_to = self._judge()
        return Outcome(
            seen=self._seen(),
            success=self.done_to == self.target,
            failure=self.done_to not in (None, self.target),
        )

    def _seen(self) -> Seen:
        qpos = self._stepper.state.qpos_rad
        if self._steps % self._look_every == 0:
            self._images = dict(self._rig.images(qpos, self.objects))
        self._steps += 1
        return Seen(state=qpos.copy(), images=dict(self._images), instruction=self.instruction)


def task_spec(task: str, robot: RobotSpec, max_steps: int) -> EnvironmentSpec:
    """Names and rates of a language task."""
    return EnvironmentSpec(
        name=task,
        state_names=tuple(f"qpos/{joint}" for joint in robot.joint_names),
        action_names=tuple(f"position/{joint}" for joint in robot.joint_names),
        rate_hz=RATE_HZ,
        max_steps=max_steps,
        hold=Hold(rest=tuple(robot.default_rad.tolist()), keep=(True,) * robot.n),
        smooth=tuple(not joint.sliding for joint in robot.joints),
    )
