"""The guard: the last piece of code between a policy and a robot.

It takes joint states and action chunks and gives one command per control tick. A chunk is taken
whole or refused whole; a command is always finite, fresh and inside the limits of the robot; when
the policy, the sensors, the clock or the machine misbehave it holds, and then stops. Pure: the
caller passes the clock (steady time in real time, simulated time in lockstep), so every fault is a
unit test. :mod:`policies.runtime.fault_table` lists the faults.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import numpy as np

from policies.interface import ActionChunk, Float, RobotSpec
from policies.rotation import tilt_rad
from policies.runtime.fault import Reason, State, Transition
from policies.runtime.guard_config import NS, Command, GuardConfig
from policies.runtime.judge import judge
from policies.runtime.plausibility import implausible_imu, implausible_joints
from policies.runtime.sampling import sample
from policies.runtime.shaping import CommandShaper
from policies.runtime.watches import FrozenWatch, OverrunWatch, RateWatch, Streak

# Holds that end by themselves when fresh chunks arrive; all others end in DAMP.
_RESUMABLE = (Reason.POLICY_SILENT, Reason.CLOCK_JUMP, Reason.OVERRUN)
# Faults of the way, not of the policy: without consequence but for the silence that they leave.
_LATE = (Reason.OLD_CHUNK, Reason.STALE_CHUNK)
_LONGEST_TICK_S = 0.1


class Guard:
    """State machine UNCONFIGURED -> INACTIVE -> READY -> ACTIVE -> HOLD -> DAMP (latched)."""

    def __init__(
        self,
        robot: RobotSpec,
        config: GuardConfig | None = None,
        *,
        on_transition: Callable[[Transition], None] | None = None,
    ) -> None:
        self.robot = robot
        self.config = config or GuardConfig()
        self.state = State.UNCONFIGURED
        self.implausible: str | None = None
        self.refused: dict[Reason, int] = {}
        self.warnings: dict[Reason, int] = {}
        self.commands = 0
        self.transitions: deque[Transition] = deque(maxlen=256)
        self.shaper = CommandShaper(robot, self.config)
        self.overruns = OverrunWatch(self.config.tick_period_s)
        self.pace = RateWatch(self.config.rate_tolerance)
        self._clamping = Streak()
        self._on_transition = on_transition
        self._refusal_times: deque[int] = deque(maxlen=self.config.refusals_per_s)
        self._qpos: Float | None = None
        self._qvel: Float = np.zeros(robot.n)
        self._state_stamp_ns = 0
        self._state_ns: int | None = None
        self._imu_ns: int | None = None
        self._imu: tuple[Float, Float, Float | None] | None = None
        self._frozen = FrozenWatch()
        self._tick_ns = 0
        self._hold_ns = 0
        self._hold_reason: Reason | None = None
        self._chunk: ActionChunk | None = None
        self._chunk_ns: int | None = None
        self._operator_ns: int | None = None
        self._charge = 1.0

    # ---- the operator -------------------------------------------------------------------------

    def arm(self, now_ns: int) -> Reason | None:
        """INACTIVE -> READY; returns why not, or None."""
        if self.state is State.READY:
            return None
        if self.state not in (State.INACTIVE, State.UNCONFIGURED):
            return Reason.NOT_ARMED
        reason = self._sensors_missing(now_ns)
        if reason is None and self.state is State.UNCONFIGURED:
            reason = Reason.IMPLAUSIBLE
        if reason is None and self._operator_lost(now_ns):
            reason = Reason.OPERATOR_LOST
        if reason is None and self._charge < self.config.min_charge:
            reason = Reason.BATTERY_LOW
        if reason is None and abs(self.pace.error) > self.config.rate_refusal:
            reason = Reason.RATE_MISMATCH
        if reason is None:
            self._go(State.READY, Reason.OPERATOR, now_ns)
        return reason

    def reset(self, now_ns: int) -> None:
        """An operator clears a stop: DAMP or HOLD -> INACTIVE; arm again to go on."""
        self._refusal_times.clear()
        if self.state in (State.INACTIVE, State.UNCONFIGURED):
            self._forget_chunk()
            return
        known = self._sensors_missing(now_ns) is None and self.implausible is None
        self._go(State.INACTIVE if known else State.UNCONFIGURED, Reason.OPERATOR, now_ns)

    def stop(self, reason: Reason, now_ns: int) -> None:
        """Straight to DAMP from any state (e-stop, second commander)."""
        if self.state is not State.DAMP:
            self._go(State.DAMP, reason, now_ns)

    def on_operator(self, now_ns: int, *, pressed: bool) -> None:
        """Take a sign of life of the operator's switch, and whether it is pressed."""
        self._operator_ns = now_ns
        if pressed:
            self.stop(Reason.ESTOP, now_ns)

    # ---- sensors ------------------------------------------------------------------------------

    def on_state(self, stamp_ns: int, now_ns: int, qpos_rad: Float, qvel_rad_s: Float) -> None:
        """Take a joint state, arrays (n,); a non-finite one counts as none.

        Args:
            stamp_ns: stamp of the message, ns.
            now_ns: steady time of receipt, ns.
            qpos_rad: joint positions in canonical order, rad.
            qvel_rad_s: joint velocities in canonical order, rad/s.
        """
        behind_s = (self._state_stamp_ns - stamp_ns) / NS
        if self._state_ns is not None and 0.0 < behind_s < self.config.state_max_age_s:
            self._warn(Reason.LATE_STATE)  # overtaken on the way: we know better already
            return
        self._check_clock(stamp_ns, now_ns)
        self._state_stamp_ns, self._state_ns = stamp_ns, now_ns
        if not (np.isfinite(qpos_rad).all() and np.isfinite(qvel_rad_s).all()):
            self._qpos = None
            if self.state is State.ACTIVE:
                self._go(State.HOLD, Reason.STATE_NON_FINITE, now_ns)
            elif self.state is State.READY:
                self._go(State.INACTIVE, Reason.STATE_NON_FINITE, now_ns)
            return
        if self._qpos is None or not np.array_equal(qpos_rad, self._qpos):
            self._frozen.moved(now_ns)
        self._qpos, self._qvel = qpos_rad, qvel_rad_s
        self.shaper.measured(qpos_rad, qvel_rad_s)
        fast = np.abs(qvel_rad_s) > self.config.overspeed_factor * self.robot.velocity_limit_rad_s
        if self.state is State.ACTIVE and bool(fast.any()):
            self._go(State.DAMP, Reason.OVERSPEED, now_ns)
        self._configure(now_ns)

    def on_base(
        self,
        now_ns: int,
        quat_wxyz: Float,
        ang_vel_rad_s: Float,
        accel_m_s2: Float | None = None,
    ) -> None:
        """Take the attitude of a legged robot; a non-finite one counts as none.

        Args:
            now_ns: steady time of receipt, ns.
            quat_wxyz: base orientation, (4,).
            ang_vel_rad_s: angular velocity in the base frame, (3,), rad/s.
            accel_m_s2: specific force in the base frame, (3,), m/s^2, or None; judged only before
                the robot is armed.
        """
        if not (np.isfinite(quat_wxyz).all() and np.isfinite(ang_vel_rad_s).all()):
            return  # ages out as a silent IMU
        self._imu_ns = now_ns
        self._imu = quat_wxyz, ang_vel_rad_s, accel_m_s2
        self._configure(now_ns)
        if self.state is State.ACTIVE:
            if tilt_rad(quat_wxyz) > self.robot.max_tilt_rad:
                self._go(State.DAMP, Reason.TILT, now_ns)
            elif float(np.linalg.norm(ang_vel_rad_s)) > self.robot.max_base_rate_rad_s:
                self._go(State.DAMP, Reason.BASE_RATE, now_ns)

    def on_health(
        self,
        now_ns: int,
        *,
        charge: float | None = None,
        winding_c: float | None = None,
        case_c: float | None = None,
    ) -> None:
        """Take the state of battery and motors; what is None or NaN is not measured.

        Args:
            now_ns: steady time of receipt, ns.
            charge: state of charge, 0 to 1.
            winding_c: hottest winding, degrees Celsius.
            case_c: hottest motor case, degrees Celsius.
        """
        cfg, moving = self.config, self.state in (State.ACTIVE, State.HOLD)
        if charge is not None and not math.isnan(charge):
            self._charge = charge
        for value, limit in ((winding_c, cfg.max_winding_c), (case_c, cfg.max_case_c)):
            if moving and value is not None and value > limit:
                self.stop(Reason.OVERHEATED, now_ns)
        if moving and self._charge < cfg.min_charge:
            self.stop(Reason.BATTERY_LOW, now_ns)

    # ---- the policy ---------------------------------------------------------------------------

    def on_chunk(self, chunk: ActionChunk, now_ns: int) -> Reason | None:
        """Take an action chunk whole, or refuse it whole; returns why, or None."""
        if self.state not in (State.READY, State.ACTIVE, State.HOLD):
            self.refused[Reason.NOT_ARMED] = self.refused.get(Reason.NOT_ARMED, 0) + 1
            return Reason.NOT_ARMED
        reason = judge(
            chunk,
            limits=self.shaper.limits,
            config=self.config,
            stamp_ns=self.stamp_now(now_ns),
            previous_ns=self.answered_ns,
        )
        if reason is not None:
            self.refuse(reason, now_ns)
            return reason
        if self.state is State.HOLD and (
            self._hold_reason not in _RESUMABLE or self._sensors_missing(now_ns)
        ):
            return None  # a lost sensor does not come back by itself: HOLD runs out into DAMP
        if self.state is not State.ACTIVE:
            self._begin(chunk, now_ns)
        self._chunk = chunk
        self._chunk_ns = now_ns
        return None

    def refuse(self, reason: Reason, now_ns: int) -> None:
        """Count a refusal (also one found while parsing); too many in a second stop the robot."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
        if reason in _LATE:
            return
        self._refusal_times.append(now_ns)
        full = len(self._refusal_times) == self.config.refusals_per_s
        # A hold for another cause ends in DAMP anyhow, and keeps its cause.
        goes_on = self.state is State.HOLD and self._hold_reason in _RESUMABLE
        moving = self.state is State.ACTIVE or goes_on
        if moving and full and now_ns - self._refusal_times[0] <= NS:
            self._go(State.DAMP, Reason.REPEATED_REFUSALS, now_ns)

    # ---- output -------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> Command | None:
        """The command for now, or None where the driver is left alone (before it is ACTIVE)."""
        self._watch(now_ns)
        if self.state in (State.UNCONFIGURED, State.INACTIVE, State.READY):
            return None
        stamp = self.stamp_now(now_ns)
        dt_s = (now_ns - self._tick_ns) / NS if self._tick_ns else 1e-3
        dt_s = min(max(dt_s, 1e-6), _LONGEST_TICK_S)
        self._tick_ns = now_ns
        self.commands += 1
        if self.state is State.DAMP and self.robot.stop == "damp":
            return Command(stamp_ns=stamp, positions_rad=None, answers_ns=None)
        chunk = self._chunk
        if self.state is not State.ACTIVE or chunk is None:
            held = self.shaper.hold(now_ns, dt_s)
            return Command(stamp_ns=stamp, positions_rad=held, answers_ns=None)
        wanted = sample(chunk, stamp, hold=self.robot.command == "setpoint")
        target = self.shaper.follow(wanted, now_ns, dt_s)
        if self._clamping.lasts(self.shaper.held_back, now_ns, self.config.clamp_warn_s):
            self._warn(Reason.CLAMPED_LONG)
        return Command(stamp_ns=stamp, positions_rad=target, answers_ns=chunk.stamp_ns)

    def stamp_now(self, now_ns: int) -> int:
        """Robot time now, ns: the newest joint state's stamp plus the steady time since."""
        return self._state_stamp_ns + (now_ns - (self._state_ns or now_ns))

    @property
    def newest_stamp_ns(self) -> int:
        """Stamp of the newest joint state, ns."""
        return self._state_stamp_ns

    @property
    def answered_ns(self) -> int | None:
        """Stamp of the observation that the present chunk answers, ns."""
        return self._chunk.stamp_ns if self._chunk is not None else None

    @property
    def clamped(self) -> int:
        """Commands that a limit of position, velocity or acceleration held back."""
        return self.shaper.clamped

    # ---- inside -------------------------------------------------------------------------------

    def _configure(self, now_ns: int) -> None:
        """UNCONFIGURED -> INACTIVE once all sensors are there, in any order, and plausible."""
        if self.state is not State.UNCONFIGURED or self._sensors_missing(now_ns):
            return
        assert self._qpos is not None
        self.implausible = implausible_joints(self.robot, self._qpos)
        if self.implausible is None and self.robot.floating_base:
            assert self._imu is not None
            self.implausible = implausible_imu(*self._imu, qvel_rad_s=self._qvel)
        if self.implausible is None:
            self._go(State.INACTIVE, Reason.SENSORS_PLAUSIBLE, now_ns)

    def _check_clock(self, stamp_ns: int, now_ns: int) -> None:
        if self._state_ns is None:
            return
        jump_s = (stamp_ns - self.stamp_now(now_ns)) / NS
        if stamp_ns < self._state_stamp_ns or jump_s > self.config.clock_jump_s:
            self.pace.reset()
            self._forget_chunk()
            if self.state is State.ACTIVE:
                self._go(State.HOLD, Reason.CLOCK_JUMP, now_ns)
        elif self.pace.add(stamp_ns, now_ns):
            self._warn(Reason.RATE_MISMATCH)

    def _sensors_missing(self, now_ns: int) -> Reason | None:
        if self._qpos is None or self._age_s(self._state_ns, now_ns) > self.config.state_max_age_s:
            return Reason.STATE_SILENT
        if self.robot.floating_base and (
            self._age_s(self._imu_ns, now_ns) > self.config.imu_max_age_s
        ):
            return Reason.IMU_SILENT
        return None

    def _operator_lost(self, now_ns: int) -> bool:
        limit_s = self.config.operator_timeout_s
        return limit_s > 0.0 and self._age_s(self._operator_ns, now_ns) > limit_s

    def _begin(self, chunk: ActionChunk, now_ns: int) -> None:
        """READY or HOLD -> ACTIVE."""
        if self.state is State.READY:
            self._tick_ns = 0
        self.shaper.begin(chunk.positions_rad[0], now_ns)
        self._frozen.moved(now_ns)
        self._go(State.ACTIVE, Reason.FIRST_CHUNK, now_ns)

    def _watch(self, now_ns: int) -> None:
        """Everything that time alone can break."""
        cfg = self.config
        missed = self.overruns.tick(now_ns)
        if missed > cfg.warn_overruns:
            self._warn(Reason.OVERRUN)
        if self.state is State.ACTIVE:
            reason = self._fault_of_time(now_ns, missed)
            if reason is not None:
                self._go(State.HOLD, reason, now_ns)
        gone = self._age_s(self._state_ns, now_ns) > cfg.disconnect_s
        if gone and self.state in (State.INACTIVE, State.READY):
            self._go(State.UNCONFIGURED, Reason.DISCONNECTED, now_ns)
        if self.state is State.HOLD and (now_ns - self._hold_ns) / NS > cfg.hold_s:
            self._go(State.DAMP, self._hold_reason or Reason.POLICY_SILENT, now_ns)
        if self.state in (State.ACTIVE, State.HOLD) and self._operator_lost(now_ns):
            self._go(State.DAMP, Reason.OPERATOR_LOST, now_ns)

    def _fault_of_time(self, now_ns: int, missed: int) -> Reason | None:
        cfg = self.config
        if missed > cfg.max_overruns:
            return Reason.OVERRUN
        missing = self._sensors_missing(now_ns)
        if missing is not None:
            return missing
        if self._age_s(self._chunk_ns, now_ns) > cfg.silence_periods * cfg.policy_period_s:
            return Reason.POLICY_SILENT
        frozen = self._frozen.for_s(self.shaper.command_rad, now_ns) > cfg.frozen_s
        return Reason.STATE_FROZEN if frozen else None

    def _warn(self, reason: Reason) -> None:
        self.warnings[reason] = self.warnings.get(reason, 0) + 1

    def _go(self, new: State, reason: Reason, now_ns: int) -> None:
        edge = Transition(stamp_ns=self.stamp_now(now_ns), old=self.state, new=new, reason=reason)
        if new is State.HOLD:
            self._hold_ns = now_ns
            self._hold_reason = reason
        if new in (State.HOLD, State.DAMP) and self.state is State.ACTIVE:
            self.shaper.begin_hold(now_ns)
        if new in (State.UNCONFIGURED, State.INACTIVE):
            self.shaper.forget()
        if new is not State.ACTIVE and new is not State.READY:
            self._forget_chunk()
        self.state = new
        self.transitions.append(edge)
        if self._on_transition is not None:
            self._on_transition(edge)

    def _forget_chunk(self) -> None:
        self._chunk = None
        self._chunk_ns = None

    @staticmethod
    def _age_s(then_ns: int | None, now_ns: int) -> float:
        return float("inf") if then_ns is None else (now_ns - then_ns) / NS
