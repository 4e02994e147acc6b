"""The environment of fine-tuning: the same events as a real run, delta, rewards, endings."""

from dataclasses import replace

import numpy as np
import pytest

from policies.actor.config import ActionConfig, ActorConfig
from policies.actor.onnx_actor import OnnxActor
from policies.errors import InputError
from policies.processors import HISTORY, TermConfig
from policies.robots import G1, PANDA
from policies.rotation import tilt_rad
from sim2real.delta.model import DeltaModel, model_shapes
from sim2real.finetune.actor import write_actor
from sim2real.finetune.closed_loop import ClosedLoop, Snapshot
from sim2real.finetune.reference import Reference, nominal_run
from sim2real.finetune.rewards import RewardConfig, Tracking, tracking_reward
from sim2real.finetune.simulator import Randomization, Simulator
from sim2real.finetune.tracking_env import TrackingConfig, TrackingEnv, fallen
from sim2real.finetune.train import actor_act, on_the_way
from sim2real.rl.networks import Mlp
from sim2real.sim.body_positions import BodyPositions
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import SimState, default_state
from sim2real.tasks.closed_loop import roll_out


def config_of(robot, duration_s=0.4):
    joints = robot.joint_names
    terms = [
        TermConfig(term="last_action"),
        TermConfig(term="joint_pos"),
        TermConfig(term="joint_vel", scale=0.05),
        TermConfig(term="motion_phase"),
    ]
    if robot.floating_base:
        terms += [TermConfig(term="projected_gravity"), TermConfig(term="base_ang_vel")]
    past = TermConfig(term=HISTORY, history=2, terms=(terms[0], terms[1]))
    return ActorConfig(
        name="motion",
        robot=robot.name,
        robot_fingerprint=robot.fingerprint,
        rate_hz=robot.control_rate_hz,
        action=ActionConfig(
            type="position_offset_from_default", joints=joints, scale=0.25, clip=2.0
        ),
        hold_pose_rad={},
        observation=(*terms, past),
        duration_s=duration_s,
        start_pose_rad=dict(zip(joints, robot.default_rad.tolist(), strict=True)),
    )


def network(robot, seed=0):
    size = 7 * robot.n + 1 + (6 if robot.floating_base else 0)
    mlp = Mlp([size, 16, robot.n], seed=seed, last_gain=0.5)
    return mlp


class Slope(DeltaModel):
    """Delta of one joint: ``slope`` times (set-point - position)."""

    slope = 0.0

    def __call__(self, state, setpoint_rad, history):
        (joint,) = (self.robot.joint_names.index(name) for name in self.joints)
        out = np.zeros_like(setpoint_rad)
        out[:, joint] = self.slope * (setpoint_rad - state.qpos_rad)[:, joint]
        return out


def delta_model(robot, joint, slope, *, window=1, rate_hz=None, simulator=None, kind=Slope):
    weights = {name: np.zeros(shape) for name, shape in model_shapes(robot).items()}
    made = type(kind.__name__, (kind,), {"slope": slope})
    return made(
        robot=robot,
        rate_hz=rate_hz or robot.control_rate_hz,
        joints=(robot.joint_names[joint],),
        window=window,
        hidden=(4,),
        members=1,
        limit_rad=1.0,
        gain=0.0,
        spread=1.0,
        weights=weights,
        simulator=simulator or Gap(),
    )


def close(loop):
    loop.simulator.close()


