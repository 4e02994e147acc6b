"""Demonstrations: what was seen and what was done, episode by episode.

They are kept in the LeRobotDataset v3.0 layout. Any dataset of that layout can be read whose
states and actions are vectors, also the episodes that ``realign episodes build`` writes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from policies.datasets import layout
from policies.datasets.image_column import IMAGES, ImageColumn
from policies.datasets.video import read_video, write_video
from policies.errors import InputError
from policies.interface import Float

STATE = "observation.state"
ACTION = "action"
_REMEDY = "write the dataset again"
_DAMAGE = (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError)


@dataclass(kw_only=True)
class Demonstrations:
    """Episodes of one robot or task family.

    Attributes:
        state_names: names of the D entries of the state, in order.
        action_names: names of the A entries of an action, in order.
        rate_hz: rate of observations and actions, Hz.
        state: states of each episode, raw units, (T_i, D).
        action: actions of each episode, raw units, (T_i, A); row t was done on seeing row t of
            the state.
        images: camera name -> images of each episode, RGB, uint8, (T_i, H, W, 3).
        task: task of each episode.
    """

    state_names: tuple[str, ...]
    action_names: tuple[str, ...]
    rate_hz: float
    state: list[Float]
    action: list[Float]
    images: dict[str, list[NDArray[np.uint8]]] = field(default_factory=dict)
    task: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.state)

    @property
    def frames(self) -> int:
        """Frames of all episodes."""
        return sum(len(state) for state in self.state)

    def select(self, episodes: Sequence[int]) -> Demonstrations:
        """The episodes of these numbers; arrays are shared, not copied."""
        return Demonstrations(
            state_names=self.state_names,
            action_names=self.action_names,
            rate_hz=self.rate_hz,
            state=[self.state[i] for i in episodes],
            action=[self.action[i] for i in episodes],
            images={name: [rows[i] for i in episodes] for name, rows in self.images.items()},
            task=[self.task[i] for i in episodes],
        )

    def check(self, what: str = "demonstrations") -> None:
        """Check that everything fits together.

        Args:
            what: what these are, for the error text.

        Raises:
            InputError: there is no episode, a size does not fit, or a value is not finite.
        """
        if not self.state:
            raise InputError(f"{what}: expected at least one episode, got none; record some")
        if not (np.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise InputError(f"{what}: expected rate_hz > 0, got {self.rate_hz}; state the rate")
        lists: dict[str, Sequence[Any]] = {ACTION: self.action, "task": self.task, **self.images}
        for name, rows in lists.items():
            if len(rows) != len(self.state):
                raise InputError(
                    f"{what}: expected {name} of {len(self.state)} episodes, got {len(rows)}; "
                    "give one entry an episode"
                )
        for i in range(len(self.state)):
            length = len(self.state[i])
            if length == 0:
                raise InputError(f"{what}, episode {i}: expected frames, got none; leave it out")
            _check_rows(f"{what}, episode {i}: {STATE}", self.state[i], length, self.state_names)
            _check_rows(f"{what}, episode {i}: {ACTION}", self.action[i], length, self.action_names)
            for name, rows in self.images.items():
                _check_images(f"{what}, episode {i}: {IMAGES}{name}", rows[i], length, rows[0])


def _check_rows(what: str, values: Float, length: int, names: Sequence[str]) -> None:
    if values.shape != (length, len(names)):
        raise InputError(
            f"{what}: expected shape {(length, len(names))} for {len(names)} names and {length} "
            f"frames, got {values.shape}; leave the episode out or correct the names"
        )
    if not np.isfinite(values).all():
        frame, column = np.argwhere(~np.isfinite(values))[0]
        raise InputError(
            f"{what}: expected finite values, got {values[frame, column]} in {names[column]!r} at "
            f"frame {frame}; leave the episode out"
        )


def _check_images(
    what: str, images: NDArray[np.uint8], length: int, first: NDArray[np.uint8]
) -> None:
    want = (length, *first.shape[1:])
    if images.dtype != np.uint8 or images.shape != want or want[3:] != (3,):
        raise InputError(
            f"{what}: expected uint8 RGB images of shape (T, H, W, 3), {length} frames of one "
            f"size, got {images.dtype} {images.shape}; resize or leave the episode out"
        )


def save_demonstrations(
    demonstrations: Demonstrations, out_dir: Path, *, overwrite: bool = False
) -> None:
    """Write demonstrations to a new directory; it appears whole or not at all.

    Args:
        demonstrations: what to write.
        out_dir: directory to be made.
        overwrite: replace ``out_dir`` if it holds a dataset.

    Raises:
        InputError: ``out_dir`` exists or cannot be made, or the demonstrations do not fit
            together (:meth:`Demonstrations.check`).
    """
    out_dir = Path(out_dir)
    demonstrations.check()
    for name, rows in demonstrations.images.items():
        height, width = rows[0].shape[1:3]
        if height % 2 or width % 2:
            raise InputError(
                f"demonstrations, {IMAGES}{name}: expected images of even height and width, which "
                f"video needs, got {height} x {width}; crop or resize them"
            )
    check_free(out_dir, overwrite=overwrite)
    part = out_dir.with_name(f".{out_dir.name}.part-{os.getpid()}")
    old = out_dir.with_name(f".{out_dir.name}.old-{os.getpid()}")
    try:
        part.mkdir(parents=True)
        _write(demonstrations, part)
        if out_dir.exists():
            out_dir.rename(old)
        part.rename(out_dir)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"expected a place to write demonstrations, but {out_dir} cannot be made "
            f"({error.strerror}); choose another"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_free(out_dir: Path, *, overwrite: bool) -> None:
    """Refuse to write a dataset over something, before the work begins.

    Raises:
        InputError: ``out_dir`` exists and is not to be replaced, or holds something else.
    """
    if not out_dir.exists():
        return
    if not overwrite:
        raise InputError(
            f"expected a new directory, but {out_dir} exists; choose another or give --overwrite"
        )
    if not (out_dir / layout.INFO).is_file():
        raise InputError(
            f"expected a dataset to overwrite, but {out_dir} holds something else; choose another"
        )


def _write(data: Demonstrations, out: Path) -> None:
    for name in (layout.DATA, layout.EPISODES, layout.TASKS):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
    lengths = [len(state) for state in data.state]
    columns: dict[str, Any] = {
        STATE: np.concatenate(data.state),
        ACTION: np.concatenate(data.action),
        **layout.index_columns(lengths, data.task, data.rate_hz),
    }
    names: dict[str, Sequence[str]] = {STATE: data.state_names, ACTION: data.action_names}
    features = {
        key: layout.array_feature(
            values.shape[1:], names.get(key), layout.SCALARS.get(key, "float64")
        )
        for key, values in columns.items()
    }
    extra: dict[str, Sequence[Any]] = {}
    ends = [float(end) / data.rate_hz for end in np.cumsum(lengths)]
    for name, episodes in data.images.items():
        key = IMAGES + name
        write_video(
            out / layout.VIDEO.format(video_key=key, chunk_index=0, file_index=0),
            (frame for episode in episodes for frame in episode),
            data.rate_hz,
        )
        features[key] = layout.video_feature(episodes[0].shape[1:3], data.rate_hz)
        extra |= {
            f"videos/{key}/chunk_index": [0] * len(lengths),
            f"videos/{key}/file_index": [0] * len(lengths),
            f"videos/{key}/from_timestamp": [0.0, *ends[:-1]],
            f"videos/{key}/to_timestamp": ends,
        }
    tasks = list(dict.fromkeys(data.task))
    pq.write_table(layout.frame_table(columns), out / layout.DATA, compression="zstd")
    pq.write_table(layout.episode_table(lengths, data.task, extra), out / layout.EPISODES)
    pq.write_table(layout.task_table(tasks), out / layout.TASKS)
    info = layout.dataset_info(
        robot_type=None,
        rate_hz=data.rate_hz,
        episodes=len(data),
        frames=data.frames,
        tasks=len(tasks),
        features=features,
        video_path=layout.VIDEO if data.images else None,
    )
    layout.write_meta(out / layout.INFO, info)
    stats = {key: layout.statistics(values) for key, values in columns.items()}
    layout.write_meta(out / layout.STATS, stats)


def load_demonstrations(directory: Path) -> Demonstrations:
    """Read a dataset of the LeRobotDataset v3.0 layout.

    Args:
        directory: dataset directory.

    Returns:
        All of its episodes, checked.

    Raises:
        InputError: there is no such dataset, a column or a camera is missing, sizes do not fit, or
            values are not finite.
    """
    directory = Path(directory)
    info = _read_info(directory)
    features = info["features"]
    episodes = _concatenated(directory, "meta/episodes")
    frames = _concatenated(directory, "data", columns=(STATE, ACTION))
    where = f"dataset {directory}"
    spans = _spans(where, episodes, frames.num_rows)
    values, names = {}, {}
    for key in (STATE, ACTION):
        names[key] = _names(where, key, features)
        values[key] = _column(where, frames, key, len(names[key]))
    images = {
        key.removeprefix(IMAGES): read(directory, key, spans)
        for key, feature in features.items()
        if (read := _IMAGE_READERS.get(str(feature.get("dtype")))) is not None
    }
    data = Demonstrations(
        state_names=names[STATE],
        action_names=names[ACTION],
        rate_hz=float(info["fps"]),
        state=[values[STATE][span] for span in spans],
        action=[values[ACTION][span] for span in spans],
        images=images,
        task=[", ".join(tasks) for tasks in episodes["tasks"].to_pylist()],
    )
    data.check(where)
    return data


def _read_info(directory: Path) -> dict[str, Any]:
    path = directory / layout.INFO
    if not path.is_file():
        raise InputError(
            f"expected a dataset of the LeRobotDataset {layout.VERSION} layout, but {path} does "
            "not exist; make one with `realign policy demos` or `realign episodes build`"
        )
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        if info["codebase_version"] != layout.VERSION:
            raise ValueError(f"codebase_version {info['codebase_version']!r}")
        for key in (STATE, ACTION):
            if key not in info["features"]:
                raise ValueError(f"no feature {key!r}")
        if not all(isinstance(feature, dict) for feature in info["features"].values()):
            raise ValueError("a feature without a description")
        float(info["fps"])
    except _DAMAGE as error:
        raise InputError(
            f"expected the description of a LeRobotDataset {layout.VERSION} with {STATE} and "
            f"{ACTION}, but {path} is none ({error}); {_REMEDY}"
        ) from None
    return dict(info)


def _files(directory: Path, folder: str) -> list[Path]:
    files = sorted((directory / folder).glob("chunk-*/file-*.parquet"))
    if not files:
        raise InputError(
            f"dataset {directory}: expected Parquet files in {folder}, got none; {_REMEDY}"
        )
    return files


def _concatenated(directory: Path, folder: str, columns: Sequence[str] | None = None) -> pa.Table:
    files = _files(directory, folder)
    return pa.concat_tables([layout.read_table(file, _REMEDY, columns) for file in files])


def _spans(where: str, episodes: pa.Table, rows: int) -> list[slice]:
    """Rows of each episode."""
    for key in ("dataset_from_index", "dataset_to_index", "tasks"):
        if key not in episodes.column_names:
            raise InputError(
                f"{where}: expected a column {key!r} in the list of episodes, but it is missing; "
                f"{_REMEDY}"
            )
    begin = episodes["dataset_from_index"].to_pylist()
    end = episodes["dataset_to_index"].to_pylist()
    for i, (a, b) in enumerate(zip(begin, end, strict=True)):
        if not 0 <= a < b <= rows:
            raise InputError(
                f"{where}, episode {i}: expected rows within the {rows} frames of the data, got "
                f"{a} to {b}; {_REMEDY}"
            )
    return [slice(a, b) for a, b in zip(begin, end, strict=True)]


def _names(where: str, key: str, features: dict[str, Any]) -> tuple[str, ...]:
    """Names of a vector's entries; some writers nest them, some give none."""
    try:
        names = features[key].get("names")
        if isinstance(names, dict):
            names = [name for group in names.values() for name in group]
        size = int(features[key].get("shape", [0])[0])
        if names is None:
            names = [f"{key}.{i}" for i in range(min(size, 100_000))]
        names = [str(name) for name in names]
    except _DAMAGE as error:
        raise InputError(
            f"{where}: expected names of {key}, got none ({error}); {_REMEDY}"
        ) from None
    if len(names) != size or len(set(names)) != size:
        raise InputError(
            f"{where}: expected {size} different names for {key}, got {list(names)}; {_REMEDY}"
        )
    return tuple(str(name) for name in names)


