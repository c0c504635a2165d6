"""How long a thread has run, and how long it was kept from running, as any other thread can read it."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import NamedTuple

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

ThreadClock = int

_LINUX = sys.platform == "linux"
#: The kernel's mark for "CPU time of one thread, as the scheduler counts it" (CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED).
_PER_THREAD = 6


def own_clock() -> ThreadClock | None:
    """The CPU clock of the calling thread; None where the system has none."""
    return clock_of(threading.get_native_id())


def clock_of(native_id: int | None) -> ThreadClock | None:
    """The CPU clock of any thread of this process, by its `threading.Thread.native_id`, alive or not; None elsewhere.

    Linux computes the clock's number from the thread's, which is asked for by none of the functions of C: those must not
    be called with a thread that has ended.
    """
    if not _LINUX or native_id is None:
        return None
    return (~native_id << 3) | _PER_THREAD


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
