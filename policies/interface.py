"""Types every part of realign agrees on: robots, observations, action chunks, policies.

Joint arrays follow ``RobotSpec.joint_names``. Anything that crosses a file or a wire carries the
names and is reordered by name (:func:`reorder_index`), never by index. Units are SI, angles rad,
quaternions wxyz. Nothing here imports torch, ROS or a simulator.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError

Float = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class JointSpec:
    """One joint; of a sliding one, read m and N where it says rad and Nm.

    Attributes:
        name: joint name as in the robot's URDF and on ``joint_states``.
        lower_rad, upper_rad: hardware position limits, rad.
        velocity_limit_rad_s: largest joint speed, rad/s.
        acceleration_limit_rad_s2: largest commanded acceleration, rad/s^2.
        effort_limit_nm: largest joint torque, Nm.
        default_rad: nominal pose, rad.
        kp_nm_rad, kd_nm_s_rad: gains of the joint PD loop, Nm/rad and Nm s/rad.
        armature_kg_m2, damping_nm_s_rad, friction_nm: nominal simulator values.
        sliding: the joint slides instead of turning.
    """

    name: str
    lower_rad: float
    upper_rad: float
    velocity_limit_rad_s: float
    acceleration_limit_rad_s2: float
    effort_limit_nm: float
    default_rad: float
    kp_nm_rad: float
    kd_nm_s_rad: float
    armature_kg_m2: float
    damping_nm_s_rad: float
    friction_nm: float
    sliding: bool = False


@dataclass(frozen=True, kw_only=True)
class GripperSpec:
    """A parallel gripper: two finger joints that move together.

    Attributes:
        finger_joints: names of the two prismatic joints.
        max_width_m: opening between the fingers, m.
        max_force_n: largest grasp force, N.
    """

    finger_joints: tuple[str, str]
    max_width_m: float
    max_force_n: float


@dataclass(frozen=True, kw_only=True)
class RobotSpec:
    """A robot: joints in order, rates, model source, and what a command to it means.

    Attributes:
        name: short name used on the command line (``g1``, ``panda``).
        joints: joints in the canonical order.
        floating_base: True for a legged robot (imu and odom exist).
        base_body: body that carries the IMU (legged) or is fixed to the world (arm).
        base_height_m: start height of the base above the floor, m (0 for a fixed base).
        ee_body: end-effector body, or None.
        control_rate_hz: rate of commands to the driver, Hz.
        state_rate_hz: rate at which a driver publishes joint states in real time, Hz.
        physics_dt_s: simulator time step, s.
        urdf: path below ``example-robot-data/robots``.
        urdf_prefixes: how names of joints and links begin in that file, and with us; None where
            they are the same.
        command: ``position`` means that the joint is expected to reach the commanded position
            (position, velocity and acceleration limits apply to the command itself);
            ``setpoint`` means a PD set-point that shapes torque (legged RL policies): it may lie
            outside the joint range, and is limited by the torque that it can cause.
        gravity_compensated: True where the robot's own controller cancels gravity.
        stop: the end of the stop ladder, ``damp`` (torque = -kd qdot) or ``brake`` (hold).
        gripper: gripper that is commanded beside the joints, or None.
        coupled: pairs of a joint that has no motor and the joint of ``joints`` whose position a
            gear gives it.
        max_tilt_rad, max_base_rate_rad_s: limits of the base attitude while active.
    """

    name: str
    joints: tuple[JointSpec, ...]
    floating_base: bool
    base_body: str
    base_height_m: float
    ee_body: str | None
    control_rate_hz: float
    state_rate_hz: float
    physics_dt_s: float
    urdf: str
    command: Literal["position", "setpoint"]
    gravity_compensated: bool
    stop: Literal["damp", "brake"]
    gripper: GripperSpec | None = None
    coupled: tuple[tuple[str, str], ...] = ()
    urdf_prefixes: tuple[str, str] | None = None
    max_tilt_rad: float = 1.0
    max_base_rate_rad_s: float = 15.0

    @property
    def n(self) -> int:
        """Number of joints."""
        return len(self.joints)

    @cached_property
    def joint_names(self) -> tuple[str, ...]:
        """Joint names in the canonical order."""
        return tuple(j.name for j in self.joints)

    def array(self, attribute: str) -> Float:
        """One numeric attribute of :class:`JointSpec` for all joints, shape (n,)."""
        values = np.array([getattr(j, attribute) for j in self.joints], dtype=np.float64)
        values.setflags(write=False)
        return values

    @cached_property
    def lower_rad(self) -> Float:
        """Lower position limits, shape (n,), rad."""
        return self.array("lower_rad")

    @cached_property
    def upper_rad(self) -> Float:
        """Upper position limits, shape (n,), rad."""
        return self.array("upper_rad")

    @cached_property
    def default_rad(self) -> Float:
        """Nominal pose, shape (n,), rad."""
        return self.array("default_rad")

    @cached_property
    def kp_nm_rad(self) -> Float:
        """Position gains, shape (n,), Nm/rad."""
        return self.array("kp_nm_rad")

    @cached_property
    def kd_nm_s_rad(self) -> Float:
        """Velocity gains, shape (n,), Nm s/rad."""
        return self.array("kd_nm_s_rad")

    @cached_property
    def velocity_limit_rad_s(self) -> Float:
        """Speed limits, shape (n,), rad/s."""
        return self.array("velocity_limit_rad_s")

    @cached_property
    def effort_limit_nm(self) -> Float:
        """Torque limits, shape (n,), Nm."""
        return self.array("effort_limit_nm")

    @cached_property
    def fingerprint(self) -> str:
        """Hash of what a policy and a robot must agree on, 16 hex digits.

        Joint names in order, units, default pose, gains, command meaning: stored in checkpoints,
        bags, episodes and delta models, and compared before any of them is used.
        """
        what = {
            "name": self.name,
            "joints": self.joint_names,
            "units": "rad",
            "default_rad": [round(float(v), 9) for v in self.default_rad],
            "kp": [round(float(v), 9) for v in self.kp_nm_rad],
            "kd": [round(float(v), 9) for v in self.kd_nm_s_rad],
            "command": self.command,
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


def reorder_index(have: Sequence[str], want: Sequence[str], what: str) -> NDArray[np.intp]:
    """Positions in ``have`` of the names in ``want``: ``x[index]`` is in the order of ``want``.

    Args:
        have: names as they came.
        want: names in the order that is needed; names in ``have`` beyond these are ignored.
        what: the thing that carries ``have``, for the error text.

    Raises:
        InputError: a name is duplicated or missing.
    """
    position: dict[str, int] = {}
    for i, name in enumerate(have):
        if name in position:
            raise InputError(
                f"{what}: joint name {name!r} appears twice; each joint must be named once: "
                "fix the publisher or the file"
            )
        position[name] = i
    missing = [name for name in want if name not in position]
    if missing:
        raise InputError(
            f"{what}: expected joints {missing} by name, but they are missing "
            f"(got {list(have)}); use the robot whose joints these are"
        )
    return np.array([position[name] for name in want], dtype=np.intp)


@dataclass(kw_only=True)
class Observation:
    """What the robot knows at one instant, in canonical joint order.

    Attributes:
        stamp_ns: time of the measurement, ROS time, ns.
        qpos_rad: joint positions, shape (n,), rad.
        qvel_rad_s: joint velocities, shape (n,), rad/s.
        effort_nm: measured torques, shape (n,), Nm, or None.
        base_quat_wxyz: base orientation in the world, shape (4,), or None for a fixed base.
        base_ang_vel_rad_s: base angular velocity in the base frame, shape (3,), rad/s, or None.
        goal: task goal, e.g. an end-effector position in the base frame (3,), m, or None.
        images: camera name -> uint8 array (H, W, 3), RGB.
        instruction: text for language-conditioned policies.
    """

    stamp_ns: int
    qpos_rad: Float
    qvel_rad_s: Float
    effort_nm: Float | None = None
    base_quat_wxyz: Float | None = None
    base_ang_vel_rad_s: Float | None = None
    goal: Float | None = None
    images: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    instruction: str | None = None


@dataclass(kw_only=True)
class ActionChunk:
    """A short plan of joint position commands, the answer to one observation.

    Attributes:
        stamp_ns: stamp of the observation that this answers, ns. Step k applies from
            ``stamp + k dt`` on.
        dt_s: time between steps, s.
        positions_rad: commands, shape (horizon, n), rad, canonical joint order.
    """

    stamp_ns: int
    dt_s: float
    positions_rad: Float


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """What a runtime must know of a policy before it runs it.

    Attributes:
        name: checkpoint name.
        robot: robot name.
        robot_fingerprint: :attr:`RobotSpec.fingerprint` that it was made for.
        rate_hz: how often it wants an observation, Hz.
        action_dt_s: time between the steps of its chunks, s.
        horizon: steps per chunk.
        duration_s: length of the motion that it tracks, s, or None for an endless policy.
        start_pose_rad: pose in which it expects to start, in canonical joint order.
        needs: observation fields that must be present (``base_quat_wxyz``, ``goal``, ...).
        sha256: hash over the checkpoint's files.
    """

    name: str
    robot: str
    robot_fingerprint: str
    rate_hz: float
    action_dt_s: float
    horizon: int
    duration_s: float | None
    start_pose_rad: tuple[float, ...]
    needs: tuple[str, ...]
    sha256: str


@runtime_checkable
class Policy(Protocol):
    """Anything that answers observations with action chunks."""

    spec: PolicySpec

    def reset(self, seed: int) -> None:
        """Forget history and start over; the same seed gives the same answers."""

    def act(self, observation: Observation) -> ActionChunk:
        """Answer one observation; called at ``spec.rate_hz``."""
