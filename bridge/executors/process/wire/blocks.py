"""Blocks: memory that two processes share, for data too large for the socket.

    sender: place ─> block ── its descriptor, once ──────────────> receiver: views ─> memoryviews, arrays, ...
              ^        └───── its number, in a parcel ──────────────────^                │ the last one is gone
              └── free <──────────────── RELEASE number ─────────────────────────────────┘

This is the sender's side; `mappings` is the receiver's.

Owners: a block belongs to the sender that made it. From `place` on its content belongs to the receiver, until that has
released it; only then does the sender write to it again. The content of a free block belongs to nobody. A sender that has
very many blocks out gives further ones away: it keeps nothing of those, and the receiver does not release them.

If the receiver dies, the sender's store is closed, and so are its descriptors. If the sender dies, the receiver keeps
what it has mapped for as long as somebody looks at it; what was sent and not yet received can still be had, because the
socket holds it. No block has a name in a file system, so nothing is left behind whoever is killed. A process that was
forked off by the receiver's own code sees the same memory: what it needs for longer than the receiver, it has to copy.

Fresh pages are expensive, so blocks are used again, and their sizes are rounded so that they can be. A block's first
content is written through the descriptor, which is cheaper than touching each new page; later ones are copied in.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from threading import RLock

from bridge.executors.process.wire import memory
from bridge.executors.process.wire.mappings import ABOUT, Mappings, receive_from
from bridge.executors.process.wire.page import anonymous_file

__all__ = ["BlockStore", "BlockWriter", "Mappings", "receive_from"]

#: Where buffers begin; what numpy and the vector units of processors like.
ALIGNMENT = 64
#: Blocks that a sender keeps track of while they are out; free blocks that it keeps.
MOST_OUT = 32
MOST_FREE = 16

_SMALLEST = 1 << 17
_GONE = frozenset({errno.EPIPE, errno.ECONNRESET, errno.EBADF, errno.ENOTCONN, errno.ESHUTDOWN})


def rounded(size: int) -> int:
    """The size of the block that is made for `size` bytes: an eighth too large at most. Untouched pages cost nothing."""
    step = max(_SMALLEST, 1 << max(0, size.bit_length() - 4))
    return -(-size // step) * step


def lay_out(sizes: Iterable[int]) -> tuple[list[tuple[int, int]], int]:
    """Offset and length of buffers of those sizes in one block, and where the last one ends."""
    slices, end = [], 0
    for size in sizes:
        slices.append((end, size))
        end += -(-size // ALIGNMENT) * ALIGNMENT
    return slices, end


class _Block:
    """Shared memory, from the side that has made it."""

    __slots__ = ("address", "descriptor", "entered", "gift", "number", "size", "written")

    def __init__(self, number: int, descriptor: int, size: int):
        self.number: int = number
        self.descriptor: int = descriptor
        self.size: int = size  # as the receiver knows it
        self.address: int | None = None
        self.written: int = 0  # bytes that have pages
        self.entered: int = 0  # bytes whose pages are mapped here
        self.gift: bool = False

    def write(self, source: memoryview, offset: int) -> None:
        end = offset + source.nbytes
        if end > self.written or end > self.size or not self._copy(source, offset):
            _write_all(self.descriptor, source, offset)
            self.written = max(self.written, end)

    def _copy(self, source: memoryview, offset: int) -> bool:
        if self.address is None:
            try:
                self.address = memory.map_shared(self.descriptor, self.size)
            except OSError:
                return False
        end = offset + source.nbytes
        if end > self.entered:
            memory.populate(self.address, self.entered, end)
            self.entered = end
        return memory.copy(source, self.address + offset)

    def unmap(self) -> None:
        address, self.address = self.address, None
        if address is not None:
            memory.unmap(address, self.size)
        self.entered = 0

    def drop(self) -> None:
        self.unmap()
        os.close(self.descriptor)


def _write_all(descriptor: int, source: memoryview, offset: int) -> None:
    while source.nbytes:
        count = os.pwrite(descriptor, source, offset)
        source, offset = source[count:], offset + count


class BlockStore:
    """The blocks that one process has made for one other. From any thread.

    `send_fd(descriptor, message)` sends a descriptor to the receiver. `keep` is the number of bytes that may lie free.
    Methods that need a block raise OSError if there is none to be had, or the store is `closed`.
    """

    def __init__(self, send_fd: Callable[[int, bytes], None], *, keep: int = 256 << 20):
        self._send_fd = send_fd
        self._keep = keep
        self.renew_lock()
        self._free: list[_Block] = []  # that free for longest first
        self._out: dict[int, _Block] = {}
        self._forgotten: list[int] = []
        self._number = 0
        self._stream_size = 0  # of the last stream
        self.closed: bool = False

    def place(self, buffers: Sequence[memoryview]) -> tuple[int, list[tuple[int, int]]]:
        """Copy contiguous buffers of bytes into a block: its number, offset and length of each."""
        slices, end = lay_out(buffer.nbytes for buffer in buffers)
        block = self._take(end) or self._make(rounded(end))
        try:
            for buffer, (offset, _) in zip(buffers, slices, strict=True):
                block.write(buffer, offset)
        except BaseException:
            self._put_back(block)
            raise
        self._hand_over(block)
        return block.number, slices

    def stream(self) -> BlockWriter:
        """A file for data of unknown size."""
        block = self._take(self._stream_size) if self._stream_size else None
        return BlockWriter(self, block or self._make(0))

    def release(self, block_id: int) -> None:
        """The receiver looks at it no more."""
        with self._lock:
            block = self._out.pop(block_id, None)
            if block is not None:
                self._set_free(block)

    def lose(self, block_id: int) -> None:
        """The receiver could not have its descriptor: nothing can be sent in it."""
        with self._lock:
            block = self._out.pop(block_id, None) or next((each for each in self._free if each.number == block_id), None)
            if block in self._free:
                self._free.remove(block)
            if block is not None:
                block.drop()

    def discard(self, block_ids: Sequence[int]) -> None:
        """What was placed in those blocks is not going to be sent."""
        with self._lock:
            for number in block_ids:
                block = self._out.pop(number, None)
                if block is not None:
                    self._set_free(block)
                elif not self.closed:
                    self._forgotten.append(number)  # it was given away to somebody who will not hear of it otherwise

    def trim(self) -> list[int]:
        """Drop all free blocks: the numbers of those the receiver should forget."""
        with self._lock:
            while self._free:
                self._drop(self._free.pop())
            return self.take_forgotten()

    def take_forgotten(self) -> list[int]:
        """Numbers of blocks that were dropped since this was asked last."""
        if not self._forgotten:
            return []
        with self._lock:
            forgotten, self._forgotten = self._forgotten, []
        return forgotten

    def close(self) -> None:
        """The receiver is gone. What is just being written is dropped when that is done."""
        with self._lock:
            self.closed = True
            blocks = [*self._free, *self._out.values()]
            self._free.clear()
            self._out.clear()
            self._forgotten.clear()
            for block in blocks:
                block.drop()

    def renew_lock(self) -> None:
        """In the child of a fork: it may belong to a thread that does not exist there."""
        self._lock = RLock()  # held for a moment only, but a finalizer may call in at any moment

    # -- a block's way -------------------------------------------------------------------------------------------------

    def _take(self, size: int) -> _Block | None:
        """The free block that fits best, if one does. A small thing must not hold on to a large block."""
        with self._lock:
            self._check_open()
            fitting = [block for block in self._free if size <= block.size <= 2 * size + _SMALLEST]
            if not fitting:
                return None
            block = min(fitting, key=lambda block: block.size)
            self._free.remove(block)
            return block

    def _make(self, size: int) -> _Block:
        with self._lock:
            self._check_open()
            self._number += 1
            number = self._number
        block = _Block(number, anonymous_file("bridge-block", size), 0)
        try:
            if size:
                self._announce(block, size)
        except BaseException:
            block.drop()
            raise
        return block

    def _announce(self, block: _Block, size: int) -> None:
        block.size = size
        with self._lock:
            block.gift = len(self._out) >= MOST_OUT
        try:
            self._send_fd(block.descriptor, ABOUT.pack(block.number, size, block.gift))
        except OSError as error:
            if error.errno not in _GONE:  # the receiver has ended; that is noticed elsewhere
                raise

    def _hand_over(self, block: _Block) -> None:
        """It is written: from now on it belongs to the receiver."""
        with self._lock:
            if self.closed or block.gift:
                block.drop()
                self._check_open()
            else:
                self._out[block.number] = block

    def _put_back(self, block: _Block) -> None:
        """Writing it has failed."""
        with self._lock:
            if self.closed:
                block.drop()
            elif block.gift or not block.size:
                self._drop(block)
            else:
                self._set_free(block)

    def _regrow(self, block: _Block, size: int) -> None:
        """It holds more than the receiver knows of, or has never been announced: it becomes a block of `size` bytes."""
        block.unmap()
        os.ftruncate(block.descriptor, size)
        with self._lock:
            if block.size:
                self._forgotten.append(block.number)
                self._number += 1
                block.number = self._number
        self._announce(block, size)

    def _set_free(self, block: _Block) -> None:
        self._free.append(block)
        while len(self._free) > MOST_FREE or sum(each.size for each in self._free) > self._keep:
            self._drop(self._free.pop(0))

    def _drop(self, block: _Block) -> None:
        block.drop()
        if block.size:
            self._forgotten.append(block.number)

    def _check_open(self) -> None:
        if self.closed:
            raise OSError(errno.EPIPE, "the process for which this was meant has ended")


class BlockWriter:
    """A file that is written from beginning to end into a block, and grows as it is. One thread at a time.

    Ends by `finish`, or by `abandon` if its content is not wanted.
    """

    def __init__(self, store: BlockStore, block: _Block):
        self.size: int = 0
        self._store = store
        self._block = block

    def write(self, data: bytes | memoryview) -> None:
        """Append. Lets other threads run while the kernel copies."""
        view = memoryview(data)
        _write_all(self._block.descriptor, view, self.size)
        self.size += view.nbytes

    def finish(self) -> int:
        """The number of the block, which belongs to the receiver now."""
        store, block = self._store, self._block
        try:
            block.written = max(block.written, self.size)
            if self.size > block.size:
                store._regrow(block, rounded(self.size))
        except BaseException:
            store._put_back(block)
            raise
        store._stream_size = self.size
        store._hand_over(block)
        return block.number

    def abandon(self) -> None:
        """Nobody wants it."""
        self._block.written = max(self._block.written, self.size)
        if self.size > self._block.size > 0:
            os.ftruncate(self._block.descriptor, self._block.size)
            self._block.written = self._block.size
        self._store._put_back(self._block)
