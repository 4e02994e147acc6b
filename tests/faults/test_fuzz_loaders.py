"""The other loaders against damaged files: bags of SQLite, generative checkpoints, demonstrations,
motions, boards, cameras, servos, foreign policies; and images and messages that come as bytes.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
import pytest
from fuzzing import Subject
from realign_serial_driver.arm_calibration import load_calibration, nominal_calibration
from safetensors.numpy import save_file

from calibration.camera import read_camera
from calibration.errors import CalibrationError
from calibration.excitation import Excitation, read_excitation
from calibration.targets import Target, read_target
from policies.actor.asap import import_asap
from policies.checkpoint import load_policy
from policies.checkpoint_files import parse_weights
from policies.datasets.demonstrations import (
    Demonstrations,
    load_demonstrations,
    save_demonstrations,
)
from policies.diffusion.codes import ResidualCodes, load_codes
from policies.errors import InputError
from policies.images import decode, encode
from policies.robots import G1, PANDA, SO101
from policies.vla.lerobot.folder import read_folder
from policies.vla.lerobot.mapping import read_map
from sim2real.bags.cdr import decode_one
from sim2real.bags.reader import read_bag
from sim2real.finetune.reference import Reference, load_reference

REPO = Path(__file__).resolve().parents[2]
CHECKPOINT = REPO / "policies/checkpoints/panda_reach"


# ---- bags --------------------------------------------------------------------------------------


def make_sqlite_bag(folder: Path) -> Path:
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_typestore

    store = get_typestore(Stores.ROS2_JAZZY)
    with Writer(folder / "bag", version=9, storage_plugin=StoragePlugin.SQLITE3) as writer:
        kind = "std_msgs/msg/Int32"
        topic = writer.add_connection("/n", kind, typestore=store)
        for k in range(5):
            writer.write(topic, k, b"\x00\x01\x00\x00" + k.to_bytes(4, "little"))
    return folder / "bag"


def load_bag(path: Path) -> None:
    bag = read_bag(path)
    for topic in bag.info.topics:
        bag.columns(topic.name)


# ---- checkpoints -------------------------------------------------------------------------------


def make_generative(folder: Path) -> Path:
    return Path(shutil.copytree(CHECKPOINT, folder / "checkpoint"))


def load_without_hashes(path: Path) -> None:
    """As one who alters a checkpoint would do it: hashes are made to fit."""
    from policies import checkpoint_files

    real = checkpoint_files.hashlib.sha256

    class Fits:
        def __init__(self, data: bytes = b"") -> None:
            self._real = real(data)

        def hexdigest(self) -> Any:
            return _Any(self._real.hexdigest())

        def update(self, data: bytes) -> None:
            self._real.update(data)

    checkpoint_files.hashlib.sha256 = Fits  # type: ignore[misc, assignment]
    try:
        load_policy(path, PANDA)
    finally:
        checkpoint_files.hashlib.sha256 = real  # type: ignore[misc]


class _Any(str):
    """A hash that is the one that is expected."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


