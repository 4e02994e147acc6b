"""Models and the states of their training against damaged files: policies that read instructions,
generative models with all they carry, imported and remote policies, delta models of PPO.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
import pytest
from fuzzing import Subject
from safetensors.numpy import save_file

from policies.checkpoint import load_policy
from policies.robots import PANDA, SO101
from sim2real.delta.model import load_delta
from sim2real.delta.ppo_model import PpoDelta, layer_shapes, observation_size

STATES = tuple(f"qpos/{name}" for name in PANDA.joint_names)
ACTIONS = tuple(f"position/{name}" for name in PANDA.joint_names)


def unsealed(path: Path) -> Path:
    """Take the hash of config.json out of it: what it says is all there is to check."""
    data = json.loads((path / "config.json").read_text())
    del data["files"]["config.json"]
    (path / "config.json").write_text(json.dumps(data))
    return path


def load_rehashed(path: Path, load: Any) -> None:
    """As one who alters a checkpoint would do it: the hashes are made to fit."""
    from policies import checkpoint_files

    config = path / "config.json"
    try:
        data = json.loads(config.read_text())
        others = {name: (path / name).read_bytes() for name in data["files"] if name != config.name}
        config.write_text(checkpoint_files.config_text(data, others))
    except (ValueError, LookupError, TypeError, AttributeError, OSError, RecursionError):
        pass  # too damaged even for that
    load(path)


# ---- policies ----------------------------------------------------------------------------------


def demonstrations(images: bool) -> Any:
    from policies.datasets.demonstrations import Demonstrations

    rng = np.random.default_rng(0)
    state = [np.cumsum(rng.normal(0.0, 0.01, (20, 7)), axis=0) for _ in range(2)]
    pixels = {"front": [rng.integers(256, size=(20, 32, 32, 3), dtype=np.uint8) for _ in state]}
    return Demonstrations(
        state_names=STATES,
        action_names=ACTIONS,
        rate_hz=10.0,
        state=state,
        action=state,
        images=pixels if images else {},
        task=["go up", "go down"],
    )


def fake_encoder(text: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    rng = np.random.default_rng(list(text.encode()))
    return rng.standard_normal((3, 16)).astype(np.float16).astype(np.float32)


@cache
def vla_files() -> tuple[Any, dict[str, bytes]]:
    from policies.diffusion.chunk_policy import bind_robot
    from policies.diffusion.config import NetworkConfig
    from policies.vla.export import export_onnx
    from policies.vla.trainer import VlaTrainConfig, train_vla

    settings = VlaTrainConfig(
        name="small",
        network=NetworkConfig(type="transformer", width=32, depth=1),
        context_depth=1,
        observation_horizon=2,
        prediction_horizon=4,
        action_horizon=2,
        steps=1,
        batch=2,
        glance_steps=0,
        device="cpu",
    )
    trained = train_vla({"panda": demonstrations(images=True)}, settings, encoder=fake_encoder)
    robot = bind_robot(STATES, ACTIONS, PANDA.default_rad, PANDA)
    model = replace(trained.config.model, robot=robot)
    config = replace(trained.config, embodiments={"panda": model})
    return config, export_onnx(config, trained.network, trained.instructions)


def make_vla(folder: Path) -> Path:
    from policies.vla.checkpoint import save_vla

    save_vla(folder / "vla", *vla_files())
    return folder / "vla"


def load_vla(path: Path) -> None:
    load_policy(path, PANDA)


def load_vla_weights(path: Path) -> None:
    """As training that starts from it."""
    from policies.vla.checkpoint import build_vla, read_vla

    build_vla(read_vla(path), backend="torch", encoder=fake_encoder)


@cache
def chunk_files() -> tuple[Any, dict[str, bytes]]:
    from policies.diffusion.chunk_policy import bind_robot
    from policies.diffusion.config import NetworkConfig
    from policies.diffusion.export import export_onnx
    from policies.diffusion.trainer import TrainConfig, train_model

    settings = TrainConfig(
        kind="vqbet",
        name="small",
        network=NetworkConfig(type="transformer", width=32, depth=1),
        prediction_horizon=4,
        action_horizon=2,
        steps=1,
        batch=2,
        device="cpu",
    )
    robot = bind_robot(STATES, ACTIONS, PANDA.default_rad, PANDA)
    trained = train_model(demonstrations(images=False), settings, robot=robot)
    return trained.config, export_onnx(trained.config, trained.network, trained.codes)


def make_chunk(folder: Path) -> Path:
    from policies.diffusion.checkpoint import save_chunk_model

    save_chunk_model(folder / "chunk", *chunk_files())
    return folder / "chunk"


def load_chunk(path: Path) -> None:
    load_policy(path, PANDA)


def load_chunk_weights(path: Path) -> None:
    from policies.diffusion.checkpoint import load_chunk_model

    load_chunk_model(path, backend="torch")


def make_lerobot(folder: Path) -> Path:
    """An imported folder of LeRobot's."""
    from policies.vla.lerobot.checkpoint import import_lerobot

    theirs = folder / "theirs"
    theirs.mkdir()
    features = {"observation.state": {"type": "STATE", "shape": [1]}}
    config = {
        "type": "act",
        "n_obs_steps": 1,
        "chunk_size": 5,
        "n_action_steps": 3,
        "input_features": features,
        "output_features": {"action": {"type": "ACTION", "shape": [1]}},
    }
    steps = [{"registry_name": "normalizer_processor", "state_file": "before.safetensors"}]
    for name in ("model", "before"):
        numbers = {"observation.state.mean": np.zeros(1, np.float32)}
        save_file(numbers, theirs / f"{name}.safetensors")
    entry = {"is": "qpos/elbow_flex", "unit": "degrees"}
    command = {"is": "position/elbow_flex", "unit": "degrees"}
    mapping = {"rate_hz": 50, "state": [entry], "action": [command], "cameras": {}}
    for name, content in (
        ("config", config),
        ("policy_preprocessor", {"name": "p", "steps": steps}),
        ("policy_postprocessor", {"name": "p", "steps": []}),
    ):
        (theirs / f"{name}.json").write_text(json.dumps(content))
    (folder / "map.json").write_text(json.dumps(mapping))
    import_lerobot(theirs, SO101, folder / "map.json", folder / "ours")
    shutil.rmtree(theirs)
    (folder / "map.json").unlink()
    return folder / "ours"


