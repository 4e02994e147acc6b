"""Control law and watchdog of the Franka driver, on a plant of seven masses."""

import numpy as np
import pytest
from realign_franka_driver.core import PERIOD_S, DriverConfig, DriverCore, Mode, Stop

from policies.robots import get_robot

PANDA = get_robot("panda")
MS = 1_000_000


class Rig:
    """A core, a clock, and joints of unit inertia that do what torques tell them."""

    def __init__(self, **config):
        self.core = DriverCore(PANDA, DriverConfig(**config))
        self.now = 1_000_000_000
        self.q, self.dq = PANDA.default_rad.copy(), np.zeros(7)
        self.last = np.zeros(7)
        self.finished = False

    def run(self, seconds, target=None):
        """Cycle at 1 kHz; every 5 ms a command ``target(t)``, None to stand."""
        rows = []
        for k in range(round(seconds * 1000)):
            self.now += MS
            if target is not None and k % 5 == 0:
                self.core.on_command(target(k * PERIOD_S), self.now)
            if self.core.wants_motion:
                self.core.begin(self.q.copy(), self.now)
                self.last = np.zeros(7)
            if self.core.in_motion:
                torque = self.core.torque(self.q, self.dq, np.zeros(7), self.last, self.now)
                rows.append((torque - self.last, self.core.reference_rad.copy()))
                self.last = torque
                self.dq = self.dq + PERIOD_S * torque
                self.q = self.q + PERIOD_S * self.dq
                if self.core.finished(self.dq, self.now):
                    self.finished = True
                    self.core.ended()
                    self.dq = np.zeros(7)
        steps, references = zip(*rows, strict=True) if rows else ((), ())
        return np.array(steps), np.array(references)


def wave(t):
    return PANDA.default_rad + 0.05 * (1.0 - np.cos(3.0 * t))


def still(_):
    return PANDA.default_rad


def test_nothing_moves_before_the_first_command():
    rig = Rig()
    steps, _ = rig.run(0.1)
    assert len(steps) == 0
    assert rig.core.mode is Mode.WAITING


def test_tracks_commands_within_the_torque_rate():
    rig = Rig()
    steps, references = rig.run(3.0, wave)
    assert rig.core.mode is Mode.TRACKING
    assert np.abs(steps).max() <= 0.999 + 1e-12
    # A command is reached one command later: interpolation costs 5 ms.
    wanted = np.array([wave((k - 4) * PERIOD_S) for k in range(200, 3000)])
    assert np.abs(references[200:] - wanted).max() < 2e-3
    assert np.abs(rig.q - wave(3.0)).max() < 0.03


def test_reference_has_no_steps_between_commands():
    _, references = Rig().run(2.0, wave)
    speed = np.abs(np.diff(references, axis=0)).max() / PERIOD_S
    assert speed < 0.05 * 3.0 * 1.1  # of the wave itself


def test_low_pass_comes_before_the_limit_of_the_rate():
    core = DriverCore(
        PANDA, DriverConfig(stiffness_nm_rad=(100.0,) * 7, damping_nm_s_rad=(0.0,) * 7)
    )
    core.on_command(PANDA.default_rad, 0)
    core.begin(PANDA.default_rad, 0)
    away = PANDA.default_rad - np.array([0.001, 0.01, 0.05, 0.5, 0.0, 0.0, 0.0])
    torque = core.torque(away, np.zeros(7), np.zeros(7), np.zeros(7), MS)
    share = PERIOD_S / (PERIOD_S + 1.0 / (2.0 * np.pi * 100.0))
    smooth = share * np.minimum(100.0 * (PANDA.default_rad - away), PANDA.effort_limit_nm)
    assert torque == pytest.approx(np.minimum(smooth, 0.999))
    assert torque[2] > 0.999 - 1e-9  # one that the rate limits, and two that it does not
    assert torque[1] < 0.5


def test_coriolis_is_added_and_effort_is_limited():
    rig = Rig(torque_rate_nm_s=1e6, cutoff_hz=1e6)
    rig.run(0.01, still)
    coriolis = np.array([5.0, 0.0, 0.0, 0.0, 0.0, 0.0, 500.0])
    torque = rig.core.torque(rig.q, rig.dq, coriolis, np.zeros(7), rig.now)
    assert torque[0] == pytest.approx(5.0, rel=1e-3)
    assert torque[6] == pytest.approx(PANDA.effort_limit_nm[6], rel=1e-3)


