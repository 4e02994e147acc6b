"""What episodes show on a page: how many of what, and what their cameras saw."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from policies.images import encode, shrink
from sim2real.episodes.cameras import FACTS
from sim2real.episodes.episode import Episode
from sim2real.report import Pictures, Section, Table, Text

STRIP_BYTES = 140_000
"""Most that the pictures of a page take, so that they stay below 200 kB as text."""
_STEPS, _WIDTH, _LEAST_WIDTH = 8, 160, 16
_STRIPS = 4


def camera_strip(
    episode: Episode, *, most_bytes: int = STRIP_BYTES, name: str = "The first episode"
) -> Pictures | None:
    """Some images of each camera over an episode, or None where it has none.

    Args:
        episode: a recorded episode.
        most_bytes: images are shrunk until all of them together take no more.
        name: which episode it is.

    Raises:
        InputError: an image cannot be read.
    """
    if not episode.images:
        return None
    steps = np.unique(np.linspace(0, len(episode) - 1, _STEPS).round().astype(int)).tolist()
    pixels = {camera: [c.rgb(step) for step in steps] for camera, c in episode.images.items()}
    width, size = _WIDTH, most_bytes + 1
    rows: dict[str, list[bytes]] = {}
    while size > most_bytes and width >= _LEAST_WIDTH:
        rows = {
            camera: [encode(shrink(image, width, camera), "jpeg", camera) for image in images]
            for camera, images in pixels.items()
        }
        size = sum(len(file) for files in rows.values() for file in files)
        width = 3 * width // 4
    start_s = float(episode.t_s[0])
    return Pictures(
        heading="What the cameras saw",
        rows=rows,
        captions=tuple(f"{episode.t_s[step] - start_s:.1f} s" for step in steps),
        note=f"{name}{': ' if episode.task else ''}{episode.task}.",
    )


def episode_sections(episodes: Sequence[Episode]) -> list[Section]:
    """Sections of a page about episodes.

    Args:
        episodes: at least one.

    Raises:
        InputError: an image cannot be read.
    """
    first = episodes[0]
    total_s = sum(len(episode) / episode.rate_hz for episode in episodes)
    sections: list[Section] = [
        Text(
            text=f"Robot {first.robot}: {len(episodes)} episodes, {total_s:.1f} s at "
            f"{first.rate_hz:g} Hz."
        )
    ]
    shown = episodes[:_STRIPS]
    for number, episode in enumerate(shown):
        room = STRIP_BYTES // len(shown)
        strip = camera_strip(episode, most_bytes=room, name=f"Episode {number}")
        if strip is not None:
            sections.append(strip)
    sections.append(
        Table(
            heading="Episodes",
            header=(
                "task",
                "length, s",
                "bag",
                *(f"{name}, worst age, ms" for name in first.images),
            ),
            rows=tuple(_row(episode) for episode in episodes),
        )
    )
    return sections


def _row(episode: Episode) -> tuple[str, ...]:
    ages = (episode.source.get(f"{FACTS}{name}.max_age_s") for name in episode.images)
    return (
        episode.task or "-",
        f"{len(episode) / episode.rate_hz:.1f}",
        episode.source.get("bag", "-"),
        *("-" if age is None else f"{1e3 * float(age):.0f}" for age in ages),
    )
