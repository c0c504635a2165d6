"""Objects into parcels and back: what is small lies in the parcel itself, what is large in shared blocks.

    pack: plain and small? ── yes: pickle.dumps ──────────────────────────────> parcel ──> unpack: pickle.loads
            └ no: ValuePickler ─┬─ pickle: in the parcel, or in a block if long ──> ^            ^
                                └─ buffers from 64 KiB on: in one block ────────────┴── views ───┘

Each of two processes has a Packer for what it sends and an Unpacker for what it receives; `direction` is "out" from the
parent to the worker, "home" from there to the parent. Packers and unpackers may be used by any thread.

Owners: what `pack` has placed in blocks belongs to the receiver as soon as the parcel is sent, and is released by it. A
parcel that is not sent after all must be given to `Packer.discard`; one that was received and is not wanted to
`Unpacker.discard`. A failed `pack` has placed nothing, a failed `unpack` has released everything. If the other process
dies, parcels for it are worth nothing, and blocks that came from it live as long as their views. Whatever goes wrong with
an object is an error of that call only: PicklingError, or UnpicklingError.
"""

from __future__ import annotations

import pickle
from pickle import PickleBuffer
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, Literal

from bridge.executors.process.wire import parcels
from bridge.executors.process.wire.blocks import BlockStore, Mappings, lay_out
from bridge.executors.process.wire.originals import goes_by_name
from bridge.executors.process.wire.patience import IN_BAND, Inlet, NoRoom, Outlet, TooLarge, collector_paused

if TYPE_CHECKING:
    from bridge.executors.process.wire.values import ValuePickler

__all__ = ["BlockStore", "Mappings", "Packer", "TooLarge", "Unpacker"]

Direction = Literal["out", "home"]

#: Bytes of a buffer that travels in a block.
LARGE_BUFFER = 1 << 16
#: Bytes that an event loop may copy.
MOST_COPIED = 1 << 20
#: Bytes of unpickled data from which on the garbage collector is kept out.
MUCH = 1 << 18
#: Seconds for which the part that cannot be pickled is looked for: while others wait, and in a helper thread.
SEARCH = 0.05
SEARCH_PATIENTLY = 1.0

_DUMPS, _LOADS = pickle.dumps, pickle.loads
_ATOMS = frozenset({int, float, bool, type(None), complex})
_TEXTS = frozenset({str, bytes})
_LONGEST_TEXT = 1 << 12
#: Items of a container that is looked through, to see whether it is plain.
_FEW = 16
#: Items of a container that is looked through for large bytes; and how deep: (fn, args), args, an argument, its items.
_MANY = 1024
_DEPTH = 4
_HOLDERS = frozenset({tuple, list, dict})
_OF_INTEREST = _HOLDERS | {bytes, bytearray}


# -- what is plain and small ---------------------------------------------------------------------------------------------


def _is_plain_call(call: tuple[Any, ...]) -> bool:
    """Is it (fn, args, kwargs, context), with nothing but a function of a module, atoms and short texts?

    As `_is_plain`, which could be asked just as well; but this is on the way of every job, and half as long.
    """
    fn, args, kwargs, context = call
    if context is not None or kwargs or type(args) is not tuple or len(args) > _FEW:
        return False
    for argument in args:
        kind = type(argument)
        if kind not in _ATOMS and (kind not in _TEXTS or len(argument) > _LONGEST_TEXT):
            return False
    return _is_function(type(fn), fn) and goes_by_name(fn)


def _is_plain(obj: Any, depth: int) -> bool:
    """Would pickle.dumps do the right thing, quickly?"""
    kind = type(obj)
    if kind in _ATOMS:
        return True
    if kind in _TEXTS:
        return len(obj) <= _LONGEST_TEXT
    if kind is tuple or kind is list:
        if len(obj) > _FEW or not depth:
            return False
        for item in obj:  # noqa: SIM110 - a generator would cost more than all the rest
            if type(item) not in _ATOMS and not _is_plain(item, depth - 1):
                return False
        return True
    if kind is dict:
        if len(obj) > _FEW or not depth:
            return not obj
        for key, value in obj.items():  # noqa: SIM110
            if type(key) is not str or not _is_plain(value, depth - 1):
                return False
        return True
    return _is_function(kind, obj) and goes_by_name(obj)


def _is_function(kind: type, obj: Any) -> bool:
    return kind is FunctionType or (kind is BuiltinFunctionType and type(obj.__self__) is ModuleType)


