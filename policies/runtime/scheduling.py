"""Scheduling of a process in a control loop."""

from __future__ import annotations

import contextlib
import gc
import os


def prefer_realtime(priority: int) -> str:
    """Ask for SCHED_FIFO at ``priority`` for all threads (1 to 99; 0 leaves them as they are).

    All threads, because a message reaches us through those of the middleware.

    Also moves what exists out of the garbage collector's sight: a full collection of a process
    with torch-sized imports takes milliseconds.

    Returns:
        ``fifo``, or ``normal`` where the priority is 0 or the system does not grant it (on a robot:
        an rtprio line in limits.conf for the user, or CAP_SYS_NICE).
    """
    gc.collect()
    gc.freeze()
    if priority <= 0:
        return "normal"
    try:
        for thread in os.listdir("/proc/self/task"):
            os.sched_setscheduler(int(thread), os.SCHED_FIFO, os.sched_param(priority))
    except (PermissionError, OSError, AttributeError):
        return "normal"
    return "fifo"


def leave_realtime() -> None:
    """Put the calling thread back among the normal ones.

    Long work at the priority of a control loop would hold up the loop on a machine with one core.
    """
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
