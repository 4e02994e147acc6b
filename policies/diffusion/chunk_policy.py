"""A generative model as the policy of a robot: observations by name in, joint commands out.

States are named ``quantity/joint`` with the quantities of :data:`QUANTITIES`, and ``goal/x``,
``goal/y``, ``goal/z``; actions ``position/joint`` or ``velocity/joint``, in rad and rad/s.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from policies.actor.config import ActionConfig
from policies.actor.onnx_actor import VelocityPlan, check_robot, pose_array
from policies.diffusion.config import RobotBinding
from policies.diffusion.interface import ChunkModel, Window
from policies.errors import InputError
from policies.interface import (
    ActionChunk,
    Float,
    Observation,
    PolicySpec,
    RobotSpec,
    reorder_index,
)
from policies.messages import NS

QUANTITIES = ("qpos", "qvel", "effort", "command", "command_velocity", "tracking_error")
"""Joint quantities: measured position, rad, velocity, rad/s, and torque, Nm; the policy's own
command in force, rad, its velocity, rad/s, and how far the joint is behind it, rad."""
_AXES = ("x", "y", "z")
_NEEDS = {"effort": "effort_nm", "goal": "goal"}
# The stream is interpolated to the robot's command rate, where a change of velocity counts double.
_VELOCITY_FRACTION, _ACCELERATION_FRACTION = 0.5, 0.48


def state_index(names: Sequence[str], robot: RobotSpec, what: str) -> NDArray[np.intp]:
    """Where the entries of a state lie among all joint quantities, one after the other, and goal.

    Args:
        names: such as ``qpos/panda_joint1`` or ``goal/x``.
        robot: the robot.
        what: whose names they are, for the error text.

    Raises:
        InputError: the robot cannot tell one of them.
    """
    known = [f"{quantity}/{joint}" for quantity in QUANTITIES for joint in robot.joint_names]
    known += [f"goal/{axis}" for axis in _AXES]
    place = {name: i for i, name in enumerate(known)}
    for name in names:
        if name not in place:
            raise InputError(
                f"{what}: expected states such as '{known[0]}' or 'goal/x', out of "
                f"{[*QUANTITIES, 'goal']} and joints of {robot.name}, got {name!r}"
            )
    return np.array([place[name] for name in names], dtype=np.intp)


def action_joints(names: Sequence[str], robot: RobotSpec, what: str) -> tuple[str, list[str]]:
    """What the actions are, ``position`` or ``velocity``, and the joints that they command.

    Args:
        names: such as ``position/panda_joint1``.
        robot: the robot.
        what: whose names they are, for the error text.

    Raises:
        InputError: a name is of another kind, kinds are mixed, or the robot has no such joint.
    """
    pairs = [name.partition("/") for name in names]
    quantity = pairs[0][0]
    for name, (kind, _, joint) in zip(names, pairs, strict=True):
        if kind != quantity or kind not in ("position", "velocity"):
            raise InputError(
                f"{what}: expected actions such as 'position/{robot.joint_names[0]}', all of them "
                f"positions or all velocities, got {name!r}"
            )
        if joint not in robot.joint_names:
            raise InputError(
                f"{what}: expected actions for joints of {robot.name}, got {name!r}; use the robot "
                "whose joints these are"
            )
    return quantity, [joint for _, _, joint in pairs]


def bind_robot(
    state_names: Sequence[str], action_names: Sequence[str], first: Float, robot: RobotSpec
) -> RobotBinding:
    """Check that demonstrations are of a robot.

    Args:
        state_names: of the demonstrations.
        action_names: of the demonstrations.
        first: mean of the states in which they start, (D,): the pose to start from, where they
            tell it.
        robot: the robot.

    Raises:
        InputError: a name is not one that the robot knows.
    """
    state_index(state_names, robot, "demonstrations")
    action_joints(action_names, robot, "demonstrations")
    pose = dict(zip(robot.joint_names, robot.default_rad.tolist(), strict=True))
    for name, value in zip(state_names, first.tolist(), strict=True):
        quantity, _, joint = name.partition("/")
        if quantity == "qpos":
            pose[joint] = value
    return RobotBinding(name=robot.name, fingerprint=robot.fingerprint, start_pose_rad=pose)


class RobotModel(ChunkModel, Protocol):
    """A model that knows for which robot it was made."""

    @property
    def robot(self) -> RobotBinding | None:
        """The robot, or None for a task without one."""


class ChunkPolicy:
    """Implements :class:`policies.interface.Policy` with a generative model.

    ``act`` answers every observation. The model is asked anew every ``action_horizon`` steps of
    its plan, counted by the observations' stamps; in between the answer is the rest of the plan.
    Velocities are integrated from the command in force, within the robot's limits.

    Args:
        model: the model; its checkpoint names the robot.
        robot: the robot that it shall run on.
        sha256: hash over the checkpoint's files.
        instructed: each observation must carry an instruction; another one takes effect with the
            next chunk.

    Raises:
        InputError: the model is not for this robot.
    """

    def __init__(
        self, model: RobotModel, robot: RobotSpec, sha256: str, *, instructed: bool = False
    ) -> None:
        spec, binding = model.spec, model.robot
        what = f"checkpoint {spec.name!r}"
        if binding is None:
            raise InputError(
                f"{what}: expected a model for the robot {robot.name}, got one for no robot; train "
                "it with --robot"
            )
        check_robot(binding.name, binding.fingerprint, robot, what)
        self.model = model
        self._index = state_index(spec.state_names, robot, what)
        quantity, joints = action_joints(spec.action_names, robot, what)
        self._joints = reorder_index(robot.joint_names, joints, what)
        self._dt_s = 1.0 / spec.rate_hz
        self._hold = pose_array(binding.start_pose_rad, robot, what)
        self._decode: VelocityPlan | None = None
        if quantity == "velocity":
            limits = ActionConfig(
                type="command_velocity",
                joints=tuple(joints),
                dt_s=self._dt_s,
                velocity_fraction=_VELOCITY_FRACTION,
                acceleration_fraction=_ACCELERATION_FRACTION,
            )
            self._decode = VelocityPlan(limits, robot, self._joints)
        needs = {_NEEDS.get(name.partition("/")[0], "") for name in spec.state_names} - {""}
        self.spec = PolicySpec(
            name=spec.name,
            robot=robot.name,
            robot_fingerprint=robot.fingerprint,
            rate_hz=spec.rate_hz,
            action_dt_s=self._dt_s,
            horizon=spec.prediction_horizon + (self._decode is not None),
            duration_s=None,
            start_pose_rad=tuple(self._hold.tolist()),
            needs=(*sorted(needs), *(("instruction",) if instructed else ())),
            sha256=sha256,
        )
        self._forget()

    def reset(self, seed: int) -> None:
        """Forget history and plan; the same seed gives the same answers."""
        self.model.reset(seed)
        self._forget()

    def _forget(self) -> None:
        self._states: list[Float] = []
        self._images: dict[str, list[NDArray[np.uint8]]] = {}
        self._instruction: str | None = None
        self._stamp_ns = 0
        self._plan: Float | None = None
        self._speeds = np.zeros((1, len(self._joints)))

    def act(self, observation: Observation) -> ActionChunk:
        """Answer one observation.

        Args:
            observation: canonical joint order.

        Returns:
            Chunk of (steps, n) positions, stamped as the observation: all steps of a fresh plan,
            or those left of the present one.

        Raises:
            InputError: a field or a camera that the policy needs is missing.
        """
        spec = self.model.spec
        step, (command, speed) = 0, self.at_rest(observation)
        if self._plan is not None:
            step = round((observation.stamp_ns - self._stamp_ns) / (self._dt_s * NS))
            step = max(step, 0)
            at = min(step, len(self._plan) - 1)
            # A plan that ran out has stopped at its last step.
            command, speed = self._plan[at], self._speeds[at] * float(at == step)
        self.observe(observation, command, speed)
        if self._plan is None or not 0 < step < spec.action_horizon:
            actions = self.model.sample(self.window(), executed=step)[0]
            self._plan, self._speeds = self.decode(actions, observation, command, speed)
            self._stamp_ns, step = observation.stamp_ns, 0
        return self.chunk(observation, self._plan[step:])

    # ---- the parts of act(), see policies.runtime.planning ----------------------------------

    def at_rest(self, observation: Observation) -> tuple[Float, Float]:
        """Command and its velocity of an arm that stands where it is, (joints,) each."""
        return observation.qpos_rad[self._joints], np.zeros(len(self._joints))

    def window(self) -> Window:
        """The last observations, as a copy."""
        return Window(
            state=np.stack(self._states)[None],
            images={name: np.stack(past)[None] for name, past in self._images.items()},
            instructions=() if self._instruction is None else (self._instruction,),
        )

    def decode(
        self, actions: Float, observation: Observation, command: Float, speed: Float
    ) -> tuple[Float, Float]:
        """Commands of the steps from now on, and their velocities, (steps, joints) each.

        Args:
            actions: the model's actions from now on, raw units, (steps, A).
            observation: newest observation.
            command: command in force, (joints,), rad.
            speed: its velocity, (joints,), rad/s.
        """
        if self._decode is not None:
            return self._decode(actions, observation.qpos_rad[self._joints], command, speed)
        return actions, np.diff(actions, axis=0, prepend=command[None]) / self._dt_s

    def stop(
        self, observation: Observation, command: Float, speed: Float, steps: int
    ) -> tuple[Float, Float]:
        """As :meth:`decode`, without a plan.

        Velocities run out within the robot's limits. A position is kept: that is where the plan
        wanted to be, and the guard brakes what still moves.
        """
        if self._decode is None:
            return np.repeat(command[None], steps, axis=0), np.zeros((steps, len(self._joints)))
        return self.decode(np.zeros((steps, len(self._joints))), observation, command, speed)

    def chunk(self, observation: Observation, commands: Float) -> ActionChunk:
        """Commands (steps, joints) as the answer to an observation; other joints are held."""
        positions = np.empty((len(commands), len(self._hold)))
        positions[:] = self._hold
        positions[:, self._joints] = commands
        return ActionChunk(stamp_ns=observation.stamp_ns, dt_s=self._dt_s, positions_rad=positions)

    def observe(self, observation: Observation, command: Float, speed: Float) -> None:
        """Append to the last observations; the first one fills the window.

        Args:
            observation: canonical joint order.
            command: command in force, (joints,), rad.
            speed: its velocity, (joints,), rad/s.

        Raises:
            InputError: a field or a camera that the policy needs is missing.
        """
        for name in self.spec.needs:
            if getattr(observation, name) is None:
                raise InputError(
                    f"policy: expected {name} in each observation, but it is missing; "
                    "connect the topic that carries it"
                )
        spec, n = self.model.spec, len(self._hold)
        rows = np.zeros((len(QUANTITIES), n))
        rows[0], rows[1] = observation.qpos_rad, observation.qvel_rad_s
        if observation.effort_nm is not None:
            rows[2] = observation.effort_nm
        rows[3] = self._hold
        rows[3, self._joints], rows[4, self._joints] = command, speed
        rows[5] = rows[3] - rows[0]
        goal = np.zeros(3) if observation.goal is None else observation.goal
        state = np.concatenate([rows.ravel(), goal])[self._index]
        keep = spec.observation_horizon
        self._instruction = observation.instruction
        self._states = [*(self._states or [state] * keep)[1:], state][-keep:]
        for camera in spec.cameras:
            if camera.name not in observation.images:
                raise InputError(
                    f"policy: expected images of the camera {camera.name!r}, got cameras "
                    f"{sorted(observation.images)}; connect it"
                )
            image = observation.images[camera.name]
            past = self._images.get(camera.name) or [image] * keep
            self._images[camera.name] = [*past[1:], image][-keep:]
