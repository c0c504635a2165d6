"""Making parcels: see `pickling` for the whole way.

    pack ─ plain? ─> dumps        _with_blocks ─ workbench: pickler ─> outlet (memory, then a block), buffers ─> a block
      └─> _pack ── attempt ───────> └ no memory to be had: _in_band
           └ failed: once more, with async iterables as handles; failed: look for the culprit, PicklingError

A workbench is used by one thread at a time; those that are idle lie in `_idle`. A failed attempt leaves nothing behind.
"""

from __future__ import annotations

import pickle
from pickle import PickleBuffer
from typing import TYPE_CHECKING, Any, Literal

from bridge.executors.process.wire import parcels
from bridge.executors.process.wire.blocks import BlockStore, lay_out
from bridge.executors.process.wire.patience import IN_BAND, NoRoom, Outlet, StoreClosed, TooLarge, collector_paused
from bridge.executors.process.wire.plain import LARGE_BUFFER, is_plain, is_plain_call, large_bytes, refuse_the_obvious

if TYPE_CHECKING:
    from bridge.executors.process.wire.values import ValuePickler

Direction = Literal["out", "home"]

#: Bytes that an event loop may copy.
MOST_COPIED = 1 << 20
#: Seconds for which the part that cannot be pickled is looked for: while others wait, and in a helper thread.
SEARCH = 0.05
SEARCH_PATIENTLY = 1.0

_DUMPS = pickle.dumps


class _Buffers:
    """What the pickler would rather not write itself."""

    def __init__(self) -> None:
        self.taken: list[memoryview] = []
        self.in_block: bool = True  # may they travel in a block?

    def take(self, buffer: PickleBuffer) -> bool:
        """False: it is ours. True: the pickler is to write it itself."""
        view = buffer.raw()
        if not self.in_block or view.nbytes < LARGE_BUFFER:
            return True
        self.taken.append(view)
        return False


class _Workbench:
    """A pickler with what it writes to, used for one object after the other.

    No part of it refers to the whole, and it is always cleared: a view of memory that is left to the garbage collector
    together with what exports it makes Python 3.11 crash.
    """

    def __init__(self, pickler_type: type[ValuePickler]):
        self.outlet = Outlet()
        self.buffers = _Buffers()
        self.pickler = pickler_type(self.outlet, self.buffers.take)

    def clear(self) -> None:
        self.buffers.taken.clear()
        self.buffers.in_block = True
        self.outlet.abandon()
        self.pickler.refresh()


