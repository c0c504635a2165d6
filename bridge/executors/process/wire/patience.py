"""Pickling and unpickling what is large without keeping the other threads of the process waiting.

    pickler ── 64 KiB at a time ──> Outlet ─> memory, then a block          Inlet ── 64 KiB at a time ──> unpickler

The C pickler holds the interpreter's lock from end to end, unless it has to call a file that is written in Python: that
is where the other threads get in. `pause` is so long that one of them does: to let go of the lock and take it again at
once is mostly faster than any thread wakes up. The garbage collector is kept from looking at millions of new objects
meanwhile.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from threading import RLock
from time import sleep
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from bridge.executors.process.wire.blocks import BlockStore, BlockWriter

T = TypeVar("T")

#: Bytes of pickle that lie in the parcel itself; what is longer goes into a block.
IN_BAND = 1 << 16
#: Seconds. The kernel makes some 60 us of it.
_MOMENT = 1e-6


def pause() -> None:
    """Let another thread have the interpreter, if one wants it."""
    sleep(_MOMENT)


class TooLarge(Exception):
    """Packing was given up: it would have taken too long on an event loop. `pack_patiently`, in a helper thread."""


class NoRoom(Exception):
    """There is no shared memory to be had."""


class StoreClosed(Exception):
    """The process for which it was meant has ended."""


class Outlet:
    """What a pickler writes to: in memory up to IN_BAND, in a block beyond.

    With a `limit` in bytes TooLarge is raised beyond that instead. Without a `store` everything stays in memory.
    Reused: `reset`, and `take` what was written; `abandon` if it is not wanted.
    """

    __slots__ = ("_limit", "_patient", "_pieces", "_store", "_writer", "size")

    def __init__(self) -> None:
        self.reset(None, None, False)

    def reset(self, store: BlockStore | None, limit: int | None, patient: bool) -> None:
        self.size: int = 0
        self._store = store
        self._limit = limit
        self._patient = patient
        self._pieces: list[Any] = []
        self._writer: BlockWriter | None = None

    def write(self, data: Any) -> None:
        """Called by the pickler: bytes, or some other buffer that is not valid for longer than this."""
        if type(data) is not bytes:
            data = memoryview(data).cast("B")
        self.size += len(data)
        if self._limit is not None and self.size > self._limit:
            raise TooLarge
        if self._writer is not None:
            self._write_to_block(data)
        elif self._store is not None and self.size > IN_BAND:
            self._open_block(data)
        else:
            self._pieces.append(bytes(data))
        if self._patient:
            pause()

    def take(self) -> tuple[bytes, int]:
        """The pickle, or the number of its block."""
        pieces, writer = self._pieces, self._writer
        self._pieces, self._writer = [], None
        if writer is not None:
            return b"", self._in_store(writer.finish)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces), 0

    def abandon(self) -> None:
        writer, self._writer = self._writer, None
        self._pieces = []
        if writer is not None:
            writer.abandon()

    def _open_block(self, data: Any) -> None:
        assert self._store is not None
        self._writer = self._in_store(self._store.stream)
        pieces, self._pieces = self._pieces, []
        for piece in (*pieces, data):
            self._write_to_block(piece)

    def _write_to_block(self, data: Any) -> None:
        assert self._writer is not None
        self._in_store(self._writer.write, data)

    def _in_store(self, do: Callable[..., T], *args: Any) -> T:
        try:
            return do(*args)
        except OSError as error:
            raise (StoreClosed if self._store and self._store.closed else NoRoom) from error


class Inlet:
    """What an unpickler reads from, letting other threads run at each piece."""

    __slots__ = ("_data", "_position")

    def __init__(self, data: memoryview):
        self._data = data
        self._position = 0

    def read(self, size: int) -> bytes:
        begin = self._position
        self._position = end = min(begin + size, len(self._data))
        if size > 1024:
            pause()
        return bytes(self._data[begin:end])

    def readinto(self, target: Any) -> int:
        view = memoryview(target)
        begin = self._position
        self._position = end = min(begin + view.nbytes, len(self._data))
        view[: end - begin] = self._data[begin:end]
        pause()
        return end - begin

    def readline(self) -> bytes:
        line = bytes(self._data[self._position : self._position + 1024]).partition(b"\n")
        self._position += len(line[0]) + len(line[1])
        return line[0] + line[1]


class _Collector:
    """The garbage collector, out of action while anybody is inside `with collector_paused`.

    What was made meanwhile is then old at once. Otherwise the next collection, of young objects, would look at all of it.
    """

    def __init__(self) -> None:
        self._lock = RLock()
        self._inside = 0
        self._resume = False

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._resume = gc.isenabled()
                gc.disable()
            self._inside += 1

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside or not self._resume:
                return
            if not gc.get_freeze_count():  # otherwise somebody has frozen objects, and wants them to stay so
                gc.freeze()
                gc.unfreeze()
            gc.enable()


collector_paused: _Collector = _Collector()
