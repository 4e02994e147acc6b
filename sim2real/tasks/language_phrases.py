"""Instructions of the language tasks: how people say what shall be touched.

Sentences are a way to ask times a name of the thing. Policies are trained on some of both; those
that are held out ask in other words for the same.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from policies.errors import InputError

Phrasing = Literal["train", "held-out"]

PHRASINGS: tuple[Phrasing, ...] = ("train", "held-out")
_ASKED = (
    "touch the {}",
    "tap the {}",
    "go to the {}",
    "reach for the {}",
    "move the hand to the {}",
    "put the gripper on the {}",
)
_ASKED_OTHERWISE = (
    "poke the {}",
    "make contact with the {}",
    "bring your fingers to the {}",
    "could you approach the {} please",
)
_NAMES = {
    "red": ("red cube", "red box"),
    "green": ("green cube", "green box"),
    "blue": ("blue ball", "blue sphere"),
    "yellow": ("yellow button", "yellow cylinder"),
}
_OTHER_NAMES = {
    "red": ("red block", "cube that is red"),
    "green": ("green block", "cube that is green"),
    "blue": ("blue marble", "ball that is blue"),
    "yellow": ("yellow can", "button that is yellow"),
}


def phrases(thing: str, phrasing: Phrasing) -> tuple[str, ...]:
    """All instructions to touch a thing.

    Args:
        thing: ``red``, ``green``, ``blue`` or ``yellow``.
        phrasing: ``train``, or ``held-out``: another way to ask for a known name, or a known way
            to ask for another name.

    Raises:
        InputError: no such thing or phrasing.
    """
    if thing not in _NAMES or phrasing not in PHRASINGS:
        raise InputError(
            f"instructions: expected a thing out of {list(_NAMES)} and a phrasing out of "
            f"{list(PHRASINGS)}, got {thing!r} and {phrasing!r}"
        )
    if phrasing == "train":
        return tuple(ask.format(name) for ask in _ASKED for name in _NAMES[thing])
    asked_otherwise = [ask.format(name) for ask in _ASKED_OTHERWISE for name in _NAMES[thing]]
    named_otherwise = [ask.format(name) for ask in _ASKED for name in _OTHER_NAMES[thing]]
    return (*asked_otherwise, *named_otherwise)


def draw_phrase(thing: str, phrasing: Phrasing, seed: int) -> str:
    """One of :func:`phrases`; the same seed gives the same."""
    known = phrases(thing, phrasing)
    return known[int(np.random.default_rng([seed, 5]).integers(len(known)))]