def make_dataset_info(folder: Path) -> Path:
    """meta/info.json of the dataset of an imported policy, and the map of its values."""
    entry = {"is": "qpos/elbow_flex", "unit": "degrees", "name": "elbow"}
    command = {"is": "position/elbow_flex", "unit": "degrees", "name": "elbow"}
    mapping = {"rate_hz": 50, "state": [entry], "action": [command], "cameras": {}}
    (folder / "map.json").write_text(json.dumps(mapping))
    part = {"dtype": "float32", "shape": [1], "names": {"motors": ["elbow"]}}
    info = {"fps": 50, "features": {"observation.state": part, "action": part}}
    (folder / "info.json").write_text(json.dumps(info))
    return folder


def load_dataset_info(folder: Path) -> None:
    from policies.vla.lerobot.mapping import check_dataset, read_map

    check_dataset(read_map(folder / "map.json", SO101), folder / "info.json")


def make_remote(folder: Path) -> Path:
    from policies.serving.descriptor import write_descriptor
    from policies.serving.protocol import Served

    config, _ = chunk_files()
    write_descriptor(
        folder,
        "ws://127.0.0.1:8000",
        Served(spec=config.spec, robot=config.robot, sha256="0" * 64),
        token_file=None,
        reply_s=1.0,
    )
    return folder


# ---- delta models ------------------------------------------------------------------------------


def make_ppo_delta(folder: Path) -> Path:
    shapes = layer_shapes(observation_size(PANDA), (4,), 2)
    PpoDelta(
        robot=PANDA,
        rate_hz=100.0,
        joints=PANDA.joint_names[:2],
        hidden=(4,),
        scale_rad=0.1,
        limit_rad=0.05,
        weights={name: np.full(shape, 0.5) for name, shape in shapes.items()},
    ).save(folder / "delta")
    return folder / "delta"


