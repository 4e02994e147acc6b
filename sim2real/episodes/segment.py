"""Where episodes begin and end: markers, gaps, clock jumps, damping commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policies.errors import InputError
from sim2real.bags.batch import NS
from sim2real.bags.columns import Columns
from sim2real.bags.images import ImageTopic
from sim2real.episodes.align import SLACK_NS, Int
from sim2real.episodes.streams import Base, Commands, States

Index = NDArray[np.intp]
_RESET_MESSAGES = 100  # how far messages stray across a clock reset in the bag
_STRAY_NS = 100_000_000  # and how wrong their stamps must look before that is believed


@dataclass(frozen=True, kw_only=True)
class Window:
    """A stretch of the bag in which states, commands and base motion are all known.

    Attributes:
        start_ns, end_ns: stamps between which an episode may lie; the start is a state stamp.
        states: indices of the state samples, stamps strictly increasing.
        commands: indices of the commands that may be in force, stamps not decreasing.
        base: indices of the base samples, stamps strictly increasing, or None for a fixed base.
        images: camera -> indices of its images, stamps not decreasing.
        marker: number that the episode marker gave, or None.
        task: text that the episode marker gave, or the instruction that was in force.
    """

    start_ns: int
    end_ns: int
    states: Index
    commands: Index
    base: Index | None
    images: dict[str, Index]
    marker: int | None
    task: str


@dataclass(frozen=True, kw_only=True)
class _Stretch:
    """Consecutive state samples without a gap; commands from before ``since_ns`` do not count."""

    states: Index
    since_ns: int | None
    marker: int | None
    task: str


def find_windows(
    states: States,
    commands: Commands,
    base: Base | None,
    markers: Columns | None,
    *,
    max_gap_s: float,
    instructions: Columns | None = None,
    images: Mapping[str, ImageTopic] | None = None,
) -> list[Window]:
    """Cut a bag into windows.

    A new window begins where state stamps step back (a clock was reset), where states or base
    samples are missing for longer than ``max_gap_s`` (or 3 median periods, if that is longer), at
    each marker, at each new instruction, and after each damping command. With markers, whatever
    lies before the first one or after one with a negative number belongs to no episode. With
    images, a window begins with a state for which each camera has sent one.

    Raises:
        InputError: a marker cannot be read.
    """
    epoch = np.concatenate([[0], np.cumsum(np.diff(states.stamp_ns) < 0)])
    command_epoch = _assign(states, epoch, commands.stamp_ns, commands.sequence)
    base_epoch = _assign(states, epoch, base.stamp_ns, base.sequence) if base else None
    marker_epoch = _assign(states, epoch, markers.stamp_ns, markers.sequence) if markers else None
    seen = {
        name: (topic, _assign(states, epoch, topic.stamp_ns, topic.sequence))
        for name, topic in (images or {}).items()
    }
    windows: list[Window] = []
    for number in range(int(epoch[-1]) + 1):
        samples = _increasing(np.flatnonzero(epoch == number), states.stamp_ns)
        issued = _by_stamp(np.flatnonzero(command_epoch == number), commands.stamp_ns)
        moved = None
        if base is not None:
            members = _by_stamp(np.flatnonzero(base_epoch == number), base.stamp_ns)
            moved = _runs(_increasing(members, base.stamp_ns), base.stamp_ns, max_gap_s)
        runs = _runs(samples, states.stamp_ns, max_gap_s)
        stretches = [_Stretch(states=r, since_ns=None, marker=None, task="") for r in runs]
        if markers is not None and marker_epoch is not None:
            own = _by_stamp(np.flatnonzero(marker_epoch == number), markers.stamp_ns)
            stretches = _split_at_markers(runs, states, markers, own)
        stretches = [p for s in stretches for p in _split_at_instructions(s, states, instructions)]
        shown = {
            name: _by_stamp(np.flatnonzero(of == number), topic.stamp_ns)
            for name, (topic, of) in seen.items()
        }
        for stretch in stretches:
            for window in _usable_windows(stretch, states, commands, issued, base, moved):
                windows += _with_images(window, states, images or {}, shown)
    return windows


def _assign(states: States, epoch: NDArray[np.int64], stamp_ns: Int, sequence: Int) -> Index:
    """Epoch of each message of another topic.

    Around a clock reset, messages of both sides are interleaved. Of the state samples just before
    and just after a message in the bag, the one with the nearer stamp decides; where neither is
    near and a reset is, the state on the other side of the reset may.
    """
    after = np.searchsorted(states.sequence, sequence)
    right = np.clip(after, 0, len(epoch) - 1)
    left = np.clip(after - 1, 0, len(epoch) - 1)
    best, distance = left, np.abs(stamp_ns - states.stamp_ns[left])
    resets = np.flatnonzero(np.diff(epoch)) + 1  # first states after each reset
    others = [(right, np.zeros(len(sequence)))]
    for edge in (resets, resets - 1):
        if len(edge):
            nearest = np.searchsorted(states.sequence[edge], sequence)
            for k in (nearest - 1, nearest):
                other = edge[np.clip(k, 0, len(edge) - 1)]
                far = np.abs(states.sequence[other] - sequence) > _RESET_MESSAGES
                others.append((other, np.where(far, np.inf, _STRAY_NS)))
    for other, handicap in others:
        candidate = np.abs(stamp_ns - states.stamp_ns[other]) + handicap
        best = np.where(candidate < distance, other, best)
        distance = np.minimum(candidate, distance)
    return np.asarray(epoch[best], dtype=np.intp)


def _by_stamp(index: Index, stamp_ns: Int) -> Index:
    return np.asarray(index[np.argsort(stamp_ns[index], kind="stable")], dtype=np.intp)


def _increasing(index: Index, stamp_ns: Int) -> Index:
    """Drop samples that repeat the stamp of the one before."""
    stamps = stamp_ns[index]
    new = np.concatenate([[True], np.diff(stamps) > 0])[: len(index)]
    return np.asarray(index[new], dtype=np.intp)


def _runs(index: Index, stamp_ns: Int, max_gap_s: float) -> list[Index]:
    """Split where a step is longer than the allowed gap."""
    if not len(index):
        return []
    steps = np.diff(stamp_ns[index]) / NS
    limit = max(max_gap_s, 3.0 * float(np.median(steps))) if len(steps) else max_gap_s
    return list(np.split(index, np.flatnonzero(steps > limit) + 1))


def _split_at_markers(
    runs: list[Index], states: States, markers: Columns, own: Index
) -> list[_Stretch]:
    stretches: list[_Stretch] = []
    for position, marker in enumerate(own):
        number, task = _parse_marker(markers.text[marker])
        if number < 0:
            continue
        begin = int(markers.stamp_ns[marker])
        last = position + 1 == len(own)
        end = None if last else int(markers.stamp_ns[own[position + 1]])
        for run in runs:
            stamps = states.stamp_ns[run]
            inside = stamps >= begin - SLACK_NS
            if end is not None:
                inside &= stamps < end - SLACK_NS
            if inside.any():
                stretches.append(
                    _Stretch(states=run[inside], since_ns=begin, marker=number, task=task)
                )
    return stretches


def _split_at_instructions(
    stretch: _Stretch, states: States, instructions: Columns | None
) -> list[_Stretch]:
    """Parts in which one instruction is in force; it has no stamp, but a place in the bag."""
    if instructions is None or not len(instructions):
        return [stretch]
    text = ["", *instructions.text]
    said = np.searchsorted(instructions.sequence, states.sequence[stretch.states])
    kind = np.array([text.index(text[i]) for i in said.tolist()])
    parts = np.split(np.arange(len(kind)), np.flatnonzero(np.diff(kind)) + 1)
    return [
        replace(
            stretch, states=stretch.states[rows], task=text[kind[rows[0]]].strip() or stretch.task
        )
        for rows in parts
    ]


def _with_images(
    window: Window,
    states: States,
    images: Mapping[str, ImageTopic],
    shown: Mapping[str, Index],
) -> list[Window]:
    """The part of a window from which on there is an image of each camera, if there is one."""
    if not shown:
        return [window]
    if not all(len(members) for members in shown.values()):
        return []
    first_ns = max(int(images[name].stamp_ns[members[0]]) for name, members in shown.items())
    stamps = states.stamp_ns[window.states]
    begin = int(np.searchsorted(stamps, max(window.start_ns, first_ns) - SLACK_NS))
    if begin == len(stamps) or stamps[begin] > window.end_ns:
        return []
    return [replace(window, start_ns=int(stamps[begin]), images=dict(shown))]


def _parse_marker(text: str) -> tuple[int, str]:
    number, _, task = text.strip().partition(" ")
    try:
        return int(number), task.strip()
    except ValueError:
        raise InputError(
            f"episode marker: expected a frame_id of the form 'INDEX TASK', got {text!r}; "
            "fix the recorder"
        ) from None


def _usable_windows(
    stretch: _Stretch,
    states: States,
    commands: Commands,
    issued: Index,
    base: Base | None,
    moved: list[Index] | None,
) -> list[Window]:
    """Windows of one stretch in which position commands are in force and the base is known."""
    if stretch.since_ns is not None:
        issued = issued[commands.stamp_ns[issued] >= stretch.since_ns - SLACK_NS]
    stamps = states.stamp_ns[stretch.states]
    windows: list[Window] = []
    for start, end in _in_force(issued, commands, int(stamps[-1])):
        for samples in [None] if moved is None else moved:
            a, b = start, end
            if samples is not None and base is not None:
                a = max(a, int(base.stamp_ns[samples[0]]))
                b = min(b, int(base.stamp_ns[samples[-1]]))
            first = int(np.searchsorted(stamps, a - SLACK_NS))
            if first == len(stamps) or stamps[first] > b:
                continue
            windows.append(
                Window(
                    start_ns=int(stamps[first]),
                    end_ns=b,
                    states=stretch.states,
                    commands=issued,
                    base=samples,
                    images={},
                    marker=stretch.marker,
                    task=stretch.task,
                )
            )
    return windows


def _in_force(issued: Index, commands: Commands, last_ns: int) -> list[tuple[int, int]]:
    """Times between which commands with positions are in force, from first command on."""
    spans: list[tuple[int, int]] = []
    begin: int | None = None
    for i in issued:
        stamp = int(commands.stamp_ns[i])
        if commands.usable[i]:
            begin = stamp if begin is None else begin
        elif begin is not None:
            # the grid may reach 1 us past the end, and the hold looks 1 us ahead
            spans.append((begin, min(last_ns, stamp - 2 * SLACK_NS - 1)))
            begin = None
    if begin is not None:
        spans.append((begin, last_ns))
    return spans