def _large_bytes(obj: Any) -> dict[int, Any]:
    """bytes and bytearrays that travel in a block, by identity: as far as they lie near the surface."""
    found: dict[int, Any] = {}
    level: list[Any] = [obj]
    for _ in range(_DEPTH + 1):
        below: list[Any] = []
        for each in level:
            kind = type(each)
            if kind is bytes or kind is bytearray:
                if len(each) >= LARGE_BUFFER:
                    found[id(each)] = each
            elif kind in _HOLDERS and 0 < len(each) <= _MANY:
                items = each.values() if kind is dict else each
                if not _OF_INTEREST.isdisjoint(map(type, items)):
                    below += items
        level = below
        if not level:
            break
    return found


def _refuse_the_obvious(obj: Any, limit: int) -> None:
    """Raise TooLarge for what is plainly too long, without trying."""
    for each in _arguments(obj):
        kind = type(each)
        if kind is str:
            if len(each) > limit:
                raise TooLarge
        elif kind in (list, tuple, dict, set, frozenset) and len(each) > limit >> 2:
            raise TooLarge


def _arguments(obj: Any) -> list[Any]:
    if type(obj) is tuple and len(obj) >= 3 and type(obj[1]) is tuple and type(obj[2]) is dict:
        return [*obj[1], *obj[2].values()]
    return [obj]


# -- packing -------------------------------------------------------------------------------------------------------------


class _Workbench:
    """A pickler with what it writes to, used for one object after the other."""

    def __init__(self, pickler_type: type[ValuePickler]):
        self.outlet = Outlet()
        self.buffers: list[memoryview] = []
        self.in_block = True  # may buffers travel in a block?
        self.pickler = pickler_type(self.outlet, self._take_buffer)

    def _take_buffer(self, buffer: PickleBuffer) -> bool:
        """False: it is ours. True: the pickler is to write it itself."""
        view = buffer.raw()
        if not self.in_block or view.nbytes < LARGE_BUFFER:
            return True
        self.buffers.append(view)
        return False

    def clear(self) -> None:
        self.buffers = []
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
        if (type(obj) is tuple and len(obj) == 4 and _is_plain_call(obj)) or _is_plain(obj, 3):
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

    def locate(self, obj: Any, what: str) -> str | None:
        """The path to the first part of `obj` whose class, or which itself, has the name `what`."""
        from bridge.executors.process.wire.culprit import path_of

        return path_of(obj, lambda part: what in (_full_name(part), _full_name(type(part))))

    # -- attempts ------------------------------------------------------------------------------------------------------

    def _pack(self, obj: Any, limit: int | None, patient: bool) -> bytes:
        if limit is not None:
            _refuse_the_obvious(obj, limit)
        try:
            return self._attempt(obj, limit, patient)
        except TooLarge:
            raise
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
        blobs = sorted(_large_bytes(obj).values(), key=lambda blob: type(blob) is bytearray)
        bench.outlet.reset(self.store, limit, patient)
        try:
            _dump(bench, obj, blobs, iterables_as_handles)
            copied = sum(map(len, blobs)) + sum(view.nbytes for view in bench.buffers)
            if limit is not None and copied > MOST_COPIED:
                raise TooLarge
            parcel = self._parcel(bench, blobs)
        except BaseException:
            bench.outlet.abandon()
            raise
        bench.clear()
        if bench.outlet.size <= IN_BAND:  # otherwise its memory of objects is a large one
            self._idle.append(bench)
        return parcel

    def _in_band(self, obj: Any, limit: int | None, patient: bool, iterables_as_handles: bool) -> bytes:
        """No shared memory is to be had: everything goes through the socket."""
        bench = self._bench()
        bench.in_block = False
        bench.outlet.reset(None, limit, patient)
        _dump(bench, obj, [], iterables_as_handles)
        return bench.outlet.take()[0]

    def _parcel(self, bench: _Workbench, blobs: list[Any]) -> bytes:
        pickled, stream = bench.outlet.take()
        if not stream and not blobs and not bench.buffers:
            return pickled
        layout = parcels.Layout(stream=stream, stream_length=bench.outlet.size if stream else 0)
        layout.pickle = b"" if stream else pickled
        try:
            self._place(layout, [memoryview(blob) for blob in blobs] + bench.buffers)
        except OSError as error:
            self.store.discard(layout.blocks)
            raise NoRoom from error
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
        except _TooLong:
            return None
        except Exception as error:
            return error
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

    _left = 1 << 22

    def write(self, data: Any) -> None:
        self._left -= len(data)
        if self._left < 0:
            raise _TooLong


class _TooLong(Exception):
    pass


def _never_mind(buffer: PickleBuffer) -> bool:
    return False


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply for pickle, or contains itself through its __reduce__"
    text = str(error)
    if isinstance(error, (pickle.PicklingError, TypeError)) and "pickle" in text:
        return text
    return f"pickling it raised {type(error).__qualname__}: {text}" if text else type(error).__qualname__