@pytest.mark.parametrize("robot", [G1, PANDA], ids=lambda r: r.name)
@pytest.mark.parametrize("gap", [Gap(), Gap(name="late", delay_s=0.013)], ids=lambda g: g.name)
def test_many_robots_do_what_one_does_in_a_roll_out(robot, gap):
    """Observation, action, delay and order of events are those of the real run."""
    config, mlp = config_of(robot), network(robot)
    policy = OnnxActor(config, robot, write_actor(mlp), "")
    episode = roll_out(policy, robot, gap=gap, pose_noise_rad=0.0).episode
    loop = ClosedLoop(config, Simulator(robot, 3, robot.control_rate_hz, base=gap))
    now = loop.start(3, np.random.default_rng(0), 0.0)
    for tick in range(loop.ticks):
        np.testing.assert_allclose(now.state.qpos_rad[1], episode.qpos_rad[tick], atol=1e-4)
        now, command, _ = loop.advance(now, actor_act(mlp)(loop.vector(now)))
        np.testing.assert_allclose(command[2], episode.action_rad[tick], atol=1e-4)
    assert now.tick.tolist() == [loop.ticks] * 3
    close(loop)


def test_delta_acts_in_the_actuator_and_sees_the_set_point():
    joint, robot = 3, PANDA
    delta = delta_model(robot, joint, slope=-0.5)
    plain = Simulator(robot, 2, 100.0)
    with_delta = Simulator(robot, 2, 100.0, delta=delta)
    state = default_state(robot).map(lambda x: np.tile(x, (2, 1)))
    target = np.tile(robot.default_rad, (2, 1))
    target[:, joint] += [0.1, -0.2]
    after, _, applied = with_delta.step(state, target, with_delta.past(state))
    want = np.zeros((2, robot.n))
    want[:, joint] = [-0.05, 0.1]
    np.testing.assert_allclose(applied, want, atol=1e-12)
    same, _, nothing = plain.step(state, target + want, plain.past(state))
    np.testing.assert_allclose(after.qpos_rad, same.qpos_rad, atol=1e-12)
    assert not nothing.any()
    plain.close(), with_delta.close()


def test_the_delta_brings_its_simulator_and_is_checked():
    delta = delta_model(PANDA, 0, 0.0, simulator=Gap(name="identified", strength={"*": 0.5}))
    simulator = Simulator(PANDA, 1, 100.0, delta=delta)
    assert [gap.name for gap in simulator.gaps] == ["identified"]
    simulator.close()
    with pytest.raises(InputError, match=r"expected a delta model of panda .* got one of g1"):
        Simulator(PANDA, 1, 100.0, delta=delta_model(G1, 0, 0.0))
    with pytest.raises(InputError, match="at 100 Hz, the rate of the policy, got one at 50 Hz"):
        Simulator(PANDA, 1, 100.0, delta=delta_model(PANDA, 0, 0.0, rate_hz=50.0))


def test_history_of_the_delta_is_the_log_that_would_have_been():
    seen = []

    class Spy(Slope):
        def __call__(self, state, setpoint_rad, history):
            seen.append((setpoint_rad, history))
            return np.zeros_like(setpoint_rad)

    model = delta_model(PANDA, 0, 0.0, window=2, kind=Spy)
    simulator = Simulator(PANDA, 1, 100.0, delta=model)
    state = default_state(PANDA).map(lambda x: x[None])
    past, states = simulator.past(state), [state]
    for k in range(3):
        state, past, _ = simulator.step(state, PANDA.default_rad[None] + 0.01 * k, past)
        states.append(state)
    first = seen[0][1].setpoint_rad[0]  # before the first row a log repeats its first row
    np.testing.assert_allclose(first, np.tile(PANDA.default_rad, (2, 1)))
    last = seen[2][1]
    np.testing.assert_allclose(
        last.setpoint_rad[0, :, 0] - PANDA.default_rad[0], [0.0, 0.01], atol=1e-12
    )
    np.testing.assert_array_equal(last.qpos_rad[0, 1], states[1].qpos_rad[0])
    simulator.close()


