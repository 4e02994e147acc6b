"""Random chunks through the guard: what leaves it is finite and inside every limit, always.

One driver for both: Hypothesis shrinks what it finds to a few steps, and a seeded loop does the
million. A step is a joint state, perhaps a chunk of some kind, perhaps something that happens.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.interface import ActionChunk
from policies.robots import ROBOTS
from policies.runtime.fault import Reason, State
from policies.runtime.guard import Guard
from policies.runtime.guard_config import GuardConfig
from policies.runtime.limits import torque_window

MS = 1_000_000
UPRIGHT = np.array([1.0, 0.0, 0.0, 0.0])
CHUNKS = ("near", "wild", "gross", "nan", "inf", "shape", "stale", "future", "late", "long", "none")
EVENTS = ("estop", "clock", "frozen", "nan_state", "gap", "reset")
PLAUSIBLE = 0.5  # share of chunks that a working policy might give


class Bench:
    """A guard, a robot that follows it, and a check of every command."""

    def __init__(self, robot, seed):
        self.robot = robot
        self.rng = np.random.default_rng(seed)
        # Refusals and silences must not end the motion: then there would be nothing to check.
        self.guard = Guard(robot, GuardConfig(refusals_per_s=1000, hold_s=2.0))
        self.limits = self.guard.shaper.limits
        self.span = self.limits.upper_rad - self.limits.lower_rad
        self.acceleration = self.limits.acceleration_rad_s2
        self.now = self.stamp = 10**10
        self.qpos = np.array(robot.default_rad)
        self.qvel = np.zeros(robot.n)
        self.last = self.speed = self.window = None
        self.dt_s = 0.0
        self.chunks = self.commands = 0
        self.state()

    def state(self, *, qpos=None):
        self.guard.on_state(self.stamp, self.now, self.qpos if qpos is None else qpos, self.qvel)
        self.guard.on_base(self.now, UPRIGHT, np.zeros(3))

    def step(self, kind, scale, event=None):
        """One tick: the robot follows, something happens, a chunk comes, a command leaves."""
        self.dt_s = 0.04 if event == "gap" else float(self.rng.choice([0.005, 0.01, 0.02]))
        self.now += round(self.dt_s * 1e9)
        self.stamp += round(self.dt_s * 1e9)
        self.follow()
        if event == "clock":
            self.stamp += int(self.rng.choice([-3, 3])) * 10**9
        elif event == "estop":
            self.guard.stop(Reason.ESTOP, self.now)
        self.state(qpos=np.full(self.robot.n, np.nan) if event == "nan_state" else None)
        if event == "nan_state":
            self.state()
        if event == "reset" or (self.guard.state is State.DAMP and self.rng.random() < 0.3):
            self.guard.reset(self.now)
            self.last = self.speed = None  # the driver was left alone in between
            self.guard.tick(self.now)
        self.guard.arm(self.now)
        if kind != "none":
            self.chunks += 1
            self.guard.on_chunk(self.chunk(kind, scale), self.now)
        self.check(self.guard.tick(self.now))

    def follow(self):
        """The joints go half the way to the command, not faster than they can."""
        target = self.qpos if self.last is None else self.last
        reach = self.robot.velocity_limit_rad_s * self.dt_s
        moved = np.clip(0.5 * (target - self.qpos), -reach, reach)
        moved += self.rng.normal(0.0, 1e-6, self.robot.n)
        # It is not measured where it has not been told to go: there the guard would hold it.
        lower = np.maximum(self.robot.lower_rad, self.limits.lower_rad)
        upper = np.minimum(self.robot.upper_rad, self.limits.upper_rad)
        new = np.clip(self.qpos + moved, lower, upper)
        self.qvel = (new - self.qpos) / self.dt_s
        self.qpos = new

    def chunk(self, kind, scale):
        n, rng = self.robot.n, self.rng
        rows = 2000 if kind == "long" else int(rng.integers(1, 9))
        shape = (rows, n + (kind == "shape"))
        values = rng.normal(0.0, scale, shape)
        if kind == "near":
            values = self.qpos + np.cumsum(values, axis=0) * 0.02
        elif kind == "gross":
            values = values * 1e3
        elif kind == "nan":
            values[rng.integers(rows), rng.integers(n)] = np.nan
        elif kind == "inf":
            values[rng.integers(rows), rng.integers(n)] = rng.choice([-np.inf, np.inf])
        shift = {"stale": -500, "late": -15, "future": 200}.get(kind, 0) * MS
        dt_s = float(rng.choice([0.0, 0.002, 0.02, 0.1]))
        return ActionChunk(stamp_ns=self.stamp + shift, dt_s=dt_s, positions_rad=values)

    def check(self, command):
        if command is None or command.positions_rad is None:
            self.last = self.speed = self.window = None
            return
        sent, lim, tiny = command.positions_rad, self.limits, 1e-9
        self.commands += 1
        assert np.isfinite(sent).all()
        assert (sent >= lim.lower_rad - tiny).all()
        assert (sent <= lim.upper_rad + tiny).all()
        window = None
        if self.robot.command == "setpoint":
            window = np.array(torque_window(self.robot, self.qpos, self.qvel))
            assert (sent >= window[0] - tiny).all()
            assert (sent <= window[1] + tiny).all()
        if self.last is not None:
            self.check_motion(sent, window)
        self.last, self.window = sent, window

    def check_motion(self, sent, window):
        """Speed, and for positions acceleration; a set-point may also be carried by the torque."""
        if window is not None:
            # Set-points step once in a period of the policy.
            allowed = self.limits.velocity_rad_s * self.guard.config.policy_period_s + 1e-9
            carried = np.abs(window - self.window).max(axis=0)
            assert (np.abs(sent - self.last) <= allowed + carried).all()
            return
        speed = (sent - self.last) / self.dt_s
        assert (np.abs(speed) <= self.limits.velocity_rad_s * (1.0 + 1e-6)).all()
        if self.speed is not None:
            change = np.abs(speed - self.speed)
            assert (change <= self.acceleration * self.dt_s * (1.0 + 1e-6) + 1e-6).all()
        self.speed = speed


def drive(robot, seed, chunks):
    """Random steps until ``chunks`` chunks have been given; the bench."""
    bench = Bench(robot, seed)
    rng = np.random.default_rng([seed, 1])
    while bench.chunks < chunks:
        size = 4096
        kinds = np.where(
            rng.random(size) < PLAUSIBLE,
            rng.integers(0, 2, size),
            rng.integers(0, len(CHUNKS), size),
        )
        scales = 10.0 ** rng.uniform(-2.0, 1.0, size)
        events = np.where(rng.random(size) < 0.01, rng.integers(0, len(EVENTS), size), -1)
        for kind, scale, event in zip(
            kinds.tolist(), scales.tolist(), events.tolist(), strict=True
        ):
            bench.step(CHUNKS[kind], scale, EVENTS[event] if event >= 0 else None)
            if bench.chunks >= chunks:
                break
    return bench


STEP = st.tuples(
    st.sampled_from(CHUNKS), st.floats(0.01, 10.0), st.sampled_from([None] * 6 + list(EVENTS))
)


@pytest.mark.parametrize("robot", ROBOTS.values(), ids=list(ROBOTS))
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), steps=st.lists(STEP, max_size=40))
def test_no_sequence_of_chunks_gets_an_unsafe_command_out(robot, seed, steps):
    bench = Bench(robot, seed)
    for kind, scale, event in steps:
        bench.step(kind, scale, event)


@pytest.mark.parametrize("robot", ROBOTS.values(), ids=list(ROBOTS))
def test_thousands_of_chunks(robot):
    bench = drive(robot, 0, 5_000)
    assert bench.commands > 3_000  # it was in motion most of the time: something was checked


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_million_chunks(capsys):
    share = -(-1_000_000 // len(ROBOTS))
    benches = [drive(robot, 1, share) for robot in ROBOTS.values()]
    with capsys.disabled():
        for bench in benches:
            print(
                f"\n{bench.robot.name}: {bench.chunks} chunks, {bench.commands} commands, 0 unsafe"
            )
    assert sum(bench.chunks for bench in benches) >= 1_000_000
    assert sum(bench.commands for bench in benches) > 600_000