def _full_name(obj: Any) -> str | None:
    name = getattr(obj, "__qualname__", None)
    return f"{getattr(obj, '__module__', None)}.{name}" if isinstance(name, str) else None


# -- unpacking -----------------------------------------------------------------------------------------------------------


class Unpacker:
    """Opens the parcels of one other process."""

    def __init__(self, mappings: Mappings, *, direction: Direction):
        self.mappings: Mappings = mappings
        self._direction = direction

    def is_large(self, parcel: bytes | memoryview) -> bool:
        """Would it take an event loop too long to unpack it?"""
        if parcel[0] == parcels.PLAIN:
            return len(parcel) > IN_BAND
        layout = parcels.layout_of(parcel)
        if layout.stream or layout.many:
            return True
        return sum(length for _, length in layout.slices[: layout.blob_count]) > MOST_COPIED

    def unpack(self, parcel: bytes | memoryview) -> Any:
        """Raises UnpicklingError saying what could not be rebuilt. Nothing of what it returns looks at the parcel."""
        try:
            if parcel[0] == parcels.PLAIN and len(parcel) < MUCH:
                return _LOADS(parcel)
            return self._unpack(parcel, False)
        except Exception as error:
            raise self._explained(error) from error

    def unpack_patiently(self, parcel: bytes | memoryview) -> Any:
        """As `unpack`, for a helper thread: the other threads of this process hardly notice, however large it is."""
        try:
            return self._unpack(parcel, True)
        except Exception as error:
            raise self._explained(error) from error

    def discard(self, parcel: bytes | memoryview) -> None:
        """It is not going to be unpacked."""
        if parcel[0] == parcels.PLAIN:
            return
        for block in parcels.layout_of(parcel).blocks:
            try:
                self.mappings.discard(block)
            except ConnectionError:
                return

    def close(self) -> None:
        """The other process is gone. What came from it stays for as long as somebody uses it."""
        self.mappings.close()

    def _unpack(self, parcel: bytes | memoryview, patient: bool) -> Any:
        if parcel[0] == parcels.PLAIN:
            return _load(memoryview(parcel), [], patient)
        layout = parcels.layout_of(parcel)
        buffers = _buffers(self.mappings, layout)
        if layout.stream:
            (data,) = self.mappings.views(layout.stream, [(0, layout.stream_length)])
        else:
            data = memoryview(layout.pickle)
        try:
            return _load(data, buffers, patient)
        finally:
            del data, buffers  # an error keeps this frame, and should not keep the blocks

    def _explained(self, error: Exception) -> pickle.UnpicklingError:
        where = "in the worker process" if self._direction == "out" else "in the parent process"
        return pickle.UnpicklingError(f"cannot rebuild {_culprit(error)} {where}: {_advice(error)}")


def _buffers(mappings: Mappings, layout: parcels.Layout) -> list[Any]:
    """The buffers of a parcel: copies of what becomes bytes, views of the rest."""
    block, slices = layout.block, layout.slices
    if not block:
        return []
    try:
        if layout.many:
            slices = parcels.slices_in(mappings.read(block, *slices[0]), layout.many)
        count = layout.bytes_count
        copies = [mappings.read(block, offset, length) for offset, length in slices[:count]]
    except BaseException:
        mappings.discard(block)
        raise
    if count == len(slices):
        mappings.discard(block)
        return copies
    return [*copies, *mappings.views(block, slices[count:])]


def _load(data: memoryview, buffers: list[Any], patient: bool) -> Any:
    try:
        if len(data) < MUCH:
            return pickle.loads(data, buffers=buffers)
        with collector_paused:
            if patient:
                return pickle.Unpickler(Inlet(data), buffers=buffers).load()
            return pickle.loads(data, buffers=buffers)
    finally:
        del data, buffers


def _culprit(error: BaseException) -> str:
    """The function that raised it, if one was called at all."""
    traceback = error.__traceback__
    while traceback is not None:
        code, module = traceback.tb_frame.f_code, traceback.tb_frame.f_globals.get("__name__", "?")
        if not module.startswith(("bridge.", "cloudpickle", "importlib", "<frozen")):
            return f"an object, which {module}.{code.co_qualname} makes,"
        traceback = traceback.tb_next
    return "an object"


def _advice(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return (
            f"{error}. Make it importable there (sys.path before the executor's first worker starts, or "
            f"ProcessExecutor(env={{'PYTHONPATH': ...}})), or have it travel by value: "
            f"cloudpickle.register_pickle_by_value({(error.name or 'module').partition('.')[0]})."
        )
    if isinstance(error, pickle.UnpicklingError):
        return str(error)
    text = f"{type(error).__qualname__}: {error}"
    if isinstance(error, AttributeError) and "get attribute" in text:
        return f"{text}. It may have been defined, or changed, after the other process imported that module."
    return text
