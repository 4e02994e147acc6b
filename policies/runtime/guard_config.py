"""Times and thresholds of the guard, and the command that it gives."""

from __future__ import annotations

from dataclasses import dataclass

from policies.interface import Float

NS = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Times and thresholds; the defaults are the promises of docs/faults.md.

    Attributes:
        policy_period_s: time between two answers of the policy, s.
        silence_periods: missed answers after which the guard holds.
        hold_s: time in HOLD after which it stops (DAMP, latched), s.
        state_max_age_s: largest age of the newest joint state, s.
        imu_max_age_s: largest age of the newest base orientation (legged robots), s.
        disconnect_s: silence of the joint states after which a robot that is not in motion counts
            as gone: its sensors must prove plausible, and it must be armed again, s.
        chunk_max_age_s: largest age of the observation that a chunk answers, s.
        max_steps: longest chunk, steps.
        clock_jump_s: forward jump of stamps that counts as a clock jump, s.
        rate_tolerance: share by which stamps run faster or slower than the clock that is warned of.
        rate_refusal: the same, beyond which the robot is not armed.
        ramp_s: time over which the command is blended in when the first target is far away, s.
        frozen_s: time of bit-equal joint states, while the command moves, that counts as frozen, s.
        gross_factor: a chunk that leaves the range by more than this many times its half width is
            refused rather than clamped.
        refusals_per_s: refusals within one second that stop the robot.
        clamp_warn_s: uninterrupted clamping after which a warning is due, s.
        tick_period_s: period at which :meth:`Guard.tick` is meant to be called, s; 0 where there is
            none (lockstep), and overruns are not watched.
        warn_overruns, max_overruns: periods missed in a row that warn, and that hold.
        overspeed_factor: measured joint speed, in units of the joint's limit, that stops.
        max_winding_c, max_case_c: motor temperatures that stop, degrees Celsius.
        min_charge: state of charge below which it does not arm, or stops; 0 to 1.
        operator_timeout_s: silence of the operator's switch that counts as pressed, s; 0 where no
            switch is connected.
    """

    policy_period_s: float = 0.02
    silence_periods: float = 2.0
    hold_s: float = 0.5
    state_max_age_s: float = 0.05
    imu_max_age_s: float = 0.05
    disconnect_s: float = 1.0
    chunk_max_age_s: float = 0.3
    max_steps: int = 1024
    clock_jump_s: float = 0.5
    rate_tolerance: float = 0.05
    rate_refusal: float = 0.25
    ramp_s: float = 1.5
    frozen_s: float = 0.2
    gross_factor: float = 3.0
    refusals_per_s: int = 3
    clamp_warn_s: float = 0.5
    tick_period_s: float = 0.0
    warn_overruns: int = 3
    max_overruns: int = 10
    overspeed_factor: float = 1.2
    max_winding_c: float = 120.0
    max_case_c: float = 85.0
    min_charge: float = 0.2
    operator_timeout_s: float = 0.0


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