def make_lerobot_folder(folder: Path) -> Path:
    features = {
        "observation.state": {"type": "STATE", "shape": [2]},
        "observation.images.front": {"type": "VISUAL", "shape": [3, 8, 12]},
    }
    config = {
        "type": "act",
        "n_obs_steps": 1,
        "chunk_size": 5,
        "n_action_steps": 3,
        "input_features": features,
        "output_features": {"action": {"type": "ACTION", "shape": [2]}},
    }
    steps = [{"registry_name": "normalizer_processor", "state_file": "before.safetensors"}]
    numbers = {"observation.state.mean": np.zeros(2, np.float32)}
    for name in ("model", "before"):
        save_file(numbers, folder / f"{name}.safetensors")
    for name, content in (
        ("config", config),
        ("policy_preprocessor", {"name": "p", "steps": steps}),
        ("policy_postprocessor", {"name": "p", "steps": []}),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def make_map(folder: Path) -> Path:
    content = {
        "rate_hz": 50,
        "state": [{"is": "qpos/elbow_flex", "unit": "degrees", "sign": -1}],
        "action": [{"is": "position/elbow_flex", "unit": "degrees", "sign": -1}],
        "cameras": {"observation.images.front": "cam"},
    }
    (folder / "map.json").write_text(json.dumps(content))
    return folder


def make_weights(folder: Path) -> Path:
    save_file({"a": np.arange(6.0, dtype=np.float32).reshape(2, 3)}, folder / "w.safetensors")
    codes = ResidualCodes(vectors=np.ones((2, 3, 4, 5)), error=np.ones(2))
    (folder / "codes.safetensors").write_bytes(codes.dump())
    return folder


def load_weights(folder: Path) -> None:
    parse_weights({"model.safetensors": (folder / "w.safetensors").read_bytes()}, "weights")
    load_codes((folder / "codes.safetensors").read_bytes(), (4, 5), "codes")


def make_asap(folder: Path) -> Path:
    from policies.actor.mlp import mlp_onnx

    policy = [name for name in G1.joint_names if "wrist" not in name]
    n = len(policy)
    model = mlp_onnx([np.zeros((n, 380), np.float32)], [np.zeros(n, np.float32)])
    (folder / "policy.onnx").write_bytes(model)
    meta = {
        "joint_names": list(G1.joint_names),
        "policy_joint_names": policy,
        "default_joint_pos_rad": G1.default_rad.tolist(),
        "kp_Nm_per_rad": G1.kp_nm_rad.tolist(),
        "kd_Nm_s_per_rad": G1.kd_nm_s_rad.tolist(),
        "action_scale": 0.25,
        "control_rate_hz": 50,
        "policies": {"kick": {"motion_length_s": 4.0, "start_upper_body_pos_rad": [0.1] * 17}},
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def load_asap(folder: Path) -> None:
    import_asap(
        folder / "policy.onnx", folder / "meta.json", "kick", folder / "out", overwrite=True
    )


# ---- data --------------------------------------------------------------------------------------


def make_demonstrations(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    data = Demonstrations(
        state_names=("a", "b"),
        action_names=("a",),
        rate_hz=10.0,
        state=[rng.normal(size=(6, 2)), rng.normal(size=(5, 2))],
        action=[rng.normal(size=(6, 1)), rng.normal(size=(5, 1))],
        task=["one", "two"],
    )
    save_demonstrations(data, folder / "demonstrations")
    return folder / "demonstrations"


MOTION = {
    "fps": np.array(50.0),
    "joint_names": np.array(PANDA.joint_names),
    "joint_pos": np.tile(PANDA.default_rad, (20, 1)),
}


def make_motion(folder: Path) -> Path:
    np.savez_compressed(folder / "motion.npz", **MOTION)  # type: ignore[arg-type]
    content = {key: value.tolist() for key, value in MOTION.items()}
    (folder / "motion.json").write_text(json.dumps(content))
    return folder


def load_motion(name: str) -> Any:
    def load(folder: Path) -> None:
        config = load_policy_config()
        own = Reference.of("own", PANDA, _still())
        load_reference(folder / name, PANDA, config, own)

    return load


def _still() -> Any:
    from sim2real.sim.stepper import SimState

    qpos = np.tile(PANDA.default_rad, (5, 1))
    return SimState(qpos_rad=qpos, qvel_rad_s=np.zeros_like(qpos))


def load_policy_config() -> Any:
    from policies.actor.config import ActionConfig, ActorConfig

    return ActorConfig(
        name="small",
        robot="panda",
        robot_fingerprint=PANDA.fingerprint,
        rate_hz=50.0,
        action=ActionConfig(
            type="position_offset_from_default", joints=PANDA.joint_names, scale=0.5
        ),
        hold_pose_rad={},
        observation=(),
        duration_s=None,
        start_pose_rad={},
    )


# ---- calibration -------------------------------------------------------------------------------


def make_board(folder: Path) -> Path:
    Target().save(folder / "board.json")
    return folder


CAMERA_INFO = """image_width: 640
image_height: 480
camera_name: front
camera_matrix: {rows: 3, cols: 3, data: [600, 0, 320, 0, 600, 240, 0, 0, 1]}
distortion_model: plumb_bob
distortion_coefficients: {rows: 1, cols: 5, data: [0.1, 0, 0, 0, 0]}
"""


def make_camera_info(folder: Path) -> Path:
    (folder / "camera.yaml").write_text(CAMERA_INFO)
    return folder


def make_excitation(folder: Path) -> Path:
    n = PANDA.n
    motion = Excitation(
        joint_names=PANDA.joint_names,
        centre_rad=PANDA.default_rad,
        sine_rad=np.full((n, 2), 0.01),
        cosine_rad=np.full((n, 2), 0.01),
        base_hz=0.1,
        duration_s=10.0,
        fade_s=1.0,
    )
    motion.save(folder / "motion.json", "panda", {"peak_rad": 0.1})
    return folder


def make_servos(folder: Path) -> Path:
    nominal_calibration(SO101).save(folder / "arm.json", SO101)
    lerobot = {
        name: {
            "id": k + 1,
            "drive_mode": 0,
            "homing_offset": 0,
            "range_min": 900,
            "range_max": 3000,
        }
        for k, name in enumerate(SO101.joint_names)
    }
    (folder / "lerobot.json").write_text(json.dumps(lerobot))
    return folder


def load_servos(folder: Path) -> None:
    load_calibration(folder / "arm.json", SO101)
    load_calibration(folder / "lerobot.json", SO101)


CALIBRATION = (CalibrationError,)
NETWORKS = ("encoder.onnx", "denoiser.onnx")
SUBJECTS = (
    Subject("sqlite_bag", make_sqlite_bag, load_bag, ("bag.db3", "metadata.yaml"), seldom=4),
    Subject(
        "generative_checkpoint",
        make_generative,
        lambda path: load_policy(path, PANDA),
        ("config.json", *NETWORKS),
        ("config.json",),
        seldom=10,
    ),
    Subject(
        "altered_checkpoint",
        make_generative,
        load_without_hashes,
        ("config.json", *NETWORKS),
        ("config.json",),
        seldom=10,
    ),
    Subject(
        "lerobot_folder",
        make_lerobot_folder,
        read_folder,
        ("config.json", "policy_preprocessor.json", "policy_postprocessor.json"),
        ("config.json", "policy_preprocessor.json", "policy_postprocessor.json"),
    ),
    Subject(
        "map_of_values",
        make_map,
        lambda folder: read_map(folder / "map.json", SO101),
        ("map.json",),
        ("map.json",),
    ),
    Subject(
        "weights",
        make_weights,
        load_weights,
        ("w.safetensors", "codes.safetensors"),
        absent=False,
    ),
    Subject("asap", make_asap, load_asap, ("policy.onnx", "meta.json"), ("meta.json",), seldom=5),
    Subject(
        "demonstrations",
        make_demonstrations,
        load_demonstrations,
        (
            "meta/info.json",
            "data/chunk-000/file-000.parquet",
            "meta/episodes/chunk-000/file-000.parquet",
        ),
        ("meta/info.json",),
    ),
    Subject("motion_npz", make_motion, load_motion("motion.npz"), ("motion.npz",)),
    Subject(
        "motion_json", make_motion, load_motion("motion.json"), ("motion.json",), ("motion.json",)
    ),
    Subject(
        "board",
        make_board,
        lambda folder: read_target(folder / "board.json"),
        ("board.json",),
        ("board.json",),
        CALIBRATION,
    ),
    Subject(
        "camera_info",
        make_camera_info,
        lambda folder: read_camera(folder / "camera.yaml"),
        ("camera.yaml",),
        errors=CALIBRATION,
    ),
    Subject(
        "excitation",
        make_excitation,
        lambda folder: read_excitation(folder / "motion.json", "panda"),
        ("motion.json",),
        ("motion.json",),
        CALIBRATION,
    ),
    Subject(
        "servos",
        make_servos,
        load_servos,
        ("arm.json", "lerobot.json"),
        ("arm.json", "lerobot.json"),
    ),
)


@fuzzing.CUT_PLACES
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_damage_is_one_sentence(subject, cut_places, tmp_path):
    fuzzing.damage(subject, cut_places, tmp_path)


# ---- bytes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_damaged_images(kind):
    """Every cut, and flips of every byte of the header; what is decoded has the size it claims."""
    rng = np.random.default_rng(0)
    whole = encode(rng.integers(0, 255, (12, 16, 3), np.uint8), kind, "front")
    damaged = [*fuzzing.cuts(whole, len(whole)), *fuzzing.flips(whole, 500, rng)]
    for place in range(min(len(whole), 64)):
        for bit in range(8):
            broken = bytearray(whole)
            broken[place] ^= 1 << bit
            damaged.append(bytes(broken))
    refused = 0
    with fuzzing.memory_limit():
        for data in damaged:
            try:
                decode(data, "front")
            except InputError:
                refused += 1
    assert refused > len(whole) // 2


TYPES = ("sensor_msgs/msg/JointState", "trajectory_msgs/msg/JointTrajectory", "sensor_msgs/msg/Imu")


@pytest.mark.parametrize("kind", TYPES)
def test_damaged_messages_of_bags(kind):
    """Lengths that claim gigabytes among them."""
    rng, refused = np.random.default_rng(0), 0
    with fuzzing.memory_limit():
        for _ in range(1500):
            data = bytearray(b"\x00\x01\x00\x00" + rng.integers(0, 4, 200, np.uint8).tobytes())
            for place in rng.integers(4, len(data), rng.integers(0, 6)):
                data[place] = int(rng.choice([0xFF, 0x7F, 0x80, 1]))
            try:
                decode_one(bytes(data[: rng.integers(0, len(data))]), kind)
            except ValueError:  # what the reader makes a sentence of
                refused += 1
    assert refused > 100
