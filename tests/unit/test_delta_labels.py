"""Labels explain the log: replaying them closes a gap that nobody told them of."""

import numpy as np
import pytest

from policies.interface import reorder_index
from policies.robots import G1, PANDA
from sim2real.delta.labels import LabelConfig, label_log
from sim2real.delta.linear import linearise
from sim2real.episodes.episode import Episode
from sim2real.replay.log import Log
from sim2real.replay.open_loop import play
from sim2real.sim.batch import BatchStepper
from sim2real.sim.gaps import Gap, make_gap
from sim2real.sim.stepper import Stepper, default_state, stack
from sim2real.sim.tangent import difference, displaced, tangent_size

ALL = np.arange(PANDA.n)
CONFIG = LabelConfig(limit_rad=0.1)


def log_of(robot, states, setpoints):
    arrays = stack(states).map(lambda x: x[0])
    episode = Episode(
        robot=robot.name,
        robot_fingerprint=robot.fingerprint,
        rate_hz=robot.control_rate_hz,
        t_s=np.arange(len(setpoints)) / robot.control_rate_hz,
        action_rad=np.array(setpoints),
        **vars(arrays),
    )
    return Log.of([episode], robot)


def panda_log(gap, seconds=1.5):
    t = np.arange(round(100 * seconds)) / 100.0
    phase = np.arange(PANDA.n)
    action = PANDA.default_rad + 0.2 * (np.sin(4.0 * t[:, None] + phase) - np.sin(phase))
    stepper = Stepper(PANDA, gap)
    stepper.reset(default_state(PANDA, action[0]))
    states = []
    for target in action:
        states.append(stepper.state.map(lambda x: x[None]))
        stepper.step(target)
    return log_of(PANDA, states, action)


@pytest.fixture(scope="module")
def stepper():
    with BatchStepper(PANDA) as batch:
        yield batch


def label(stepper, log, joints=ALL, config=CONFIG):
    return label_log(stepper, log, linearise(stepper, log, joints), joints, config)


def replay_error(stepper, log, delta=None):
    rows, ticks = log.windows(50, 50), 50
    states = play(stepper, log, rows, ticks, delta=delta)
    return np.sqrt(((states.qpos_rad - log.state.qpos_rad[log.ahead(rows, ticks)]) ** 2).mean())


@pytest.mark.parametrize("name", ["hidden:1", "hidden:7", "payload", "latency", "worn"])
def test_replayed_labels_reproduce_the_log(stepper, name):
    log = panda_log(make_gap(PANDA, name))
    delta, stats = label(stepper, log)
    whole = np.zeros_like(log.setpoint_rad)
    whole[log.steps()] = delta
    assert replay_error(stepper, log, whole) < 0.15 * replay_error(stepper, log)
    assert stats.count == len(delta) == len(log.setpoint_rad) - 1
    assert stats.error_after < 0.1 * stats.error_before


def test_a_robot_without_gap_needs_no_delta(stepper):
    delta, stats = label(stepper, panda_log(None))
    assert np.abs(delta).max() < 1e-4
    assert stats.at_limit == 0.0


def test_a_delta_that_is_in_the_log_is_found(stepper):
    """The set-points reach the motors with a known offset; the labels are that offset."""
    offset = np.linspace(-0.03, 0.03, PANDA.n)
    state = default_state(PANDA).map(lambda x: x[None])
    setpoint = PANDA.default_rad + 0.01
    target = stepper.step(state, (setpoint + offset)[None, None]).map(lambda x: x[:, 0])
    delta, stats = label(stepper, log_of(PANDA, [state, target], [setpoint, setpoint]))
    assert delta[0] == pytest.approx(offset, abs=1e-3)
    assert stats.error_after < 0.03 * stats.error_before


def test_what_acts_anyway_is_not_labelled_again(stepper):
    log = panda_log(make_gap(PANDA, "arm_weak"))
    linear = linearise(stepper, log, ALL)
    whole, _ = label_log(stepper, log, linear, ALL, CONFIG)
    rest, _ = label_log(stepper, log, linear, ALL, CONFIG, base_rad=0.75 * whole)
    assert np.abs(rest - 0.25 * whole).mean() < 0.05 * np.abs(whole).mean()


