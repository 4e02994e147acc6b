"""Where message records begin, a whole stretch at a time where their lengths repeat."""

from __future__ import annotations

import struct

import numpy as np
from mcap.opcode import Opcode

from sim2real.bags.batch import Bytes, Int, gather

FRAME = struct.Struct("<BQ")
_FRAME = np.dtype([("opcode", "u1"), ("length", "<u8")])
_MESSAGE = int(Opcode.MESSAGE)
_NONE: Int = np.zeros(0, np.int64)
_LEAST_SAMPLE, _LARGEST_SAMPLE = 64, 4096


class MessageWalk:
    """Finds message records, each of which says where the next one begins.

    Robots publish at fixed rates, so the lengths of records in a log repeat in cycles. The walk
    learns the cycle from a sample that it takes step by step, guesses from it where the next
    records begin, and believes the guess up to the first record whose head differs. Where lengths
    do not repeat, samples become longer, and guesses rare.
    """

    def __init__(self) -> None:
        self._cycle = _NONE  # sizes of the next records, bytes; without a guess empty
        self._sample = _LEAST_SAMPLE

    def run(self, data: Bytes, position: int, stop: int) -> tuple[Int, int]:
        """Walk until another kind of record, an incomplete one, or ``stop``.

        Args:
            data: records, (B,).
            position: where the first one begins.
            stop: where the records end.

        Returns:
            Where each message record begins, (N,), and where the walk ended.
        """
        found: list[Int] = []
        while True:
            guessed, position = self._guess(data, position, stop)
            if position == stop and not found:
                return guessed, position
            stepped, position = _steps(data, position, stop, self._sample)
            found += [guessed, stepped]
            if len(stepped):
                self._cycle = _NONE
            if len(stepped) < self._sample:
                return np.concatenate(found), position
            self._cycle = _cycle_of(stepped, position)
            if not len(self._cycle):
                self._sample = min(2 * self._sample, _LARGEST_SAMPLE)

    def _guess(self, data: Bytes, position: int, stop: int) -> tuple[Int, int]:
        """As :meth:`run`, for as long as the cycle goes on."""
        cycle = self._cycle
        if not len(cycle):
            return _NONE, position
        cycles = (stop - position) // int(cycle.sum()) + 1
        sizes = np.broadcast_to(cycle, (cycles, len(cycle))).ravel()
        ends = position + sizes.cumsum()
        complete = int(ends.searchsorted(stop, "right"))
        sizes, ends = sizes[:complete], ends[:complete]
        heads = gather(data, ends - sizes, FRAME.size).view(_FRAME)[:, 0]
        good = (heads["opcode"] == _MESSAGE) & (heads["length"] == sizes - FRAME.size)
        if good.all():
            right, phase = complete, complete % len(cycle)
            self._cycle = np.concatenate([cycle[phase:], cycle[:phase]]) if phase else cycle
        else:
            right, self._cycle = int(np.argmin(good)), _NONE
            longer = min(2 * self._sample, _LARGEST_SAMPLE)
            self._sample = longer if right < self._sample else _LEAST_SAMPLE
        if not right:
            return _NONE, position
        return ends[:right] - sizes[:right], int(ends[right - 1])


def _steps(data: Bytes, position: int, stop: int, most: int) -> tuple[Int, int]:
    """As :meth:`MessageWalk.run`, one record after the other and at most ``most``."""
    found: list[int] = []
    view, add, unpack, head = data.data, found.append, FRAME.unpack_from, FRAME.size
    last = stop - head
    while position <= last and len(found) < most:
        opcode, length = unpack(view, position)
        after = position + head + length
        if opcode != _MESSAGE or after > stop:
            break
        add(position)
        position = after
    return np.array(found, np.int64), position


def _cycle_of(starts: Int, end: int) -> Int:
    """Sizes of the records expected at ``end`` if those at ``starts`` repeat; empty if not."""
    sizes = np.diff(starts, append=end)
    raw, item = sizes.tobytes(), sizes.itemsize
    half = raw[: len(raw) // 2]
    period = raw.find(half, item)
    while period % item and period > 0:
        period = raw.find(half, period + 1)
    if period < 0 or raw[period:] != raw[:-period]:
        return _NONE
    return sizes[-(period // item) :]
