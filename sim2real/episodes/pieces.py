"""Parts of episodes: by rows, of a length, held out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import numpy as np

from sim2real.episodes.episode import Episode

FEWEST_MOTIONS = 3


def part(episode: Episode, start: int, stop: int) -> Episode:
    """Rows ``start`` to ``stop`` (not included) of an episode."""
    arrays = {f.name: getattr(episode, f.name) for f in fields(episode)}
    cut: dict[str, Any] = {k: v[start:stop] for k, v in arrays.items() if isinstance(v, np.ndarray)}
    images = {name: frames.part(start, stop) for name, frames in episode.images.items()}
    return replace(episode, images=images, **cut)


def between(
    episodes: Sequence[Episode], start_s: float, end_s: float, shortest_s: float
) -> list[Episode]:
    """What of the episodes lies between two times of their bag; what gets too short is left out."""
    out = []
    for episode in episodes:
        inside = np.flatnonzero((episode.t_s >= start_s) & (episode.t_s <= end_s))
        if len(inside) > max(shortest_s * episode.rate_hz, 1):
            out.append(part(episode, int(inside[0]), int(inside[-1]) + 1))
    return out


def pieces(episodes: Sequence[Episode], longest_s: float) -> list[Episode]:
    """Episodes in equal pieces of at most ``longest_s``; what is shorter stays as it is.

    Neighbours share the sample at which they are cut, so that no step of the log is lost.
    """
    out = []
    for episode in episodes:
        steps = max(len(episode) - 1, 1)
        count = int(np.ceil(steps / max(longest_s * episode.rate_hz, 1.0)))
        cuts = np.linspace(0, steps, count + 1).round().astype(int)
        out += [part(episode, a, b + 1) for a, b in pairwise(cuts)]
    return out


def motions(episodes: Sequence[Episode]) -> list[str]:
    """Which motion each episode is of: its ``task``; itself where there are fewer than 3 tasks."""
    tasks = [e.task for e in episodes]
    if len(set(tasks)) < FEWEST_MOTIONS:
        return [str(i) for i in range(len(episodes))]
    return tasks


def hold_out(
    episodes: Sequence[Episode], share: float, seed: int
) -> tuple[list[Episode], list[Episode]]:
    """Episodes to learn from and a share held out.

    Whole motions (episodes of one ``task``) where there are three or more, or whole episodes, or
    the ends of one or two.

    Args:
        episodes: at least one.
        share: share to hold out, between 0 and 1.
        seed: of the draw.
    """
    units = motions(episodes)
    kinds = list(dict.fromkeys(units))
    if len(kinds) >= FEWEST_MOTIONS:
        order = np.random.default_rng(seed).permutation(len(kinds))
        held = {kinds[i] for i in order[: max(round(share * len(kinds)), 1)]}
        return (
            [e for e, unit in zip(episodes, units, strict=True) if unit not in held],
            [e for e, unit in zip(episodes, units, strict=True) if unit in held],
        )
    cuts = [round((1.0 - share) * len(e)) for e in episodes]
    return (
        [part(e, 0, cut) for e, cut in zip(episodes, cuts, strict=True)],
        [part(e, cut, len(e)) for e, cut in zip(episodes, cuts, strict=True)],
    )
