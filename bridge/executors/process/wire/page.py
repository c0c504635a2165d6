"""The shared page: what one side must be able to see of the other without asking, even when the other is dead.

    words:  BEGUN    the job that the worker began last        written by the worker, before it unpickles it
            CANCEL   the job whose result nobody wants         written by the parent
            LENGTH   bytes in the outbox                       written by the worker, after the bytes
            ROUND    odd while the outbox is being sent        written by the worker
            PHASE    how far the worker has come               written by the worker
            STEP     the call of a chunk that runs, from 1     written by the worker; 0 between chunks
    outbox: frames that the worker has not sent yet

Why: the worker sends the results of short jobs together. If it dies before that, the parent finds them here, and so a
job that has ended is never lost to the crash of the next one. BEGUN says which jobs were never begun and may run
elsewhere. After the worker's death nothing is ambiguous. While it lives, the parent takes a copy of the outbox and trusts
it only if ROUND was even and the same before and after.
"""

from __future__ import annotations

import errno
import mmap
import os
import sys
import tempfile
from contextlib import suppress
from typing import Any

from bridge.executors.process.wire import memory
from bridge.executors.process.wire.frames import frames_in

BEGUN, CANCEL, LENGTH, ROUND, PHASE, STEP = range(6)
#: Values of PHASE.
STARTING, INITIALIZING, SERVING = range(3)

_WORDS = 64  # bytes
OUTBOX = 1 << 16
SIZE = _WORDS + OUTBOX


def anonymous_file(name: str, size: int) -> int:
    """A descriptor of memory that has no name in any file system, and is gone when the last descriptor is."""
    descriptor = _memory(name)
    if descriptor is None:
        folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
        with tempfile.TemporaryFile(dir=folder) as file:
            descriptor = os.dup(file.fileno())
    try:
        os.ftruncate(descriptor, size)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _memory(name: str) -> int | None:
    """None where there is no such call, or it is forbidden."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EPERM, errno.EACCES):
            raise
        return None


class SharedPage:
    """The page as one side sees it. `spared`: no copy of the descriptor is kept.

    The standard mmap keeps one, and can do without from Python 3.13 on.
    """

    def __init__(self, descriptor: int, *, spared: bool = False):
        self._map: Any
        if sys.version_info >= (3, 13):
            self._map = mmap.mmap(descriptor, SIZE, trackfd=False)
        elif spared:
            self._map = memory.map_while_seen(descriptor, SIZE)
        else:
            self._map = mmap.mmap(descriptor, SIZE)
        view = memoryview(self._map).cast("B")
        self.words: memoryview = view[:_WORDS].cast("Q")
        self.outbox: memoryview = view[_WORDS:]

    def unsent(self) -> list[tuple[int, int, memoryview]] | None:
        """The frames that the worker has not sent, in the order in which it would; None if it is sending just now."""
        words = self.words
        number = words[ROUND]
        if number & 1:
            return None
        copy = bytes(self.outbox[: words[LENGTH]])
        if words[ROUND] != number:
            return None
        return list(frames_in(memoryview(copy)))

    def left_behind(self) -> tuple[list[tuple[int, int, memoryview]], bool]:
        """After the worker's death: what is in the outbox, and whether some of that may have been sent, too."""
        copy = bytes(self.outbox[: self.words[LENGTH]])
        return list(frames_in(memoryview(copy))), bool(self.words[ROUND] & 1)

    def close(self) -> None:
        self.words.release()
        self.outbox.release()
        seen, self._map = self._map, None
        if isinstance(seen, mmap.mmap):
            with suppress(BufferError):  # somebody looks at it just now; it goes with the last view
                seen.close()
