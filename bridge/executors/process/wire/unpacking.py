"""Opening parcels: see `pickling` for the whole way.

    unpack ─ plain? ─> loads          _unpack ─ buffers: copies of what becomes bytes, views of the rest ─> loads
                                              └ pickle: in the parcel, or in a block, which is released at the end

What fails is an UnpicklingError that says what could not be rebuilt; the blocks are released all the same.
"""

from __future__ import annotations

import pickle
from types import FrameType
from typing import TYPE_CHECKING, Any

from bridge.executors.process.wire import parcels
from bridge.executors.process.wire.mappings import Mappings
from bridge.executors.process.wire.mocks import INSTEAD, is_of_mocks
from bridge.executors.process.wire.patience import IN_BAND, Inlet, collector_paused

if TYPE_CHECKING:
    from bridge.executors.process.wire.packing import Direction

#: Bytes that an event loop may copy; and that it may map, whose pages it has not seen before.
MOST_COPIED = 1 << 20
MOST_ENTERED = 1 << 22
#: Bytes of pickle from which on the garbage collector is kept out, and other threads are let in.
MUCH = 1 << 18

_LOADS = pickle.loads


class Unpacker:
    """Opens the parcels of one other process."""

    def __init__(self, mappings: Mappings, *, direction: Direction):
        self.mappings: Mappings = mappings
        self._direction = direction

    def is_large(self, parcel: bytes | memoryview) -> bool:
        """Would it take an event loop too long to unpack it?

        If so, what lies in blocks is kept for `unpack_patiently`, even if the other process ends in between.
        """
        if parcel[0] == parcels.PLAIN:
            return len(parcel) > IN_BAND
        layout = parcels.layout_of(parcel)
        if not self._takes_long(layout):
            return False
        try:
            for block in layout.blocks:
                self.mappings.expect(block)
        except ConnectionError:  # that will be said when it is unpacked
            pass
        return True

    def _takes_long(self, layout: parcels.Layout) -> bool:
        if layout.stream or layout.many:
            return True
        if sum(length for _, length in layout.slices[: layout.blob_count]) > MOST_COPIED:
            return True
        end = sum(layout.slices[-1])
        return end > MOST_ENTERED and self.mappings.unseen(layout.block, end) > MOST_ENTERED

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
            except OSError:  # it has not come, and will not
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
            (whole,) = self.mappings.views(layout.stream, [(0, layout.stream_length)])
            data = memoryview(whole).cast("B")
            del whole
        else:
            data = memoryview(layout.pickle)
        try:
            return _load(data, buffers, patient)
        finally:
            del data, buffers  # an error keeps this frame, and should not keep the blocks

    def _explained(self, error: Exception) -> pickle.UnpicklingError:
        where = "in the worker process" if self._direction == "out" else "in the parent process"
        return pickle.UnpicklingError(f"cannot rebuild {_culprit(error)} {where}: {_advice(error, self._direction)}")


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
    frame = _frame(error)
    return "an object" if frame is None else f"an object, which {_module(error)}.{frame.f_code.co_qualname} makes,"


def _module(error: BaseException) -> str:
    """The module of the function that raised it."""
    frame = _frame(error)
    return "" if frame is None else frame.f_globals.get("__name__", "?")


def _frame(error: BaseException) -> FrameType | None:
    """The outermost frame that is not of the machinery."""
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if not frame.f_globals.get("__name__", "?").startswith(("bridge.", "cloudpickle", "importlib", "<frozen")):
            return frame
        traceback = traceback.tb_next
    return None


def _advice(error: Exception, direction: Direction) -> str:
    if isinstance(error, ModuleNotFoundError):
        return (
            f"{error}. Make it importable there (sys.path before the executor's first worker starts, or "
            f"ProcessExecutor(env={{'PYTHONPATH': ...}})), or have it travel by value: "
            f"cloudpickle.register_pickle_by_value({(error.name or 'module').partition('.')[0]})."
        )
    if isinstance(error, pickle.UnpicklingError):
        return str(error)
    if is_of_mocks(_module(error)):
        return INSTEAD
    text = f"{type(error).__qualname__}: {error}"
    if isinstance(error, AttributeError) and "'__main__'" in text and direction == "out":
        return (
            f"{text}. A worker process does not run the script, so its `__main__` lacks what the script defines there "
            f"and what goes by name only. Move it to a module, and import it from there."
        )
    if isinstance(error, AttributeError) and "attribute" in text:
        return f"{text}. It may have been defined, or changed, after the other process imported that module."
    return text
