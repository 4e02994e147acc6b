"""Why a command was refused or a robot was stopped: one typed reason each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """Guard states; DAMP is latched, only an operator leaves it."""

    UNCONFIGURED = "unconfigured"
    INACTIVE = "inactive"
    READY = "ready"
    ACTIVE = "active"
    HOLD = "hold"
    DAMP = "damp"


class Reason(Enum):
    """Causes of refusals and of state changes."""

    OPERATOR = "operator"
    FIRST_CHUNK = "first_chunk"
    NON_FINITE = "non_finite_action"
    BAD_SHAPE = "bad_chunk_shape"
    OUT_OF_LIMITS = "action_out_of_limits"
    STALE_CHUNK = "stale_chunk"
    OLD_CHUNK = "chunk_out_of_order"
    FUTURE_CHUNK = "chunk_from_the_future"
    NOT_ARMED = "not_armed"
    REPEATED_REFUSALS = "repeated_refusals"
    POLICY_SILENT = "policy_silent"
    STATE_SILENT = "state_silent"
    STATE_NON_FINITE = "non_finite_state"
    STATE_FROZEN = "state_frozen"
    CLOCK_JUMP = "clock_jump"
    TILT = "tilt"
    BASE_RATE = "base_rate"
    IMU_SILENT = "imu_silent"
    SECOND_COMMANDER = "second_commander"
    ESTOP = "estop"


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
