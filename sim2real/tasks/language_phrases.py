"""Instructions of the language tasks: how people say what shall be touched, or picked up.

Sentences are a way to ask times a name of the thing. Policies are trained on some of both; those
that are held out ask in other words for the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from policies.errors import InputError

Phrasing = Literal["train", "held-out"]
Deed = Literal["touch", "pick"]

PHRASINGS: tuple[Phrasing, ...] = ("train", "held-out")


@dataclass(frozen=True, kw_only=True)
class _Words:
    """Ways to ask for a deed and names of the things; ``other`` ones are held out."""

    asked: tuple[str, ...]
    other_asked: tuple[str, ...]
    names: dict[str, tuple[str, ...]]
    other_names: dict[str, tuple[str, ...]]


_CUBES = {
    "red": ("red cube", "red box"),
    "green": ("green cube", "green box"),
    "blue": ("blue ball", "blue sphere"),
}
_OTHER_CUBES = {
    "red": ("red block", "cube that is red"),
    "green": ("green block", "cube that is green"),
    "blue": ("blue marble", "ball that is blue"),
}
_WORDS: dict[Deed, _Words] = {
    "touch": _Words(
        asked=(
            "touch the {}",
            "tap the {}",
            "go to the {}",
            "reach for the {}",
            "move the hand to the {}",
            "put the gripper on the {}",
        ),
        other_asked=(
            "poke the {}",
            "make contact with the {}",
            "bring your fingers to the {}",
            "could you approach the {} please",
        ),
        names={**_CUBES, "yellow": ("yellow button", "yellow cylinder")},
        other_names={**_OTHER_CUBES, "yellow": ("yellow can", "button that is yellow")},
    ),
    "pick": _Words(
        asked=(
            "pick up the {}",
            "lift the {}",
            "grasp the {}",
            "take the {}",
            "grab the {}",
            "raise the {} off the floor",
        ),
        other_asked=(
            "pick the {} up",
            "get the {}",
            "hold the {} in the air",
            "could you lift up the {} please",
        ),
        names={**_CUBES, "yellow": ("yellow can", "yellow cylinder")},
        other_names={**_OTHER_CUBES, "yellow": ("yellow tin", "cylinder that is yellow")},
    ),
}


def phrases(thing: str, phrasing: Phrasing, deed: Deed = "touch") -> tuple[str, ...]:
    """All instructions to do something to a thing.

    Args:
        thing: ``red``, ``green``, ``blue`` or ``yellow``.
        phrasing: ``train``, or ``held-out``: another way to ask for a known name, or a known way
            to ask for another name.
        deed: what shall be done.

    Raises:
        InputError: no such thing or phrasing.
    """
    words = _WORDS[deed]
    if thing not in words.names or phrasing not in PHRASINGS:
        raise InputError(
            f"instructions: expected a thing out of {list(words.names)} and a phrasing out of "
            f"{list(PHRASINGS)}, got {thing!r} and {phrasing!r}"
        )
    if phrasing == "train":
        return tuple(ask.format(name) for ask in words.asked for name in words.names[thing])
    asked_otherwise = [ask.format(name) for ask in words.other_asked for name in words.names[thing]]
    named_otherwise = [ask.format(name) for ask in words.asked for name in words.other_names[thing]]
    return (*asked_otherwise, *named_otherwise)


def draw_phrase(thing: str, phrasing: Phrasing, seed: int, deed: Deed = "touch") -> str:
    """One of :func:`phrases`; the same seed gives the same."""
    known = phrases(thing, phrasing, deed)
    return known[int(np.random.default_rng([seed, 5]).integers(len(known)))]