def test_random_dynamics_stay_in_their_ranges_and_differ():
    ranges = Randomization(draws=6)
    gaps = ranges.gaps(G1, Gap(name="base", delay_s=0.01, kp={"*_knee_*": 0.5}), seed=1)
    assert gaps == ranges.gaps(G1, Gap(name="base", delay_s=0.01, kp={"*_knee_*": 0.5}), seed=1)
    assert len({gap.delay_s for gap in gaps}) == 6
    for gap in gaps:
        assert 0.2 <= gap.floor_friction <= 1.1
        assert 0.925 <= gap.kp["*"] <= 1.05
        assert 0.03 <= gap.delay_s <= 0.05
        assert gap.kp["*_knee_*"] == 0.5
    assert gaps != ranges.gaps(G1, Gap(), seed=2)


def test_robots_of_several_dynamics_step_side_by_side():
    ranges = Randomization(draws=3, delay_s=(0.0, 0.03))
    many = Simulator(PANDA, 7, 100.0, randomization=ranges, seed=5)
    state = default_state(PANDA).map(lambda x: np.tile(x, (7, 1)))
    rng = np.random.default_rng(0)
    targets = PANDA.default_rad + 0.1 * rng.standard_normal((4, 1, 7))
    now, past = state, many.past(state)
    for target in targets:
        now, past, _ = many.step(now, np.tile(target, (7, 1)), past)
    assert len(many.gaps) == 3
    group = np.array([0, 0, 1, 1, 1, 2, 2])
    for i, gap in enumerate(many.gaps):
        alone = Simulator(PANDA, 1, 100.0, base=gap)
        one = state.map(lambda x: x[:1])
        before = alone.past(one)
        for target in targets:
            one, before, _ = alone.step(one, target, before)
        alone.close()
        for row in now.qpos_rad[group == i]:
            np.testing.assert_allclose(row, one.qpos_rad[0], atol=1e-9)
    assert len(np.unique(many.dynamics[:, 2])) == 3
    many.close()


def test_pushes_come_as_often_as_stated():
    ranges = Randomization(draws=1, delay_s=(0.0, 0.0), push_every_s=0.1)
    simulator = Simulator(G1, 200, 50.0, randomization=ranges)
    state = default_state(G1).map(lambda x: np.tile(x, (200, 1)))
    sizes = np.concatenate(
        [np.linalg.norm(simulator._push(state).base_lin_vel_m_s, axis=1) for _ in range(20)]
    )
    assert set(np.round(sizes, 9)) == {0.0, 0.5}
    assert abs((sizes > 0).mean() - 0.2) < 0.04
    simulator.close()


def test_snapshot_can_be_taken_and_put_back():
    loop = ClosedLoop(config_of(PANDA), Simulator(PANDA, 4, 100.0, keeps=(2, 1)))
    mlp = network(PANDA)
    start = loop.start(4, np.random.default_rng(0), 0.05)
    now = start
    for _ in range(5):
        now = loop.advance(now, actor_act(mlp)(loop.vector(now)))[0]
    mixed = start.put(np.array([1, 3]), now.take(np.array([0, 2])))
    assert mixed.tick.tolist() == [0, 5, 0, 5]
    assert start.tick.tolist() == [0] * 4  # nothing is changed in place
    after = loop.advance(mixed, actor_act(mlp)(loop.vector(mixed)))[0]
    straight = loop.advance(now, actor_act(mlp)(loop.vector(now)))[0]
    np.testing.assert_array_equal(after.state.qpos_rad[1], straight.state.qpos_rad[0])
    np.testing.assert_array_equal(after.frames[3], straight.frames[2])
    both = Snapshot.join([start, now])
    assert both.tick.tolist() == [0] * 4 + [5] * 4
    close(loop)


# ---- rewards -----------------------------------------------------------------------------------


def g1_reference(ticks=10):
    state = default_state(G1).map(lambda x: np.tile(x, (ticks + 1, 1)))
    return Reference.of("standing", G1, state)


