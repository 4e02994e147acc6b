"""The guard against the fault table, one test a row, with the clock passed in."""

import numpy as np
import pytest

from policies.interface import ActionChunk
from policies.robots import G1, PANDA
from policies.runtime.fault import Reason, State
from policies.runtime.guard import Guard
from policies.runtime.guard_config import GuardConfig
from policies.runtime.sampling import sample

MS = 1_000_000
UPRIGHT = np.array([1.0, 0.0, 0.0, 0.0])


class Bench:
    """A guard with a robot that follows its commands, on one clock (ns)."""

    def __init__(self, robot=PANDA, **config):
        self.robot = robot
        self.guard = Guard(robot, GuardConfig(**config))
        self.now = 10_000 * MS
        self.qpos = np.array(robot.default_rad)
        self.sent = []

    def state(self, qpos=None, stamp=None):
        qpos = self.qpos if qpos is None else qpos
        self.guard.on_state(stamp or self.now, self.now, np.array(qpos), np.zeros(self.robot.n))
        if self.robot.floating_base:
            self.guard.on_base(self.now, UPRIGHT, np.zeros(3))

    def chunk(self, target=None, stamp=None):
        target = self.qpos if target is None else target
        rows = np.atleast_2d(np.asarray(target, dtype=np.float64))
        return self.guard.on_chunk(
            ActionChunk(stamp_ns=stamp or self.now, dt_s=0.02, positions_rad=rows), self.now
        )

    def tick(self, ms=10, *, state=True):
        self.now += ms * MS
        if state:  # a joint never stands still to the last bit
            self.qpos = self.qpos + np.where(self.qpos == 0.0, 1e-9, self.qpos * 1e-12)
            self.state()
        command = self.guard.tick(self.now)
        if command is not None and command.positions_rad is not None:
            self.sent.append(command.positions_rad)
        return command

    def activate(self):
        self.state()
        assert self.guard.arm(self.now) is None
        assert self.chunk() is None
        assert self.guard.state is State.ACTIVE


def test_sends_nothing_before_it_is_armed_and_has_a_chunk():
    bench = Bench()
    assert bench.tick() is None
    assert bench.chunk() is Reason.NOT_ARMED
    assert bench.guard.arm(bench.now) is None
    assert bench.tick() is None
    assert bench.chunk() is None
    assert bench.tick() is not None


def test_does_not_arm_without_a_fresh_joint_state():
    bench = Bench()
    assert bench.guard.arm(bench.now) is Reason.STATE_SILENT
    bench.state()
    bench.now += 60 * MS
    assert bench.guard.arm(bench.now) is Reason.STATE_SILENT


def test_does_not_arm_a_legged_robot_without_an_imu():
    bench = Bench(G1)
    bench.guard.on_state(bench.now, bench.now, bench.qpos, np.zeros(G1.n))
    assert bench.guard.arm(bench.now) is Reason.IMU_SILENT


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_action_is_refused_whole_and_in_the_same_period(bad):
    bench = Bench()
    bench.activate()
    before = bench.tick().positions_rad
    target = bench.qpos.copy()
    target[3] = bad
    assert bench.chunk(target) is Reason.NON_FINITE
    assert np.allclose(bench.tick().positions_rad, before)
    assert bench.guard.refused == {Reason.NON_FINITE: 1}


def test_three_refusals_in_a_second_stop_the_robot():
    bench = Bench()
    bench.activate()
    for _ in range(3):
        bench.tick()
        bench.chunk(np.full(7, np.nan))
    assert bench.guard.state is State.DAMP
    assert bench.guard.transitions[-1].reason is Reason.REPEATED_REFUSALS


def test_gross_action_is_refused_and_small_excess_is_clamped():
    bench = Bench()
    bench.activate()
    assert bench.chunk(np.full(7, 50.0)) is Reason.OUT_OF_LIMITS
    assert bench.chunk(PANDA.upper_rad + 0.5) is None
    for _ in range(400):
        bench.tick()
        bench.chunk(PANDA.upper_rad + 0.5)
    assert (np.array(bench.sent) <= PANDA.upper_rad).all()
    assert bench.guard.clamped > 0


