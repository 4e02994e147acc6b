"""The reach task: bring the end effector of an arm to a position in its base frame.

Goals are drawn from a box in front of the arm. Each has one joint pose, a smooth function of the
goal: least squares around the default pose, with the hand kept pointing down as far as it costs
little.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.errors import InputError
from policies.interface import Float, Observation, Policy, RobotSpec
from policies.runtime.sampling import sample
from sim2real.sim.gaps import Gap
from sim2real.sim.kinematics import Kinematics
from sim2real.sim.stepper import Stepper, default_state

BOX_LOWER_M = (0.3, -0.35, 0.15)
BOX_UPPER_M = (0.6, 0.35, 0.6)
_BOXES_M = {"so101": ((0.14, -0.14, 0.04), (0.28, 0.14, 0.2))}  # of arms of another size
_NS = 1_000_000_000
_TOLERANCE_M = 1e-3
_LIMIT_MARGIN_RAD = 0.15
_POSITION_WEIGHT = 100.0
_DOWN_WEIGHT = 0.3
_POSTURE_WEIGHT = 0.1
_ITERATIONS = 40


def solve_goal(kinematics: Kinematics, goal_m: Float) -> Float | None:
    """Joint pose whose end effector is at ``goal_m``, (n,), rad, or None if there is none.

    Damped Gauss-Newton from the default pose on position, hand direction and posture.

    Args:
        kinematics: of the arm.
        goal_m: position in the base frame, (3,), m.
    """
    robot = kinematics.robot
    default = robot.default_rad
    lower, upper = robot.lower_rad + _LIMIT_MARGIN_RAD, robot.upper_rad - _LIMIT_MARGIN_RAD
    down = kinematics.end_effector(default)[1][:, 2].round()
    qpos = default.copy()
    for _ in range(_ITERATIONS):
        position, rotation = kinematics.end_effector(qpos)
        linear, angular = kinematics.jacobian(qpos)
        axis = rotation[:, 2]
        # d(axis)/dq = angular x axis; a bounded step keeps the linearisation honest.
        turn = np.cross(angular.T, axis).T
        miss = goal_m - position
        miss *= min(1.0, 0.1 / max(float(np.linalg.norm(miss)), 1e-9))
        a = np.vstack(
            [_POSITION_WEIGHT * linear, _DOWN_WEIGHT * turn, _POSTURE_WEIGHT * np.eye(robot.n)]
        )
        b = np.concatenate(
            [
                _POSITION_WEIGHT * miss,
                _DOWN_WEIGHT * (down - axis),
                _POSTURE_WEIGHT * (default - qpos),
            ]
        )
        qpos = np.clip(qpos + np.linalg.solve(a.T @ a, a.T @ b), lower, upper)
    miss = goal_m - kinematics.end_effector(qpos)[0]
    return qpos if float(np.linalg.norm(miss)) < _TOLERANCE_M else None


def sample_solved_goals(
    kinematics: Kinematics, count: int, rng: np.random.Generator
) -> tuple[Float, Float]:
    """Goals in the box that the arm can reach: positions (count, 3), m, and poses (count, n)."""
    lower_m, upper_m = _BOXES_M.get(kinematics.robot.name, (BOX_LOWER_M, BOX_UPPER_M))
    goals: list[Float] = []
    poses: list[Float] = []
    for _ in range(20 * count + 20):
        if len(goals) == count:
            break
        goal = rng.uniform(lower_m, upper_m)
        pose = solve_goal(kinematics, goal)
        if pose is not None:
            goals.append(goal)
            poses.append(pose)
    if len(goals) < count:
        raise InputError(
            f"expected the robot {kinematics.robot.name} to reach goals between {lower_m} and "
            f"{upper_m} m, but it reaches hardly any; use another robot for this task"
        )
    return np.reshape(goals, (count, 3)), np.reshape(poses, (count, kinematics.robot.n))


def sample_goals(robot: RobotSpec, n: int, seed: int) -> Float:
    """Draw ``n`` goals that ``robot`` can reach.

    Args:
        robot: an arm with a fixed base.
        n: how many.
        seed: the same seed gives the same goals.

    Returns:
        End-effector positions in the base frame, (n, 3), m.

    Raises:
        InputError: the robot has no end effector, or cannot reach the box in front of it.
    """
    return sample_solved_goals(Kinematics(robot), n, np.random.default_rng(seed))[0]


@dataclass(frozen=True, kw_only=True)
class ReachResult:
    """Outcome of a closed-loop run, one entry per goal.

    Attributes:
        error_m: distance of the end effector from the goal at the end, (goals,), m.
        velocity_ratio: largest command velocity over the robot's limit, (goals,).
        acceleration_ratio: largest command acceleration over the robot's limit, (goals,).
        lead_rad: largest distance between command and measured position, (goals,), rad.
    """

    error_m: Float
    velocity_ratio: Float
    acceleration_ratio: Float
    lead_rad: Float

    def success(self, tolerance_m: float = 0.03) -> float:
        """Share of goals that were reached within ``tolerance_m``."""
        return float(np.mean(self.error_m < tolerance_m))


def evaluate_reach(
    policy: Policy,
    robot: RobotSpec,
    goals_m: Float,
    *,
    gap: Gap | None = None,
    period_s: float = 4.0,
    from_default: bool = True,
) -> ReachResult:
    """Run ``policy`` in the simulator; chunks are interpolated to the control rate.

    Args:
        policy: the policy.
        robot: the robot.
        goals_m: goals in the base frame, (goals, 3), m.
        gap: how the robot differs from its nominal model.
        period_s: time for each goal, s.
        from_default: True to start every goal at rest in the default pose; False to go on from
            where the last one ended, as a robot does.
    """
    stepper = Stepper(robot, gap)
    kinematics = Kinematics(robot)
    decimation = round(robot.control_rate_hz / policy.spec.rate_hz)
    ticks = round(period_s * policy.spec.rate_hz)
    acceleration_limit = robot.array("acceleration_limit_rad_s2")
    rows = []
    stream = [robot.default_rad] * 2
    stamp_ns = 0
    policy.reset(0)
    for goal in goals_m:
        if from_default:
            stepper.reset(default_state(robot))
            policy.reset(0)
            stream, stamp_ns = [robot.default_rad] * 2, 0
        lead, start = 0.0, len(stream) - 2
        for _ in range(ticks):
            state = stepper.state
            chunk = policy.act(
                Observation(
                    stamp_ns=stamp_ns,
                    qpos_rad=state.qpos_rad,
                    qvel_rad_s=state.qvel_rad_s,
                    goal=goal,
                )
            )
            for k in range(decimation):
                now_ns = stamp_ns + round(k * _NS / robot.control_rate_hz)
                stream.append(sample(chunk, now_ns, hold=False))
                stepper.step(stream[-1])
            lead = max(lead, float(np.abs(stream[-1] - stepper.state.qpos_rad).max()))
            stamp_ns += round(_NS / policy.spec.rate_hz)
        velocity = np.diff(stream[start:], axis=0) * robot.control_rate_hz
        acceleration = np.diff(velocity, axis=0) * robot.control_rate_hz
        reached = kinematics.end_effector(stepper.state.qpos_rad)[0]
        rows.append(
            (
                float(np.linalg.norm(reached - goal)),
                float(np.max(np.abs(velocity) / robot.velocity_limit_rad_s)),
                float(np.max(np.abs(acceleration) / acceleration_limit)),
                lead,
            )
        )
    error, velocity_ratio, acceleration_ratio, leads = np.array(rows).T
    return ReachResult(
        error_m=error,
        velocity_ratio=velocity_ratio,
        acceleration_ratio=acceleration_ratio,
        lead_rad=leads,
    )
