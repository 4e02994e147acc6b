"""Labels explain the log: replaying them closes a gap that nobody told them of."""

import numpy as np
import pytest

from policies.interface import reorder_index
from policies.robots import G1, PANDA
from sim2real.delta.labels import LabelConfig, label_log, solve
from sim2real.episodes.episode import Episode
from sim2real.replay.log import Log
from sim2real.replay.open_loop import play
from sim2real.sim.batch import BatchStepper
from sim2real.sim.gaps import Gap, make_gap
from sim2real.sim.stepper import Stepper, default_state, stack

ALL = np.arange(PANDA.n)
CONFIG = LabelConfig(limit_rad=0.1)


def panda_log(gap, seconds=1.5):
    t = np.arange(round(100 * seconds)) / 100.0
    phase = np.arange(PANDA.n)
    action = PANDA.default_rad + 0.2 * (np.sin(4.0 * t[:, None] + phase) - np.sin(phase))
    stepper = Stepper(PANDA, gap)
    stepper.reset(default_state(PANDA, action[0]))
    states = []
    for target in action:
        states.append(stepper.state)
        stepper.step(target)
    episode = Episode(
        robot="panda",
        robot_fingerprint=PANDA.fingerprint,
        rate_hz=100.0,
        t_s=t,
        action_rad=action,
        qpos_rad=np.array([s.qpos_rad for s in states]),
        qvel_rad_s=np.array([s.qvel_rad_s for s in states]),
    )
    return Log.of([episode], PANDA)


@pytest.fixture(scope="module")
def stepper():
    with BatchStepper(PANDA) as batch:
        yield batch


def replay_error(stepper, log, delta=None):
    rows, ticks = log.windows(50, 50), 50
    states = play(stepper, log, rows, ticks, delta=delta)
    return np.sqrt(((states.qpos_rad - log.state.qpos_rad[log.ahead(rows, ticks)]) ** 2).mean())


@pytest.mark.parametrize("name", ["hidden:1", "hidden:7", "payload", "latency"])
@pytest.mark.parametrize("ticks", [1, 2])
def test_replayed_labels_reproduce_the_log(stepper, name, ticks):
    log = panda_log(make_gap(PANDA, name))
    rows, delta, stats = label_log(stepper, log, ALL, LabelConfig(limit_rad=0.1, ticks=ticks))
    whole = np.zeros_like(log.setpoint_rad)
    whole[rows] = delta
    assert replay_error(stepper, log, whole) < 0.15 * replay_error(stepper, log)
    assert stats.count == len(rows) == len(log.setpoint_rad) - ticks
    assert stats.error_after < 0.1 * stats.error_before


def test_a_robot_without_gap_needs_no_delta(stepper):
    _, delta, stats = label_log(stepper, panda_log(None), ALL, CONFIG)
    assert np.abs(delta).max() < 1e-4
    assert stats.at_limit == 0.0


def test_a_delta_that_is_in_the_log_is_found(stepper):
    """The set-points reach the motors with a known offset; the labels are that offset."""
    offset = np.linspace(-0.03, 0.03, PANDA.n)
    state = default_state(PANDA).map(lambda x: x[None])
    setpoint = (PANDA.default_rad + 0.01)[None, None]
    target = stepper.step(state, setpoint + offset)
    sent = setpoint[:, :0]
    delta, before, after = solve(stepper, state, setpoint, sent, target, ALL, CONFIG)
    assert delta[0] == pytest.approx(offset, abs=1e-3)
    assert after < 1e-3 * before


def test_a_delta_acts_behind_the_actuator_delay():
    """Half of the tick still follows the set-point of the tick before; the delta is all there."""
    offset = np.linspace(-0.03, 0.03, PANDA.n)
    state = default_state(PANDA).map(lambda x: x[None])
    setpoint = (PANDA.default_rad + 0.01)[None, None]
    sent = (PANDA.default_rad - 0.02)[None, None]
    with BatchStepper(PANDA, Gap(delay_s=0.005)) as late:
        np.testing.assert_allclose(late.at_motor(setpoint, sent), 0.5 * (setpoint + sent))
        target = late.step(state, setpoint, sent, np.broadcast_to(offset, (1, 1, PANDA.n)))
        delta, before, after = solve(late, state, setpoint, sent, target, ALL, CONFIG)
    assert delta[0] == pytest.approx(offset, abs=1e-3)
    assert after < 1e-3 * before


def test_only_chosen_joints_get_a_delta_and_none_beyond_the_limit(stepper):
    log = panda_log(Gap(strength={"*": 0.3}, friction_nm={"*": 5.0}))
    joints = reorder_index(PANDA.joint_names, ["panda_joint2", "panda_joint6"], "panda")
    config = LabelConfig(limit_rad=0.02)
    _, delta, stats = label_log(stepper, log, joints, config)
    others = np.setdiff1d(ALL, joints)
    assert not delta[:, others].any()
    assert np.abs(delta).max() <= 0.02
    assert stats.at_limit > 0.05


def test_a_heavier_ridge_gives_smaller_deltas(stepper):
    log = panda_log(make_gap(PANDA, "arm_weak"))
    sizes = [
        np.abs(label_log(stepper, log, ALL, LabelConfig(limit_rad=0.1, ridge=ridge))[1]).mean()
        for ridge in (0.3, 10.0, 100.0)
    ]
    assert sizes[0] > sizes[1] > sizes[2]


def test_legged_labels_reduce_the_error_of_joints_and_base():
    gap = Gap(strength={"*_ankle_*": 0.6, "*_knee_*": 0.8})
    with BatchStepper(G1, gap) as real, BatchStepper(G1) as nominal:
        state = default_state(G1).map(lambda x: x[None])
        frames = [state]
        setpoint = np.repeat(G1.default_rad[None, None], 12, axis=1)
        setpoint[..., 4] -= 0.1 * np.arange(12) / 12
        for k in range(12):
            frames.append(real.step(frames[-1], setpoint[:, k : k + 1]).map(lambda x: x[:, 0]))
        log = stack(frames).map(lambda x: x[0])
        _, before, after = solve(
            nominal,
            log.map(lambda x: x[4:-1]),
            setpoint[0, 4:, None],
            np.empty((8, 0, G1.n)),
            log.map(lambda x: x[5:, None]),
            np.arange(G1.n),
            LabelConfig(limit_rad=0.5),
        )
    assert after.sum() < 0.1 * before.sum()
