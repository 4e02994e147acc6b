"""Policy, guard and virtual robot in lockstep, without ROS: one process, one clock, one seed.

The order of events is that of the graph: the robot is read, the guard sees the sensors at once, the
policy sees them over one connection and answers over another, the guard gives a command, the robot
moves. Nothing depends on how busy the machine is: the same seed gives the same run, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from policies.errors import InputError
from policies.interface import ActionChunk, Float, Observation, Policy, RobotSpec
from policies.runtime.fault import Reason, State, Transition
from policies.runtime.guard import Guard
from policies.runtime.guard_config import Command, GuardConfig
from policies.runtime.ticker import Ticker
from sim2real.sim.virtual_robot import Sensors, VirtualRobot, parse_faults
from sim2real.testing.link import FaultyLink, LinkFaults

_ENDLESS_S = 10.0


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What a guarded run is like.

    Attributes:
        gap: dynamics gap of the virtual robot, e.g. ``payload`` or ``hidden:7``.
        faults: sensor faults of the virtual robot, e.g. ``nan_state@1.0:0.2``.
        observation: faults on the way from the sensors to the policy.
        action: faults on the way from the policy to the guard.
        seed: of start pose, policy, goals and connections.
        duration_s: length, s; default: all goals, the policy's motion, or 10 s.
        goals: goals for a policy that needs them.
        goal_period_s: time for each goal, s.
        guard: times of the guard; default: those of docs/faults.md at the policy's rate.
    """

    gap: str = "none"
    faults: str = ""
    observation: LinkFaults = field(default_factory=LinkFaults)
    action: LinkFaults = field(default_factory=LinkFaults)
    seed: int = 0
    duration_s: float | None = None
    goals: int = 1
    goal_period_s: float = 4.0
    guard: GuardConfig | None = None


@dataclass(frozen=True, kw_only=True)
class GuardedRun:
    """What happened.

    Attributes:
        completed: it ran its whole duration without a fall and without a stop.
        fell: a legged robot's base was too low or too tilted.
        state: state of the guard at the end.
        stopped_by: reason of the last HOLD or DAMP, or None.
        transitions: every change of the guard's state, in robot time.
        refused: refused chunks by reason.
        warnings: warnings by reason.
        clamped: commands that a limit held back.
        policy_error: what the policy raised, or None; it is silent from then on.
        stamp_ns: robot time of each tick, (ticks,), ns.
        command_rad: commands, (ticks, n), rad; NaN where the robot was damped or left alone.
        qpos_rad: measured positions, (ticks, n), rad.
        goal_error_m: distance of the end effector from each goal at its end, (goals,), m.
    """

    completed: bool
    fell: bool
    state: State
    stopped_by: Reason | None
    transitions: tuple[Transition, ...]
    refused: dict[Reason, int]
    warnings: dict[Reason, int]
    clamped: int
    policy_error: str | None
    stamp_ns: Float
    command_rad: Float
    qpos_rad: Float
    goal_error_m: Float

    def time_of(self, state: State) -> float | None:
        """Robot time of the first change to ``state``, s since the start, or None."""
        first = next((e.stamp_ns for e in self.transitions if e.new is state), None)
        return None if first is None else (first - float(self.stamp_ns[0])) / 1e9

    def success(self, tolerance_m: float = 0.03) -> bool:
        """True if it completed, and every goal, if there are any, was reached."""
        return self.completed and bool((self.goal_error_m < tolerance_m).all())


