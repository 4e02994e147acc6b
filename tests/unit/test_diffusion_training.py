"""Training, export and checkpoints of generative policies, on a small task with two ways."""

import dataclasses
import json
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from policies.datasets.demonstrations import Demonstrations, save_demonstrations
from policies.diffusion.checkpoint import load_chunk_model, read_chunk_checkpoint, save_chunk_model
from policies.diffusion.config import SAMPLERS, NetworkConfig, dump_config, parse_config
from policies.diffusion.export import compare, export_onnx
from policies.diffusion.interface import ChunkModel, Prefix, Window
from policies.diffusion.networks import make_network
from policies.diffusion.normaliser import fit_normaliser
from policies.diffusion.trainer import TrainConfig, train_model
from policies.diffusion.windows import Windows
from policies.errors import InputError
from sim2real import cli

START = np.array([-1.0, 0.0])
NETWORK = NetworkConfig(width=64, depth=2)
QUICK = TrainConfig(kind="flow", name="two_ways", network=NETWORK, steps=30, batch=32)


def two_ways(episodes=20, length=40, camera=False):
    """Past an obstacle at the origin: half of the episodes go left, half right."""
    rng = np.random.default_rng(0)
    x = np.linspace(-1.0, 1.0, length)
    state, action, images = [], [], []
    for i in range(episodes):
        path = np.stack([x, (-1.0) ** i * 0.8 * np.cos(x * np.pi / 2)], axis=1)
        state.append(path + 0.02 * rng.standard_normal(path.shape))
        action.append(np.vstack([path[1:], path[-1:]]))
        images.append(rng.integers(256, size=(length, 16, 24, 3), dtype=np.uint8))
    return Demonstrations(
        state_names=("x", "y"),
        action_names=("to/x", "to/y"),
        rate_hz=10.0,
        state=state,
        action=action,
        images={"top": images} if camera else {},
        task=["pass"] * episodes,
    )