# ---- states of training ------------------------------------------------------------------------


def progress() -> Any:
    """A training of a tiny network, which has one optimiser state for each of its parameters."""
    import torch

    from policies.diffusion.progress import Progress
    from policies.diffusion.trainer import TrainConfig

    torch.manual_seed(0)
    config = TrainConfig(kind="flow", name="small", steps=10, device="cpu")
    return Progress(torch.nn.Linear(3, 2), config, "0" * 64)


def advance(training: Any) -> None:
    import torch

    training.update(training.network(torch.ones(4, 3)).square().mean(), 1e-3)


def make_state(folder: Path) -> Path:
    training = progress()
    for _ in range(3):
        advance(training)
    training.save(folder / "state")
    return folder / "state"


def load_state(path: Path) -> None:
    """As --resume does: what was restored is trained on."""
    training = progress()
    training.restore(path)
    assert 0 < training.step <= 10
    advance(training)
    assert np.isfinite(training.recent_loss(10))


def make_bare_state(folder: Path) -> Path:
    """One of an earlier version, without a hash: what it holds is all there is to check."""
    from safetensors.torch import load_file
    from safetensors.torch import save_file as save_tensors

    path = make_state(folder)
    save_tensors(load_file(path / "state.safetensors"), path / "state.safetensors")
    return path


CONFIG = ("config.json",)
WEIGHTS = "model.safetensors"
NETWORKS = ("encoder.onnx", "denoiser.onnx")
VLA_FILES = (*NETWORKS, "instructions.safetensors")
CHUNK_FILES = (*NETWORKS, "codes.safetensors")
STATE = ("state.json", "state.safetensors")
SUBJECTS = (
    Subject("vla", make_vla, load_vla, (*CONFIG, WEIGHTS), CONFIG, seldom=20),
    Subject(
        "altered_vla",
        make_vla,
        lambda path: load_rehashed(path, load_vla),
        (*CONFIG, *VLA_FILES),
        CONFIG,
        seldom=20,
    ),
    Subject(
        "altered_vla_weights",
        make_vla,
        lambda path: load_rehashed(path, load_vla_weights),
        (WEIGHTS,),
        seldom=20,
    ),
    Subject("chunk", make_chunk, load_chunk, (*CONFIG, WEIGHTS), CONFIG, seldom=10),
    Subject(
        "altered_chunk",
        make_chunk,
        lambda path: load_rehashed(path, load_chunk),
        (*CONFIG, *CHUNK_FILES),
        CONFIG,
        seldom=10,
    ),
    Subject(
        "altered_chunk_weights",
        make_chunk,
        lambda path: load_rehashed(path, load_chunk_weights),
        (WEIGHTS,),
        seldom=10,
    ),
    Subject(
        "lerobot", make_lerobot, lambda path: load_policy(path, SO101), CONFIG, CONFIG, seldom=2
    ),
    Subject(
        "unsealed_lerobot",
        lambda folder: unsealed(make_lerobot(folder)),
        lambda path: load_policy(path, SO101),
        CONFIG,
        CONFIG,
    ),
    Subject(
        "dataset_info",
        make_dataset_info,
        load_dataset_info,
        ("info.json", "map.json"),
        ("info.json", "map.json"),
    ),
    Subject("remote", make_remote, lambda path: load_policy(path, PANDA), CONFIG, CONFIG),
    Subject(
        "ppo_delta",
        make_ppo_delta,
        lambda path: load_delta(path, PANDA),
        (*CONFIG, "model.safetensors"),
        CONFIG,
    ),
    Subject(
        "altered_ppo_delta",
        make_ppo_delta,
        lambda path: load_rehashed(path, lambda p: load_delta(p, PANDA)),
        (*CONFIG, "model.safetensors"),
        CONFIG,
    ),
    Subject("training_state", make_state, load_state, STATE, STATE[:1]),
    Subject("bare_training_state", make_bare_state, load_state, STATE[1:]),
)


@fuzzing.CUT_PLACES
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_damage_is_one_sentence(subject, cut_places, tmp_path):
    fuzzing.damage(subject, cut_places, tmp_path)
