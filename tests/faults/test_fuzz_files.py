"""Every loader against damaged files: cut at every byte, bytes flipped, JSON values replaced.

Whatever comes, a loader gives its result or one sentence (``InputError``); never a traceback, never
memory that grows with what a file claims.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
import pytest
from fuzzing import Subject

from calibration.errors import CalibrationError
from calibration.result import CalibrationResult, Parameter, Residual, read_result, write_result
from policies import messages as wire
from policies.actor.config import ActionConfig, ActorConfig
from policies.actor.mlp import mlp_onnx
from policies.checkpoint import load_policy, save_checkpoint
from policies.errors import InputError
from policies.processors import TermConfig
from policies.robots import PANDA
from sim2real.bags.reader import read_bag
from sim2real.bags.salvage import salvage
from sim2real.bags.writer import BagWriter
from sim2real.delta.features import feature_count
from sim2real.delta.model import DeltaModel, load_delta, model_shapes, weight_shapes
from sim2real.episodes.episode import Episode
from sim2real.episodes.store import load_episodes, save_episodes
from sim2real.sim.gaps import load_gap, make_gap


def make_bag(folder: Path) -> Path:
    path = folder / "bag"
    with BagWriter(path, provenance={"robot": "panda"}) as writer:
        writer.add_topic("/n", "std_msgs/msg/Int32")
        writer.add_topic("/joint_states", "sensor_msgs/msg/JointState")
        for k in range(5):
            writer.write("/n", b"\x00\x01\x00\x00" + k.to_bytes(4, "little"), k)
            writer.write("/joint_states", joint_state_cdr(k), k)
    return path


def joint_state_cdr(k: int) -> bytes:
    """A JointState of two joints, little-endian CDR."""
    body = k.to_bytes(4, "little") + (0).to_bytes(4, "little")
    body += (1).to_bytes(4, "little") + b"\x00" + b"\x00" * 3  # frame_id
    body += (2).to_bytes(4, "little")
    for name in (b"a\x00", b"b\x00"):
        body += len(name).to_bytes(4, "little") + name + b"\x00" * 2
    for _ in range(3):
        body += (2).to_bytes(4, "little")
        body += b"\x00" * (-len(body) % 8)
        body += np.array([0.5, k], "<f8").tobytes()
    return b"\x00\x01\x00\x00" + body


def load_bag(path: Path) -> None:
    bag = read_bag(path)
    for topic in bag.info.topics:
        bag.columns(topic.name)


def load_bag_without_manifest(path: Path) -> None:
    (path / "manifest.json").unlink(missing_ok=True)
    read_bag(path, allow_damage=True)
    load_bag(path)


def rescue(path: Path) -> None:
    out = path.with_name("rescued")
    shutil.rmtree(out, ignore_errors=True)
    salvage(path, out)
    load_bag(out)


def make_checkpoint(folder: Path) -> Path:
    config = ActorConfig(
        name="small",
        robot="panda",
        robot_fingerprint=PANDA.fingerprint,
        rate_hz=50.0,
        action=ActionConfig(
            type="position_offset_from_default", joints=PANDA.joint_names, scale=0.5
        ),
        hold_pose_rad={},
        observation=(TermConfig(term="goal_position"),),
        duration_s=None,
        start_pose_rad=dict(zip(PANDA.joint_names, PANDA.default_rad.tolist(), strict=True)),
    )
    model = mlp_onnx([np.zeros((7, 3), np.float32)], [np.zeros(7, np.float32)])
    save_checkpoint(folder / "checkpoint", config, model)
    return folder / "checkpoint"


def make_unsealed_checkpoint(folder: Path) -> Path:
    """One whose config.json does not state its own hash: what it says is all there is to check."""
    path = make_checkpoint(folder)
    data = json.loads((path / "config.json").read_text())
    del data["files"]["config.json"]
    (path / "config.json").write_text(json.dumps(data))
    return path


def make_episodes(folder: Path) -> Path:
    t = np.arange(20) / 100.0
    wave = PANDA.default_rad + 0.1 * np.sin(5.0 * t[:, None])
    episode = Episode(
        robot="panda",
        robot_fingerprint=PANDA.fingerprint,
        rate_hz=100.0,
        t_s=t,
        qpos_rad=wave,
        qvel_rad_s=np.gradient(wave, t, axis=0),
        action_rad=wave,
    )
    save_episodes([episode], folder / "episodes", latency_s=0.0)
    return folder / "episodes"


def load_rehashed_episodes(path: Path) -> None:
    """As one who alters the data would do: the hashes of the manifest are made to fit."""
    manifest = json.loads((path / "meta/realign.json").read_text())
    for name in manifest["sha256"]:
        manifest["sha256"][name] = hashlib.sha256((path / name).read_bytes()).hexdigest()
    (path / "meta/realign.json").write_text(json.dumps(manifest))
    load_episodes(path, PANDA)


def make_delta(folder: Path) -> Path:
    joints = PANDA.joint_names[:2]
    shapes = weight_shapes(feature_count(PANDA, 2), (4,), 2, 2) | model_shapes(PANDA)
    weights = {name: np.full(shape, 0.5) for name, shape in shapes.items()}
    weights["motor"][2:] = 0.0
    weights["low"], weights["high"] = np.full((2, 3, PANDA.n), 5.0) * [[[-1.0]], [[1.0]]]
    model = DeltaModel(
        robot=PANDA,
        rate_hz=100.0,
        joints=joints,
        window=2,
        hidden=(4,),
        members=2,
        limit_rad=0.05,
        gain=1.0,
        spread=100.0,
        weights=weights,
    )
    model.save(folder / "delta")
    return folder / "delta"


def make_gap_file(folder: Path) -> Path:
    make_gap(PANDA, "hidden:7").save(folder / "gap.json", PANDA)
    return folder


def make_calibration(folder: Path) -> Path:
    result = CalibrationResult(
        kind="camera",
        parameters=(Parameter(name="fx", value=600.0, unit="px"),),
        covariance=np.eye(1),
        frames={},
        transforms={"a_from_b": np.eye(4)},
        residuals={"rms": Residual(value=0.1, unit="px")},
        details={},
        data_sha256="0" * 64,
    )
    write_result(folder / "camera.json", result)
    return folder


def parent_of(load: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda folder: load(folder / "gap.json")


BAG = "bag_0.mcap"
EPISODE_FILES = ("data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet")
SUBJECTS = (
    Subject("bag", make_bag, load_bag, (BAG, "metadata.yaml", "manifest.json"), ("manifest.json",)),
    Subject("bag_without_manifest", make_bag, load_bag_without_manifest, (BAG, "metadata.yaml")),
    Subject("salvage", make_bag, rescue, (BAG,)),
    Subject(
        "checkpoint",
        make_checkpoint,
        lambda path: load_policy(path, PANDA),
        ("config.json", "policy.onnx"),
        ("config.json",),
    ),
    Subject(
        "unsealed_checkpoint",
        make_unsealed_checkpoint,
        lambda path: load_policy(path, PANDA),
        ("config.json",),
        ("config.json",),
    ),
    Subject(
        "episodes",
        make_episodes,
        load_episodes,
        ("meta/realign.json", *EPISODE_FILES),
        ("meta/realign.json",),
    ),
    Subject("altered_episodes", make_episodes, load_rehashed_episodes, EPISODE_FILES, absent=False),
    Subject(
        "delta",
        make_delta,
        lambda path: load_delta(path, PANDA),
        ("config.json", "model.safetensors"),
        ("config.json",),
    ),
    Subject(
        "gap", make_gap_file, parent_of(lambda p: load_gap(p, PANDA)), ("gap.json",), ("gap.json",)
    ),
    Subject(
        "calibration",
        make_calibration,
        lambda folder: read_result(folder / "camera.json", "camera"),
        ("camera.json",),
        ("camera.json",),
        errors=(CalibrationError,),
    ),
)


@fuzzing.CUT_PLACES
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_damage_is_one_sentence(subject, cut_places, tmp_path):
    fuzzing.damage(subject, cut_places, tmp_path)


class Message:
    """Stands for a ROS message with any content."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def test_wire_messages():
    """Random names, lengths, values and times."""
    rng = np.random.default_rng(0)
    names = wire.NameMap(PANDA.joint_names, "joint_states")
    pool = [*PANDA.joint_names, "", "x" * 1000, PANDA.joint_names[0]]
    taken = 0
    for _ in range(3000):
        exact = rng.random() < 0.3
        given = list(PANDA.joint_names) if exact else list(rng.choice(pool, rng.integers(0, 12)))
        n = len(given) if exact else int(rng.integers(0, 12))
        values = rng.choice([0.0, 1.0, np.nan, np.inf, 1e300], n).tolist()
        moment = Message(sec=int(rng.integers(-(2**31), 2**31)), nanosec=int(rng.integers(2**32)))
        later = Message(sec=0, nanosec=int(rng.choice([0, 1, 20_000_000])))
        points = [
            Message(positions=values, time_from_start=Message(sec=0, nanosec=0)),
            Message(positions=values, time_from_start=later),
        ][: int(rng.integers(0, 3))]
        state = Message(name=given, position=values, velocity=values, effort=values[:3])
        plan = Message(header=Message(stamp=moment), joint_names=given, points=points)
        for parse, message in (
            (wire.joint_state_to_numpy, state),
            (wire.trajectory_to_chunk, plan),
        ):
            try:
                parse(message, names)
            except InputError:
                continue
            taken += 1
    assert taken > 500