def test_stale_chunk_is_refused():
    bench = Bench()
    bench.activate()
    bench.tick()
    assert bench.chunk(stamp=bench.now - 400 * MS) is Reason.STALE_CHUNK


def test_late_reply_that_answers_an_older_observation_is_refused():
    bench = Bench()
    bench.activate()
    bench.tick(20)
    assert bench.chunk() is None
    assert bench.chunk(stamp=bench.now - 20 * MS) is Reason.OLD_CHUNK


def test_chunk_from_the_future_is_refused():
    bench = Bench()
    bench.activate()
    assert bench.chunk(stamp=bench.now + 100 * MS) is Reason.FUTURE_CHUNK


def test_chunk_of_another_shape_is_refused():
    bench = Bench()
    bench.activate()
    assert bench.chunk(np.zeros((4, 6))) is Reason.BAD_SHAPE


def test_policy_silence_holds_after_two_periods_then_stops_latched():
    bench = Bench()
    bench.activate()
    silent_ms = 0
    while bench.guard.state is State.ACTIVE:
        bench.tick()
        silent_ms += 10
    assert silent_ms == 50  # the first tick after 2 periods of 20 ms
    while bench.guard.state is State.HOLD:
        bench.tick()
        silent_ms += 10
    assert bench.guard.state is State.DAMP
    assert silent_ms <= 50 + 500 + 10
    bench.chunk()
    bench.tick()
    assert bench.guard.state is State.DAMP  # only an operator leaves it
    bench.guard.reset(bench.now)
    assert bench.guard.state is State.INACTIVE
    assert bench.guard.arm(bench.now) is None


def test_policy_that_comes_back_during_the_hold_goes_on_from_the_measured_pose():
    bench = Bench()
    bench.activate()
    for _ in range(6):
        bench.tick()
    assert bench.guard.state is State.HOLD
    assert bench.chunk() is None
    assert bench.guard.state is State.ACTIVE
    assert np.allclose(bench.tick().positions_rad, bench.qpos, atol=1e-6)


def test_joint_states_that_stop_hold_then_stop():
    bench = Bench()
    bench.activate()
    for _ in range(6):
        bench.tick(state=False)
        bench.chunk(stamp=bench.now)
    assert bench.guard.state is State.HOLD
    assert bench.guard.transitions[-1].reason is Reason.STATE_SILENT
    bench.state()
    assert bench.chunk() is None
    assert bench.guard.state is State.HOLD  # a lost sensor is not forgiven by itself
    for _ in range(60):
        bench.tick()
    assert bench.guard.state is State.DAMP


def test_nan_joint_state_holds():
    bench = Bench()
    bench.activate()
    bench.state(np.full(7, np.nan))
    assert bench.guard.state is State.HOLD
    assert bench.guard.transitions[-1].reason is Reason.STATE_NON_FINITE


def test_frozen_joint_states_while_the_command_moves_hold():
    bench = Bench()
    bench.activate()
    frozen = bench.qpos.copy()
    for k in range(60):
        bench.now += 10 * MS
        bench.state(frozen)
        bench.chunk(frozen + 0.004 * k)
        bench.guard.tick(bench.now)
        if bench.guard.state is not State.ACTIVE:
            break
    assert bench.guard.transitions[-1].reason is Reason.STATE_FROZEN
    assert k * 10 < 300


def test_still_robot_under_a_still_command_is_not_a_frozen_sensor():
    bench = Bench()
    bench.activate()
    still = bench.qpos.copy()
    for _ in range(100):
        bench.now += 10 * MS
        bench.state(still)
        bench.chunk(still)
        bench.guard.tick(bench.now)
    assert bench.guard.state is State.ACTIVE


def test_coarse_encoder_at_rest_is_not_frozen_when_the_command_goes_on():
    bench = Bench()
    bench.activate()
    still = bench.qpos.copy()
    for k in range(100):
        bench.now += 10 * MS
        bench.state(still)  # reads the same for a second, and 0.1 s after the command moved on
        bench.chunk(still + max(k - 90, 0) * 0.01)
        bench.guard.tick(bench.now)
    assert bench.guard.state is State.ACTIVE


