"""Images in episodes: which one belongs to a step, what is refused, and the store on disk."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from policies import images
from policies.datasets import image_column
from policies.datasets.demonstrations import load_demonstrations
from policies.datasets.image_column import ImageColumn, image_statistics
from policies.datasets.layout import DATA, INFO, STATS
from policies.errors import InputError
from policies.robots import PANDA
from sim2real.bags.definitions import typestore
from sim2real.bags.image_recorder import ImageRecorder
from sim2real.bags.images import RAW
from sim2real.bags.writer import BagWriter
from sim2real.episodes.build import build_episodes
from sim2real.episodes.cameras import ImageLimits
from sim2real.episodes.cli import episodes_build
from sim2real.episodes.pieces import between, part
from sim2real.episodes.store import load_episodes, save_episodes

STORE = typestore()
MS = 1_000_000
T0 = 1_000 * 10**9
JOINTS = "sensor_msgs/msg/JointState"
STRING = "std_msgs/msg/String"
SIZE = (16, 24)
Sent = tuple[str, int, int]  # camera, ms, number of the picture


def picture(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """One colour for each number, and a corner that tells where up is."""
    rng = np.random.default_rng(number)
    out = np.broadcast_to(rng.integers(40, 256, 3, np.uint8), (*size, 3)).copy()
    out[:4, :6] = 0
    return out


def number_of(rgb: np.ndarray) -> int:
    """Number of a picture that was not altered."""
    colour = rgb[-1, -1]
    return next(n for n in range(400) if (picture(n)[-1, -1] == colour).all())


def header(ms: int):
    stamp = T0 + ms * MS
    time = STORE.types["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
    return STORE.types["std_msgs/msg/Header"](stamp=time, frame_id="")


def joints(ms: int) -> bytes:
    values = PANDA.default_rad + 1e-4 * ms
    message = STORE.types[JOINTS](
        header=header(ms),
        name=list(PANDA.joint_names),
        position=values,
        velocity=np.full(PANDA.n, 0.1),
        effort=np.zeros(0),
    )
    return bytes(STORE.serialize_cdr(message, JOINTS))


def image(ms: int, rgb: np.ndarray) -> bytes:
    height, width = rgb.shape[:2]
    message = STORE.types[RAW](
        header=header(ms),
        height=height,
        width=width,
        encoding="rgb8",
        is_bigendian=0,
        step=3 * width,
        data=rgb.reshape(-1),
    )
    return bytes(STORE.serialize_cdr(message, RAW))


def record(
    path: Path,
    sent: Sequence[Sent],
    *,
    stop_ms: int = 1000,
    how: str = "lossless",
    said: Sequence[tuple[int, str]] = (),
    draw: Callable[[int], np.ndarray] = picture,
) -> Path:
    """States and commands every 10 ms, and images, in the order in which they come."""
    events: list[tuple[int, str, str, bytes]] = []
    for ms in range(0, stop_ms + 1, 10):
        events += [(ms, topic, JOINTS, joints(ms)) for topic in ("/joint_states", "/joint_command")]
    events += [(ms, f"/{camera}/image_raw", RAW, image(ms, draw(n))) for camera, ms, n in sent]
    for ms, text in said:
        cdr = STORE.serialize_cdr(STORE.types[STRING](data=text), STRING)
        events.append((ms, "/policy/instruction", STRING, bytes(cdr)))
    events.sort(key=lambda event: (event[0], event[2] != STRING))
    with BagWriter(path, provenance={"robot": "panda"}) as writer:
        cameras = ImageRecorder(writer, how, on_error=pytest.fail, warn=pytest.fail)
        for topic in dict.fromkeys(event[1] for event in events if event[2] == RAW):
            cameras.add(topic, RAW)
        for ms, topic, msgtype, cdr in events:
            log_ns = 5 * 10**9 + ms * MS
            if msgtype == RAW:
                cameras.take(topic, cdr, log_ns)
            else:
                writer.add_topic(topic, msgtype)
                writer.write(topic, cdr, log_ns)
        cameras.close()
    return path


def steadily(camera: str, every_ms: int, start_ms: int = 0, stop_ms: int = 1000) -> list[Sent]:
    return [(camera, ms, i) for i, ms in enumerate(range(start_ms, stop_ms + 1, every_ms))]


def shown(episode, camera: str) -> list[int]:
    return [number_of(episode.images[camera].rgb(k)) for k in range(len(episode))]


# ---- alignment ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["raw", "lossless"])
def test_a_step_has_the_newest_image_that_is_not_younger(tmp_path, how):
    sent = steadily("front", 30) + steadily("hand", 50, start_ms=0)
    (episode,) = build_episodes(record(tmp_path / "bag", sent, how=how), PANDA, rate_hz=100.0)
    assert len(episode) == 101
    assert shown(episode, "front") == [10 * k // 30 for k in range(101)]
    assert shown(episode, "hand") == [10 * k // 50 for k in range(101)]
    assert float(episode.source["image.front.max_age_s"]) == pytest.approx(0.02)
    assert float(episode.source["image.hand.mean_age_s"]) == pytest.approx(0.02, abs=1e-3)
    assert episode.source["image.front.missing"] == "0"
    assert episode.source["image.front.topic"].startswith("/front/image_raw")


def test_an_episode_begins_when_every_camera_has_sent_an_image(tmp_path):
    sent = steadily("front", 20) + steadily("hand", 20, start_ms=305)
    (episode,) = build_episodes(record(tmp_path / "bag", sent), PANDA, rate_hz=100.0)
    assert episode.t_s[0] == pytest.approx(0.31)
    assert shown(episode, "hand")[:3] == [0, 0, 1]
    assert shown(episode, "front")[0] == 15
    late = [*steadily("front", 20), ("hand", 900, 0)]
    with pytest.raises(
        InputError, match=r"at least 0.5 s of states with a command in force and im"
    ):
        build_episodes(record(tmp_path / "late", late), PANDA, rate_hz=100.0)


def test_missing_images_are_counted_and_too_many_refused(tmp_path):
    sent = [s for s in steadily("front", 20) if not 400 < s[1] < 640]  # 400, then 640
    path = record(tmp_path / "bag", sent)
    (episode,) = build_episodes(path, PANDA, rate_hz=100.0)
    # at 610, 620 and 630 the image of 400 is older than 0.2 s; it stays
    assert episode.source["image.front.missing"] == "3"
    assert float(episode.source["image.front.max_age_s"]) == pytest.approx(0.23)
    assert shown(episode, "front")[61:65] == [20, 20, 20, 32]
    words = r"3 of 101 have none \(the first at stamp 1000.610 s, the oldest image has 0.230 s\)"
    with pytest.raises(InputError, match=words):
        build_episodes(path, PANDA, rate_hz=100.0, image_limits=ImageLimits(max_missing=0.02))
    strict = ImageLimits(max_age_s=0.015)
    with pytest.raises(InputError, match=r"expected an image of the last 0.015 s at 95% of the"):
        build_episodes(path, PANDA, rate_hz=100.0, image_limits=strict)
    with pytest.raises(InputError, match="--max-missing between 0 and 1"):
        ImageLimits(max_missing=2.0)


def test_cameras_can_be_chosen(tmp_path):
    path = record(tmp_path / "bag", steadily("front", 20) + steadily("hand", 20))
    build = lambda cameras: build_episodes(path, PANDA, rate_hz=50.0, cameras=cameras)[0]  # noqa: E731
    assert list(build(None).images) == ["front", "hand"]
    assert list(build(["hand"]).images) == ["hand"]
    renamed = build(["wrist=/hand/image_raw/compressed"])
    assert list(renamed.images) == ["wrist"]
    assert renamed.images["wrist"].rgb(0).shape == (*SIZE, 3)
    assert build(()).images == {}
    with pytest.raises(
        InputError, match=r"images of \['top'\], but its cameras are \['front', 'ha"
    ):
        build(["top"])
    with pytest.raises(InputError, match="expected sensor_msgs/msg/Image or"):
        build(["top=/joint_states"])


def test_images_of_another_size_are_refused(tmp_path):
    draw = lambda n: picture(n, SIZE if n < 30 else (8, 8))  # noqa: E731
    (episode,) = build_episodes(record(tmp_path / "bag", steadily("front", 20), draw=draw), PANDA)
    with pytest.raises(
        InputError, match="front, step 60: expected 24 x 16 pixels as before, got 8"
    ):
        save_episodes([episode], tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- instructions ------------------------------------------------------------------------------


def test_an_episode_has_one_instruction(tmp_path):
    said = [(0, "touch the red cube"), (500, "touch the red cube"), (600, "touch the blue ball")]
    path = record(tmp_path / "bag", [], stop_ms=1500, said=said)
    episodes = build_episodes(path, PANDA, rate_hz=100.0)
    assert [e.task for e in episodes] == ["touch the red cube", "touch the blue ball"]
    assert [len(e) for e in episodes] == [60, 91]
    assert episodes[1].t_s[0] == pytest.approx(0.6)
    (whole,) = build_episodes(path, PANDA, rate_hz=100.0, task="something else")
    assert (whole.task, len(whole)) == ("something else", 151)


# ---- the store ---------------------------------------------------------------------------------


@pytest.fixture
def built(tmp_path):
    sent = steadily("front", 20) + steadily("hand", 40)
    said = [(0, "touch the red cube"), (500, "touch the blue ball")]
    path = record(tmp_path / "bag", sent, how="compressed", said=said)
    return build_episodes(path, PANDA, rate_hz=100.0, min_length_s=0.3)


def test_what_is_loaded_is_what_was_recorded(built, tmp_path):
    save_episodes(built, tmp_path / "out", latency_s=0.0)
    back = load_episodes(tmp_path / "out", PANDA)
    assert [e.task for e in back] == ["touch the red cube", "touch the blue ball"]
    for ours, theirs in zip(built, back, strict=True):
        np.testing.assert_array_equal(ours.qpos_rad, theirs.qpos_rad)
        assert list(theirs.images) == ["front", "hand"]
        for name, frames in ours.images.items():
            assert [frames.file(k) for k in range(len(ours))] == [
                theirs.images[name].file(k) for k in range(len(theirs))
            ], "the recorder's own files, not decoded and compressed again"
    save_episodes(back, tmp_path / "again", latency_s=0.0)
    again = load_episodes(tmp_path / "again")
    assert again[1].images["hand"].file(7) == built[1].images["hand"].file(7)


def test_parts_of_episodes_keep_their_images(built):
    cut = part(built[0], 10, 20)
    assert [cut.images["front"].file(k) for k in range(10)] == [
        built[0].images["front"].file(k) for k in range(10, 20)
    ]
    (later,) = between(built[:1], 0.3, 9.0, 0.1)
    assert later.images["hand"].file(0) == built[0].images["hand"].file(30)


def test_the_layout_is_that_of_lerobot(built, tmp_path):
    save_episodes(built, tmp_path / "out", latency_s=0.0)
    info = json.loads((tmp_path / "out" / INFO).read_text())
    assert info["features"]["observation.images.front"] == {
        "dtype": "image",
        "shape": [*SIZE, 3],
        "names": ["height", "width", "channels"],
    }
    assert info["features"]["observation.state"]["names"][0] == "qpos/panda_joint1"
    assert info["video_path"] is None
    stats = json.loads((tmp_path / "out" / STATS).read_text())["observation.images.hand"]
    pixels = np.concatenate([e.images["hand"].rgb(k) for e in built for k in range(len(e))]) / 255.0
    np.testing.assert_allclose(np.squeeze(stats["mean"]), pixels.mean(axis=(0, 1)), atol=1e-9)
    np.testing.assert_allclose(np.squeeze(stats["std"]), pixels.std(axis=(0, 1)), atol=1e-9)
    assert np.shape(stats["max"]) == (3, 1, 1)


def test_an_image_that_stays_is_stored_once(tmp_path):
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (64, 64, 3), np.uint8) for _ in range(3)]
    path = record(tmp_path / "bag", steadily("front", 500), draw=lambda n: noise[n])
    limits = ImageLimits(max_age_s=1.0)
    save_episodes(build_episodes(path, PANDA, rate_hz=100.0, image_limits=limits), tmp_path / "out")
    assert (tmp_path / "out" / DATA).stat().st_size < 4 * 64 * 64 * 3 + 60_000


def test_images_are_read_a_group_of_rows_at_a_time(built, tmp_path, monkeypatch):
    monkeypatch.setattr(image_column, "_GROUP_BYTES", 20_000)
    save_episodes(built, tmp_path / "out", latency_s=0.0)
    assert pq.ParquetFile(tmp_path / "out" / DATA).num_row_groups > 3
    back = load_episodes(tmp_path / "out")
    for step in (50, 0, 49, 17):
        assert back[1].images["front"].file(step) == built[1].images["front"].file(step)


def test_altered_images_are_noticed(built, tmp_path):
    save_episodes(built, tmp_path / "out", latency_s=0.0)
    data = bytearray((tmp_path / "out" / DATA).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "out" / DATA).write_bytes(data)
    with pytest.raises(InputError, match="SHA-256 differs"):
        load_episodes(tmp_path / "out")


def test_episodes_with_other_cameras_do_not_go_together(built, tmp_path):
    fewer = replace(built[1], images={"hand": built[1].images["hand"]})
    with pytest.raises(InputError, match="expected one set of cameras, got"):
        save_episodes([built[0], fewer], tmp_path / "out")


# ---- as demonstrations -------------------------------------------------------------------------


def test_episodes_are_demonstrations_with_images(built, tmp_path):
    save_episodes(built, tmp_path / "out", latency_s=0.0)
    data = load_demonstrations(tmp_path / "out")
    assert data.task == ["touch the red cube", "touch the blue ball"]
    assert data.state_names[0] == "qpos/panda_joint1"
    assert data.action_names[0] == "position/panda_joint1"
    for name in ("front", "hand"):
        for episode, pixels in zip(built, data.images[name], strict=True):
            assert pixels.shape == (len(episode), *SIZE, 3)
            for k in (0, 13, len(episode) - 1):
                np.testing.assert_array_equal(pixels[k], episode.images[name].rgb(k))


def test_demonstrations_that_do_not_fit_into_memory_are_refused(built, tmp_path, monkeypatch):
    save_episodes(built, tmp_path / "out", latency_s=0.0)
    monkeypatch.setattr(image_column, "_memory_bytes", lambda: 10_000)
    with pytest.raises(InputError, match="front: expected images that fit into memory"):
        load_demonstrations(tmp_path / "out")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([b"x"], "row 0: expected a whole JPEG or PNG image"),
        ([images.encode(picture(0), "png", ""), None], "row 1: expected an image inside the data"),
        (
            [images.encode(picture(0, s), "png", "") for s in (SIZE, (8, 8))],
            "expected images of 24 x 16, got 8 x 8 in row 1",
        ),
    ],
)
def test_damaged_columns_are_one_sentence(rows, words, tmp_path):
    structs = [{"bytes": data, "path": "elsewhere.png"} for data in rows]
    table = pa.table({"camera": pa.array(structs, type=image_column.TYPE), "n": [0] * len(rows)})
    pq.write_table(table, tmp_path / "a.parquet")
    column = ImageColumn(paths=[tmp_path / "a.parquet"], key="camera")
    with pytest.raises(InputError, match=words):
        column.episodes([slice(0, len(rows))])
    with pytest.raises(InputError, match="expected images inside the column 'n', got int64"):
        ImageColumn(paths=[tmp_path / "a.parquet"], key="n")
    with pytest.raises(InputError, match=r"expected a row below"):
        column.file(9)
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"b.parquet cannot be read"):
        ImageColumn(paths=[tmp_path / "b.parquet"], key="camera")


def test_statistics_of_images_are_those_of_their_pixels():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 200, (7, 9, 11, 3), np.uint8)
    found = image_statistics(len(frames), lambda i: frames[i])
    flat = frames.reshape(-1, 3) / 255.0
    for key, wanted in {
        "min": flat.min(axis=0),
        "max": flat.max(axis=0),
        "mean": flat.mean(axis=0),
        "std": flat.std(axis=0),
    }.items():
        np.testing.assert_allclose(np.squeeze(found[key]), wanted, atol=1e-12)
    middle = np.quantile(flat, 0.5, axis=0)
    np.testing.assert_allclose(np.squeeze(found["q50"]), middle, atol=1 / 255)
    assert found["count"] == [7]


# ---- the command -------------------------------------------------------------------------------


def test_the_command_reports_ages_and_misses(tmp_path, capsys):
    sent = [s for s in steadily("front", 20) if not 400 < s[1] < 640]
    path = record(tmp_path / "bag", sent)
    episodes_build([path], "panda", tmp_path / "out", json=tmp_path / "out.json", rate_hz=100.0)
    assert "camera front: 24 x 16" in (printed := capsys.readouterr().out)
    assert "230.0 ms at most, missing at 3" in printed
    summary = json.loads((tmp_path / "out.json").read_text())["cameras"]["front"]
    assert (summary["missing"], summary["max_age_s"]) == (3, 0.23)
    episodes_build([path], "panda", tmp_path / "bare", images=False, task="wave")
    (bare,) = load_episodes(tmp_path / "bare")
    assert (bare.images, bare.task) == ({}, "wave")
