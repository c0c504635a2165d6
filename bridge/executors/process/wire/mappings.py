"""Blocks as their receiver sees them: mapped when first needed, kept mapped, given back when nobody looks any more.

    descriptor ─> known ── views ─> an array over all of the block <── memoryviews, numpy arrays, slices of those, ...
                                      │ it dies, with the last of them
                                      └─> released(number): the sender may write to it again

Owners: a mapping is in use while somebody reads from it, while an array looks at it, or while it is expected to be
looked at soon. Only one that is not in use is ever unmapped. `_guard` is held whenever that changes, and never while
waiting for anything; the garbage collector may come along with a dead array at any moment, in any thread. If the sender
dies, what is in use stays until it is no more.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import weakref
from collections.abc import Callable, Sequence
from struct import Struct
from threading import RLock
from typing import Any

from bridge.executors.process.wire import memory

#: What is said about a descriptor: number of the block, its size, whether it is given away, never to be released.
ABOUT: Struct = Struct("<QQ?")
#: Mappings beyond which data is copied out instead: the kernel allows a process 65530.
MOST_MAPPED = 4096
_NO_DESCRIPTOR = (
    "the shared memory with the data could not be received: this process has as many files and sockets open as it may "
    "(`ulimit -n`). Close what is not needed, or raise the limit"
)


class _Mapping:
    """One block."""

    __slots__ = ("address", "array", "descriptor", "doomed", "entered", "gift", "number", "owner", "size", "users")

    def __init__(self, owner: Mappings, number: int, descriptor: int, size: int, gift: bool):
        self.owner: Mappings = owner
        self.number: int = number
        self.size: int = size
        self.gift: bool = gift
        self.users: int = 0
        self.doomed: bool = False  # to be dropped as soon as nobody uses it
        self.descriptor: int | None = descriptor
        self.address: int | None = None
        self.entered: int = 0  # bytes whose pages are entered here
        self.array: weakref.ref[Any] | None = None  # through which all views look

    def gone(self, _: object) -> None:
        """The array has died. Called within a collection, in any thread."""
        if sys.is_finalizing():
            return
        _looked_at.discard(self)
        owner = self.owner
        owner.unused(self)
        if self.gift:
            owner.gifts.discard(self.number)
        elif not self.doomed:
            owner.released(self.number)

    def drop(self) -> None:
        """Nobody uses it. Under the guard."""
        address, self.address = self.address, None
        if address is not None:
            memory.unmap(address, self.size)
        _close(self)


#: Those that an array looks at. When the sender is gone nobody else holds them: collected before their array dies, they
#: would never hear of that, and the memory would stay mapped.
_looked_at: set[_Mapping] = set()


class Mappings:
    """The blocks that one process has been sent by one other. From any thread.

    `receive()` gives the next descriptor and what was said about it: `receive_from`. `released(block_id)` is called when
    the last view of a block is gone, possibly by the garbage collector in the middle of anything, so it may do no more
    than append to a deque or a list; `lost(block_id)` when a block is wanted that has come without its descriptor. What
    needs a block that has not come, and will not, raises ConnectionError; if it was lost, OSError.
    """

    def __init__(
        self,
        receive: Callable[[], tuple[int | None, bytes]],
        released: Callable[[int], object],
        lost: Callable[[int], object],
    ):
        self.released: Callable[[int], object] = released
        self.lost: Callable[[int], object] = lost
        self.gifts: set[int] = set()  # blocks that are ours alone, and looked at
        self.closed: bool = False
        self._receive_next = receive
        self.renew_locks()
        self._known: dict[int, _Mapping] = {}
        self._expected: dict[int, _Mapping] = {}
        self._unheard_of: set[int] = set()  # to be forgotten as soon as they come
        self._lost: set[int] = set()  # have come without their descriptors

    def views(self, block_id: int, slices: Sequence[tuple[int, int]]) -> list[Any]:
        """Writable, bytes-like views of the content, which is released with the last of them. Once for each content."""
        mapping = self._use(block_id)
        end = max(offset + length for offset, length in slices)
        array = self._look(mapping)
        if array is None:
            whole = memoryview(self._copy(mapping, end))
        else:
            if end > mapping.entered:
                memory.populate(mapping.address or 0, mapping.entered, end)
                mapping.entered = end
            return [memory.part_of(array, offset, length) for offset, length in slices]
        return [whole[offset : offset + length] for offset, length in slices]

    def read(self, block_id: int, offset: int, length: int) -> bytes:
        """A copy of some of the content, made while other threads run. Before `views` or `discard`."""
        mapping = self._use(block_id, still_expected=True)
        pieces = []
        try:
            while length:
                piece = os.pread(_open(mapping), length, offset)
                if not piece:
                    raise EOFError("a shared block is shorter than it was said to be")
                pieces.append(piece)
                offset, length = offset + len(piece), length - len(piece)
        finally:
            self.unused(mapping)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def discard(self, block_id: int) -> None:
        """Its content is not wanted, or has been read."""
        self._finish(self._use(block_id))

    def unseen(self, block_id: int, end: int) -> int:
        """How many of the first `end` bytes would have to be entered into this process's memory first."""
        mapping = self._known.get(block_id)
        return end if mapping is None else end - mapping.entered

    def expect(self, block_id: int) -> None:
        """It will be wanted later: it must still be there then, even if the sender has ended and all was closed."""
        mapping = self._use(block_id, still_expected=True)
        with self._guard:
            if block_id in self._expected:
                self.unused(mapping)
            self._expected[block_id] = mapping

    def forget(self, block_id: int) -> None:
        """The sender has dropped it."""
        with self._guard:
            mapping = self._known.pop(block_id, None)
            if mapping is None:
                self._unheard_of.add(block_id)
            else:
                self._doom(mapping)

    def close(self) -> None:
        """The sender is gone. What somebody still uses stays until nobody does."""
        self.closed = True
        with self._guard:
            while self._known:
                self._doom(self._known.popitem()[1])

    def renew_locks(self) -> None:
        """In the child of a fork: they may belong to a thread that does not exist there."""
        self._receiving = RLock()
        self._guard = RLock()

    # -- coming --------------------------------------------------------------------------------------------------------

    def _find(self, block_id: int) -> _Mapping:
        mapping = self._expected.get(block_id) or self._known.get(block_id)
        if mapping is None:
            with self._receiving:
                while (mapping := self._known.get(block_id)) is None:
                    if block_id in self._lost:
                        self.lost(block_id)
                        raise OSError(errno.EMFILE, _NO_DESCRIPTOR)
                    self._receive()
        return mapping

    def _receive(self) -> None:
        """Take in the next descriptor, whichever block it is of: threads do not pack in the order in which they send."""
        try:
            if self.closed:
                raise EOFError
            descriptor, message = self._receive_next()
        except (OSError, EOFError, IndexError) as error:
            raise ConnectionError("the process that sent it has ended, and its data with it") from error
        number, size, gift = ABOUT.unpack(message)
        if descriptor is None:
            self._lost.add(number)
            return
        mapping = _Mapping(self, number, descriptor, size, gift)
        with self._guard:
            if number in self._unheard_of or self.closed:
                self._unheard_of.discard(number)
                mapping.drop()
            else:
                self._known[number] = mapping

    # -- being used ----------------------------------------------------------------------------------------------------

    def _use(self, block_id: int, still_expected: bool = False) -> _Mapping:
        """From now on it is in use, until `unused`; who expected it has it now."""
        mapping = self._find(block_id)
        with self._guard:
            if mapping.descriptor is None and mapping.address is None:
                raise ConnectionError("the process that sent it has ended, and its data with it")
            if still_expected or self._expected.pop(block_id, None) is None:
                mapping.users += 1
        return mapping

    def unused(self, mapping: _Mapping) -> None:
        """One user less."""
        with self._guard:
            mapping.users -= 1
            if mapping.doomed:
                self._doom(mapping)

    def _look(self, mapping: _Mapping) -> Any:
        """An array over the whole block, which is in use for as long as that lives; None if it cannot be mapped."""
        with self._guard:
            if mapping.address is None:
                if len(self._known) + len(self.gifts) >= MOST_MAPPED:
                    return None
                try:
                    mapping.address = memory.map_shared(_open(mapping), mapping.size)
                except OSError:
                    return None
            array = memory.array_at(mapping.address, mapping.size)
            mapping.array = weakref.ref(array, mapping.gone)
            _looked_at.add(mapping)
            if mapping.gift:
                self.gifts.add(mapping.number)
                self._keep_only_the_memory(mapping)
            return array

    def _keep_only_the_memory(self, mapping: _Mapping) -> None:
        """Of a block that is ours alone."""
        self._known.pop(mapping.number, None)
        mapping.doomed = True
        _close(mapping)

    def _copy(self, mapping: _Mapping, end: int) -> bytearray:
        """The content, as memory of this process's own."""
        data = bytearray(end)
        target = memoryview(data)
        try:
            while target:
                count = os.preadv(_open(mapping), [target], end - len(target))
                if not count:
                    raise EOFError("a shared block is shorter than it was said to be")
                target = target[count:]
        finally:
            self._finish(mapping)
        return data

    def _finish(self, mapping: _Mapping) -> None:
        """Its content is done with, without anybody having looked at it."""
        with self._guard:
            if mapping.gift:
                self._known.pop(mapping.number, None)
                mapping.doomed = True
            doomed = mapping.doomed
            self.unused(mapping)
        if not doomed:
            self.released(mapping.number)

    def _doom(self, mapping: _Mapping) -> None:
        """It is to go when nobody uses it, and its descriptor as soon as there is nothing but a look at it."""
        mapping.doomed = True
        if not mapping.users:
            mapping.drop()
        elif mapping.users == 1 and mapping.array is not None and mapping.array() is not None:
            _close(mapping)


def receive_from(channel: socket.socket) -> tuple[int | None, bytes]:
    """The next descriptor that was sent, and what was said about it. None if the kernel had to leave it out, because this
    process has no number for it: it will not be sent again. Raises EOFError, OSError."""
    message, descriptors, _, _ = socket.recv_fds(channel, ABOUT.size, 1)
    if not message:
        raise EOFError
    return descriptors[0] if descriptors else None, message


def _open(mapping: _Mapping) -> int:
    assert mapping.descriptor is not None
    return mapping.descriptor


def _close(mapping: _Mapping) -> None:
    descriptor, mapping.descriptor = mapping.descriptor, None
    if descriptor is not None:
        os.close(descriptor)
