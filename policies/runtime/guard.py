"""The guard: the last piece of code between a policy and a robot.

It takes joint states and action chunks and gives one command per control tick. A chunk is taken
whole or refused whole; a command is always finite, fresh and inside the limits of the robot; when
the policy, the sensors or the clock misbehave it holds, and then stops. Pure: the caller passes
the clock (steady time in real time, simulated time in lockstep), so every fault is a unit test.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from policies.interface import ActionChunk, Float, RobotSpec
from policies.rotation import tilt_rad
from policies.runtime.fault import Reason, State, Transition
from policies.runtime.limits import Limiter, limits_of

NS = 1_000_000_000
# Holds that end by themselves when fresh chunks arrive; all others end in DAMP.
_RESUMABLE = (Reason.POLICY_SILENT, Reason.CLOCK_JUMP)


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Times and thresholds; the defaults are the promises of docs/faults.md.

    Attributes:
        policy_period_s: time between two answers of the policy, s.
        silence_periods: missed answers after which the guard holds.
        hold_s: time in HOLD after which it stops (DAMP, latched), s.
        state_max_age_s: largest age of the newest joint state, s.
        imu_max_age_s: largest age of the newest base orientation (legged robots), s.
        chunk_max_age_s: largest age of the observation that a chunk answers, s.
        clock_jump_s: forward jump of stamps that counts as a clock jump, s.
        ramp_s: time over which the command is blended in when the first target is far away, s.
        frozen_s: time of bit-equal joint states, while the command moves, that counts as frozen, s.
        gross_factor: a chunk that leaves the range by more than this many times its half width is
            refused rather than clamped.
        refusals_per_s: refusals within one second that stop the robot.
    """

    policy_period_s: float = 0.02
    silence_periods: float = 2.0
    hold_s: float = 0.5
    state_max_age_s: float = 0.05
    imu_max_age_s: float = 0.05
    chunk_max_age_s: float = 0.3
    clock_jump_s: float = 0.5
    ramp_s: float = 1.5
    frozen_s: float = 0.2
    gross_factor: float = 3.0
    refusals_per_s: int = 3


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command to the driver.

    Attributes:
        stamp_ns: robot time from which it applies, ns.
        positions_rad: joint positions, (n,), or None for damping (torque = -kd qdot).
        answers_ns: stamp of the observation that led to it, ns; None in HOLD and DAMP.
    """

    stamp_ns: int
    positions_rad: Float | None
    answers_ns: int | None


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
        self.limits = limits_of(robot)
        self.state = State.INACTIVE
        self.refused: dict[Reason, int] = {}
        self.clamped = 0
        self.commands = 0
        self.transitions: deque[Transition] = deque(maxlen=256)
        self._on_transition = on_transition
        self._is_set_point = robot.command == "setpoint"
        self._range = (self.limits.lower_rad, self.limits.upper_rad)
        self._limiter = Limiter(self.limits)
        self._command: Float = robot.default_rad
        self._refusal_times: deque[int] = deque(maxlen=self.config.refusals_per_s)
        self._qpos: Float | None = None
        self._state_stamp_ns = 0
        self._state_ns: int | None = None
        self._imu_ns: int | None = None
        self._still_since_ns = 0
        self._still_command: Float | None = None
        self._tick_ns = 0
        self._hold_ns = 0
        self._hold_reason: Reason | None = None
        self._hold_pose: Float = robot.default_rad
        self._ramp_ns = 0
        self._ramp_from: Float | None = None
        self._chunk: ActionChunk | None = None
        self._chunk_ns: int | None = None

    # ---- inputs -------------------------------------------------------------------------------

    def arm(self, now_ns: int) -> Reason | None:
        """INACTIVE -> READY; returns why not, or None."""
        if self.state is State.READY:
            return None
        if self.state is not State.INACTIVE:
            return Reason.NOT_ARMED
        if self._qpos is None or self._age_s(self._state_ns, now_ns) > self.config.state_max_age_s:
            return Reason.STATE_SILENT
        if self.robot.floating_base and (
            self._age_s(self._imu_ns, now_ns) > self.config.imu_max_age_s
        ):
            return Reason.IMU_SILENT
        self._go(State.READY, Reason.OPERATOR, now_ns)
        return None

    def reset(self, now_ns: int) -> None:
        """An operator clears a stop: DAMP or HOLD -> INACTIVE; arm again to go on."""
        self._forget_chunk()
        self._refusal_times.clear()
        if self.state is not State.INACTIVE:
            self._go(State.INACTIVE, Reason.OPERATOR, now_ns)

    def stop(self, reason: Reason, now_ns: int) -> None:
        """Straight to DAMP from any state (e-stop, second commander)."""
        if self.state is not State.DAMP:
            self._go(State.DAMP, reason, now_ns)

    def on_state(self, stamp_ns: int, now_ns: int, qpos_rad: Float, qvel_rad_s: Float) -> None:
        """Take a joint state, arrays (n,); a non-finite one counts as none.

        Args:
            stamp_ns: stamp of the message, ns.
            now_ns: steady time of receipt, ns.
            qpos_rad: joint positions in canonical order, rad.
            qvel_rad_s: joint velocities in canonical order, rad/s.
        """
        if not (np.isfinite(qpos_rad).all() and np.isfinite(qvel_rad_s).all()):
            self._state_stamp_ns, self._state_ns = stamp_ns, now_ns  # time goes on
            if self.state is State.ACTIVE:
                self._go(State.HOLD, Reason.STATE_NON_FINITE, now_ns)
            elif self.state is State.READY:
                self._go(State.INACTIVE, Reason.STATE_NON_FINITE, now_ns)
            self._qpos = None
            return
        if self._state_ns is not None:
            jump_s = (stamp_ns - self.stamp_now(now_ns)) / NS
            if stamp_ns < self._state_stamp_ns or jump_s > self.config.clock_jump_s:
                self._forget_chunk()
                if self.state is State.ACTIVE:
                    self._go(State.HOLD, Reason.CLOCK_JUMP, now_ns)
        if self._qpos is None or not np.array_equal(qpos_rad, self._qpos):
            self._still_since_ns = now_ns
            self._still_command = None
        self._qpos = qpos_rad
        self._state_stamp_ns = stamp_ns
        self._state_ns = now_ns

    def on_base(self, now_ns: int, quat_wxyz: Float, ang_vel_rad_s: Float) -> None:
        """Take the attitude of a legged robot: quaternion (4,), rate in the base frame (3,)."""
        if not (np.isfinite(quat_wxyz).all() and np.isfinite(ang_vel_rad_s).all()):
            return  # ages out as a silent IMU
        self._imu_ns = now_ns
        if self.state is not State.ACTIVE:
            return
        if tilt_rad(quat_wxyz) > self.robot.max_tilt_rad:
            self._go(State.DAMP, Reason.TILT, now_ns)
        elif float(np.linalg.norm(ang_vel_rad_s)) > self.robot.max_base_rate_rad_s:
            self._go(State.DAMP, Reason.BASE_RATE, now_ns)

    def on_chunk(self, chunk: ActionChunk, now_ns: int) -> Reason | None:
        """Take an action chunk whole, or refuse it whole; returns why, or None."""
        if self.state not in (State.READY, State.ACTIVE, State.HOLD):
            self.refused[Reason.NOT_ARMED] = self.refused.get(Reason.NOT_ARMED, 0) + 1
            return Reason.NOT_ARMED
        reason = self._judge(chunk, now_ns)
        if reason is not None:
            self.refuse(reason, now_ns)
            return reason
        if self.state is State.HOLD and self._hold_reason not in _RESUMABLE:
            return None  # a lost sensor does not come back by itself: HOLD runs out into DAMP
        if self.state is not State.ACTIVE:
            self._begin(chunk, now_ns)
        self._chunk = self._limit_set_points(chunk)
        self._chunk_ns = now_ns
        return None

    def refuse(self, reason: Reason, now_ns: int) -> None:
        """Count a refusal (also one found while parsing); too many in a second stop the robot."""
        self.refused[reason] = self.refused.get(reason, 0) + 1
        self._refusal_times.append(now_ns)
        full = len(self._refusal_times) == self.config.refusals_per_s
        if full and now_ns - self._refusal_times[0] <= NS and self.state is State.ACTIVE:
            self._go(State.DAMP, Reason.REPEATED_REFUSALS, now_ns)

    # ---- output -------------------------------------------------------------------------------

    def tick(self, now_ns: int) -> Command | None:
        """The command for now, or None where the driver is left alone (INACTIVE, READY)."""
        self._watch(now_ns)
        if self.state in (State.UNCONFIGURED, State.INACTIVE, State.READY):
            return None
        stamp = self.stamp_now(now_ns)
        dt_s = max((now_ns - self._tick_ns) / NS, 1e-6) if self._tick_ns else 1e-3
        self._tick_ns = now_ns
        self.commands += 1
        if self.state is State.DAMP and self.robot.stop == "damp":
            return Command(stamp_ns=stamp, positions_rad=None, answers_ns=None)
        if self.state is not State.ACTIVE or self._chunk is None:
            held = self._hold_position(now_ns, dt_s)
            return Command(stamp_ns=stamp, positions_rad=held, answers_ns=None)
        target = self._ramp(sample(self._chunk, stamp, hold=self._is_set_point), now_ns)
        if not self._is_set_point:
            target, held_back = self._limiter.follow(target, dt_s)
            self.clamped += held_back
        self._command = target
        return Command(stamp_ns=stamp, positions_rad=target, answers_ns=self._chunk.stamp_ns)

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

    # ---- inside -------------------------------------------------------------------------------

    def _judge(self, chunk: ActionChunk, now_ns: int) -> Reason | None:
        rows = chunk.positions_rad
        if rows.ndim != 2 or rows.shape[1] != self.robot.n or len(rows) == 0:
            return Reason.BAD_SHAPE
        if not np.isfinite(rows).all():
            return Reason.NON_FINITE
        center = 0.5 * (self.limits.lower_rad + self.limits.upper_rad)
        half = 0.5 * (self.limits.upper_rad - self.limits.lower_rad)
        if bool(np.any(np.abs(rows - center) > self.config.gross_factor * half)):
            return Reason.OUT_OF_LIMITS
        age_s = (self.stamp_now(now_ns) - chunk.stamp_ns) / NS
        if age_s > self.config.chunk_max_age_s:
            return Reason.STALE_CHUNK
        if age_s < -self.config.state_max_age_s:
            return Reason.FUTURE_CHUNK
        if self._chunk is not None and chunk.stamp_ns < self._chunk.stamp_ns:
            return Reason.OLD_CHUNK
        return None

    def _begin(self, chunk: ActionChunk, now_ns: int) -> None:
        """READY or HOLD -> ACTIVE: start at the measured pose, and ramp if the target is far."""
        assert self._qpos is not None  # READY was reached with a joint state
        self._limiter.start(self._qpos)
        self._command = self._qpos
        far = np.abs(chunk.positions_rad[0] - self._qpos) > self.limits.jump_rad
        self._ramp_from = self._qpos if bool(far.any()) else None
        self._ramp_ns = now_ns
        self._still_since_ns = now_ns
        self._still_command = None
        self._tick_ns = 0
        self._go(State.ACTIVE, Reason.FIRST_CHUNK, now_ns)

    def _limit_set_points(self, chunk: ActionChunk) -> ActionChunk:
        """Set-points are limited once, where they arrive; position commands at every tick."""
        if not self._is_set_point:
            return chunk
        dt_s = chunk.dt_s or self.config.policy_period_s
        rows = np.empty_like(chunk.positions_rad)
        # The first set-point may lead the measured pose by as much as `jump_rad` allows.
        if self._chunk is None:
            self._limiter.start(np.clip(chunk.positions_rad[0], *self._range))
        for k, row in enumerate(chunk.positions_rad):
            rows[k], held_back = self._limiter.follow(row, dt_s)
            self.clamped += held_back
            if k == 0:
                first = self._limiter.position_rad
        self._limiter.start(first)  # the next chunk continues from the step that ran
        return ActionChunk(stamp_ns=chunk.stamp_ns, dt_s=chunk.dt_s, positions_rad=rows)

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

    def _hold_position(self, now_ns: int, dt_s: float) -> Float:
        """Decelerate; a set-point goes to the pose that was measured when the hold began."""
        if not self._is_set_point or self._qpos is None:
            return self._limiter.stop(dt_s)
        share = min((now_ns - self._hold_ns) / NS / 0.1, 1.0)
        blended: Float = self._command + share * (self._hold_pose - self._command)
        return blended

    def _watch(self, now_ns: int) -> None:
        """Everything that time alone can break."""
        cfg = self.config
        if self.state is State.ACTIVE:
            if self._age_s(self._state_ns, now_ns) > cfg.state_max_age_s:
                self._go(State.HOLD, Reason.STATE_SILENT, now_ns)
            elif self.robot.floating_base and self._age_s(self._imu_ns, now_ns) > cfg.imu_max_age_s:
                self._go(State.HOLD, Reason.IMU_SILENT, now_ns)
            elif self._age_s(self._chunk_ns, now_ns) > cfg.silence_periods * cfg.policy_period_s:
                self._go(State.HOLD, Reason.POLICY_SILENT, now_ns)
            elif self._frozen(now_ns):
                self._go(State.HOLD, Reason.STATE_FROZEN, now_ns)
        if self.state is State.HOLD and (now_ns - self._hold_ns) / NS > cfg.hold_s:
            self._go(State.DAMP, self._hold_reason or Reason.POLICY_SILENT, now_ns)

    def _frozen(self, now_ns: int) -> bool:
        """Bit-equal joint states for too long while the command moved."""
        if (now_ns - self._still_since_ns) / NS <= self.config.frozen_s:
            return False
        if self._still_command is None:
            self._still_command = self._command
        return bool(np.any(np.abs(self._command - self._still_command) > 0.01))

    def _go(self, new: State, reason: Reason, now_ns: int) -> None:
        edge = Transition(stamp_ns=self.stamp_now(now_ns), old=self.state, new=new, reason=reason)
        if new is State.HOLD:
            self._hold_ns = now_ns
            self._hold_reason = reason
            self._hold_pose = self._command if self._qpos is None else self._qpos
        if new in (State.HOLD, State.INACTIVE, State.DAMP):
            self._forget_chunk()
        self.state = new
        self.transitions.append(edge)
        if self._on_transition is not None:
            self._on_transition(edge)

    def _forget_chunk(self) -> None:
        self._chunk = None
        self._chunk_ns = None
        self._ramp_from = None

    @staticmethod
    def _age_s(then_ns: int | None, now_ns: int) -> float:
        return float("inf") if then_ns is None else (now_ns - then_ns) / NS


def sample(chunk: ActionChunk, stamp_ns: int, *, hold: bool) -> Float:
    """The chunk's command at ``stamp_ns``, (n,): linear between steps, or held (``hold``).

    Steps in the past are skipped by time, not by index; after the last step it is kept.
    """
    rows: Float = chunk.positions_rad
    if len(rows) == 1 or chunk.dt_s <= 0.0:
        first: Float = rows[0]
        return first
    place = max((stamp_ns - chunk.stamp_ns) / NS / chunk.dt_s, 0.0)
    # Stamps are integer ns: a place a hair below a step is that step.
    k = min(int(place + 1e-6), len(rows) - 1)
    share = place - k
    if hold or k == len(rows) - 1 or share <= 0.0:
        kept: Float = rows[k]
        return kept
    between: Float = rows[k] + share * (rows[k + 1] - rows[k])
    return between