def save(trained, path):
    content = export_onnx(trained.config, trained.network, trained.codes)
    save_chunk_model(path, trained.config, content)
    return path


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A flow checkpoint that learned next to nothing."""
    return save(train_model(two_ways(), QUICK), tmp_path_factory.mktemp("quick") / "ckpt")


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """A flow checkpoint that learned the task."""
    config = dataclasses.replace(QUICK, steps=500, batch=128, learning_rate=3e-3)
    trained = train_model(two_ways(), config)
    return save(trained, tmp_path_factory.mktemp("learned") / "ckpt")


def window(batch=1, state=START):
    return Window(state=np.broadcast_to(np.asarray(state, float), (batch, 2, 2)).copy())


# ---- what is learned ---------------------------------------------------------------------------


def test_flow_goes_both_ways_and_never_between(learned):
    model = load_chunk_model(learned)
    assert isinstance(model, ChunkModel)
    model.reset(0, batch=200)
    plan = model.sample(window(200))
    assert plan.shape == (200, 16, 2)
    side = plan[:, 15, 1]
    assert 0.25 < np.mean(side > 0) < 0.75
    assert np.mean(np.abs(side) > 0.25) > 0.85
    assert model.network_calls == 10


def test_regression_goes_between(tmp_path):
    config = dataclasses.replace(QUICK, kind="mlp", steps=300, learning_rate=3e-3)
    model = load_chunk_model(save(train_model(two_ways(), config), tmp_path / "mlp"))
    assert np.abs(model.sample(window())[0, 15, 1]) < 0.3
    assert model.network_calls == 1


def test_adaptive_takes_fewer_steps_past_the_obstacle(learned):
    model = load_chunk_model(learned, sampler="adaptive", tolerance=0.2)
    model.reset(0, batch=50)
    model.sample(window(50))
    before = model.row_calls.mean()
    model.sample(window(50, [0.4, 0.65]))
    assert before > 1.5
    assert model.row_calls.mean() < 1.2


def test_same_seed_gives_the_same_answers(learned):
    model = load_chunk_model(learned)
    model.reset(7)
    first = model.sample(window())
    assert np.any(model.sample(window()) != first)
    model.reset(7)
    assert_array_equal(model.sample(window()), first)
    model.reset(8)
    assert np.any(model.sample(window()) != first)


def test_actions_stay_within_what_was_demonstrated(quick):
    model = load_chunk_model(quick)
    model.reset(0, batch=50)
    plan = model.sample(window(50, [30.0, -40.0]))
    seen = np.concatenate(two_ways().action)
    assert np.all(plan >= seen.min(axis=0) - 1e-12)
    assert np.all(plan <= seen.max(axis=0) + 1e-12)


# ---- training ----------------------------------------------------------------------------------


def test_resumed_training_ends_where_an_uninterrupted_one_does(tmp_path):
    def stop(step, figures):
        if step:
            raise KeyboardInterrupt

    config = dataclasses.replace(QUICK, steps=200)
    whole = train_model(two_ways(), config)
    with pytest.raises(KeyboardInterrupt):
        train_model(two_ways(), config, state_dir=tmp_path, log=stop)
    resumed = train_model(two_ways(), config, state_dir=tmp_path, resume=True)
    weights = whole.network.state_dict()
    for name, value in resumed.network.state_dict().items():
        assert_array_equal(value.numpy(), weights[name].numpy(), err_msg=name)
    assert resumed.loss == whole.loss


def test_resume_refuses_another_training(tmp_path):
    with pytest.raises(InputError, match="found none"):
        train_model(two_ways(), QUICK, state_dir=tmp_path, resume=True)
    config = dataclasses.replace(QUICK, save_every=10)
    train_model(two_ways(), config, state_dir=tmp_path)
    other = dataclasses.replace(config, learning_rate=5e-4)
    with pytest.raises(InputError, match="learning_rate"):
        train_model(two_ways(), other, state_dir=tmp_path, resume=True)
    with pytest.raises(InputError, match="same data"):
        train_model(two_ways(10), config, state_dir=tmp_path, resume=True)
    file = tmp_path / "state.safetensors"
    whole = file.read_bytes()
    for altered in (whole[:-100], whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:]):
        file.write_bytes(altered)
        with pytest.raises(InputError, match="damaged"):
            train_model(two_ways(), config, state_dir=tmp_path, resume=True)


def test_seed_decides_the_weights():
    first, again = train_model(two_ways(), QUICK), train_model(two_ways(), QUICK)
    other = train_model(two_ways(), dataclasses.replace(QUICK, seed=1))
    vectors = [
        torch.nn.utils.parameters_to_vector(trained.network.parameters()).detach()
        for trained in (first, again, other)
    ]
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.equal(vectors[0], vectors[2])


def test_fine_tuning_keeps_the_normalisation(quick):
    checkpoint = read_chunk_checkpoint(quick)
    demos = two_ways()
    demos.action = [rows * 0.5 for rows in demos.action]
    start = checkpoint.config, checkpoint.weights()
    tuned = train_model(demos, dataclasses.replace(QUICK, steps=1), initial=start)
    assert tuned.config.action == checkpoint.config.action
    wide = dataclasses.replace(QUICK, network=NetworkConfig(width=96, depth=2))
    with pytest.raises(InputError, match="same names, horizons and network"):
        train_model(demos, wide, initial=start)


def test_windows_repeat_the_ends():
    demos = two_ways(2, 5)
    windows = Windows(demos, observation_horizon=2, prediction_horizon=4, normalisation="minmax")
    assert len(windows) == 10
    batch = windows.batch(np.array([0, 4, 5]))
    restore = windows.action_normaliser.restore
    assert_allclose(restore(batch.action[0].astype(float)), demos.action[0][:4], atol=1e-6)
    assert_allclose(batch.action[1], np.broadcast_to(batch.action[1][0], (4, 2)))
    assert_array_equal(batch.state[0, 0], batch.state[0, 1])
    assert_array_equal(batch.state[2, 0], batch.state[2, 1])
    assert np.any(batch.state[1, 0] != batch.state[1, 1])


def test_normaliser():
    values = np.array([[0.0, 5.0, 1.0], [2.0, 5.0, 3.0], [4.0, 5.0, 2.0]])
    for how in ("minmax", "gaussian"):
        fitted = fit_normaliser(values, how)
        assert_allclose(fitted.restore(fitted.normalise(values)), values, atol=1e-12)
        assert_allclose(fitted.normalise(values)[:, 1], 0.0)
    assert_allclose(fitted.normalise(values).std(axis=0)[[0, 2]], 1.0)
    assert_allclose(fit_normaliser(values, "minmax").normalise(values)[[0, 2], 0], [-1.0, 1.0])
    assert np.abs(fitted.normalise(values + 1e9)).max() <= 5.0


def test_bad_data_is_named():
    demos = two_ways(3)
    demos.state[1][4, 1] = np.nan
    with pytest.raises(InputError, match=r"episode 1.*'y'"):
        train_model(demos, QUICK)
    for change in ({"action_horizon": 20}, {"kind": "streaming", "action_horizon": 5}):
        with pytest.raises(InputError, match="horizon"):
            train_model(two_ways(3), dataclasses.replace(QUICK, **change))


# ---- networks and export -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flow", "streaming", "vqbet"])
@pytest.mark.parametrize("network", ["resmlp", "unet", "transformer"])
def test_export_answers_as_torch_does(network, kind):
    config = dataclasses.replace(
        QUICK, kind=kind, network=NetworkConfig(type=network, width=32, depth=2), steps=3
    )
    trained = train_model(two_ways(camera=network == "unet"), config)
    weights = {name: value.numpy() for name, value in trained.network.state_dict().items()}
    parity = compare(trained.config, export_onnx(trained.config, trained.network), weights)
    assert parity.max_difference <= 1e-4
    assert parity.speed_ratio > 0.0


@pytest.mark.parametrize("network", ["resmlp", "unet", "transformer"])
def test_network_uses_everything_that_it_is_given(network):
    """The answer depends on plan, level and observation, and each weight has a gradient."""
    spec = train_model(two_ways(), dataclasses.replace(QUICK, steps=1)).config.spec
    config = NetworkConfig(type=network, width=32, depth=2)
    net = make_network(spec, config, kind="streaming")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # layers that start at zero hide what lies behind them
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    state, noisy, time = torch.randn(2, 2, 2), torch.randn(2, 16, 2), torch.rand(2, 16)
    inputs = [x.requires_grad_() for x in (state, noisy, time)]
    out, _ = net.denoise(noisy, time, net.encode(state, []))
    out.square().sum().backward()
    assert all(x.grad.abs().sum(dim=-1).min() > 0 for x in inputs)
    assert all(p.grad.abs().max() > 0 for p in net.parameters())


def test_unet_and_transformer_refuse_what_they_cannot_do():
    for network, match in (
        (NetworkConfig(type="unet", width=32, depth=6), "multiple of 32 for 6 levels"),
        (NetworkConfig(type="transformer", width=40), "multiple of 32"),
    ):
        with pytest.raises(InputError, match=match):
            train_model(two_ways(3), dataclasses.replace(QUICK, network=network))


# ---- checkpoints -------------------------------------------------------------------------------


def test_checkpoint_round_trip(quick):
    checkpoint = read_chunk_checkpoint(quick)
    data = json.loads(json.dumps(dump_config(checkpoint.config)))
    assert parse_config(data, "config") == checkpoint.config
    onnx, eager = load_chunk_model(quick), load_chunk_model(quick, backend="torch")
    assert_allclose(onnx.sample(window()), eager.sample(window()), atol=1e-4)


@pytest.mark.parametrize("name", ["encoder.onnx", "denoiser.onnx", "model.safetensors"])
def test_altered_file_is_refused(quick, tmp_path, name):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in quick.iterdir():
        data = bytearray(file.read_bytes())
        if file.name == name:
            data[len(data) // 2] ^= 1
        (copy / file.name).write_bytes(data)
    with pytest.raises(InputError, match=f"{name}.*altered"):
        load_chunk_model(copy)
    (copy / name).unlink()
    with pytest.raises(InputError, match=name):
        load_chunk_model(copy)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: d.update(schema=9), "schema"),
        (lambda d: d.update(kind="magic"), "'kind'"),
        (lambda d: d.update(extra=1), "extra"),
        (lambda d: d["spec"].update(state_names=["x", "x"]), "state_names"),
        (lambda d: d["spec"].update(prediction_horizon=0), "prediction_horizon"),
        (lambda d: d["state"].update(scale=[1.0]), "scale"),
        (lambda d: d["action"].update(scale=[1.0, 0.0]), "scale"),
        (lambda d: d["sampler"].update(name="ddim"), "name"),
        (lambda d: d["network"].update(width=True), "width"),
        (lambda d: d["spec"].update(prediction_horizon=12), "expected"),
        (lambda d: d["spec"].update(state_names=["x", "y", "z"]), "expected"),
    ],
)
def test_wrong_config_is_refused(quick, tmp_path, change, match):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in quick.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    data = json.loads((copy / "config.json").read_text())
    del data["files"]["config.json"]
    change(data)
    (copy / "config.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=match):
        load_chunk_model(copy)


def test_sampler_is_chosen_at_load_time(quick):
    for name in SAMPLERS["flow"]:
        assert load_chunk_model(quick, sampler=name).sampler.name == name
    assert load_chunk_model(quick, steps=3).sampler.steps == 3
    with pytest.raises(InputError, match="sampler"):
        load_chunk_model(quick, sampler="ddim")
    with pytest.raises(InputError, match="steps"):
        load_chunk_model(quick, steps=0)
    with pytest.raises(InputError, match="tolerance"):
        load_chunk_model(quick, sampler="adaptive", tolerance=-1.0)


def test_wrong_windows_are_refused(quick):
    model = load_chunk_model(quick)
    with pytest.raises(InputError, match="shape"):
        model.sample(Window(state=np.zeros((1, 3, 2))))
    with pytest.raises(InputError, match="'y'"):
        model.sample(Window(state=np.array([[[0.0, 0.0], [0.0, np.nan]]])))
    with pytest.raises(InputError, match="reset"):
        model.sample(window(2))
    prefix = Prefix(actions=np.full((1, 16, 2), np.nan), weights=np.ones(16))
    with pytest.raises(InputError, match="finite prefix"):
        model.sample(window(), prefix=prefix)
    with pytest.raises(InputError, match="prefix of shape"):
        model.sample(window(), prefix=Prefix(actions=np.zeros((1, 4, 2)), weights=np.ones(4)))


def test_cameras_are_checked(tmp_path):
    trained = train_model(two_ways(4, camera=True), dataclasses.replace(QUICK, steps=2))
    model = load_chunk_model(save(trained, tmp_path / "ckpt"))
    state = window().state
    image = np.zeros((1, 2, 16, 24, 3), np.uint8)
    assert model.sample(Window(state=state, images={"top": image})).shape == (1, 16, 2)
    with pytest.raises(InputError, match=r"camera 'top', got cameras \['side'\]"):
        model.sample(Window(state=state, images={"side": image}))
    for wrong in (image[:, :, :8], image.astype(np.float32)):
        with pytest.raises(InputError, match="camera 'top'"):
            model.sample(Window(state=state, images={"top": wrong}))


def test_running_needs_no_torch(quick):
    code = (
        "import sys; import numpy as np;"
        "from policies.diffusion.checkpoint import load_chunk_model;"
        "from policies.diffusion.interface import Window;"
        f"m = load_chunk_model({str(quick)!r}); m.sample(Window(state=np.zeros((1, 2, 2))));"
        "assert 'torch' not in sys.modules and 'mujoco' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# ---- command line ------------------------------------------------------------------------------


def test_train_and_export_commands(tmp_path, capsys):
    save_demonstrations(two_ways(4), tmp_path / "data")
    out = tmp_path / "policy"
    small = ["--width", "32", "--depth", "1", "--steps", "5", "--batch", "16"]
    train = ["policy", "train", str(tmp_path / "data"), "--kind", "streaming", "--out", str(out)]
    assert cli.main([*train, *small, "--json", str(tmp_path / "a.json")]) == 0
    result = json.loads((tmp_path / "a.json").read_text())
    assert result["parity"]["passed"]
    assert result["parity"]["max_difference"] <= 1e-4
    assert not out.with_name("policy.training").exists()
    assert load_chunk_model(out).config.kind == "streaming"
    assert cli.main([*train, *small]) == 2
    assert "--overwrite" in capsys.readouterr().err
    again = ["policy", "export", str(out), "--out", str(tmp_path / "again")]
    assert cli.main(again) == 0
    assert_allclose(
        load_chunk_model(tmp_path / "again").sample(window()),
        load_chunk_model(out).sample(window()),
    )
    assert cli.main([*train[:-1], str(tmp_path / "x"), "--robot", "panda", *small]) == 2
    assert "qpos/panda_joint1" in capsys.readouterr().err


def test_interrupted_training_is_resumed_by_the_command(tmp_path, monkeypatch, capsys):
    save_demonstrations(two_ways(4), tmp_path / "data")
    out = tmp_path / "policy"
    command = ["policy", "train", str(tmp_path / "data"), "--kind", "mlp", "--out", str(out)]
    command += ["--width", "32", "--depth", "1", "--steps", "150", "--batch", "16"]

    class Interrupt:
        def __init__(self, folder):
            pass

        def add_scalar(self, name, value, step):
            if step == 100:
                raise KeyboardInterrupt

        def flush(self):
            pass

    fake = types.ModuleType("torch.utils.tensorboard")
    fake.SummaryWriter = Interrupt
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", fake)
    assert cli.main([*command, "--tensorboard", str(tmp_path / "curves")]) == 130
    assert not out.exists()
    assert cli.main(command) == 2
    assert "--resume" in capsys.readouterr().err
    assert cli.main([*command, "--resume"]) == 0
    assert load_chunk_model(out).config.kind == "mlp"
    assert cli.main([*command, "--resume", "--overwrite"]) == 2
    assert "found none" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert cli.main([*command, "--overwrite", "--tensorboard", "curves"]) == 2
    assert "pip install tensorboard" in capsys.readouterr().err


def test_prediction_is_one_of_its_kind():
    config = dataclasses.replace(QUICK, steps=1, prediction="velocity")
    assert train_model(two_ways(4), config).config.prediction == "velocity"
    assert train_model(two_ways(4), dataclasses.replace(config, prediction=None)).config.prediction
    with pytest.raises(InputError, match="--prediction"):
        train_model(two_ways(4), dataclasses.replace(config, prediction="epsilon"))
