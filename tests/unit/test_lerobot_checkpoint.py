"""LeRobot checkpoints become ours: what is imported, what is refused, how a worker can fail.

LeRobot itself is played by a worker of a few lines; the real one is in tests/contract.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import policies
from policies import cli
from policies.checkpoint import inspect, load_policy
from policies.diffusion.chunk_policy import ChunkPolicy
from policies.diffusion.interface import Prefix, Window
from policies.errors import InputError
from policies.interface import Observation
from policies.robots import PANDA, SO101
from policies.runtime.failure import Failure, PolicyFailureError
from policies.serving.client import RemoteConfig, RemoteModel, open_session
from policies.serving.protocol import Served
from policies.serving.server import PolicyServer, ServeConfig
from policies.vla.lerobot import process
from policies.vla.lerobot.checkpoint import import_lerobot, load_lerobot_model, read_lerobot
from policies.vla.lerobot.folder import read_folder
from policies.vla.lerobot.model import RunConfig
from policies.vla.lerobot.process import Limits
from policies.vla.lerobot.workers.wire import BrokenMessageError, Channel
from sim2real import cli as realign
from sim2real.serve_cli import local_policy

MAP = {
    "rate_hz": 50,
    "state": [
        {"is": "qpos/shoulder_pan", "unit": "degrees"},
        {"is": "qpos/elbow_flex", "unit": "degrees", "sign": -1},
    ],
    "action": [
        {"is": "position/shoulder_pan", "unit": "degrees"},
        {"is": "position/elbow_flex", "unit": "degrees", "sign": -1},
    ],
    "cameras": {"observation.images.front": "cam"},
}
DEGREE = np.pi / 180.0


def lerobot_config(**changes):
    features = {
        "observation.state": {"type": "STATE", "shape": [2]},
        "observation.images.front": {"type": "VISUAL", "shape": [3, 8, 12]},
    }
    return {
        "type": "act",
        "n_obs_steps": 1,
        "chunk_size": 5,
        "n_action_steps": 3,
        "input_features": features,
        "output_features": {"action": {"type": "ACTION", "shape": [2]}},
        **changes,
    }


def processor(*steps):
    return {"name": "p", "steps": [{"registry_name": name, **more} for name, more in steps]}


def write_folder(path, **changes):
    path.mkdir(parents=True, exist_ok=True)
    numbers = {"observation.state.mean": np.zeros(2, np.float32)}
    save_file(numbers, path / "model.safetensors")
    save_file(numbers, path / "before.safetensors")
    before = processor(
        ("to_batch_processor", {}), ("normalizer_processor", {"state_file": "before.safetensors"})
    )
    after = processor(("unnormalizer_processor", {}), ("device_processor", {}))
    (path / "config.json").write_text(json.dumps(lerobot_config(**changes)))
    (path / "policy_preprocessor.json").write_text(json.dumps(before))
    (path / "policy_postprocessor.json").write_text(json.dumps(after))
    return path


def imported(tmp_path, mapping=MAP, name="ours", **changes):
    source = write_folder(tmp_path / "theirs", **changes)
    (tmp_path / "map.json").write_text(json.dumps(mapping))
    import_lerobot(source, SO101, tmp_path / "map.json", tmp_path / name, overwrite=True)
    return tmp_path / name


@pytest.fixture
def double(doubles, tmp_path, monkeypatch):
    """The worker that plays LeRobot, in this interpreter."""
    monkeypatch.setattr(process, "FOLDER", doubles.write_worker(tmp_path))
    monkeypatch.setenv(process.PYTHON_VARIABLE, sys.executable)


@pytest.fixture
def start(tmp_path, double):
    """Makes models of an imported checkpoint, and ends them."""
    made = []

    def make(limits=None, mapping=MAP, **changes):
        path = imported(tmp_path, mapping, **changes)
        model = load_lerobot_model(path, RunConfig(limits=limits or Limits()))
        made.append(model)
        return model

    yield make
    for model in made:
        model.close()


def window(batch=1, state=(0.0, 0.0), pixel=0):
    return Window(
        state=np.tile(np.array(state), (batch, 1, 1)),
        images={"cam": np.full((batch, 1, 8, 12, 3), pixel, np.uint8)},
    )


# ---- running -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
def test_a_policy_of_the_robot(tmp_path):
    policy = load_policy(imported(tmp_path), SO101)
    assert policy.spec.horizon == 5
    assert policy.model.pid is None, "a worker starts at the first reset"
    policy.reset(0)
    qpos = SO101.default_rad.copy()
    qpos[0], qpos[2] = 0.1, 0.2
    seen = Observation(
        stamp_ns=0,
        qpos_rad=qpos,
        qvel_rad_s=np.zeros(6),
        images={"cam": np.full((8, 12, 3), 4, np.uint8)},
    )
    chunk = policy.act(seen)
    policy.model.close()
    steps = np.arange(5) + 4
    np.testing.assert_allclose(chunk.positions_rad[:, 0], 0.1 + DEGREE * steps, atol=1e-6)
    np.testing.assert_allclose(chunk.positions_rad[:, 2], 0.2 - DEGREE * steps, atol=1e-6)
    held = [1, 3, 4, 5]
    np.testing.assert_array_equal(chunk.positions_rad[0, held], SO101.default_rad[held])
    assert chunk.dt_s == pytest.approx(0.02)


def test_batches_and_seeds(start):
    model = start()
    model.reset(1, batch=3)
    actions = model.sample(window(3, (0.5, 0.0)))
    assert actions.shape == (3, 5, 2)
    np.testing.assert_allclose(actions[2, :, 0], 0.5 - DEGREE * np.arange(5), atol=1e-6)
    assert model.network_calls == 1
    with pytest.raises(InputError, match="windows of 3 runs"):
        model.sample(window())


def test_a_window_that_does_not_fit_is_named(start):
    model = start()
    model.reset(0)
    bad = window()
    bad.images = {"wrist": bad.images["cam"]}
    with pytest.raises(InputError, match="camera 'cam', got cameras"):
        model.sample(bad)
    bad = window()
    bad.images["cam"] = bad.images["cam"][:, :, :4]
    with pytest.raises(InputError, match=r"\(1, 1, 8, 12, 3\) of the camera 'cam'"):
        model.sample(bad)
    with pytest.raises(InputError, match="'qpos/shoulder_pan'"):
        model.sample(window(1, (np.nan, 0.0)))
    prefix = Prefix(actions=np.zeros((1, 5, 2)), weights=np.zeros(5))
    with pytest.raises(InputError, match="another executor than rtc"):
        model.sample(window(), prefix=prefix)
    assert model.sample(window()).shape == (1, 5, 2), "a refused window costs nothing"


def test_an_instruction_of_the_observation_comes_first(start):
    model = start(mapping={**MAP, "instruction": "one"})
    policy = ChunkPolicy(model, SO101, "")
    policy.reset(0)
    seen = Observation(
        stamp_ns=0,
        qpos_rad=SO101.default_rad,
        qvel_rad_s=np.zeros(6),
        images={"cam": np.zeros((8, 12, 3), np.uint8)},
    )
    one = policy.act(seen).positions_rad[0, 0]
    later = dataclasses.replace(seen, stamp_ns=60_000_000, instruction="other")
    assert policy.act(later).positions_rad[0, 0] == pytest.approx(one + 10.0 * DEGREE, abs=1e-6)
    told = dataclasses.replace(window(), instructions=("a", "b"))
    with pytest.raises(InputError, match="an instruction for each of 1 runs, got 2"):
        model.sample(told)


# ---- failing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "kind", "words"),
    [
        ("sleep", Failure.SERVER_SLOW, "no answer within 1 s"),
        ("die", Failure.SERVER_LOST, "exit code 3.*out of luck"),
        ("raise", Failure.MODEL_ERROR, "ArithmeticError: diverged"),
        ("nan", Failure.BAD_ANSWER, "finite actions.*NaN or infinity"),
        ("short", Failure.BAD_ANSWER, r"\(1, 5, 2\), got shape \(1, 4, 2\)"),
        ("garbage", Failure.BAD_ANSWER, "something else than an answer"),
    ],
)
def test_failures_have_a_type(start, order, kind, words):
    model = start(limits=Limits(call_s=1.0) if order == "sleep" else None)
    model.reset(0)
    model.instruction = order
    with pytest.raises(PolicyFailureError, match=words) as caught:
        model.sample(window())
    assert caught.value.kind is kind


def test_a_dead_worker_starts_again_at_a_reset(start):
    model = start()
    model.reset(0)
    old = model.pid
    os.kill(old, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(PolicyFailureError) as caught:
            model.sample(window())
        assert caught.value.kind is Failure.SERVER_LOST
    model.reset(0)
    assert model.pid != old
    assert model.sample(window()).shape == (1, 5, 2)


def test_closing_wakes_who_waits_for_an_answer(start):
    model = start(limits=Limits(call_s=60.0))
    model.reset(0)
    model.instruction = "sleep"
    errors = []

    def ask():
        try:
            model.sample(window())
        except PolicyFailureError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.5)  # the worker is asleep by now, and ends only if it is killed
    pid = model.pid
    model.close()
    thread.join(20.0)
    assert not thread.is_alive()
    assert [error.kind for error in errors] == [Failure.SERVER_LOST]
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"dropout": "refuse"}, "expected other weights"), ({"dropout": "grow"}, "expected state 2")],
)
def test_a_checkpoint_that_the_worker_refuses(start, changes, words):
    model = start(**changes)
    with pytest.raises(PolicyFailureError, match=words) as caught:
        model.reset(0)
    assert caught.value.kind is Failure.SERVER_REFUSED
    assert model.pid is None


@pytest.mark.parametrize("python", ["/no/such/python", shutil.which("false")])
def test_an_interpreter_that_is_none(start, monkeypatch, python):
    model = start()
    monkeypatch.setenv(process.PYTHON_VARIABLE, python)
    with pytest.raises(PolicyFailureError, match="--python or REALIGN_LEROBOT_PYTHON") as caught:
        model.reset(0)
    assert caught.value.kind is Failure.SERVER_REFUSED


def test_without_an_interpreter(start, monkeypatch):
    model = start()
    monkeypatch.delenv(process.PYTHON_VARIABLE)
    with pytest.raises(PolicyFailureError, match="path of a Python interpreter that has LeRobot"):
        model.reset(0)


@pytest.mark.parametrize("path", sorted((process.FOLDER / "workers").glob("*.py")), ids=str)
def test_worker_files_need_nothing_of_ours(path):
    allowed = set(sys.stdlib_module_names) | {"numpy", "torch", "torchvision", "lerobot"}
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert {alias.name.partition(".")[0] for alias in node.names} <= allowed
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module.partition(".")[0] in allowed
        else:
            assert not isinstance(node, ast.ImportFrom) or (node.level, node.module) == (1, "wire")


def test_messages_that_are_none():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(ours)
        for text in (b'{"arrays": [["a", "object", [1]]]}', b'{"arrays": [["a", "uint8", [9]]]}'):
            theirs.sendall(
                len(text).to_bytes(4, "little") + (1).to_bytes(8, "little") + text + b"x"
            )
            with pytest.raises(BrokenMessageError):
                channel.receive(1.0)
        theirs.sendall(b"\xff" * 12)
        with pytest.raises(BrokenMessageError, match="too large"):
            channel.receive(1.0)
        with pytest.raises(TimeoutError):
            channel.receive(0.01)


def test_arrays_come_as_they_were_sent():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::2], "b": np.zeros((0, 3))}
        Channel(ours).send({"op": "x"}, arrays)
        header, got = Channel(theirs).receive(1.0)
    assert header == {"op": "x"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(got[name], array)
        assert got[name].dtype == array.dtype


# ---- importing ---------------------------------------------------------------------------------


def test_what_is_imported_says_what_it_is(tmp_path, capsys):
    path = imported(tmp_path, {**MAP, "instruction": "pick"})
    info = inspect(path)
    assert info["kind"] == "act"
    assert (info["prediction_horizon"], info["action_horizon"]) == (5, 3)
    assert info["cameras"] == [{"name": "cam", "height": 8, "width": 12, "colours": "RGB"}]
    assert info["topics"] == ["cam/image_raw", "joint_states"]
    assert info["robot_fingerprint"] == SO101.fingerprint
    assert set(info["files"]) >= {"lerobot/model.safetensors", "lerobot/before.safetensors"}
    cli.policy_inspect(path)
    assert "qpos/elbow_flex (degrees)" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["model.safetensors", "policy_preprocessor.json"])
def test_an_altered_file_is_noticed(tmp_path, name):
    path = imported(tmp_path)
    file = path / "lerobot" / name
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 32]))
    with pytest.raises(InputError, match=name if name.endswith("s") else "JSON|sha256"):
        read_lerobot(path)
    file.unlink()
    with pytest.raises(InputError, match=name):
        load_policy(path, SO101)


def test_an_altered_config_is_noticed(tmp_path):
    path = imported(tmp_path)
    text = (path / "config.json").read_text()
    before, after = text.split('"rate_hz": ')
    (path / "config.json").write_text(f'{before}"rate_hz": 1{after}')
    with pytest.raises(InputError, match="own sha256 in 'files'"):
        load_policy(path, SO101)


def test_for_another_robot(tmp_path):
    with pytest.raises(InputError, match="expected the robot so101"):
        load_policy(imported(tmp_path), PANDA)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"type": "pi0"}, r"type \['act', 'diffusion', 'vqbet', 'smolvla'\], got 'pi0'"),
        ({"n_action_steps": 9}, "'n_action_steps'"),
        ({"n_obs_steps": 2}, "1 in 'n_obs_steps' of act"),
        (
            {"output_features": {"action": {"type": "ACTION", "shape": [3]}}},
            "3 entries in 'action'",
        ),
        ({"input_features": {"observation.effort": {"type": "STATE", "shape": [3]}}}, "effort"),
        (
            {"input_features": {"observation.state": {"type": "STATE", "shape": [2]}}},
            r"features \[\] in 'cameras'",
        ),
        (
            {"input_features": {"observation.images.d": {"type": "VISUAL", "shape": [1, 8, 8]}}},
            "RGB cameras",
        ),
    ],
)
def test_folder_and_map_must_fit(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        imported(tmp_path, **changes)
    assert not (tmp_path / "ours").exists()


def test_horizons_of_each_kind(tmp_path):
    def horizons(**changes):
        folder = read_folder(write_folder(tmp_path / "theirs", **changes))
        return folder.observation_horizon, folder.prediction_horizon, folder.action_horizon

    assert horizons(type="diffusion", n_obs_steps=2, horizon=16, n_action_steps=8) == (2, 15, 8)
    assert horizons(type="vqbet", n_obs_steps=5, action_chunk_size=7) == (5, 7, 7)
    assert horizons(type="smolvla", chunk_size=50, n_action_steps=20) == (1, 50, 20)


@pytest.mark.parametrize(
    ("file", "steps", "words"),
    [
        ("policy_preprocessor.json", [("os.system", {})], "step out of.*'os.system'"),
        ("policy_preprocessor.json", [("unnormalizer_processor", {})], "step out of"),
        (
            "policy_postprocessor.json",
            [("device_processor", {"state_file": "../x"})],
            "same folder",
        ),
        (
            "policy_postprocessor.json",
            [("device_processor", {"state_file": "x.pkl"})],
            "safetensors",
        ),
        (
            "policy_preprocessor.json",
            [("normalizer_processor", {"state_file": "n.safetensors"})],
            "n.s",
        ),
    ],
)
def test_processors_are_let_in_by_name_only(tmp_path, file, steps, words):
    source = write_folder(tmp_path / "theirs")
    (source / file).write_text(json.dumps(processor(*steps)))
    with pytest.raises(InputError, match=words):
        read_folder(source)
    (source / file).write_text(json.dumps({"steps": [{"class": "os.system"}]}))
    with pytest.raises(InputError, match="'registry_name', but it is missing"):
        read_folder(source)


def test_smolvla_brings_its_tokenizer_and_no_weights(tmp_path, double):
    source = write_folder(tmp_path / "theirs", type="smolvla")
    vlm = tmp_path / "vlm"
    vlm.mkdir()
    (tmp_path / "map.json").write_text(json.dumps(MAP))
    run = lambda **more: import_lerobot(  # noqa: E731
        source, SO101, tmp_path / "map.json", tmp_path / "ours", overwrite=True, **more
    )
    with pytest.raises(InputError, match="expected an 'instruction'"):
        run(vlm=vlm)
    (tmp_path / "map.json").write_text(json.dumps({**MAP, "instruction": "pick"}))
    with pytest.raises(InputError, match=r"^--vlm"):
        run()
    with pytest.raises(InputError, match="are missing"):
        run(vlm=vlm)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "model.bin", "code.py"):
        (vlm / name).write_text("{}")
    made = run(vlm=vlm, trial=RunConfig())
    kept = sorted(file.name for file in (tmp_path / "ours/lerobot/vlm").iterdir())
    assert kept == ["config.json", "tokenizer.json", "tokenizer_config.json"]
    assert made.tried["vlm"].endswith("lerobot/vlm")


@pytest.mark.usefixtures("double")
def test_the_command(tmp_path, capsys, monkeypatch):
    source = write_folder(tmp_path / "theirs")
    (tmp_path / "map.json").write_text(json.dumps(MAP))
    arguments = {"robot": "so101", "map": tmp_path / "map.json", "out": tmp_path / "ours"}
    cli.policy_import_lerobot(source, **arguments)
    assert "tried in LeRobot double on cpu" in capsys.readouterr().out
    with pytest.raises(InputError, match="--overwrite"):
        cli.policy_import_lerobot(source, **arguments)
    monkeypatch.delenv(process.PYTHON_VARIABLE)
    cli.policy_import_lerobot(source, **arguments, overwrite=True)
    assert "note: not tried" in capsys.readouterr().out
    before = (tmp_path / "ours/config.json").read_bytes()
    write_folder(source, dropout="refuse")
    with pytest.raises(InputError, match="expected other weights"):
        cli.policy_import_lerobot(source, **arguments, python=sys.executable, overwrite=True)
    assert (tmp_path / "ours/config.json").read_bytes() == before, "the old one is kept"


# ---- serving ------------------------------------------------------------------------------------


def test_a_served_checkpoint_answers_as_here(start):
    model = start()
    served = Served(spec=model.spec, robot=model.robot, sha256="0" * 64)
    server = PolicyServer(model, served, ServeConfig(port=0))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        remote = RemoteModel(served, RemoteConfig(url=f"ws://127.0.0.1:{server.port}"))
        remote.reset(1)
        there = remote.sample(window(1, (0.25, -0.5), 3))
        remote.close()
    finally:
        server.close()
        thread.join()
    model.reset(1)
    np.testing.assert_array_equal(there, model.sample(window(1, (0.25, -0.5), 3)))


@pytest.fixture
def served(monkeypatch, double):
    """Runs ``realign serve`` with options; meanwhile a client gets to talk to it."""

    def run(talk, *options):
        original = PolicyServer.serve_forever

        def serve_forever(server):
            thread = threading.Thread(target=original, args=(server,))
            thread.start()
            try:
                talk(f"ws://127.0.0.1:{server.port}")
            finally:
                server.close()
                thread.join()

        monkeypatch.setattr(PolicyServer, "serve_forever", serve_forever)
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        words = ["serve", "--backend", "lerobot", "--python", sys.executable, "--port", "0"]
        return realign.main([*words, *map(str, options)])

    return run


def test_a_folder_of_lerobot_is_served_in_its_own_numbers(tmp_path, served, capsys):
    folder = write_folder(tmp_path / "theirs")
    names = ["observation.state/0", "observation.state/1"]

    def talk(url):
        session = open_session(RemoteConfig(url=url))
        spec = session.greeting["spec"]
        assert (spec["name"], spec["state_names"]) == ("theirs", names)
        assert spec["action_names"] == ["action/0", "action/1"]
        assert session.greeting["state_units"] == ["", ""]
        assert session.greeting["robot"] is None
        state = np.array([10.0, -20.0], dtype=np.float32)
        image = np.full((8, 12, 3), 7, np.uint8)
        question = {"state": state, "images": {"observation.images.front": image}}
        actions = session.ask({**question, "prompt": "go"})["actions"]
        np.testing.assert_array_equal(actions, state + 7.0 + np.arange(5.0)[:, None])
        other = session.ask({**question, "prompt": "other"})["actions"]
        np.testing.assert_array_equal(other, actions + 10.0)
        session.close()
        with (
            pytest.raises(InputError, match="--robot and --map"),
            local_policy(url, token_file=None, reply_s=5.0),
        ):
            pass

    assert served(talk, "--policy", folder) == 0
    assert "theirs for no robot, in LeRobot's own numbers: ws://" in capsys.readouterr().out


def test_a_folder_of_lerobot_is_served_for_a_robot_as_if_it_were_imported(tmp_path, served):
    ours, folder, plans = imported(tmp_path), tmp_path / "theirs", []

    def talk(url):
        with local_policy(url, token_file=None, reply_s=5.0) as description:
            for policy in (load_policy(ours, SO101), load_policy(description, SO101)):
                policy.reset(1)
                plans.append(policy.model.sample(window(1, (0.25, -0.5), 3)))
                policy.model.close()

    options = ("--robot", "so101", "--map", tmp_path / "map.json")
    assert served(talk, "--policy", folder, *options) == 0
    np.testing.assert_array_equal(*plans)


def test_what_a_served_folder_is_told_must_fit(tmp_path, served, capsys):
    ours, folder = imported(tmp_path), tmp_path / "theirs"
    unused = lambda url: None  # noqa: E731 - none of them gets as far as to listen
    options = {"--robot": "so101", "--map": tmp_path / "map.json", "--vlm": tmp_path}
    for checkpoint, names, words in (
        (folder, ["--robot"], "got --robot alone"),
        (folder, ["--map"], "got --map alone"),
        (folder, ["--vlm"], "expected none for a policy of type act"),
        (ours, ["--robot", "--map"], "which says all of it by itself"),
    ):
        given = [word for name in names for word in (name, options[name])]
        assert served(unused, "--policy", checkpoint, *given) == 2
        assert words in capsys.readouterr().err


def test_serve_takes_an_interpreter_for_lerobot_only(tmp_path, capsys):
    checkpoint = str(Path(policies.__file__).parent / "checkpoints/panda_reach")
    assert realign.main(["serve", "--policy", checkpoint, "--backend", "lerobot"]) == 2
    assert realign.main(["serve", "--policy", checkpoint, "--python", sys.executable]) == 2
    assert (
        "expected a LeRobot folder or a checkpoint made by realign policy import"
        in capsys.readouterr().err
    )
    ours = str(imported(tmp_path))
    command = ["serve", "--policy", ours, "--backend", "lerobot", "--port", "0"]
    assert realign.main([*command, "--python", "/no/such/python"]) == 3
    assert "expected a Python interpreter that has lerobot" in capsys.readouterr().err
