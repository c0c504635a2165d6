"""How long a thread has run, and how long it was kept from running, as any other thread can read it.

A clock is taken in the thread that it measures, because only there it is certain that the thread exists; it can be read
from everywhere, also when the thread has ended.
"""

from __future__ import annotations

import os
import threading
import time
from typing import NamedTuple

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

ThreadClock = int


def own_clock() -> ThreadClock | None:
    """The CPU clock of the calling thread; None where the system has none."""
    clock_of = getattr(time, "pthread_getcpuclockid", None)
    if clock_of is None:
        return None
    clock: int = clock_of(threading.get_ident())
    return clock


def cpu_seconds(clock: ThreadClock | None) -> float | None:
    """CPU time that a thread has had so far; None if that is not known, or if the thread has ended."""
    if clock is None:
        return None
    try:
        return time.clock_gettime(clock)
    except OSError:
        return None


class Schedule(NamedTuple):
    """What the kernel's scheduler tells about one thread (Linux): seconds it ran, seconds it waited for a core, times
    it was given one."""

    ran: float
    waited: float
    slices: int


def schedule_of(native_id: int | None) -> Schedule | None:
    """The schedule of a thread of this process, by its `threading.Thread.native_id`; None where that is not known."""
    if native_id is None:
        return None
    try:
        descriptor = os.open(f"/proc/self/task/{native_id}/schedstat", os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, AttributeError):
        return None
    try:
        ran, waited, slices = os.read(descriptor, 200).split()[:3]
    except (OSError, ValueError):
        return None
    finally:
        os.close(descriptor)
    return Schedule(int(ran) * 1e-9, int(waited) * 1e-9, int(slices))


def times_slept() -> int | None:
    """How often the calling thread has given its core away of its own accord; without letting go of the GIL."""
    if resource is None or not hasattr(resource, "RUSAGE_THREAD"):
        return None
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
