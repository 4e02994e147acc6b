"""The PPO delta: it learns to stay with the log, and its files replay as it was trained."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from policies.errors import InputError
from policies.robots import G1, PANDA
from sim2real.cli import main
from sim2real.delta.data import Task, groups_of
from sim2real.delta.model import load_delta
from sim2real.delta.ppo import Closeness, DeltaEnv, PpoDeltaConfig, train_ppo_delta
from sim2real.delta.ppo_model import PpoDelta, layer_shapes, observation_size
from sim2real.episodes.store import save_episodes
from sim2real.finetune.simulator import Simulator
from sim2real.replay.open_loop import History, replay
from sim2real.rl.ppo import PpoConfig
from sim2real.sim.batch import BatchStepper
from sim2real.sim.body_positions import BodyPositions
from sim2real.sim.gaps import Gap
from sim2real.sim.stepper import default_state

OFFSET = Gap(offset_rad={"*": 0.05})
TINY = PpoDeltaConfig(iterations=3, envs=16, hidden=(32, 16), minutes=5.0)


@pytest.fixture(scope="module")
def episodes(swinging_arm):
    return [swinging_arm(seed, OFFSET, 1.5) for seed in range(4)]


@pytest.fixture(scope="module")
def trained(episodes):
    return train_ppo_delta(episodes[:3], PANDA, config=TINY)


def environment(episodes, config=TINY, gap=None):
    log, groups = groups_of(episodes, PANDA, 100)
    stepper = BatchStepper(PANDA, gap)
    task = Task(robot=PANDA, log=log, groups=groups, stepper=stepper, seed=0)
    return DeltaEnv(task, list(range(PANDA.n)), 0.1, config)


def answers(model, episodes):
    log, _ = groups_of(episodes, PANDA, 100)
    empty = np.zeros((len(log.setpoint_rad), 0, PANDA.n))
    return model(
        log.state,
        log.setpoint_rad,
        History(qpos_rad=empty, qvel_rad_s=empty, setpoint_rad=empty),
    )


def test_training_is_reproducible_for_a_seed(episodes, trained):
    model, report = trained
    again, _ = train_ppo_delta(episodes[:3], PANDA, config=TINY)
    other, _ = train_ppo_delta(episodes[:3], PANDA, config=replace(TINY, seed=1))
    assert all(np.array_equal(model.weights[k], again.weights[k]) for k in model.weights)
    assert not np.array_equal(model.weights["w0"], other.weights["w0"])
    assert report.iterations == 3
    assert report.steps == 3 * 24 * 16


def test_training_reduces_the_drift_from_the_log(episodes):
    learner = PpoConfig(gamma=0.9, actor_lr=3e-3)
    config = replace(TINY, iterations=30, sharpness=200.0, std=0.4, ppo=learner)
    model, report = train_ppo_delta(episodes, PANDA, config=config)
    assert report.errors["ppo"] < 0.9 * report.errors["open_loop"]
    assert np.abs(answers(model, episodes)).max() <= model.limit_rad


def test_a_perfect_simulator_is_rewarded_for_no_action_and_less_for_noise(episodes):
    twin, nominal = environment(episodes, gap=OFFSET), environment(episodes)
    still = np.zeros((twin.count, PANDA.n), dtype=np.float32)
    twin.reset(), nominal.reset()
    same, off = twin.step(still), nominal.step(still)
    best = (1.0 + 1.0 + 0.5 + 0.5 + 0.5) / 100.0
    assert same.reward == pytest.approx(best, rel=1e-3)
    assert same.metrics["distance_mm"] < 1e-3 < off.metrics["distance_mm"]
    assert (off.reward < 0.99 * same.reward).mean() > 0.9
    noise = np.ones_like(still)
    assert (twin.step(noise).reward < 0.99 * same.reward).all()


def test_episodes_end_after_their_time_or_with_the_log(episodes):
    env = environment(episodes, replace(TINY, episode_s=0.05))
    env.reset()
    still = np.zeros((env.count, PANDA.n), dtype=np.float32)
    ends = np.stack([env.step(still).truncated for _ in range(20)])
    assert ends.sum(axis=0).min() >= 4


def test_a_legged_reward_counts_base_feet_and_points():
    names = BodyPositions(G1).names
    closeness = Closeness(G1, names, 1.0)
    state = default_state(G1).map(lambda x: x[None])
    zero = np.zeros((1, len(names), 3))
    assert closeness(state, state, zero, zero) == pytest.approx([1 + 1 + 1 + 5 * 0.5])
    feet = zero.copy()
    feet[:, names.index("left_ankle_roll_link")] = 0.3
    # Feet 0.03 at half the mean square, lower bodies 0.1 over 12, both at their weights.
    expected = 5.5 - (1 - np.exp(-0.045 / 0.03)) - 0.5 * (1 - np.exp(-0.0075 / 0.1))
    assert closeness(state, state, feet, zero) == pytest.approx([expected])


def test_a_model_survives_its_files_and_replays(episodes, trained, tmp_path):
    model, _ = trained
    model.save(tmp_path / "delta")
    loaded = load_delta(tmp_path / "delta", PANDA)
    assert isinstance(loaded, PpoDelta)
    assert np.array_equal(answers(loaded, episodes), answers(model, episodes))
    a, b = (replay(episodes[3:], PANDA, delta=m).methods["delta_action"] for m in (model, loaded))
    assert np.array_equal(a.e_g_mpjpe_mm, b.e_g_mpjpe_mm)
    simulator = Simulator(PANDA, 2, 100.0, delta=loaded)
    state = default_state(PANDA).map(lambda x: np.stack([x, x]))
    _, _, delta = simulator.step(state, state.qpos_rad, simulator.past(state))
    simulator.close()
    assert delta.any()


def set_config(folder, **changes):
    file = folder / "config.json"
    content = json.loads(file.read_text()) | changes
    del content["files"]["config.json"]
    file.write_text(json.dumps(content))


def corrupt(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "b0": weights["b0"] + 1.0}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (corrupt, "expected sha256"),
        (lambda folder: (folder / "model.safetensors").unlink(), "none"),
        (lambda folder: set_config(folder, hidden=[32, 15]), "another shape"),
        (lambda folder: set_config(folder, limit_rad=-1.0), "limit_rad"),
        (lambda folder: set_config(folder, joints=[]), "joints"),
        (lambda folder: set_config(folder, robot="g1"), "got one for g1"),
        (lambda folder: set_config(folder, format="realign-delta-ppo-9"), "format"),
        (lambda folder: (folder / "config.json").write_text("[]"), "got list"),
    ],
)
def test_damaged_files_are_refused(trained, tmp_path, damage, message):
    trained[0].save(tmp_path / "delta")
    damage(tmp_path / "delta")
    with pytest.raises(InputError, match=message):
        load_delta(tmp_path / "delta", PANDA)


def test_shapes_of_a_legged_model():
    shapes = layer_shapes(observation_size(G1), (8,), 4)
    assert shapes == {"w0": (8, 3 * G1.n + 10), "b0": (8,), "w1": (4, 8), "b1": (4,)}


@pytest.mark.parametrize(
    "changes", [{"envs": 0}, {"minutes": 0.0}, {"iterations": 0}, {"limit_rad": -0.1}]
)
def test_senseless_settings_are_refused(episodes, changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        train_ppo_delta(episodes, PANDA, config=replace(TINY, **changes))


def test_the_command_trains_saves_and_replays(episodes, tmp_path, capsys):
    save_episodes(episodes, tmp_path / "log")
    log, out = str(tmp_path / "log"), str(tmp_path / "delta")
    options = ["--method", "ppo", "--iterations", "1", "--envs", "4", "--joints", "panda_joint2"]
    result = tmp_path / "result.json"
    command = ["delta", "train", log, "--robot", "panda", "--out", out, *options]
    assert main([*command, "--json", str(result)]) == 0
    assert "1 rollouts, 96 steps" in capsys.readouterr().out
    assert json.loads(result.read_text())["method"] == "ppo"
    assert main(["replay", log, "--robot", "panda", "--delta", out]) == 0
    assert main([*command, "--envs", "0", "--overwrite"]) == 2
    assert "envs" in capsys.readouterr().err
