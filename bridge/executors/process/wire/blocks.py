"""Blocks: memory that two processes share, for data too large for the socket.

    sender: place ─> block ── its descriptor, once ──────────────> receiver: views ─> memoryviews, arrays, ...
              ^        └───── its number, in a parcel ──────────────────^                │ the last one is gone
              └── free <──────────────── RELEASE number ─────────────────────────────────┘

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
import sys
import weakref
from collections.abc import Callable, Iterable, Sequence
from struct import Struct
from threading import RLock
from typing import Any

from bridge.executors.process.wire import memory
from bridge.executors.process.wire.page import anonymous_file

#: What is said about a descriptor: number of the block, its size, whether it is given away.
_ABOUT = Struct("<QQ?")
#: Where buffers begin; what numpy and the vector units of processors like.
ALIGNMENT = 64
#: Blocks that a sender keeps track of while they are out; free blocks that it keeps.
MOST_OUT = 32
MOST_FREE = 16
#: Mappings of a receiver beyond which data is copied out instead.
MOST_MAPPED = 4096

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


# -- sending -------------------------------------------------------------------------------------------------------------


class _Block:
    """Shared memory, from the side that has made it."""

    __slots__ = ("address", "descriptor", "entered", "gift", "number", "size", "written")

    def __init__(self, number: int, descriptor: int, size: int):
        self.number = number
        self.descriptor = descriptor
        self.size = size  # as the receiver knows it
        self.address: int | None = None
        self.written = 0  # bytes that have pages
        self.entered = 0  # bytes whose pages are mapped here
        self.gift = False

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
    Methods that need a block raise OSError if there is none to be had.
    """

    def __init__(self, send_fd: Callable[[int, bytes], None], *, keep: int = 256 << 20):
        self._send_fd = send_fd
        self._keep = keep
        self._lock = RLock()  # held for a moment only, but a finalizer may call in at any moment
        self._free: list[_Block] = []  # that free for longest first
        self._out: dict[int, _Block] = {}
        self._forgotten: list[int] = []
        self._number = 0
        self._stream_size = 0  # of the last stream
        self._closed = False

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
        return BlockWriter(self, self._take(max(self._stream_size, 1)) or self._make(0))

    def release(self, block_id: int) -> None:
        """The receiver looks at it no more."""
        with self._lock:
            block = self._out.pop(block_id, None)
            if block is not None:
                self._set_free(block)

    def discard(self, block_ids: Sequence[int]) -> None:
        """What was placed in those blocks is not going to be sent."""
        with self._lock:
            for number in block_ids:
                block = self._out.pop(number, None)
                if block is not None:
                    self._set_free(block)
                elif not self._closed:
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
        # In the child of a fork the lock may belong to a thread that does not exist there.
        locked = self._lock.acquire(timeout=1.0)
        try:
            self._closed = True
            blocks = [*self._free, *self._out.values()]
            self._free.clear()
            self._out.clear()
            self._forgotten.clear()
            for block in blocks:
                block.drop()
        finally:
            if locked:
                self._lock.release()

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
            self._send_fd(block.descriptor, _ABOUT.pack(block.number, size, block.gift))
        except OSError as error:
            if error.errno not in _GONE:  # the receiver has ended; that is noticed elsewhere
                raise

    def _hand_over(self, block: _Block) -> None:
        """It is written: from now on it belongs to the receiver."""
        with self._lock:
            if self._closed or block.gift:
                block.drop()
                self._check_open()
            else:
                self._out[block.number] = block

    def _put_back(self, block: _Block) -> None:
        """Writing it has failed."""
        with self._lock:
            if self._closed:
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
        if self._closed:
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


# -- receiving -----------------------------------------------------------------------------------------------------------


class _Mapping:
    """A block, from the side that was sent it."""

    __slots__ = ("address", "descriptor", "entered", "forgotten", "gift", "live", "number", "owner", "size")

    def __init__(self, owner: Mappings, number: int, descriptor: int, size: int, gift: bool):
        self.owner = owner
        self.number = number
        self.descriptor: int | None = descriptor
        self.size = size
        self.gift = gift
        self.address: int | None = None
        self.entered = 0
        self.forgotten = False
        self.live: weakref.ref[Any] | None = None  # to what all views look through

    def gone(self, _: object) -> None:
        """Nobody looks at it any more. Called wherever the last view dies: within a collection, in any thread."""
        owner, self.live = self.owner, None
        if sys.is_finalizing():
            return
        if self.gift:
            owner.gifts.discard(self.number)
            self.drop()
        elif self.forgotten or owner.closed:
            self.drop()
        else:
            owner.released(self.number)

    def drop(self) -> None:
        """Nothing looks there. May be called twice."""
        address, self.address = self.address, None
        descriptor, self.descriptor = self.descriptor, None
        if address is not None:
            memory.unmap(address, self.size)
        if descriptor is not None:
            os.close(descriptor)


