"""How long a thread has run, and how long it was kept from running, as any other thread can read it."""

from __future__ import annotations

import platform
import sys
import threading
import time
from collections.abc import Callable
from io import FileIO
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
#: The number of the system call `futex`, in which a thread waits for another one: for a lock, or for the GIL.
_FUTEX: bytes | None = {"x86_64": b"202", "aarch64": b"98", "riscv64": b"98", "ppc64le": b"221", "s390x": b"238"}.get(
    platform.machine()
)
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
        self._folder = (
            f"/proc/self/task/{native_id or threading.get_native_id()}/" if _LINUX and _pread is not None else ""
        )
        self._files: dict[str, FileIO] = {}

    def open(self) -> None:
        """Open now what is otherwise opened when it is first needed."""
        for name in ("schedstat", "stat", "syscall"):
            self._content(name)

    def close(self) -> None:
        """Tell no more. Harmless to repeat, also after an interruption: then the files that are left are closed."""
        self._folder = ""
        for file in list(self._files.values()):
            file.close()
        self._files.clear()

    def _content(self, name: str) -> bytes:
        file = self._files.get(name)
        if file is None:
            file = _opened(self._folder, name)
            if file is None:
                return b""
            self._files[name] = file
        return _content(file)

    def schedule(self) -> Schedule | None:
        """None if that is not known."""
        try:
            _, waited, slices = self._content("schedstat").split()
            return Schedule(int(waited) * 1e-9, int(slices))
        except ValueError:  # not there, or closed by another thread
            return None

    def is_runnable(self) -> bool:
        """Does the thread run, or want to? False if that is not known."""
        return self._content("stat").rpartition(b")")[2].split()[:1] == [b"R"]

    def may_wait_for_a_thread(self) -> bool:
        """Does the thread wait for another one, and not for time or a device? True if that is not known."""
        call = self._content("syscall").split()[:1]
        return not call or not call[0].isdigit() or _FUTEX is None or call[0] == _FUTEX


def _opened(folder: str, name: str) -> FileIO | None:
    try:
        return FileIO(folder + name) if folder else None
    except OSError:
        return None


def _content(file: FileIO) -> bytes:
    if _pread is None:
        return b""
    buffer = ctypes.create_string_buffer(_LONGEST)
    try:
        length = _pread(file.fileno(), buffer, _LONGEST, 0)
    except ValueError:  # closed by another thread
        return b""
    return buffer.raw[: max(0, length)]


def times_slept() -> int | None:
    """How often the calling thread has given its core away of its own accord; without letting go of the GIL."""
    if resource is None or not hasattr(resource, "RUSAGE_THREAD"):
        return None
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