def _column(where: str, frames: pa.Table, key: str, width: int) -> Float:
    if key not in frames.column_names:
        raise InputError(f"{where}: expected a column {key!r}, but it is missing; {_REMEDY}")
    column = frames[key].combine_chunks()
    if not pa.types.is_list(column.type) and not pa.types.is_fixed_size_list(column.type):
        raise InputError(
            f"{where}: expected lists of {width} numbers in {key!r}, got {column.type}; {_REMEDY}"
        )
    values = np.asarray(column.flatten(), dtype=np.float64)
    if column.null_count or values.size != frames.num_rows * width:
        raise InputError(
            f"{where}: expected {width} values a row in {key!r}, got "
            f"{values.size / max(frames.num_rows, 1):g}; {_REMEDY}"
        )
    return values.reshape(-1, width)


def _stored_images(directory: Path, key: str, spans: list[slice]) -> list[NDArray[np.uint8]]:
    """Images of each episode of one camera, out of the frames' own file."""
    return ImageColumn(paths=_files(directory, "data"), key=key).episodes(spans)


def _frames_of(directory: Path, key: str, spans: list[slice]) -> list[NDArray[np.uint8]]:
    """Images of each episode of one camera."""
    files = sorted((directory / "videos" / key).glob("chunk-*/file-*.mp4"))
    if not files:
        raise InputError(f"dataset {directory}: expected videos of {key!r}, got none; {_REMEDY}")
    frames = np.concatenate([read_video(file) for file in files])
    if len(frames) < spans[-1].stop:
        raise InputError(
            f"dataset {directory}: expected {spans[-1].stop} frames in the videos of {key!r}, got "
            f"{len(frames)}; {_REMEDY}"
        )
    return [frames[span] for span in spans]


_IMAGE_READERS = {"video": _frames_of, "image": _stored_images}
"""How a dataset keeps images -> who reads them."""
