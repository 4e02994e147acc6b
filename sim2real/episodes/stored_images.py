"""Images of episodes in a dataset: over all episodes to write them, out of a file to read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from policies.datasets.image_column import IMAGES, ImageColumn
from policies.errors import InputError
from sim2real.episodes.episode import Episode
from sim2real.episodes.frames import CameraFrames


def joined_images(episodes: Sequence[Episode]) -> dict[str, CameraFrames]:
    """Camera -> its images over all episodes, numbered by frame.

    Args:
        episodes: at least one, all with the same cameras.
    """
    lengths = [len(episode) for episode in episodes]
    ends = np.cumsum(lengths)

    def source(name: str) -> Callable[[int], bytes]:
        def file(frame: int) -> bytes:
            number = int(np.searchsorted(ends, frame, side="right"))
            return episodes[number].images[name].file(frame - int(ends[number] - lengths[number]))

        return file

    return {
        name: replace(first, index=np.arange(ends[-1]), source=source(name))
        for name, first in episodes[0].images.items()
    }


def stored_images(
    file: Path, sizes: Mapping[str, Mapping[str, Any]], frames: int
) -> dict[str, CameraFrames]:
    """Camera -> its images over all frames of a dataset; they stay on disk.

    Args:
        file: the Parquet file of the frames.
        sizes: camera -> ``height`` and ``width``, pixels.
        frames: how many there are.

    Raises:
        InputError: a camera is missing, or has not as many images.
    """
    found = {}
    for name, size in sizes.items():
        column = ImageColumn(paths=[file], key=IMAGES + name)
        if len(column) != frames:
            raise InputError(
                f"{file}: expected {frames} images of {name}, got {len(column)}; "
                "build the episodes again"
            )
        found[name] = CameraFrames(
            camera=name,
            height=int(size["height"]),
            width=int(size["width"]),
            index=np.arange(frames),
            source=column.file,
        )
    return found
