"""How long a thread has run, and how long it was kept from running, as any other thread can read it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

try:
    import ctypes
except ImportError:  # a Python that was built without
    ctypes = None  # type: ignore[assignment]

ThreadClock = int

_LINUX = sys.platform == "linux"
#: The kernel's mark for "CPU time of one thread, as the scheduler counts it" (CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED).
_PER_THREAD = 6
#: Longer than what is read of a file in /proc.
_LONGEST = 1024


def _find_pread() -> Callable[[int, object, int, int], int] | None:
    if ctypes is None or not _LINUX:
        return None
    try:
        pread = ctypes.PyDLL(None).pread  # PyDLL: the GIL is kept
    except (OSError, AttributeError):
        return None
    pread.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long]
    pread.restype = ctypes.c_ssize_t
    return pread


_pread: Callable[[int, object, int, int], int] | None = _find_pread()


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
    """What the kernel's scheduler has counted for one thread: seconds it waited for a core, times it was given one."""

    waited: float
    slices: int


class Scheduler:
    """What the kernel tells of a thread of this process (Linux; elsewhere nothing): the one that makes this, or another.

    It is read without letting go of the GIL, which `os.pread` does: whoever reads it has to wait for the GIL then, and
    what he has read is old by as long as that takes.
    """

    def __init__(self, native_id: int | None = None) -> None:
        folder = f"/proc/self/task/{native_id or threading.get_native_id()}/" if _LINUX and _pread is not None else None
        self._schedule: int | None = _opened(folder, "schedstat")
        self._state: int | None = _opened(folder, "stat")

    def close(self) -> None:
        """Tell no more."""
        for descriptor in (self._schedule, self._state):
            if descriptor is not None:
                os.close(descriptor)
        self._schedule = self._state = None

    def schedule(self) -> Schedule | None:
        """None if that is not known."""
        try:
            _, waited, slices = _content(self._schedule).split()
            return Schedule(int(waited) * 1e-9, int(slices))
        except ValueError:  # closed meanwhile, and perhaps another file by now
            return None

    def is_runnable(self) -> bool:
        """Does the thread run, or want to? False if that is not known."""
        return _content(self._state).rpartition(b")")[2].split()[:1] == [b"R"]


def _opened(folder: str | None, name: str) -> int | None:
    try:
        return None if folder is None else os.open(folder + name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _content(descriptor: int | None) -> bytes:
    if descriptor is None or _pread is None:
        return b""
    buffer = ctypes.create_string_buffer(_LONGEST)
    length = _pread(descriptor, buffer, _LONGEST, 0)
    return buffer.raw[: max(0, length)]


def times_slept() -> int | None:
    """How often the calling thread has given its core away of its own accord; without letting go of the GIL."""
    if resource is None or not hasattr(resource, "RUSAGE_THREAD"):
        return None
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
