"""Why a command was refused or a robot was stopped: one typed reason each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """Guard states.

    UNCONFIGURED: nothing is known of the robot yet, or what its sensors say cannot be.
    INACTIVE: sensors are plausible; the driver is left alone.
    READY: armed by an operator; the first chunk starts the motion.
    ACTIVE: commands follow the policy.
    HOLD: commands decelerate and keep the pose, for a limited time.
    DAMP: stopped, latched; only an operator leaves it.
    """

    UNCONFIGURED = "unconfigured"
    INACTIVE = "inactive"
    READY = "ready"
    ACTIVE = "active"
    HOLD = "hold"
    DAMP = "damp"


class Reason(Enum):
    """Causes of refusals, of warnings and of changes of state."""

    OPERATOR = "operator"
    FIRST_CHUNK = "first_chunk"
    SENSORS_PLAUSIBLE = "sensors_plausible"
    # of a chunk
    NON_FINITE = "non_finite_action"
    BAD_SHAPE = "bad_chunk_shape"
    OUT_OF_LIMITS = "action_out_of_limits"
    STALE_CHUNK = "stale_chunk"
    OLD_CHUNK = "chunk_out_of_order"
    FUTURE_CHUNK = "chunk_from_the_future"
    NOT_ARMED = "not_armed"
    REPEATED_REFUSALS = "repeated_refusals"
    CLAMPED_LONG = "clamped_for_long"
    POLICY_SILENT = "policy_silent"
    # of the sensors
    STATE_SILENT = "state_silent"
    LATE_STATE = "late_state"
    STATE_NON_FINITE = "non_finite_state"
    STATE_FROZEN = "state_frozen"
    IMU_SILENT = "imu_silent"
    IMPLAUSIBLE = "implausible_sensors"
    RATE_MISMATCH = "rate_mismatch"
    CLOCK_JUMP = "clock_jump"
    DISCONNECTED = "driver_disconnected"
    # of the body
    TILT = "tilt"
    BASE_RATE = "base_rate"
    OVERSPEED = "overspeed"
    OVERHEATED = "overheated"
    BATTERY_LOW = "battery_low"
    # of the machine and of people
    OVERRUN = "overrun"
    SECOND_COMMANDER = "second_commander"
    ESTOP = "estop"
    OPERATOR_LOST = "operator_lost"
    LAUNCHER_LOST = "launcher_lost"


@dataclass(frozen=True, kw_only=True)
class Transition:
    """One edge of the state machine.

    Attributes:
        stamp_ns: robot time (stamp of the newest joint state plus the time since), ns.
        old, new: states.
        reason: cause.
    """

    stamp_ns: int
    old: State
    new: State
    reason: Reason