class GuardedLoop:
    """One run, step by step; :func:`run_guarded` carries a whole one out.

    Args:
        policy: the policy.
        robot: the robot that it is for.
        config: what the run is like.

    Raises:
        InputError: a policy for another robot, or a bad gap, fault or duration.
    """

    def __init__(self, policy: Policy, robot: RobotSpec, config: LoopConfig | None = None) -> None:
        self.policy, self.robot = policy, robot
        self.config = config = config or LoopConfig()
        spec = policy.spec
        if spec.robot_fingerprint != robot.fingerprint:
            raise InputError(
                f"expected a policy for {robot.name} ({robot.fingerprint}), got one for "
                f"{spec.robot} ({spec.robot_fingerprint}); name the robot that it was made for"
            )
        self.guard = Guard(robot, config.guard or GuardConfig(policy_period_s=1.0 / spec.rate_hz))
        self.goals = self._goals()
        length_s = config.duration_s or len(self.goals) * config.goal_period_s
        self.duration_s = length_s or spec.duration_s or _ENDLESS_S
        if self.duration_s <= 0.0:
            raise InputError(f"expected a duration above 0 s, got {self.duration_s:g}")
        self.sim = VirtualRobot(
            robot,
            gap=config.gap,
            seed=config.seed,
            rate_hz=robot.control_rate_hz,
            start_pose_rad=np.array(spec.start_pose_rad),
            faults=parse_faults(config.faults),
        )
        self.now_ns = self.sim.stamp_ns
        self.policy_error: str | None = None
        self._observations: FaultyLink[Sensors] = FaultyLink(config.observation, seed=config.seed)
        self._chunks: FaultyLink[ActionChunk] = FaultyLink(config.action, seed=config.seed + 1)
        self._ticker = Ticker(spec.rate_hz)
        self._armed = False
        self._rows: list[tuple[int, Float, Float]] = []
        self._errors: list[float] = []
        policy.reset(config.seed)

    @property
    def done(self) -> bool:
        """True when the run has lasted its duration, by the clock that also runs while it waits."""
        return (self.now_ns - 1_000_000_000) / 1e9 >= self.duration_s - 1e-9

    def step(self) -> Command | None:
        """One control tick; returns the command, None where the robot is left alone."""
        now, guard, reading = self.now_ns, self.guard, self.sim.read()
        if reading.imu_quat_wxyz is not None and reading.imu_gyro_rad_s is not None:
            guard.on_base(
                now, reading.imu_quat_wxyz, reading.imu_gyro_rad_s, reading.imu_accel_m_s2
            )
        if reading.qpos_rad is not None and reading.qvel_rad_s is not None:
            guard.on_state(reading.stamp_ns, now, reading.qpos_rad, reading.qvel_rad_s)
            self._observations.send(reading, now)
        if not self._armed:  # once: after a stop only an operator arms again
            self._armed = guard.arm(now) is None
        for seen in self._observations.receive(now):
            self._ask(seen)
        for chunk in self._chunks.receive(now):
            guard.on_chunk(chunk, now)
        command = guard.tick(now)
        self._remember(reading, command)
        if command is not None:
            self.sim.step(command.positions_rad)
        self.now_ns += self.sim.dt_ns
        self._note_goal()
        return command

    def result(self) -> GuardedRun:
        """What has happened so far."""
        guard, sim = self.guard, self.sim
        stops = [e for e in guard.transitions if e.new in (State.HOLD, State.DAMP)]
        stamps, commands, qpos = zip(*self._rows, strict=True)
        return GuardedRun(
            completed=self.done and not sim.fell and not stops and sim.steps > 0,
            fell=sim.fell,
            state=guard.state,
            stopped_by=stops[-1].reason if stops else None,
            transitions=tuple(guard.transitions),
            refused=dict(guard.refused),
            warnings=dict(guard.warnings),
            clamped=guard.clamped,
            policy_error=self.policy_error,
            stamp_ns=np.array(stamps),
            command_rad=np.array(commands),
            qpos_rad=np.array(qpos),
            goal_error_m=np.array(self._errors),
        )

    def _ask(self, seen: Sensors) -> None:
        if self.policy_error is not None or not self._ticker.due(seen.stamp_ns):
            return
        assert seen.qpos_rad is not None
        assert seen.qvel_rad_s is not None
        if self.robot.floating_base and seen.imu_quat_wxyz is None:
            return
        observation = Observation(
            stamp_ns=seen.stamp_ns,
            qpos_rad=seen.qpos_rad,
            qvel_rad_s=seen.qvel_rad_s,
            effort_nm=seen.effort_nm,
            base_quat_wxyz=seen.imu_quat_wxyz,
            base_ang_vel_rad_s=seen.imu_gyro_rad_s,
            goal=self.goals[self._goal_index] if len(self.goals) else None,
        )
        try:
            self._chunks.send(self.policy.act(observation), self.now_ns)
        except Exception as error:  # whatever a policy raises: to the guard it falls silent
            self.policy_error = f"{type(error).__name__}: {error}"

    def _goals(self) -> Float:
        if "goal" not in self.policy.spec.needs:
            return np.zeros((0, 3))
        from sim2real.tasks.reach import sample_goals

        return sample_goals(self.robot, self.config.goals, self.config.seed)

    @property
    def _goal_index(self) -> int:
        elapsed_s = (self.now_ns - 1_000_000_000) / 1e9
        return min(int(elapsed_s / self.config.goal_period_s), len(self.goals) - 1)

    def _note_goal(self) -> None:
        ends = (len(self._errors) + 1) * self.config.goal_period_s
        if len(self._errors) < len(self.goals) and (self.now_ns - 1e9) / 1e9 >= ends - 1e-9:
            from sim2real.sim.kinematics import Kinematics

            reached = Kinematics(self.robot).end_effector(self.sim.stepper.state.qpos_rad)[0]
            goal = self.goals[len(self._errors)]
            self._errors.append(float(np.linalg.norm(reached - goal)))

    def _remember(self, reading: Sensors, command: Command | None) -> None:
        unknown = np.full(self.robot.n, np.nan)
        sent = None if command is None else command.positions_rad
        qpos = reading.qpos_rad
        self._rows.append(
            (self.now_ns, unknown if sent is None else sent, unknown if qpos is None else qpos)
        )


def run_guarded(
    policy: Policy,
    robot: RobotSpec,
    config: LoopConfig | None = None,
    *,
    each_tick: Callable[[GuardedLoop], None] | None = None,
) -> GuardedRun:
    """Run a policy on the virtual robot behind the guard.

    Args:
        policy: the policy.
        robot: the robot that it is for.
        config: what the run is like.
        each_tick: called before every tick, e.g. to press the e-stop.

    Raises:
        InputError: policy, robot and configuration do not fit.
    """
    loop = GuardedLoop(policy, robot, config)
    while not loop.done and not loop.sim.fell:
        if each_tick is not None:
            each_tick(loop)
        loop.step()
    return loop.result()
