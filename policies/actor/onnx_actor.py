"""An actor whose network is an ONNX file: observation terms in, joint position chunks out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from policies.actor.config import ActionConfig, ActorConfig
from policies.actor.onnx_model import OnnxNetwork
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
from policies.processors import ActorState, Float32, ObservationBuilder

_UNIT_SLACK_RAD = 0.5


def pose_array(pose: dict[str, float], robot: RobotSpec, what: str) -> Float:
    """Pose given by joint name -> array (n,) in canonical order, rad.

    Raises:
        InputError: a joint is missing or unknown, or a value cannot be an angle in rad.
    """
    array = np.full(robot.n, np.nan)
    array[reorder_index(robot.joint_names, tuple(pose), f"{what}, robot {robot.name}")] = list(
        pose.values()
    )
    missing = [name for name, x in zip(robot.joint_names, array, strict=True) if np.isnan(x)]
    if missing:
        raise InputError(f"{what}: expected a position for each joint, {missing} are missing")
    far = np.maximum(robot.lower_rad - array, array - robot.upper_rad)
    if far.max() > _UNIT_SLACK_RAD:
        i = int(far.argmax())
        raise InputError(
            f"{what}: expected {robot.joint_names[i]} between {robot.lower_rad[i]:.2f} and "
            f"{robot.upper_rad[i]:.2f} rad, got {array[i]:g}; check that the unit is rad"
        )
    return array


class OnnxActor:
    """Implements :class:`policies.interface.Policy` with one ONNX network.

    ``act`` answers every observation. With a horizon above 1 the network is asked anew every
    ``replan_every`` steps of the plan, counted by the observations' stamps; in between the answer
    is the rest of the plan. The command in force (``last_command``, and the start of a
    ``command_velocity`` plan) is what the plan has for the observation's stamp, and the measured
    position at the first tick.

    Args:
        config: content of config.json.
        robot: the robot that it shall run on.
        model: content of policy.onnx.
        sha256: hash over the checkpoint's files.

    Raises:
        InputError: the checkpoint is for another robot, its joints are not the robot's, the
            network's sizes are not those of the declared terms and action, or it is damaged.
    """

    def __init__(self, config: ActorConfig, robot: RobotSpec, model: bytes, sha256: str) -> None:
        what = f"checkpoint {config.name!r}"
        check_robot(config.robot, config.robot_fingerprint, robot, what)
        self.config = config
        action = config.action
        self._action = action
        self._joints = reorder_index(
            robot.joint_names, action.joints, f"{what}, action, robot {robot.name}"
        )
        if not action.joints or len(set(action.joints)) != len(action.joints):
            raise InputError(f"{what}: expected each commanded joint once, got {action.joints}")
        self._hold = _hold_pose(config, robot, what)
        n, horizon = len(action.joints), action.horizon
        outputs = output_size(action)
        self._builder = ObservationBuilder(
            robot,
            config.observation,
            action_joints=action.joints,
            action_size=outputs,
            rate_hz=config.rate_hz,
            duration_s=config.duration_s,
        )
        self._network = OnnxNetwork(model, f"{what}, policy.onnx", self._builder.vector)
        if self._network.output_size != outputs:
            raise InputError(
                f"{what}: expected a network with {outputs} outputs ({outputs // n} steps of "
                f"{n} joints), got {self._network.output_size}; correct 'action' or the network"
            )
        self._default = robot.default_rad[self._joints]
        self._decode = VelocityPlan(action, robot, self._joints) if _is_velocity(action) else None
        self._dt_ns = action.dt_s * NS
        self._plan = np.zeros((horizon, n))
        self._plan_vel = np.zeros((horizon, n))
        self.spec = PolicySpec(
            name=config.name,
            robot=robot.name,
            robot_fingerprint=robot.fingerprint,
            rate_hz=config.rate_hz,
            action_dt_s=action.dt_s,
            horizon=horizon,
            duration_s=config.duration_s,
            start_pose_rad=tuple(pose_array(config.start_pose_rad, robot, what).tolist()),
            needs=self._builder.needs,
            sha256=sha256,
        )
        self.reset(0)

    @property
    def observation_vector(self) -> Float32:
        """The network's input at the last tick, (size,), copied."""
        return np.array(self._builder.vector[0])

    def reset(self, seed: int) -> None:
        """Forget history and plan; the actor is deterministic, so ``seed`` changes nothing."""
        n = len(self._action.joints)
        self._builder.reset()
        self._network.output[:] = 0.0
        self._state = ActorState(
            tick=0,
            last_action=self._network.output,  # at build time it still holds the last tick's
            command_rad=np.zeros(n),
            command_vel_rad_s=np.zeros(n),
        )
        self._plan_stamp_ns = 0

    def act(self, observation: Observation) -> ActionChunk:
        """Answer one observation.

        Args:
            observation: canonical joint order.

        Returns:
            Chunk of (steps, n) positions, float64, stamped as the observation: all steps of a
            fresh plan, or those left of the present one.

        Raises:
            InputError: a field that the policy needs is missing.
        """
        state = self._state
        step = self._follow_plan(observation)
        self._builder.build(observation, state)
        if step == 0:
            self._network.run()
            self._make_plan(observation)
            self._plan_stamp_ns = observation.stamp_ns
        state.tick += 1
        positions = np.empty((self._action.horizon - step, len(self._hold)))
        positions[:] = self._hold
        positions[:, self._joints] = self._plan[step:]
        return ActionChunk(
            stamp_ns=observation.stamp_ns, dt_s=self._action.dt_s, positions_rad=positions
        )

    def _follow_plan(self, observation: Observation) -> int:
        """Bring the command in force up to date; returns the plan's present step, 0 to replan."""
        state, horizon = self._state, self._action.horizon
        if state.tick == 0:
            state.command_rad = observation.qpos_rad[self._joints]
            return 0
        step = 1
        if horizon > 1:
            step = round((observation.stamp_ns - self._plan_stamp_ns) / self._dt_ns)
        if step > 0:
            state.command_rad = self._plan[min(step, horizon - 1)]
            # A plan that ran out has stopped at its last step.
            going = step < horizon or horizon == 1
            state.command_vel_rad_s = self._plan_vel[min(step, horizon - 1)] * float(going)
        return step if 0 <= step < self._action.replan_every else 0

    def _make_plan(self, observation: Observation) -> None:
        action, state = self._action, self._state
        raw = self._network.output.astype(np.float64).reshape(-1, len(self._joints))
        # Plain ufuncs: np.clip takes several times as long on arrays of this size.
        scaled = np.minimum(np.maximum(raw, -action.clip), action.clip) * action.scale
        if self._decode:
            self._plan, self._plan_vel = self._decode(
                scaled,
                observation.qpos_rad[self._joints],
                state.command_rad,
                state.command_vel_rad_s,
            )
            return
        self._plan = self._default + scaled
        if action.horizon > 1 or self._builder.needs_command:
            self._plan_vel = np.diff(self._plan, axis=0, prepend=state.command_rad[None])
            self._plan_vel /= action.dt_s


