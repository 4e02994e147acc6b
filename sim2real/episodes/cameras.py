"""Which images of a bag belong to the steps of an episode: the newest before each, by stamps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from policies.errors import InputError
from sim2real.bags.batch import NS
from sim2real.bags.images import COMPRESSED, IMAGE_TYPES, ImageTopic, camera_of
from sim2real.bags.reader import Bag
from sim2real.episodes.align import Int, hold_index
from sim2real.episodes.frames import CameraFrames

FACTS = "image."
"""Begin of the keys under which an episode's source tells how its images were aligned."""


@dataclass(frozen=True, kw_only=True)
class ImageLimits:
    """What is accepted of cameras.

    Attributes:
        max_age_s: an image older than this at a step counts as missing there, s.
        max_missing: share of an episode's steps at which an image may be missing.
    """

    max_age_s: float = 0.2
    max_missing: float = 0.05

    def __post_init__(self) -> None:
        if not (self.max_age_s > 0.0 and 0.0 <= self.max_missing <= 1.0):
            raise InputError(
                "expected --max-image-age-s above 0 and --max-missing between 0 and 1, got "
                f"{self.max_age_s:g} and {self.max_missing:g}; give others"
            )


class _Files:
    """Gives JPEG or PNG files; the newest one is kept, since steps share images."""

    def __init__(self, topic: ImageTopic) -> None:
        self._topic = topic
        self._held: tuple[int, bytes] = (-1, b"")

    def __call__(self, number: int) -> bytes:
        if self._held[0] != number:
            self._held = number, self._topic[number].packed()[0]
        return self._held[1]


def find_cameras(bag: Bag, wanted: Sequence[str] | None) -> dict[str, ImageTopic]:
    """Index the images of a bag.

    Args:
        bag: an opened bag.
        wanted: cameras, ``NAME`` or ``NAME=TOPIC``; None for all that the bag has.

    Returns:
        Camera -> its images.

    Raises:
        InputError: the bag has no such camera, or nothing of it.
    """
    have: dict[str, str] = {}
    for topic in sorted(bag.info.topics, key=lambda t: t.type == COMPRESSED):
        if topic.type in IMAGE_TYPES and topic.count:  # of both kinds, compressed images win
            have[camera_of(topic.name)] = topic.name
    chosen = have
    if wanted is not None:
        pairs = [name.partition("=") for name in wanted]
        missing = [name for name, _, topic in pairs if not topic and name not in have]
        if missing:
            raise InputError(
                f"bag {bag.info.path}: expected images of {missing}, but its cameras are "
                f"{sorted(have) or 'none'}; name these, or NAME=TOPIC"
            )
        chosen = {name: topic or have[name] for name, _, topic in pairs}
    topics = bag.images_of(chosen.values())
    empty = [name for name, topic in chosen.items() if not len(topics[topic])]
    if empty:
        raise InputError(
            f"bag {bag.info.path}: expected images of {empty}, but there is not one; leave them out"
        )
    return {name: topics[topic] for name, topic in sorted(chosen.items())}


def align_images(
    topics: Mapping[str, ImageTopic],
    members: Mapping[str, Int],
    grid_ns: Int,
    limits: ImageLimits,
) -> tuple[dict[str, CameraFrames], dict[str, str]]:
    """Take for each step the newest image that is not younger.

    An image that is too old at a step is missing there; the old one stays in its place, and is
    counted.

    Args:
        topics: camera -> its images.
        members: camera -> which of them may belong to the episode, by ascending stamps.
        grid_ns: times of the steps, ns, (T,); none before the first image of a camera.
        limits: what is accepted.

    Returns:
        Camera -> images of the steps; what is to be told of them.

    Raises:
        InputError: too many are missing.
    """
    frames: dict[str, CameraFrames] = {}
    facts: dict[str, str] = {}
    for name, topic in topics.items():
        stamps = topic.stamp_ns[members[name]]
        held = hold_index(stamps, grid_ns)
        age_s = np.maximum(grid_ns - stamps[held], 0) / NS
        missing = int((age_s > limits.max_age_s).sum())
        if missing > limits.max_missing * len(grid_ns):
            first = grid_ns[int(np.argmax(age_s > limits.max_age_s))] / NS
            raise InputError(
                f"topic {topic.topic}: expected an image of the last {limits.max_age_s:g} s at "
                f"{1.0 - limits.max_missing:.0%} of the steps, but {missing} of {len(grid_ns)} "
                f"have none (the first at stamp {first:.3f} s, the oldest image has "
                f"{age_s.max():.3f} s); record again, raise --max-image-age-s or --max-missing, "
                "or leave the camera out"
            )
        number = members[name][held].astype(np.int64)
        height, width = topic[int(number[0])].size()
        frames[name] = CameraFrames(
            camera=name,
            height=height,
            width=width,
            index=number,
            source=_Files(topic),
        )
        facts[f"{FACTS}{name}.topic"] = topic.topic
        facts[f"{FACTS}{name}.mean_age_s"] = f"{age_s.mean():.6f}"
        facts[f"{FACTS}{name}.max_age_s"] = f"{age_s.max():.6f}"
        facts[f"{FACTS}{name}.missing"] = str(missing)
    return frames, facts