def test_perfect_tracking_earns_everything_and_each_error_costs():
    reference = g1_reference()
    tracking = Tracking(G1, reference, np.arange(G1.n))
    tick = np.zeros(1, dtype=np.intp)
    state = reference.state.map(lambda x: x[:1])
    weights = RewardConfig()

    def reward(changed, body_m=None):
        body_m = reference.body_pos_m[:1] if body_m is None else body_m
        return tracking_reward(weights, tracking.errors(tick, changed, body_m))[0]

    assert reward(state) == pytest.approx(1.0)
    moved = reference.body_pos_m[:1] + np.array([0.25, 0.0, 0.0])
    errors = tracking.errors(tick, state, moved)
    assert errors["world"][0] == pytest.approx(0.25)
    assert errors["bodies"][0] == pytest.approx(0.0, abs=1e-12)
    share = weights.world.weight / 3.25
    assert reward(state, moved) == pytest.approx(1.0 - share * (1.0 - np.exp(-1.0)))
    yaw = np.array([[np.cos(0.15), 0.0, 0.0, np.sin(0.15)]])
    turned = replace(state, base_quat_wxyz=yaw)
    assert tracking.errors(tick, turned, moved)["turn"][0] == pytest.approx(0.3)
    for changed in (
        turned,
        replace(state, qpos_rad=state.qpos_rad + 0.1),
        replace(state, qvel_rad_s=state.qvel_rad_s + 1.0),
        replace(state, base_lin_vel_m_s=state.base_lin_vel_m_s + 0.3),
        replace(state, base_ang_vel_rad_s=state.base_ang_vel_rad_s + 1.0),
    ):
        assert reward(changed) < 1.0 - 1e-3


def test_penalties_are_the_stated_sums():
    reference = g1_reference()
    tracking = Tracking(G1, reference, np.arange(G1.n))
    names = BodyPositions(G1).names
    assert {names[i] for i in tracking.feet} == {"left_ankle_roll_link", "right_ankle_roll_link"}
    state = reference.state.map(lambda x: x[:1])
    feet = reference.body_pos_m[:1][:, tracking.feet]
    still = np.zeros_like(feet)
    target = G1.default_rad[None].copy()
    free = tracking.penalties(state, target, np.zeros((1, 29)), feet, still)
    assert all(value == 0.0 for value in free.values())
    step = still.copy()
    step[:, 0, 0] = 0.01  # 0.5 m/s at 50 Hz, one foot, on the floor
    target[0, 3] += 2.0 * G1.effort_limit_nm[3] / G1.kp_nm_rad[3]
    out = replace(state, qpos_rad=state.qpos_rad.copy())
    out.qpos_rad[0, 0] = G1.upper_rad[0]
    costs = tracking.penalties(out, target, np.full((1, 29), 0.1), feet, step)
    margin = 0.01 * (G1.upper_rad[0] - G1.lower_rad[0])
    assert costs["action_rate"][0] == pytest.approx(0.29)
    assert costs["slip"][0] == pytest.approx(0.25)
    assert costs["range"][0] == pytest.approx(margin**2)
    knee = (2.0 - 0.9) ** 2
    assert costs["torque"][0] >= knee
    high = feet + np.array([0.0, 0.0, 0.2])
    assert tracking.penalties(state, target, np.zeros((1, 29)), high, step)["slip"][0] == 0.0


def test_fallen_is_what_a_real_run_calls_a_fall():
    rng = np.random.default_rng(0)
    quat = rng.standard_normal((200, 4)) * [1.0, 0.3, 0.3, 1.0]
    quat /= np.linalg.norm(quat, axis=1, keepdims=True)
    height = rng.uniform(0.3, 0.8, 200)
    states = SimState(
        qpos_rad=np.zeros((200, 29)),
        qvel_rad_s=np.zeros((200, 29)),
        base_pos_m=np.stack([0 * height, 0 * height, height], axis=1),
        base_quat_wxyz=quat,
    )
    want = [z < 0.4 or tilt_rad(q) > np.pi / 4 for z, q in zip(height, quat, strict=True)]
    assert 20 < sum(want) < 180
    assert fallen(states).tolist() == want


# ---- the environment ---------------------------------------------------------------------------


