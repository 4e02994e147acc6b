"""Whatever shows something against damage: datasets and episodes with images, videos, images for
calibration from folders and bags; and results that a page is made of.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import fuzzing
import numpy as np
import pytest
from fuzzing import Subject
from rosbags.typesys import Stores, get_typestore

from policies.datasets.demonstrations import (
    Demonstrations,
    load_demonstrations,
    save_demonstrations,
)
from policies.errors import InputError
from policies.images import ENCODINGS, encode, from_raw
from policies.robots import PANDA
from sim2real.bags.writer import BagWriter
from sim2real.calibrate_sources import open_source
from sim2real.episodes.episode import Episode
from sim2real.episodes.frames import CameraFrames
from sim2real.episodes.store import load_episodes, save_episodes
from sim2real.report import report_command

STORE = get_typestore(Stores.ROS2_JAZZY)
RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"


def picture(number: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(number).integers(0, 255, (16, 24, 3), np.uint8)


# ---- datasets ----------------------------------------------------------------------------------


def make_video_dataset(folder: Path) -> Path:
    pytest.importorskip("av")
    data = Demonstrations(
        state_names=("a",),
        action_names=("a",),
        rate_hz=10.0,
        state=[np.zeros((6, 1))],
        action=[np.zeros((6, 1))],
        images={"front": [np.stack([picture(k) for k in range(6)])]},
        task=["one"],
    )
    save_demonstrations(data, folder / "dataset")
    return folder / "dataset"


def make_episodes(folder: Path) -> Path:
    t = np.arange(6) / 100.0
    still = np.tile(PANDA.default_rad, (6, 1))
    files = [encode(picture(k), "jpeg", "front") for k in range(6)]
    episode = Episode(
        robot="panda",
        robot_fingerprint=PANDA.fingerprint,
        rate_hz=100.0,
        t_s=t,
        qpos_rad=still,
        qvel_rad_s=np.zeros_like(still),
        action_rad=still,
        images={
            "front": CameraFrames(
                camera="front", height=16, width=24, index=np.arange(6), source=files.__getitem__
            )
        },
    )
    save_episodes([episode], folder / "episodes", latency_s=0.0)
    return folder / "episodes"


def load_altered_episodes(path: Path) -> None:
    """Their images too; the hashes of the manifest are made to fit."""
    import hashlib

    manifest = json.loads((path / "meta/realign.json").read_text())
    for name in manifest["sha256"]:
        manifest["sha256"][name] = hashlib.sha256((path / name).read_bytes()).hexdigest()
    (path / "meta/realign.json").write_text(json.dumps(manifest))
    for episode in load_episodes(path, PANDA):
        for frames in episode.images.values():
            for k in range(len(episode)):
                frames.rgb(k)
    load_demonstrations(path)


# ---- calibration -------------------------------------------------------------------------------

PICTURES = ("a.png", "b.jpg", "c.bmp", "d.pgm", "e.tiff", "f.webp")


def make_pictures(folder: Path) -> Path:
    for name in PICTURES:
        gray = picture()[:, :, 0]
        done, data = cv2.imencode(Path(name).suffix, gray)
        assert done
        (folder / name).write_bytes(data.tobytes())
    return folder


def look(path: Path) -> None:
    frames, _ = open_source(path, None, 10.0)
    for frame in frames:
        assert frame.image.ndim == 2


def header() -> Any:
    types = STORE.types
    stamp = types["builtin_interfaces/msg/Time"](sec=1, nanosec=0)
    return types["std_msgs/msg/Header"](stamp=stamp, frame_id="front")


def make_raw(folder: Path) -> Path:
    message = STORE.types[RAW](
        header=header(),
        height=16,
        width=24,
        encoding="rgb8",
        is_bigendian=0,
        step=72,
        data=picture().reshape(-1),
    )
    (folder / "cdr").write_bytes(bytes(STORE.serialize_cdr(message, RAW)))
    return folder


def make_compressed(folder: Path) -> Path:
    data = np.frombuffer(encode(picture(), "png", "front"), np.uint8)
    message = STORE.types[COMPRESSED](header=header(), format="png", data=data)
    (folder / "cdr").write_bytes(bytes(STORE.serialize_cdr(message, COMPRESSED)))
    return folder


def look_into_bag(folder: Path, kind: str) -> None:
    """A bag that is whole but for the message that a camera published."""
    bag = folder / "bag"
    for file in bag.glob("*"):
        file.unlink()
    if bag.exists():
        bag.rmdir()
    with BagWriter(bag, provenance={}) as writer:
        writer.add_topic("/front", kind)
        writer.write("/front", (folder / "cdr").read_bytes(), 1)
    look(bag)


# ---- pages -------------------------------------------------------------------------------------


METRICS = (
    "E_g_mpjpe_mm",
    "E_mpjpe_mm",
    "E_vel_mm_per_frame",
    "E_acc_mm_per_frame2",
    "qpos_rmse_rad",
    "_",
)


def make_results(folder: Path) -> Path:
    errors = {name: [1.0] for name in METRICS} | {"qpos_rmse_per_joint_rad": [[0.1, 0.2]]}
    content = {
        "robot": "panda",
        "windows": 3,
        "episodes": 1,
        "rate_hz": 100.0,
        "horizons_s": [0.25],
        "joint_names": ["a_joint", "b_joint"],
        "methods": {"open_loop": errors},
    }
    (folder / "replay.json").write_text(json.dumps(content))
    return folder


VIDEO = "videos/observation.images.front/chunk-000/file-000.mp4"
DATA = "data/chunk-000/file-000.parquet"
SUBJECTS = (
    Subject("video_dataset", make_video_dataset, load_demonstrations, (VIDEO,), seldom=3),
    Subject("episodes_with_images", make_episodes, load_altered_episodes, (DATA,), absent=False),
    Subject("pictures", make_pictures, look, PICTURES),
    Subject("raw_image_in_bag", make_raw, lambda p: look_into_bag(p, RAW), ("cdr",), absent=False),
    Subject(
        "compressed_image_in_bag",
        make_compressed,
        lambda p: look_into_bag(p, COMPRESSED),
        ("cdr",),
        absent=False,
    ),
    Subject(
        "results",
        make_results,
        lambda folder: report_command(folder, overwrite=True),
        ("replay.json",),
        ("replay.json",),
    ),
)


@fuzzing.CUT_PLACES
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_damage_is_one_sentence(subject, cut_places, tmp_path):
    fuzzing.damage(subject, cut_places, tmp_path)


def test_raw_images_of_any_size_and_encoding():
    """What a camera node may send, as far as its fields can hold it."""
    rng, taken = np.random.default_rng(0), 0
    sizes = (0, 1, 3, 4, 12, 2**16, 2**31, 2**32 - 1)
    with fuzzing.memory_limit():
        for _ in range(5000):
            height, width, step = (int(x) for x in rng.choice(sizes, 3))
            exact = rng.random() < 0.3 and height * step <= 4096
            data = bytes(height * step if exact else int(rng.integers(0, 64)))
            encoding = str(rng.choice([*ENCODINGS, "", "rgb32", "\0"]))
            try:
                rgb = from_raw(
                    data, height=height, width=width, step=step, encoding=encoding, what="front"
                )
            except InputError:
                continue
            taken += 1
            assert rgb.shape == (height, width, 3)
    assert taken > 20