@pytest.mark.parametrize("jump_ms", [-50, 2000])
def test_clock_jump_flushes_the_chunk_and_holds(jump_ms):
    bench = Bench()
    bench.activate()
    bench.tick()
    bench.state(stamp=bench.now + jump_ms * MS)
    assert bench.guard.state is State.HOLD
    assert bench.guard.transitions[-1].reason is Reason.CLOCK_JUMP
    assert bench.guard.answered_ns is None


def test_tilt_stops_a_legged_robot():
    bench = Bench(G1)
    bench.activate()
    half = 0.55
    bench.guard.on_base(bench.now, np.array([np.cos(half), np.sin(half), 0, 0]), np.zeros(3))
    assert bench.guard.state is State.DAMP
    assert bench.guard.transitions[-1].reason is Reason.TILT
    assert bench.tick().positions_rad is None  # damping, not a pose


def test_spinning_base_stops_a_legged_robot():
    bench = Bench(G1)
    bench.activate()
    bench.guard.on_base(bench.now, UPRIGHT, np.array([0.0, 0.0, 20.0]))
    assert bench.guard.transitions[-1].reason is Reason.BASE_RATE


def test_silent_imu_holds_a_legged_robot():
    bench = Bench(G1)
    bench.activate()
    for _ in range(6):
        bench.now += 10 * MS
        bench.guard.on_state(bench.now, bench.now, bench.qpos + bench.now * 1e-15, np.zeros(29))
        bench.chunk()
        bench.guard.tick(bench.now)
    assert bench.guard.transitions[-1].reason is Reason.IMU_SILENT


@pytest.mark.parametrize("robot", [G1, PANDA])
def test_estop_from_every_state_is_one_step_and_latched(robot):
    for prepare in ("inactive", "ready", "active", "hold"):
        bench = Bench(robot)
        bench.state()
        if prepare != "inactive":
            bench.guard.arm(bench.now)
        if prepare in ("active", "hold"):
            bench.chunk()
        if prepare == "hold":
            for _ in range(6):
                bench.tick()
        assert bench.guard.state.value == prepare
        bench.guard.stop(Reason.ESTOP, bench.now)
        assert bench.guard.state is State.DAMP
        assert bench.guard.arm(bench.now) is Reason.NOT_ARMED
        assert (bench.tick().positions_rad is None) == (robot is G1)


def test_first_action_jump_is_ramped():
    bench = Bench()
    bench.state()
    bench.guard.arm(bench.now)
    target = bench.qpos + 0.5
    bench.chunk(target)
    sent = []
    for _ in range(220):
        bench.chunk(target)
        sent.append(bench.tick().positions_rad)
    path = np.array(sent)
    speed = np.diff(path, axis=0) / 0.01
    assert np.abs(path[0] - bench.qpos).max() < 0.01
    assert np.abs(path[-1] - target).max() < 1e-3
    # A 1.5 s smooth ramp over 0.5 rad peaks at 0.5 rad/s, far below what the limits alone allow.
    assert np.abs(speed).max() < 0.7


def test_every_transition_is_reported_with_its_cause():
    edges = []
    guard = Guard(PANDA, on_transition=edges.append)
    guard.on_state(1, 1, PANDA.default_rad, np.zeros(7))
    guard.arm(1)
    guard.stop(Reason.ESTOP, 1)
    guard.reset(1)
    assert [(e.old.value, e.new.value, e.reason.value) for e in edges] == [
        ("unconfigured", "inactive", "sensors_plausible"),
        ("inactive", "ready", "operator"),
        ("ready", "damp", "estop"),
        ("damp", "inactive", "operator"),
    ]


def test_chunk_is_sampled_by_time():
    rows = np.array([[0.0], [1.0], [2.0]])
    chunk = ActionChunk(stamp_ns=100 * MS, dt_s=0.02, positions_rad=rows)
    assert sample(chunk, 90 * MS, hold=False) == 0.0
    assert sample(chunk, 110 * MS, hold=False) == pytest.approx(0.5)
    assert sample(chunk, 110 * MS, hold=True) == 0.0
    assert sample(chunk, 120 * MS, hold=True) == 1.0
    assert sample(chunk, 900 * MS, hold=False) == 2.0