def panda_env(gap=None, count=6, **settings):
    config, mlp = config_of(PANDA), network(PANDA)
    reference = nominal_run(config, PANDA, write_actor(mlp))
    loop = ClosedLoop(config, Simulator(PANDA, count, 100.0, base=gap or Gap()))
    bank = on_the_way(config, PANDA, loop.simulator, actor_act(mlp), count=2, noise_rad=0.01)
    env = TrackingEnv(loop, reference, bank, TrackingConfig(**settings))
    return env, actor_act(mlp)


def test_episodes_run_to_the_end_of_the_motion_and_begin_anew():
    env, act = panda_env(start_share=1.0, start_noise_rad=0.0)
    inputs, length = env.reset(), env.loop.ticks
    rewards = []
    for tick in range(2 * length):
        step = env.step(act(inputs.actor))
        inputs = step.inputs
        rewards.append(step.reward)
        assert step.truncated.all() == (tick % length == length - 1)
        assert not step.terminated.any()
    # The vanilla policy in the nominal simulator is its own reference.
    assert np.mean(rewards) * 100.0 > 0.97
    np.testing.assert_allclose(rewards[0], rewards[length], atol=1e-7)
    close(env.loop)


def test_the_critic_sees_the_end_before_the_reset():
    env, act = panda_env(start_share=1.0)
    inputs = env.reset()
    for _ in range(env.loop.ticks):
        step = env.step(act(inputs.actor))
        inputs = step.inputs
    assert inputs.critic[:, 0].tolist() == [0.0] * 6  # the phase comes first
    np.testing.assert_allclose(step.final_critic[:, 0], 1.0)
    close(env.loop)


def test_starts_are_spread_over_the_motion():
    env, _ = panda_env(count=60, start_share=0.25)
    env.reset()
    ticks = env._now.tick
    assert 5 <= (ticks == 0).sum() <= 27
    assert len(set(ticks.tolist())) > 15
    assert ticks.max() < env.loop.ticks - 1
    close(env.loop)


def test_leaving_the_motion_ends_the_episode_with_a_charge():
    env, _ = panda_env(start_share=1.0, far_m=0.05)
    inputs = env.reset()
    wild = np.full((6, 7), 2.0, dtype=np.float32)
    for _ in range(env.loop.ticks):
        step = env.step(wild)
        if step.terminated.any():
            break
    assert step.terminated.all()
    assert not step.truncated.any()
    assert (step.reward < -0.15).all()
    assert step.inputs.critic.shape == inputs.critic.shape
    close(env.loop)


def test_same_seed_same_episodes():
    def run():
        env, act = panda_env(gap=Gap(name="weak", strength={"*": 0.6}), seed=3)
        inputs, out = env.reset(), []
        for _ in range(60):
            step = env.step(act(inputs.actor))
            inputs = step.inputs
            out.append(np.concatenate([step.reward, inputs.critic.ravel()]))
        close(env.loop)
        return np.array(out)

    np.testing.assert_array_equal(run(), run())


def test_legged_environment_has_all_inputs_finite_and_ends_at_a_fall():
    config = config_of(G1, duration_s=1.0)
    state = default_state(G1).map(lambda x: np.tile(x, (51, 1)))
    loop = ClosedLoop(config, Simulator(G1, 4, 50.0))
    env = TrackingEnv(loop, Reference.of("standing", G1, state), [], TrackingConfig())
    inputs = env.reset()
    assert env.sizes == (inputs.actor.shape[1], inputs.critic.shape[1], 29)
    limp = np.zeros((4, 29), np.float32)
    limp[:, [3, 9]] = 2.0  # knees give way
    limp[:, [0, 6]] = 2.0
    ended = False
    for _ in range(40):
        step = env.step(limp)
        assert np.isfinite(step.inputs.critic).all()
        assert np.isfinite(step.inputs.actor).all()
        ended |= bool(step.terminated.any())
    assert ended
    close(loop)