def test_a_delta_acts_behind_the_actuator_delay():
    """Half of the tick still follows the set-point of the tick before; the delta is all there."""
    offset = np.linspace(-0.03, 0.03, PANDA.n)
    state = default_state(PANDA).map(lambda x: x[None])
    sent, setpoint = PANDA.default_rad - 0.02, PANDA.default_rad + 0.01
    with BatchStepper(PANDA, Gap(delay_s=0.005)) as late:
        command = setpoint[None, None], sent[None, None]
        np.testing.assert_allclose(late.at_motor(*command)[0, 0], 0.5 * (setpoint + sent))
        target = late.step(state, *command, offset[None, None]).map(lambda x: x[:, 0])
        delta, _ = label(late, log_of(PANDA, [state, state, target], [sent, setpoint, setpoint]))
    assert delta[1] == pytest.approx(offset, abs=1e-3)


def test_only_chosen_joints_get_a_delta_and_none_beyond_the_limit(stepper):
    log = panda_log(Gap(strength={"*": 0.3}, friction_nm={"*": 5.0}))
    joints = reorder_index(PANDA.joint_names, ["panda_joint2", "panda_joint6"], "panda")
    delta, stats = label(stepper, log, joints, LabelConfig(limit_rad=0.02))
    others = np.setdiff1d(ALL, joints)
    assert not delta[:, others].any()
    assert np.abs(delta).max() <= 0.02
    assert stats.at_limit > 0.05


def test_a_heavier_ridge_gives_smaller_deltas(stepper):
    log = panda_log(make_gap(PANDA, "arm_weak"))
    sizes = [
        np.abs(label(stepper, log, config=LabelConfig(limit_rad=0.1, ridge=ridge))[0]).mean()
        for ridge in (0.3, 10.0, 100.0)
    ]
    assert sizes[0] > sizes[1] > sizes[2]


def legged_log(gap, ticks=12):
    with BatchStepper(G1, gap) as real:
        frames = [default_state(G1).map(lambda x: x[None])]
        setpoint = np.repeat(G1.default_rad[None], ticks, axis=0)
        setpoint[:, 4] -= 0.1 * np.arange(ticks) / ticks
        for row in setpoint[:-1]:
            frames.append(real.step(frames[-1], row[None, None]).map(lambda x: x[:, 0]))
    return log_of(G1, frames, setpoint)


def test_legged_labels_reduce_the_error_of_joints_and_base():
    log = legged_log(Gap(strength={"*_ankle_*": 0.6, "*_knee_*": 0.8}))
    with BatchStepper(G1) as nominal:
        _, stats = label(nominal, log, np.arange(G1.n), LabelConfig(limit_rad=0.5))
    assert stats.error_after < 0.5 * stats.error_before


def test_a_linearised_tick_predicts_the_simulated_one(stepper):
    log = panda_log(make_gap(PANDA, "hidden:1"), seconds=0.2)
    linear = linearise(stepper, log, ALL)
    rng = np.random.default_rng(0)
    count, size = len(linear.rows), tangent_size(PANDA)
    moved = rng.normal(size=(count, size)) * np.repeat([1e-3, 1e-2], PANDA.n)
    delta = rng.normal(scale=3e-3, size=(count, PANDA.n))
    start = displaced(log.state.map(lambda x: x[linear.rows]), moved)
    after = stepper.step(start, log.setpoint_rad[linear.rows][:, None], None, delta[:, None])
    error = difference(after.map(lambda x: x[:, 0]), log.state.map(lambda x: x[linear.rows + 1]))
    plain = linear.residual
    by_state = (linear.by_state @ moved[..., None])[..., 0]
    by_delta = (linear.by_delta @ delta[..., None])[..., 0]
    left = np.abs(error - plain - by_state - by_delta)
    assert np.median(left) < 0.02 * np.median(np.abs(error - plain))


@pytest.mark.parametrize("robot", [G1, PANDA])
def test_a_displacement_is_the_difference(robot):
    rng = np.random.default_rng(1)
    state = default_state(robot).map(lambda x: np.tile(x, (5, 1)))
    change = 0.1 * rng.normal(size=(5, tangent_size(robot)))
    assert difference(displaced(state, change), state) == pytest.approx(change, abs=1e-9)
