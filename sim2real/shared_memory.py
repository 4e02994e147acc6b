"""Shared memory that killed processes have left behind: found and removed, nobody else's.

Fast DDS gives every participant a segment ``fastdds_<id>`` and holds a lock on ``fastdds_<id>_el``
for as long as its process lives; the kernel lets go of the lock however the process ends. So a lock
that can be had is the proof that the owner is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
# Between the making of a segment's files and the lock on them, an owner that lives has no lock yet.
LEAST_AGE_S = 10.0
_SEGMENT = re.compile(r"fastdds_[0-9a-f]{16}")


@dataclass(frozen=True, kw_only=True)
class Leftovers:
    """Segments whose owners are gone.

    Attributes:
        count: segments.
        megabytes: memory that they take.
    """

    count: int
    megabytes: float


def find_leftovers(folder: Path = SHARED_MEMORY, *, remove: bool = False) -> Leftovers:
    """Segments of Fast DDS that belong to no living process.

    Args:
        folder: where shared memory is seen as files.
        remove: remove them, too; those of other users stay.
    """
    count, size = 0, 0
    for path in _segments(folder):
        with _owned(path) as alone:
            if not alone:
                continue
            with contextlib.suppress(OSError):  # somebody else was quicker
                found = path.stat().st_blocks * 512
                if remove:
                    path.unlink()
                    _lock_of(path).unlink(missing_ok=True)
                count, size = count + 1, size + found
    return Leftovers(count=count, megabytes=size / 1e6)


def _segments(folder: Path) -> list[Path]:
    """Segments of this user that are old enough to be judged."""
    found = []
    newest = time.clock_gettime(time.CLOCK_REALTIME) - LEAST_AGE_S  # the clock of files
    with contextlib.suppress(OSError):  # a system without shared memory as files
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):
                status = entry.stat(follow_symlinks=False)
                ours = status.st_uid == os.getuid() and status.st_ctime < newest
                if ours and _SEGMENT.fullmatch(entry.name):
                    found.append(Path(entry.path))
    return sorted(found)


def _lock_of(segment: Path) -> Path:
    return segment.with_name(f"{segment.name}_el")


@contextmanager
def _owned(segment: Path) -> Iterator[bool]:
    """Take the lock of a segment for a moment; False where its owner has it, or there is none."""
    try:
        fd = os.open(_lock_of(segment), os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(fd)