class VelocityPlan:
    """Integrates planned command velocities into a stream within the robot's limits.

    Args:
        action: time step, limits and lead.
        robot: the robot.
        joints: commanded joints in the robot's order, (joints,).
    """

    def __init__(self, action: ActionConfig, robot: RobotSpec, joints: NDArray[np.intp]) -> None:
        self._dt_s = action.dt_s
        self._lead = action.max_lead_rad
        self._velocity = action.velocity_fraction * robot.velocity_limit_rad_s[joints]
        acceleration = robot.array("acceleration_limit_rad_s2")[joints]
        self._slew = action.acceleration_fraction * acceleration * action.dt_s
        limited = robot.command == "position"
        self._lower = robot.lower_rad[joints] if limited else np.full(len(joints), -np.inf)
        self._upper = robot.upper_rad[joints] if limited else np.full(len(joints), np.inf)

    def __call__(
        self, velocity: Float, measured_rad: Float, command_rad: Float, command_vel: Float
    ) -> tuple[Float, Float]:
        """Plan of positions and of the velocities that lead to them, (horizon, joints) each.

        Args:
            velocity: wanted command velocities, (horizon - 1, joints), rad/s.
            measured_rad: measured positions, (joints,), rad.
            command_rad: command in force, (joints,), rad.
            command_vel: its velocity, (joints,), rad/s.
        """
        wanted = np.minimum(np.maximum(velocity, -self._velocity), self._velocity)
        speeds = np.empty((len(wanted) + 1, len(command_rad)))
        speeds[0] = last = command_vel
        for k, row in enumerate(wanted):
            last = np.minimum(np.maximum(row, last - self._slew), last + self._slew)
            speeds[k + 1] = last
        start = np.clip(command_rad, measured_rad - self._lead, measured_rad + self._lead)
        positions = np.empty_like(speeds)
        positions[0] = start
        positions[1:] = start + np.cumsum(speeds[1:], axis=0) * self._dt_s
        return np.minimum(np.maximum(positions, self._lower), self._upper), speeds


def output_size(action: ActionConfig) -> int:
    """Number of outputs of the network: a velocity plan has one row less than positions."""
    rows = action.horizon - 1 if _is_velocity(action) else action.horizon
    return rows * len(action.joints)


def _is_velocity(action: ActionConfig) -> bool:
    return action.type == "command_velocity"


def check_robot(name: str, fingerprint: str, robot: RobotSpec, what: str) -> None:
    """Check that a policy was made for a robot as it is.

    Args:
        name: robot that the policy was made for.
        fingerprint: of that robot.
        robot: the robot that it shall run on.
        what: name of the checkpoint in error texts.

    Raises:
        InputError: it was made for another.
    """
    if name != robot.name:
        raise InputError(
            f"{what}: expected the robot {name}, for which it was made, got {robot.name}; "
            f"use --robot {name} or another checkpoint"
        )
    if fingerprint != robot.fingerprint:
        raise InputError(
            f"{what}: expected robot {robot.name} with fingerprint {fingerprint}, got "
            f"{robot.fingerprint}; joints, default pose or gains changed since it was made: "
            "make or import it again"
        )


def _hold_pose(config: ActorConfig, robot: RobotSpec, what: str) -> Float:
    """Command of all joints before the policy's own are filled in, (n,)."""
    both = sorted(set(config.hold_pose_rad) & set(config.action.joints))
    if both:
        raise InputError(
            f"{what}: expected each joint either commanded or held, got both for {both}"
        )
    commanded = dict.fromkeys(config.action.joints, 0.0)
    lookup = dict(zip(robot.joint_names, robot.default_rad.tolist(), strict=True))
    for name in commanded:
        commanded[name] = lookup.get(name, 0.0)
    return pose_array({**config.hold_pose_rad, **commanded}, robot, f"{what}, 'hold_pose_rad'")