class Packer:
    """Makes parcels, for one other process."""

    def __init__(self, store: BlockStore, *, direction: Direction):
        self.store: BlockStore = store
        self._direction = direction
        self._pickler_type: type[ValuePickler] | None = None
        self._idle: list[_Workbench] = []

    def pack(self, obj: Any, *, limit: int | None = None) -> bytes:
        """Raises PicklingError naming the part at fault; TooLarge if the pickle would have more than `limit` bytes.

        With a limit it takes a millisecond or so at most, unless code of the objects themselves takes longer.
        """
        if (type(obj) is tuple and len(obj) == 4 and is_plain_call(obj)) or is_plain(obj, 3):
            try:
                parcel = _DUMPS(obj, 5)
            except Exception:  # something odd about a function or its module: let the thorough way say so
                parcel = b""
            if 0 < len(parcel) <= IN_BAND:
                return parcel
        return self._pack(obj, limit, False)

    def pack_patiently(self, obj: Any) -> bytes:
        """As `pack`, for a helper thread: the other threads of this process hardly notice, however large it is."""
        with collector_paused:
            return self._pack(obj, None, True)

    def discard(self, parcel: bytes | memoryview) -> None:
        """It is not going to be sent."""
        if parcel[0] != parcels.PLAIN:
            self.store.discard(parcels.layout_of(parcel).blocks)

    # -- attempts ------------------------------------------------------------------------------------------------------

    def _pack(self, obj: Any, limit: int | None, patient: bool) -> bytes:
        if limit is not None:
            refuse_the_obvious(obj, limit)
        try:
            return self._attempt(obj, limit, patient)
        except TooLarge:
            raise
        except StoreClosed as error:
            raise pickle.PicklingError("the process for which this was meant has ended") from error
        except Exception as error:
            failure = error
        if self._direction == "out" and not isinstance(failure, (RecursionError, MemoryError)):
            try:
                return self._attempt(obj, limit, patient, iterables_as_handles=True)
            except TooLarge:
                raise
            except Exception:
                pass
        try:
            raise self._explained(obj, failure, SEARCH_PATIENTLY if patient else SEARCH) from failure
        finally:
            del failure

    def _attempt(self, obj: Any, limit: int | None, patient: bool, iterables_as_handles: bool = False) -> bytes:
        try:
            return self._with_blocks(obj, limit, patient, iterables_as_handles)
        except NoRoom:
            return self._in_band(obj, limit, patient, iterables_as_handles)

    def _with_blocks(self, obj: Any, limit: int | None, patient: bool, iterables_as_handles: bool) -> bytes:
        bench = self._bench()
        blobs = sorted(large_bytes(obj).values(), key=lambda blob: type(blob) is bytearray)
        bench.outlet.reset(self.store, limit, patient)
        try:
            _dump(bench, obj, blobs, iterables_as_handles)
            copied = sum(map(len, blobs)) + sum(view.nbytes for view in bench.buffers.taken)
            if limit is not None and copied > MOST_COPIED:
                raise TooLarge
            return self._parcel(bench, blobs)
        finally:
            self._done_with(bench)

    def _in_band(self, obj: Any, limit: int | None, patient: bool, iterables_as_handles: bool) -> bytes:
        """No shared memory is to be had: everything goes through the socket."""
        bench = self._bench()
        bench.buffers.in_block = False
        bench.outlet.reset(None, limit, patient)
        try:
            _dump(bench, obj, [], iterables_as_handles)
            return bench.outlet.take()[0]
        finally:
            self._done_with(bench)

    def _done_with(self, bench: _Workbench) -> None:
        bench.clear()
        if bench.outlet.size <= IN_BAND:  # otherwise its memory of objects is a large one
            self._idle.append(bench)

    def _parcel(self, bench: _Workbench, blobs: list[Any]) -> bytes:
        pickled, stream = bench.outlet.take()
        if not stream and not blobs and not bench.buffers.taken:
            return pickled
        layout = parcels.Layout(stream=stream, stream_length=bench.outlet.size if stream else 0)
        layout.pickle = b"" if stream else pickled
        try:
            self._place(layout, [memoryview(blob) for blob in blobs] + bench.buffers.taken)
        except OSError as error:
            self.store.discard(layout.blocks)
            raise (StoreClosed if self.store.closed else NoRoom) from error
        except BaseException:
            self.store.discard(layout.blocks)
            raise
        layout.blob_count = len(blobs)
        layout.bytes_count = sum(type(blob) is bytes for blob in blobs)
        return layout.to_bytes()

    def _place(self, layout: parcels.Layout, buffers: list[memoryview]) -> None:
        if not buffers:
            return
        if len(buffers) > parcels.FEW:
            slices, _ = lay_out(buffer.nbytes for buffer in buffers)
            layout.many = len(buffers)
            buffers = [*buffers, memoryview(parcels.table(slices))]
        layout.block, slices = self.store.place(buffers)
        layout.slices = slices[-1:] if layout.many else slices

    def _bench(self) -> _Workbench:
        try:
            return self._idle.pop()
        except IndexError:
            pass
        return _Workbench(self._pickler())

    def _pickler(self) -> type[ValuePickler]:
        pickler = self._pickler_type
        if pickler is None:
            from bridge.executors.process.wire import values

            if self._direction == "out":
                values.know_portals()
                pickler = values.OutPickler
            else:
                pickler = values.HomePickler
            self._pickler_type = pickler
        return pickler

    # -- failures ------------------------------------------------------------------------------------------------------

    def _explained(self, obj: Any, error: Exception, seconds: float) -> pickle.PicklingError:
        from bridge.executors.process.wire.culprit import find_culprit

        path, reason = find_culprit(obj, error, self._fails, seconds)
        return pickle.PicklingError(f"cannot pickle {path}: {_reason(reason)}" if path else _reason(reason))

    def _fails(self, part: Any) -> BaseException | None:
        try:
            self._pickler()(_Nowhere(), _never_mind).dump(part)
        except Exception as error:
            return error.with_traceback(None)  # which would keep the part, and all the others that were tried
        return None


#: Opcodes that make bytes, or a bytearray, of the next buffer: the next entry in the unpickler's memory.
_REMEMBER: dict[Any, bytes] = {
    bytes: b"cbuiltins\nbytes\n\x97\x85R\x940",
    bytearray: b"cbuiltins\nbytearray\n\x97\x85R\x940",
}


def _dump(bench: _Workbench, obj: Any, blobs: list[Any], iterables_as_handles: bool) -> None:
    pickler = bench.pickler
    if iterables_as_handles:
        pickler.refresh(True)
    if blobs:  # the pickler believes that it has written them already
        bench.outlet.write(b"\x80\x05" + b"".join(_REMEMBER[type(blob)] for blob in blobs))
        pickler.memo = {id(blob): (number, blob) for number, blob in enumerate(blobs)}
    pickler.dump(obj)


class _Nowhere:
    """What a part is pickled into, to see whether it can be."""

    _left = 1 << 20

    def write(self, data: Any) -> None:
        self._left -= memoryview(data).nbytes
        if self._left < 0:
            from bridge.executors.process.wire.culprit import Untried

            raise Untried


def _never_mind(buffer: PickleBuffer) -> bool:
    return False


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply for pickle, or contains itself through its __reduce__"
    text = str(error)
    if isinstance(error, (pickle.PicklingError, TypeError)) and "pickle" in text:
        return text
    return f"pickling it raised {type(error).__qualname__}: {text}" if text else type(error).__qualname__
