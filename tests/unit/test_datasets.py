"""Demonstrations: written, read back, and refused with one sentence where they are damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from policies.datasets.demonstrations import (
    Demonstrations,
    load_demonstrations,
    save_demonstrations,
)
from policies.datasets.layout import DATA, EPISODES, INFO, STATS, TASKS
from policies.errors import InputError
from policies.robots import get_robot
from sim2real.episodes.episode import Episode
from sim2real.episodes.store import save_episodes

LENGTHS = (5, 1, 7)


def demonstrations(seed: int = 0) -> Demonstrations:
    rng = np.random.default_rng(seed)
    return Demonstrations(
        state_names=("x", "y", "z"),
        action_names=("dx", "dy"),
        rate_hz=12.5,
        state=[rng.normal(size=(n, 3)) for n in LENGTHS],
        action=[rng.normal(size=(n, 2)) for n in LENGTHS],
        task=["push", "pull", "push"],
    )


def with_images() -> Demonstrations:
    data = demonstrations()
    ramp = np.linspace(0, 255, 48)[None, :, None] * np.ones((32, 1, 3))
    frames = iter(range(sum(LENGTHS)))
    # Each frame has a brightness of its own, so that a shift by one frame shows.
    data.images["wrist"] = [
        np.stack([(ramp * (1 + next(frames)) / 14).astype(np.uint8) for _ in range(n)])
        for n in LENGTHS
    ]
    return data


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_demonstrations(demonstrations(), tmp_path / "data")
    return tmp_path / "data"


def rewrite(path: Path, change) -> None:
    pq.write_table(change(pq.ParquetFile(path).read()), path)


def test_what_is_read_is_what_was_written(saved):
    data, back = demonstrations(), load_demonstrations(saved)
    assert (back.state_names, back.action_names) == (data.state_names, data.action_names)
    assert back.rate_hz == data.rate_hz
    assert back.task == data.task
    assert back.images == {}
    assert len(back) == 3
    assert back.frames == sum(LENGTHS)
    for name in ("state", "action"):
        for ours, theirs in zip(getattr(data, name), getattr(back, name), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_layout_is_that_of_lerobot(saved):
    info = json.loads((saved / INFO).read_text())
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 13, 2)
    assert info["features"]["observation.state"] == {
        "dtype": "float64",
        "shape": [3],
        "names": ["x", "y", "z"],
    }
    frames = pq.read_table(saved / DATA).to_pydict()
    assert frames["episode_index"] == [0] * 5 + [1] + [2] * 7
    assert frames["task_index"] == [0] * 5 + [1] + [0] * 7
    np.testing.assert_allclose(frames["timestamp"][:5], np.arange(5) / 12.5)
    assert pq.read_table(saved / TASKS).to_pydict()["task"] == ["push", "pull"]
    stats = json.loads((saved / STATS).read_text())["action"]
    np.testing.assert_allclose(stats["mean"], np.concatenate(demonstrations().action).mean(axis=0))


def test_episodes_of_a_robot_are_demonstrations_too(tmp_path):
    robot = get_robot("panda")
    rng = np.random.default_rng(0)
    arrays = {key: rng.normal(size=(4, robot.n)) for key in ("qpos_rad", "qvel_rad_s")}
    episode = Episode(
        robot=robot.name,
        robot_fingerprint=robot.fingerprint,
        rate_hz=50.0,
        t_s=np.arange(4) / 50.0,
        action_rad=rng.normal(size=(4, robot.n)),
        task="reach",
        **arrays,
    )
    save_episodes([episode, replace(episode, task="wave")], tmp_path / "e", latency_s=0.0)
    data = load_demonstrations(tmp_path / "e")
    assert data.state_names == tuple(f"qpos/{joint}" for joint in robot.joint_names)
    assert data.action_names == tuple(f"position/{joint}" for joint in robot.joint_names)
    assert data.task == ["reach", "wave"]
    np.testing.assert_array_equal(data.state[1], episode.qpos_rad)
    np.testing.assert_array_equal(data.action[0], episode.action_rad)


def test_selection_keeps_everything_that_belongs_to_an_episode():
    data = with_images()
    chosen = data.select([2, 0])
    assert chosen.task == ["push", "push"]
    assert chosen.state[0] is data.state[2]
    assert chosen.images["wrist"][1] is data.images["wrist"][0]
    chosen.check()


def test_datasets_of_several_files_are_read_in_order(saved):
    table = pq.ParquetFile(saved / DATA).read()
    (saved / DATA).unlink()
    for i, (begin, length) in enumerate(((0, 6), (6, 7))):
        pq.write_table(table.slice(begin, length), saved / f"data/chunk-000/file-00{i}.parquet")
    for ours, theirs in zip(demonstrations().state, load_demonstrations(saved).state, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_single_precision_and_nested_names_of_other_writers_are_read(saved):
    def shrink(table: pa.Table) -> pa.Table:
        at = table.column_names.index("action")
        return table.set_column(at, "action", table["action"].cast(pa.list_(pa.float32())))

    rewrite(saved / DATA, shrink)
    info = json.loads((saved / INFO).read_text())
    info["features"]["action"]["names"] = {"motors": ["dx", "dy"]}
    info["features"]["observation.state"]["names"] = None
    (saved / INFO).write_text(json.dumps(info))
    back = load_demonstrations(saved)
    assert back.action_names == ("dx", "dy")
    assert back.state_names == tuple(f"observation.state.{i}" for i in range(3))
    np.testing.assert_allclose(back.action[0], demonstrations().action[0], rtol=1e-6)


def test_images_come_back_as_they_were(tmp_path):
    pytest.importorskip("av")
    data = with_images()
    save_demonstrations(data, tmp_path / "data")
    back = load_demonstrations(tmp_path / "data")
    assert list(back.images) == ["wrist"]
    for ours, theirs in zip(data.images["wrist"], back.images["wrist"], strict=True):
        assert theirs.shape == ours.shape
        assert np.abs(ours.astype(int) - theirs).mean() < 3.0  # a frame's neighbour is 9 away
    episodes = pq.read_table(tmp_path / "data" / EPISODES).to_pydict()
    key = "videos/observation.images.wrist/"
    np.testing.assert_allclose(episodes[key + "from_timestamp"], np.array([0, 5, 6]) / 12.5)
    np.testing.assert_allclose(episodes[key + "to_timestamp"], np.array([5, 6, 13]) / 12.5)


def test_missing_and_cut_videos_are_named(tmp_path):
    pytest.importorskip("av")
    save_demonstrations(with_images(), tmp_path / "data")
    (video,) = (tmp_path / "data").rglob("*.mp4")
    content = video.read_bytes()
    video.write_bytes(content[:100])
    with pytest.raises(InputError, match=r"file-000\.mp4"):
        load_demonstrations(tmp_path / "data")
    video.unlink()
    with pytest.raises(InputError, match=r"observation\.images\.wrist"):
        load_demonstrations(tmp_path / "data")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda d: d.state[1].__setitem__((0, 2), np.nan), "'z' at frame 0"),
        (lambda d: d.action[2].__setitem__((3, 1), np.inf), "'dy' at frame 3"),
        (lambda d: d.state.__setitem__(0, np.zeros((5, 4))), r"episode 0: observation\.state"),
        (lambda d: d.action.__setitem__(2, np.zeros((6, 2))), "episode 2: action"),
        (lambda d: d.task.pop(), "task of 3 episodes, got 2"),
        (lambda d: setattr(d, "rate_hz", 0.0), "rate_hz"),
        (lambda d: d.images.update(top=[np.zeros((5, 8, 8, 3), np.uint8)]), "top of 3 episodes"),
        (
            lambda d: d.images.update(top=[np.zeros((n, 8, 7, 3), np.uint8) for n in LENGTHS]),
            "8 x 7",
        ),
        (
            lambda d: d.images.update(top=[np.zeros((n, 8, 8, 3)) for n in LENGTHS]),
            r"observation\.images\.top: expected uint8",
        ),
        (lambda d: [rows.clear() for rows in (d.state, d.action, d.task)], "at least one episode"),
    ],
)
def test_what_does_not_fit_is_not_written(change, named, tmp_path):
    data = demonstrations()
    change(data)
    with pytest.raises(InputError, match=named):
        save_demonstrations(data, tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def drop_column(name: str):
    return lambda folder: rewrite(folder / DATA, lambda table: table.drop_columns([name]))


def set_nan(folder: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        rows = table["action"].to_pylist()
        rows[6][1] = float("nan")
        at = table.column_names.index("action")
        return table.set_column(at, "action", pa.array(rows, pa.list_(pa.float64(), 2)))

    rewrite(folder / DATA, change)


def set_no_text(folder: Path) -> None:
    def change(table: pa.Table) -> pa.Table:
        n = table.num_rows
        words = pa.array([b"\xe1"] * n, pa.binary()).view(pa.string())
        rows = pa.ListArray.from_arrays(list(range(n + 1)), words)
        return table.set_column(table.column_names.index("tasks"), "tasks", rows)

    rewrite(folder / EPISODES, change)


def rename_feature(folder: Path) -> None:
    text = (folder / INFO).read_text()
    (folder / INFO).write_text(text.replace('"observation.state"', '"observation.stat"'))


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (drop_column("action"), "column 'action'"),
        (drop_column("observation.state"), r"column 'observation\.state'"),
        (set_nan, r"episode 2: action: .*'dy' at frame 0"),
        (set_no_text, "cannot be read .*UTF8"),
        (rename_feature, r"no feature 'observation\.state'"),
        (lambda f: rewrite(f / DATA, lambda t: t.slice(0, 10)), "episode 2: expected rows"),
        (lambda f: (f / DATA).unlink(), "Parquet files in data"),
        (lambda f: (f / DATA).write_bytes(b"PAR1 no"), "cannot be read"),
        (lambda f: (f / INFO).write_text("{"), "info.json"),
        (lambda f: (f / INFO).unlink(), "info.json does not exist"),
    ],
)
def test_damage_is_one_sentence_with_a_name(damage, named, saved):
    damage(saved)
    with pytest.raises(InputError, match=named) as caught:
        load_demonstrations(saved)
    assert "\n" not in str(caught.value)


def test_nothing_is_overwritten_by_accident(saved):
    with pytest.raises(InputError, match="--overwrite"):
        save_demonstrations(demonstrations(1), saved)
    save_demonstrations(demonstrations(1), saved, overwrite=True)
    np.testing.assert_array_equal(load_demonstrations(saved).state[0], demonstrations(1).state[0])
    assert [path.name for path in saved.parent.iterdir()] == ["data"]
    other = saved.parent / "other"
    other.mkdir()
    with pytest.raises(InputError, match="something else"):
        save_demonstrations(demonstrations(), other, overwrite=True)