class Mappings:
    """The blocks that one process has been sent by one other. From any thread.

    `receive_fd()` gives the next descriptor and what was said about it. `released(block_id)` is called when the last
    view of a block is gone, possibly by the garbage collector in the middle of anything, so it may do no more than append
    to a deque or a list.
    """

    def __init__(self, receive_fd: Callable[[], tuple[int, bytes]], released: Callable[[int], object]):
        self.released: Callable[[int], object] = released
        self.closed: bool = False
        self._receive_fd = receive_fd
        self._lock = RLock()  # around receiving; not around what the garbage collector may do
        self._known: dict[int, _Mapping] = {}
        self.gifts: set[int] = set()  # blocks that are ours alone, and mapped
        self._unheard_of: set[int] = set()  # to be forgotten as soon as they come

    def views(self, block_id: int, slices: Sequence[tuple[int, int]]) -> list[memoryview]:
        """Writable views of the block's content, which is released with the last of them. Once for each content."""
        mapping = self._find(block_id)
        end = max(offset + length for offset, length in slices)
        if not self._map(mapping):
            whole = memoryview(bytearray(end))
            _read_all(mapping, whole)
            self._let_go(mapping)
        else:
            assert mapping.address is not None
            if end > mapping.entered:
                memory.populate(mapping.address, mapping.entered, end)
                mapping.entered = end
            array = memory.array_at(mapping.address, mapping.size)
            mapping.live = weakref.ref(array, mapping.gone)
            if mapping.gift:
                self.gifts.add(block_id)
                self._known.pop(block_id, None)
            whole = memoryview(array).cast("B")
        return [whole[offset : offset + length] for offset, length in slices]

    def read(self, block_id: int, offset: int, length: int) -> bytes:
        """A copy of some of the content, made while other threads run. Before `views`, which may let go of it."""
        descriptor = self._find(block_id).descriptor
        assert descriptor is not None
        pieces = []
        while length:
            piece = os.pread(descriptor, length, offset)
            if not piece:
                raise EOFError("a shared block is shorter than it was said to be")
            pieces.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def discard(self, block_id: int) -> None:
        """Its content is not wanted, or has been read."""
        self._let_go(self._find(block_id))

    def forget(self, block_id: int) -> None:
        """The sender has dropped it."""
        self._unheard_of.add(block_id)
        mapping = self._known.pop(block_id, None)
        if mapping is not None:
            self._unheard_of.discard(block_id)
            self._drop_when_unseen(mapping)

    def close(self) -> None:
        """The sender is gone. What somebody still looks at stays until nobody does."""
        self.closed = True
        while self._known:
            self._drop_when_unseen(self._known.popitem()[1])

    # -- a block's way -------------------------------------------------------------------------------------------------

    def _find(self, block_id: int) -> _Mapping:
        mapping = self._known.get(block_id)
        if mapping is None:
            with self._lock:
                while (mapping := self._known.get(block_id)) is None:
                    self._receive()
        return mapping

    def _receive(self) -> None:
        """Take in the next descriptor, whichever block it is of: threads do not pack in the order in which they send."""
        try:
            descriptor, message = self._receive_fd()
        except (OSError, IndexError) as error:
            raise ConnectionError("the process that sent this has ended, and its data with it") from error
        number, size, gift = _ABOUT.unpack(message)
        mapping = self._known[number] = _Mapping(self, number, descriptor, size, gift)
        if number in self._unheard_of:
            self._unheard_of.discard(number)
            if self._known.pop(number, None) is not None:
                mapping.drop()

    def _map(self, mapping: _Mapping) -> bool:
        if mapping.address is None:
            descriptor = mapping.descriptor
            if descriptor is None or len(self._known) + len(self.gifts) >= MOST_MAPPED:
                return False
            try:
                mapping.address = memory.map_shared(descriptor, mapping.size)
            except OSError:
                return False
        if mapping.gift and mapping.descriptor is not None:
            os.close(mapping.descriptor)
            mapping.descriptor = None
        return True

    def _let_go(self, mapping: _Mapping) -> None:
        if mapping.gift:
            self._known.pop(mapping.number, None)
            mapping.drop()
        else:
            self.released(mapping.number)

    def _drop_when_unseen(self, mapping: _Mapping) -> None:
        mapping.forgotten = True
        if mapping.live is None:
            mapping.drop()


def _read_all(mapping: _Mapping, target: memoryview) -> None:
    descriptor, offset = mapping.descriptor, 0
    assert descriptor is not None
    while offset < target.nbytes:
        count = os.preadv(descriptor, [target[offset:]], offset)
        if not count:
            raise EOFError("a shared block is shorter than it was said to be")
        offset += count
