"""An image task on the Panda: bring the hand to a ball that only a camera sees.

The state holds the joint positions and nothing of the ball; it lies at random on a level 0.25 m
above the floor. Images are cast by rays (:mod:`sim2real.sim.ray_camera`), so the task runs where
there is no graphics driver.
"""

from __future__ import annotations

import numpy as np

from policies.errors import InputError
from policies.evaluation.environment import EnvironmentSpec, Outcome, Seen
from policies.interface import Float
from policies.robots import get_robot
from policies.runtime.action_queue import Hold
from policies.runtime.upsampling import Upsampler
from sim2real.sim.kinematics import Kinematics
from sim2real.sim.ray_camera import RayCamera, View
from sim2real.sim.stepper import Stepper, default_state
from sim2real.tasks.reach import solve_goal

TOLERANCE_M = 0.04
CAMERA = "front"
VIEW = View(position_m=(1.3, 0.0, 0.9), target_m=(0.3, 0.0, 0.35), fov_deg=40.0)
_ROBOT = get_robot("panda")
_BALL_RADIUS_M = 0.04
_BALL_LOWER_M = (0.35, -0.3, 0.25)
_BALL_UPPER_M = (0.6, 0.3, 0.25)
_START_SPREAD_RAD = 0.05
_STEP_RAD = 0.08
_GAIN = 0.4

SPEC = EnvironmentSpec(
    name="panda-ball",
    state_names=_ROBOT.joint_names,
    action_names=_ROBOT.joint_names,
    rate_hz=10.0,
    max_steps=50,
    hold=Hold(rest=tuple(_ROBOT.default_rad.tolist()), keep=(True,) * _ROBOT.n),
    smooth=(True,) * _ROBOT.n,
)


class PandaBall:
    """The environment: state is the joint positions, action the commanded ones, rad."""

    spec = SPEC

    def __init__(self) -> None:
        self.kinematics = Kinematics(_ROBOT)
        self._stepper = Stepper(_ROBOT)
        self._camera = RayCamera(_ROBOT, VIEW, ball_radius_m=_BALL_RADIUS_M)
        self._upsampler = Upsampler(round(_ROBOT.control_rate_hz / SPEC.rate_hz))
        self.ball_m = np.array(_BALL_LOWER_M)

    def reset(self, seed: int) -> Seen:
        """Start near the default pose, with the ball of ``seed``."""
        rng = np.random.default_rng(seed)
        self.ball_m = rng.uniform(_BALL_LOWER_M, _BALL_UPPER_M)
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
            raise InputError(f"panda-ball: expected {_ROBOT.n} finite positions, got {action}")
        limited = np.clip(action, _ROBOT.lower_rad, _ROBOT.upper_rad)
        for command in self._upsampler.commands(limited):
            self._stepper.step(command)
        hand, _ = self.kinematics.end_effector(self._stepper.state.qpos_rad)
        reached = float(np.linalg.norm(hand - self.ball_m)) < TOLERANCE_M
        return Outcome(seen=self._seen(), success=reached)

    def _seen(self) -> Seen:
        qpos = self._stepper.state.qpos_rad
        return Seen(state=qpos.copy(), images={CAMERA: self._camera.image(qpos, self.ball_m)})


class PandaBallExpert:
    """Knows where the ball is, and goes to a pose whose hand is there."""

    def __init__(self, environment: PandaBall) -> None:
        """Take the environment whose ball it knows."""
        self._environment = environment

    def reset(self, seed: int) -> None:
        """Solve for the pose.

        Raises:
            InputError: the ball is out of reach.
        """
        pose = solve_goal(self._environment.kinematics, self._environment.ball_m)
        if pose is None:
            raise InputError(
                f"panda-ball: expected a ball within reach, got {self._environment.ball_m}"
            )
        self._pose = pose

    def act(self, seen: Seen) -> Float:
        """Next joint positions on the way, (7,), rad."""
        way = np.clip(_GAIN * (self._pose - seen.state), -_STEP_RAD, _STEP_RAD)
        return np.asarray(seen.state + way)
