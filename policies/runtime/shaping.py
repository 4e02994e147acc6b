"""What a policy wants, turned into what a robot may be told: ramp, limits, torque, hold."""

from __future__ import annotations

import numpy as np

from policies.interface import Float, RobotSpec
from policies.runtime.guard_config import NS, GuardConfig
from policies.runtime.limits import Limiter, limits_of, torque_window

_HOLD_BLEND_S = 0.1
_HELD_BACK_RAD = 1e-4


class CommandShaper:
    """Keeps the stream of commands inside the limits, whatever starts, stops or interrupts it.

    Args:
        robot: the robot.
        config: times of the guard.
    """

    def __init__(self, robot: RobotSpec, config: GuardConfig) -> None:
        self.robot = robot
        self.config = config
        self.limits = limits_of(robot)
        self.clamped = 0
        self.torque_limited = 0
        self.held_back = False
        self.command_rad: Float | None = None
        self._is_set_point = robot.command == "setpoint"
        self._limiter = Limiter(self.limits)
        self._full_budget_rad: Float = self.limits.velocity_rad_s * config.policy_period_s
        self._budget_rad = self._full_budget_rad
        self._qpos: Float | None = None
        self._qvel: Float = np.zeros(robot.n)
        self._ramp_ns = 0
        self._ramp_from: Float | None = None
        self._hold_ns = 0
        self._hold_from: Float | None = None
        self._hold_pose: Float | None = None

    def measured(self, qpos_rad: Float, qvel_rad_s: Float) -> None:
        """Take what the joints do, (n,) rad and rad/s, finite."""
        self._qpos, self._qvel = qpos_rad, qvel_rad_s

    def begin(self, first_rad: Float, now_ns: int) -> None:
        """Start a motion: a ramp if the first target, (n,), is far from where the robot is.

        It goes on from the last command, at its speed, if there was one: a robot that is still
        slowing down must not be told to stand where it was measured.
        """
        assert self._qpos is not None  # armed with a joint state
        if self.command_rad is None:
            self._limiter.start(self._qpos)
            self.command_rad = self._qpos
            # The first set-point may lead the measured pose by as much as `jump_rad` allows.
            self._budget_rad = np.maximum(self.limits.jump_rad, self._full_budget_rad)
        far = np.abs(first_rad - self.command_rad) > self.limits.jump_rad
        self._ramp_from = self.command_rad if bool(far.any()) else None
        self._ramp_ns = now_ns

    def follow(self, target_rad: Float, now_ns: int, dt_s: float) -> Float:
        """The command, (n,), on the way to a target, (n,), ``dt_s`` after the last one."""
        target = self._ramp(target_rad, now_ns)
        if self._is_set_point:
            paced = self._pace(target, dt_s)
            self.held_back = bool(np.any(np.abs(paced - target) > _HELD_BACK_RAD))
            target = self._within_torque(paced)
        else:
            target, self.held_back = self._limiter.follow(target, dt_s)
        self.clamped += self.held_back
        self.command_rad = target
        return target

    def begin_hold(self, now_ns: int) -> None:
        """From now on :meth:`hold` decelerates; a set-point goes to the pose measured now."""
        self._hold_ns = now_ns
        self._hold_from = self.command_rad
        self._hold_pose = self.command_rad if self._qpos is None else self._qpos
        self._ramp_from = None

    def forget(self) -> None:
        """The motion is over: the next one starts at the measured pose."""
        self.command_rad = None
        self._ramp_from = None

    def hold(self, now_ns: int, dt_s: float) -> Float | None:
        """Decelerate and stay, (n,); None if nothing is known of where the robot is."""
        if self.command_rad is None:  # it was not in motion: stay where it is measured
            if self._qpos is None:
                return None
            self._limiter.start(self._qpos)
            self.command_rad = self._hold_from = self._hold_pose = self._qpos
        if not self._is_set_point:
            self.command_rad = self._limiter.stop(dt_s)
            return self.command_rad
        start, pose = self._hold_from, self._hold_pose
        assert start is not None
        assert pose is not None
        share = min((now_ns - self._hold_ns) / NS / _HOLD_BLEND_S, 1.0)
        paced = self._pace(start + share * (pose - start), dt_s)
        self.command_rad = self._within_torque(paced)
        return self.command_rad

    def _ramp(self, target: Float, now_ns: int) -> Float:
        if self._ramp_from is None:
            return target
        share = (now_ns - self._ramp_ns) / NS / self.config.ramp_s
        if share >= 1.0:
            self._ramp_from = None
            return target
        smooth = share * share * (3.0 - 2.0 * share)
        blended: Float = self._ramp_from + smooth * (target - self._ramp_from)
        return blended

    def _pace(self, target: Float, dt_s: float) -> Float:
        """A set-point inside the range, as far from the last one as its speed allows.

        Set-points step once in a period of the policy, whatever the period of the guard. So speed
        is a budget: it fills up with time, at most to what one such period gives.
        """
        assert self.command_rad is not None
        filled = self._budget_rad + self.limits.velocity_rad_s * dt_s
        budget = np.minimum(filled, np.maximum(self._full_budget_rad, self._budget_rad))
        inside = np.minimum(np.maximum(target, self.limits.lower_rad), self.limits.upper_rad)
        step = np.minimum(np.maximum(inside - self.command_rad, -budget), budget)
        self._budget_rad = np.minimum(budget - np.abs(step), self._full_budget_rad)
        paced: Float = self.command_rad + step
        return paced

    def _within_torque(self, target: Float) -> Float:
        assert self._qpos is not None
        low, high = torque_window(self.robot, self._qpos, self._qvel)
        limited: Float = np.minimum(np.maximum(target, low), high)
        self.torque_limited += bool(np.any(limited != target))
        return limited
