"""The delta model: training helps on held-out episodes, files are checked, features are sane."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from policies.errors import InputError
from policies.robots import G1, PANDA
from sim2real.cli import main
from sim2real.delta.features import feature_count, features
from sim2real.delta.fit import _forward
from sim2real.delta.model import (
    DeltaModel,
    joint_indices,
    load_delta,
    model_shapes,
    weight_shapes,
)
from sim2real.delta.train import DeltaConfig, train_delta
from sim2real.episodes.store import save_episodes
from sim2real.replay.open_loop import History, replay
from sim2real.sim.gaps import Gap, make_gap
from sim2real.sim.stepper import SimState

FAST = DeltaConfig(hidden=(64,), epochs=40, batch=256, ensemble=2)
HIDDEN = make_gap(PANDA, "hidden:7")


@pytest.fixture(scope="module")
def episodes(swinging_arm):
    return [swinging_arm(seed, HIDDEN, 1.5) for seed in range(7)]


@pytest.fixture(scope="module")
def trained(episodes):
    return train_delta(episodes[:5], PANDA, config=FAST)


def small_model(robot=PANDA, joints=("panda_joint2", "panda_joint7"), seed=0):
    rng = np.random.default_rng(seed)
    shapes = weight_shapes(feature_count(robot, 2), (8, 5), len(joints), 3) | model_shapes(robot)
    weights = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    weights["scale"] = np.abs(weights["scale"]) + 0.5
    weights["unit"] = np.full(len(joints), 0.01)
    weights["motor"][[n not in joints for n in robot.joint_names]] = 0.0
    weights["low"], weights["high"] = np.full((2, 3, robot.n), 5.0) * [[[-1.0]], [[1.0]]]
    return DeltaModel(
        robot=robot,
        rate_hz=100.0,
        joints=joints,
        window=2,
        gain=1.0,
        spread=100.0,
        hidden=(8, 5),
        members=3,
        limit_rad=0.05,
        weights=weights,
    )


def query(robot=PANDA, batch=6, history=2, seed=1):
    rng = np.random.default_rng(seed)
    state = SimState(
        qpos_rad=rng.normal(size=(batch, robot.n)), qvel_rad_s=rng.normal(size=(batch, robot.n))
    )
    past = rng.normal(size=(3, batch, history, robot.n))
    before = History(qpos_rad=past[0], qvel_rad_s=past[1], setpoint_rad=past[2])
    return state, rng.normal(size=(batch, robot.n)), before


def test_training_halves_the_error_of_episodes_it_never_saw(episodes, trained):
    model, report = trained
    methods = replay(episodes[5:], PANDA, delta=model).methods
    before, after = methods["open_loop"].e_g_mpjpe_mm, methods["delta_action"].e_g_mpjpe_mm
    assert (after < 0.5 * before).all()
    assert report.errors["motor"] < 0.7 * report.errors["open_loop"]
    assert report.errors[report.chosen] <= report.errors["motor"]
    assert report.labels.error_after < report.labels.error_before


def test_training_is_reproducible_for_a_seed_and_can_aggregate(episodes):
    config = replace(FAST, epochs=4, rounds=1, window=1, horizon_s=0.12)
    a, report = train_delta(episodes[:3], PANDA, config=config)
    b, _ = train_delta(episodes[:3], PANDA, config=config)
    c, _ = train_delta(episodes[:3], PANDA, config=replace(config, seed=1))
    assert a.weights.keys() == b.weights.keys()
    assert all(np.array_equal(a.weights[k], b.weights[k]) for k in a.weights)
    assert (a.weights.keys(), a.gain) != (c.weights.keys(), c.gain) or any(
        not np.array_equal(a.weights[k], c.weights[k]) for k in a.weights
    )
    rounds = {name.rpartition(" ")[2] for name in report.errors if "round" in name}
    assert rounds == {"0", "1"}


def test_training_on_a_robot_without_gap_does_no_harm(swinging_arm):
    logs = [swinging_arm(seed, Gap(), 1.2) for seed in range(4)]
    model, _ = train_delta(logs[:3], PANDA, config=replace(FAST, epochs=10))
    after = replay(logs[3:], PANDA, delta=model).methods["delta_action"]
    assert after.e_g_mpjpe_mm.max() < 0.1


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"joints": ("elbow",)}, "expected joints of panda"),
        ({"joints": ("panda_joint1", "panda_joint1")}, "each joint once"),
        ({"epochs": 0}, "epochs"),
        ({"pull": 0.0}, "pull"),
        ({"limit_rad": -0.1}, "limit_rad"),
        ({"hidden": (0,)}, "hidden"),
        ({"ridge": float("nan")}, "ridge"),
    ],
)
def test_bad_settings_get_a_sentence(episodes, change, sentence):
    with pytest.raises(InputError, match=sentence):
        train_delta(episodes[:2], PANDA, config=replace(FAST, **change))


def test_too_little_data_gets_a_sentence(swinging_arm):
    with pytest.raises(InputError, match=r"100 control ticks \(1 s\) .* got 58; record more"):
        train_delta([swinging_arm(seed, HIDDEN, 0.3) for seed in range(2)], PANDA)
    with pytest.raises(InputError, match="got 0; record more"):
        train_delta([], PANDA)


def test_one_long_episode_is_enough(episodes, swinging_arm):
    model, report = train_delta(
        [swinging_arm(3, HIDDEN, 4.0)], PANDA, config=replace(FAST, networks=False)
    )
    assert model.gain == 0.0
    methods = replay(episodes[5:], PANDA, delta=model).methods
    assert methods["delta_action"].qpos_rmse_rad[-1] < 0.5 * methods["open_loop"].qpos_rmse_rad[-1]
    assert report.motor.explained > 0.5


def test_numpy_inference_is_the_network_that_was_trained():
    model = small_model()
    state, setpoint, history = query()
    x = features(PANDA, state, setpoint, history)
    x = (x - model.weights["shift"]) / model.weights["scale"]
    tensors = {k: torch.tensor(v) for k, v in model.weights.items()}
    wide = torch.tensor(x).expand(3, *x.shape).contiguous()
    want = _forward(tensors, wide, 2).numpy() * model.weights["unit"]
    assert model.each(state, setpoint, history) == pytest.approx(want, abs=1e-12)


def test_delta_is_bounded_and_zero_for_other_joints():
    model = small_model()
    state, setpoint, history = query()
    wild = state.map(lambda x: 1e6 * x)
    delta = model(wild, setpoint, history)
    assert np.isfinite(delta).all()
    assert np.abs(delta).max() <= 0.05
    others = [i for i in range(PANDA.n) if PANDA.joint_names[i] not in model.joints]
    assert not delta[:, others].any()


def test_each_row_of_a_batch_stands_alone():
    model = small_model()
    state, setpoint, history = query()
    whole = model(state, setpoint, history)
    one = model(
        state.map(lambda x: x[2:3]),
        setpoint[2:3],
        History(**{k: v[2:3] for k, v in vars(history).items()}),
    )
    assert one[0] == pytest.approx(whole[2], abs=1e-12)


@given(st.floats(-3.1, 3.1), st.floats(-50.0, 50.0))
def test_features_do_not_depend_on_place_and_heading(yaw, x):
    rng = np.random.default_rng(3)
    plain, setpoint, history = query(G1, batch=1)
    quat = rng.normal(size=(1, 4))
    quat /= np.linalg.norm(quat)
    velocity, rate = rng.normal(size=(1, 3)), rng.normal(size=(1, 3))
    base = {"base_quat_wxyz": quat, "base_lin_vel_m_s": velocity, "base_ang_vel_rad_s": rate}
    here = replace(plain, base_pos_m=np.array([[0.0, 0.0, 0.8]]), **base)
    c, s = np.cos(yaw / 2), np.sin(yaw / 2)
    w, i, j, k = quat[0]
    turned = np.array([[c * w - s * k, c * i - s * j, c * j + s * i, c * k + s * w]])
    rotation = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])
    there = replace(
        here,
        base_pos_m=np.array([[x, -x, 0.8]]),
        base_quat_wxyz=turned,
        base_lin_vel_m_s=velocity @ rotation.T,
    )
    a, b = (features(G1, state, setpoint, history) for state in (here, there))
    assert a.shape == (1, feature_count(G1, 2))
    assert a == pytest.approx(b, abs=1e-9)


def test_joints_are_chosen_by_name_with_or_without_suffix():
    assert joint_indices(G1, ("left_ankle_pitch", "right_ankle_pitch_joint")) == [4, 10]
    assert joint_indices(G1, ()) == list(range(29))


def test_a_saved_model_answers_the_same(tmp_path):
    model = small_model()
    model.save(tmp_path / "delta")
    loaded = load_delta(tmp_path / "delta", PANDA)
    assert np.array_equal(loaded(*query()), model(*query()))
    assert loaded.joints == model.joints


def test_a_model_is_not_overwritten_silently(tmp_path):
    small_model().save(tmp_path / "delta")
    before = (tmp_path / "delta" / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="exists"):
        small_model(seed=5).save(tmp_path / "delta")
    assert (tmp_path / "delta" / "model.safetensors").read_bytes() == before
    small_model(seed=5).save(tmp_path / "delta", overwrite=True)
    assert (tmp_path / "delta" / "model.safetensors").read_bytes() != before
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="to overwrite, but it has no"):
        small_model().save(tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.txt").is_file()


def rewrite(folder, config=None, weights=None, keep_hash=False):
    """Change a saved model as someone might who knows the format, and takes the seal off."""
    content = json.loads((folder / "config.json").read_text())
    arrays = load_file(folder / "model.safetensors")
    arrays.update(weights or {})
    save_file({k: v for k, v in arrays.items() if v is not None}, folder / "model.safetensors")
    if not keep_hash:
        data = (folder / "model.safetensors").read_bytes()
        content["files"] = {"model.safetensors": hashlib.sha256(data).hexdigest()}
    (folder / "config.json").write_text(json.dumps({**content, **(config or {})}))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"weights": {"b0": np.zeros((3, 8))}, "keep_hash": True}, "expected sha256"),
        ({"weights": {"b0": np.zeros((3, 9))}}, r"\['b0'\]"),
        ({"weights": {"b0": None}}, r"\['b0'\]"),
        ({"weights": {"extra": np.zeros(3)}}, r"\['extra'\]"),
        ({"weights": {"w1": np.full((3, 8, 5), np.nan)}}, r"finite.*\['w1'\]"),
        ({"weights": {"unit": np.array([np.inf, 1.0])}}, "finite"),
        ({"weights": {"scale": np.zeros(feature_count(PANDA, 2))}}, "positive scales"),
        ({"config": {"robot_fingerprint": "0" * 16}}, "expected a delta model for panda"),
        ({"config": {"robot": "g1"}}, "expected a delta model for panda"),
        ({"config": {"joints": ["panda_joint2", "elbow"]}}, "elbow"),
        ({"config": {"window": 5}}, "another shape"),
        ({"config": {"gain": 2.0}}, "gain"),
        ({"config": {"spread": 0.0}}, "spread"),
        ({"config": {"simulator": {"strenght": {}}}}, "strenght"),
        ({"weights": {"motor": np.zeros((7, 2))}}, r"\['motor'\]"),
        ({"weights": {"high": np.full((3, 7), -9.0)}}, r"ranges.*\['high'\]"),
        ({"config": {"members": -1}}, "members"),
        ({"config": {"hidden": ["a"]}}, "hidden"),
        ({"config": {"limit_rad": None}}, "limit_rad"),
        ({"config": {"limit_rad": float("nan")}}, "finite numbers, got NaN"),
        ({"config": {"limit_rad": 10**400}}, "at most 300 digits"),
        ({"weights": {"shift": np.zeros(feature_count(PANDA, 2), np.int64)}}, r"\['shift'\]"),
        ({"config": {"format": "other"}}, "format"),
    ],
)
def test_a_damaged_model_gets_a_sentence(tmp_path, change, sentence):
    small_model().save(tmp_path / "delta")
    rewrite(tmp_path / "delta", **change)
    with pytest.raises(InputError, match=sentence):
        load_delta(tmp_path / "delta", PANDA)


def test_any_byte_that_changes_in_a_model_is_noticed(tmp_path):
    small_model().save(tmp_path / "delta")
    rng = np.random.default_rng(0)
    for name, step in (("config.json", 1), ("model.safetensors", 23)):
        path = tmp_path / "delta" / name
        whole = path.read_bytes()
        for place in range(0, len(whole), step):
            digit = b"7" if whole[place : place + 1] == b"3" else b"3"
            other = digit if rng.random() < 0.5 else bytes([whole[place] ^ 1 << rng.integers(8)])
            path.write_bytes(whole[:place] + other + whole[place + 1 :])
            with pytest.raises(InputError) as error:
                load_delta(tmp_path / "delta", PANDA)
            assert "\n" not in str(error.value), (name, place, other)
        path.write_bytes(whole)
    assert load_delta(tmp_path / "delta", PANDA).members == 3


def test_a_model_of_an_earlier_version_is_loaded_and_said_to_have_no_seal(
    episodes, tmp_path, capsys
):
    out = tmp_path / "delta"
    small_model().save(out)
    save_episodes(episodes[:1], tmp_path / "episodes")
    command = ["replay", str(tmp_path / "episodes"), "--robot", "panda", "--delta", str(out)]
    assert main(command) == 0
    assert "no hash of itself" not in capsys.readouterr().out
    content = json.loads((out / "config.json").read_text())
    content["sha256"] = content.pop("files")["model.safetensors"]
    (out / "config.json").write_text(json.dumps(content))
    assert main(command) == 0
    assert "no hash of itself" in capsys.readouterr().out
    (out / "model.safetensors").write_bytes(b"0" + (out / "model.safetensors").read_bytes()[1:])
    with pytest.raises(InputError, match="expected sha256"):
        load_delta(out, PANDA)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_or_cut_files_get_a_sentence(tmp_path, name):
    small_model().save(tmp_path / "delta")
    file = tmp_path / "delta" / name
    file.write_bytes(file.read_bytes()[:40])
    with pytest.raises(InputError):
        load_delta(tmp_path / "delta", PANDA)
    file.unlink()
    with pytest.raises(InputError):
        load_delta(tmp_path / "delta", PANDA)


def test_command_trains_a_model_that_replay_uses(episodes, tmp_path, capsys):
    save_episodes(episodes[:3], tmp_path / "train")
    out, result = tmp_path / "delta", tmp_path / "delta.json"
    args = ["delta", "train", str(tmp_path / "train"), "--robot", "panda", "--out", str(out)]
    assert main([*args, "--epochs", "5", "--json", str(result), "--joints", "panda_joint4"]) == 0
    printed = capsys.readouterr().out
    assert "panda_joint4" in printed
    content = json.loads(result.read_text())
    assert content["joints"] == ["panda_joint4"]
    assert all(f["joint"] == "panda_joint4" for f in content["findings"])
    assert content["held_out_error"]["motor"] < content["held_out_error"]["open_loop"]
    assert main(args) == 2
    assert "exists" in capsys.readouterr().err
    replayed = ["replay", str(tmp_path / "train"), "--robot", "panda", "--delta", str(out)]
    assert main([*replayed, "--json", str(tmp_path / "r.json")]) == 0
    methods = json.loads((tmp_path / "r.json").read_text())["methods"]
    assert methods.keys() == {"open_loop", "delta_action"}
    assert 0.0 <= methods["delta_action"]["trust"]["joints"] <= 1.0
    assert "trust of the delta in itself" in capsys.readouterr().out
    assert main([*args, "--overwrite", "--joints", "elbow"]) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_simulator_can_be_identified_first(episodes, tmp_path, capsys):
    save_episodes(episodes, tmp_path / "train")
    args = ["delta", "train", str(tmp_path / "train"), "--robot", "panda", "--no-networks"]
    out = tmp_path / "delta"
    assert main([*args, "--simulator", "identify", "--out", str(out)]) == 0
    assert "simulator that it corrects: sysid" in capsys.readouterr().out
    assert load_delta(out, PANDA).simulator.strength