def test_silent_commands_decelerate_hold_and_end_the_motion():
    rig = Rig()
    rig.run(0.5, wave)
    moving = rig.core.reference_rad_s.copy()
    assert np.abs(moving).max() > 0.05
    _, references = rig.run(0.3)
    assert rig.core.mode is Mode.HOLD
    assert (np.diff(references[-100:], axis=0) == 0.0).all()
    change = np.diff(references, n=2, axis=0) / PERIOD_S**2
    after = change[60:]  # once the deceleration has begun
    assert (np.abs(after) <= PANDA.array("acceleration_limit_rad_s2") + 1e-6).all()
    assert not rig.finished
    rig.run(1.0)
    assert rig.finished
    assert rig.core.mode is Mode.STOPPED
    assert rig.core.stopped_by is Stop.COMMANDS_SILENT
    rig.run(0.2, still)
    assert not rig.core.in_motion  # latched
    rig.core.reset()
    rig.run(0.2, lambda _: rig.q)
    assert rig.core.mode is Mode.TRACKING


def test_commands_that_come_back_during_the_hold_are_tracked_again():
    rig = Rig()
    rig.run(0.5, wave)
    rig.run(0.2)
    assert rig.core.mode is Mode.HOLD
    pose = rig.core.reference_rad + 0.02
    _, references = rig.run(0.3, lambda _: pose)
    assert rig.core.mode is Mode.TRACKING
    assert references[-1] == pytest.approx(pose)
    assert np.abs(np.diff(references, axis=0)).max() / PERIOD_S < 4.1  # 0.02 rad over a command


def test_a_guard_that_tells_the_arm_to_stand_is_no_fault():
    rig = Rig()
    rig.run(0.3, wave)
    rig.run(1.5, lambda _: None)
    assert rig.finished
    assert rig.core.stopped_by is Stop.FINISHED


@pytest.mark.parametrize(
    ("offset", "reason", "detail"),
    [(np.nan, Stop.BAD_COMMAND, ""), (np.inf, Stop.BAD_COMMAND, ""), (0.2, Stop.JUMP, "joint4")],
)
def test_bad_command_brings_the_arm_to_a_stand(offset, reason, detail):
    rig = Rig()
    rig.run(0.3, wave)
    bad = rig.core.reference_rad.copy()
    bad[3] += offset
    rig.run(0.005, lambda _: bad)
    assert rig.core.stopped_by is reason
    assert detail in rig.core.stop_text
    steps, _ = rig.run(1.0, still)
    assert np.isfinite(steps).all()
    assert rig.finished


def test_first_command_far_from_the_arm_is_refused():
    rig = Rig()
    rig.run(0.1, lambda _: PANDA.default_rad + 0.3)
    assert rig.core.stopped_by is Stop.JUMP
    assert np.abs(rig.q - PANDA.default_rad).max() < 1e-6


def test_first_reason_is_kept_and_reset_waits_for_the_end_of_the_motion():
    rig = Rig()
    rig.run(0.3, wave)
    rig.core.stop(Stop.NODE_DIED)
    rig.core.stop(Stop.ROBOT_SILENT)
    rig.core.reset()
    assert rig.core.stopped_by is Stop.NODE_DIED
    rig.run(1.0)
    rig.core.reset()
    assert rig.core.mode is Mode.WAITING


@pytest.mark.parametrize("seed", range(5))
def test_whatever_comes_torques_are_finite_and_their_rate_is_kept(seed):
    """Bursts, gaps, noise, jumps, NaN: 4 s of them, with resets in between."""
    rng = np.random.default_rng(seed)
    rig = Rig()
    kinds = ("wave", "silence", "stand", "noise", "jump", "nan")
    for _ in range(20):
        kind = kinds[rng.choice(len(kinds), p=(0.4, 0.2, 0.1, 0.1, 0.1, 0.1))]
        base = rig.q.copy()
        made = {
            "wave": lambda t, base=base: base + 0.05 * np.sin(4.0 * t),
            "silence": None,
            "stand": lambda _: None,
            "noise": lambda _, base=base: base + rng.normal(0.0, 0.02, 7),
            "jump": lambda _, base=base: base + rng.normal(0.0, 0.3, 7),
            "nan": lambda _, base=base: np.where(rng.random(7) < 0.2, np.nan, base),
        }[kind]
        steps, references = rig.run(0.2, made)
        assert np.isfinite(steps).all()
        assert np.isfinite(references).all()
        if len(steps):
            assert np.abs(steps).max() <= 0.999 + 1e-9
        if len(references) > 1:
            speed = np.abs(np.diff(references, axis=0)) / PERIOD_S
            assert (speed <= PANDA.velocity_limit_rad_s + 1e-6).all()
        rig.core.reset()
