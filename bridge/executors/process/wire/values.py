"""The pickler: cloudpickle's, with what this library knows of its two ends.

Out, to a worker: functions and classes of the parent's `__main__`, lambdas and closures travel by value, with a token.
Home, to the parent: those travel by token, so that the parent finds its own; what a worker has made itself, by value,
with the globals of the parent's module of that name. Functions beneath a decorator go by the name of what lies above.
"""

from __future__ import annotations

import copyreg
import functools
import io
import pickle
import socket
import sys
from collections.abc import Callable
from contextvars import ContextVar
from types import AsyncGeneratorType, CodeType, CoroutineType, FunctionType
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]

from bridge.executors.process.wire import traveling, wrappers
from bridge.executors.process.wire.context import reduce_var
from bridge.executors.process.wire.errors import reduce_error
from bridge.executors.process.wire.originals import (
    HOME_MARK,
    beneath,
    finish_arrival,
    finish_function,
    function_among,
    goes_by_name,
    home_of,
    layers_above,
    module_with,
    original,
    originals,
    spare_copies,
    token_that_came_with,
)
from bridge.threads.loaded import from_loaded

if TYPE_CHECKING:  # cloudpickle has no types
    CloudPickler = pickle.Pickler
else:
    CloudPickler = cloudpickle.Pickler

PROTOCOL = 5
#: Bytes of a copy that travels along with a token, at most.
MOST_SPARE = 1 << 14

Reducer = Callable[[Any], Any]

_ANYWHERE: dict[type, Reducer] = {
    memoryview: traveling.reduce_memoryview,
    CodeType: traveling.reduce_code,
    ContextVar: reduce_var,
    functools.cached_property: wrappers.reduce_cached_property,
    functools.singledispatchmethod: wrappers.reduce_dispatching_method,
    traveling.context_type: traveling.reduce_context,
}
_OUT: dict[type, Reducer] = {
    **_ANYWHERE,
    CoroutineType: traveling.refuse_coroutine,
    AsyncGeneratorType: traveling.reduce_to_handle,
}
_HOME: dict[type, Reducer] = {
    **_ANYWHERE,
    CoroutineType: traveling.reduce_coroutine,
    AsyncGeneratorType: traveling.reduce_async_generator,
}


def know_portals() -> None:
    """Once portals exist in this process, they can be sent out."""
    portal = from_loaded("bridge.threads.portal", "Portal")
    if portal is not None:
        _OUT[portal] = traveling.reduce_portal


class ValuePickler(CloudPickler):
    """One for each direction. Can be used again after `refresh`."""

    _reducers: dict[type, Reducer]

    def __init__(self, file: Any, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None):
        super().__init__(file, protocol=PROTOCOL, buffer_callback=buffer_callback)
        _set_table(self, _dispatch_table())
        self._iterables_as_handles = False

    def refresh(self, iterables_as_handles: bool = False) -> None:
        """Forget what was pickled before."""
        self.clear_memo()
        self.globals_ref: dict[int, dict[str, Any]] = {}
        _set_table(self, _dispatch_table())
        self._iterables_as_handles = iterables_as_handles

    def dump(self, obj: Any) -> None:
        try:
            pickle.Pickler.dump(self, obj)
        except BaseException:
            self.clear_memo()  # an error keeps this frame, and should not keep everything that was pickled
            raise

    def reducer_override(self, obj: Any) -> Any:
        """Called for everything that is not of a built-in type."""
        kind = type(obj)
        if kind is FunctionType:
            return NotImplemented if goes_by_name(obj) else self._reduce_function(obj)
        if kind is type:
            return NotImplemented if goes_by_name(obj) else self._reduce_class(obj)
        reducer = self._reducers.get(kind)
        if reducer is not None:
            return reducer(obj)
        if kind is wrappers.CachedFunction:
            return NotImplemented if goes_by_name(obj) else self._reduce_cached(obj)
        if issubclass(kind, type):
            return self._reduce_class(obj)
        if issubclass(kind, BaseException):
            return reduce_error(obj)
        if self._iterables_as_handles and hasattr(kind, "__aiter__") and not callable(obj):  # an AsyncMock is a function
            return self._reduce_iterable(obj)
        return NotImplemented

    def _reduce_function(self, function: FunctionType) -> Any:
        reduced = super().reducer_override(function)
        if reduced is NotImplemented:
            return reduced
        layers = layers_above(function)
        if layers:
            return beneath, (function.__module__, function.__qualname__, layers)
        if wrappers.is_dispatching(function):
            return self._made_anew(function, wrappers.reduce_dispatching(function))
        return self._by_value(function, reduced)  # type: ignore[arg-type]

    def _reduce_class(self, cls: type) -> Any:
        reduced = super().reducer_override(cls)
        if reduced is NotImplemented or len(reduced) != 6:  # by its name, or a type like NoneType
            return reduced
        return self._by_value(cls, wrappers.as_defined(cls, reduced))  # type: ignore[arg-type]

    def _reduce_cached(self, function: Any) -> Any:
        raise NotImplementedError

    def _made_anew(self, obj: Any, reduced: tuple[Any, ...]) -> Any:
        raise NotImplementedError

    def _by_value(self, obj: Any, reduced: tuple[Any, ...]) -> Any:
        raise NotImplementedError

    def _reduce_iterable(self, iterable: Any) -> Any:
        return NotImplemented


class OutPickler(ValuePickler):
    """From the parent to a worker."""

    _reducers = _OUT

    def _reduce_cached(self, function: Any) -> Any:
        return wrappers.reduce_cached(function, originals.token_of(function))

    def _made_anew(self, obj: Any, reduced: tuple[Any, ...]) -> Any:
        return self._by_value(obj, reduced)

    def _by_value(self, obj: Any, reduced: tuple[Any, ...]) -> Any:
        make, args, state, _, _, setter = reduced
        return make, args, (originals.token_of(obj), setter, state), None, None, finish_arrival

    def _function_getnewargs(self, function: FunctionType) -> tuple[Any, ...]:
        args: tuple[Any, ...] = super()._function_getnewargs(function)  # type: ignore[misc]
        home = module_with(function.__globals__)
        if home is not None:
            args[1][HOME_MARK] = home
        return args

    def _reduce_iterable(self, iterable: Any) -> Any:
        """A handle, for one that cannot be pickled."""
        try:
            OutPickler(io.BytesIO()).dump(iterable)
        except Exception:
            return traveling.reduce_to_handle(iterable)
        return NotImplemented


class HomePickler(ValuePickler):
    """From a worker to its parent."""

    _reducers = _HOME
    spares: bool = True

    def __init__(self, file: Any, buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None):
        super().__init__(file, buffer_callback)
        self._making: Any = None  # what is to travel by value, whatever it is

    def _reduce_function(self, function: FunctionType) -> Any:
        return self._by_token(function, False) or super()._reduce_function(function)

    def _reduce_class(self, cls: type) -> Any:
        return self._by_token(cls, True) or super()._reduce_class(cls)

    def _reduce_cached(self, function: Any) -> Any:
        return self._by_token(function, False) or wrappers.reduce_cached(function, None)

    def _made_anew(self, obj: Any, reduced: tuple[Any, ...]) -> Any:
        return reduced

    def _by_token(self, obj: Any, is_class: bool) -> tuple[Any, ...] | None:
        """None for what has no original at home, as far as is known here."""
        if self._making is obj:
            return None
        token = token_that_came_with(obj)
        if token is None and (obj.__module__ != "__main__" or "<" in obj.__qualname__):
            return None
        return original, (token, obj.__module__, obj.__qualname__, is_class, self._spare(obj) if self.spares else b"")

    def _by_value(self, obj: Any, reduced: tuple[Any, ...]) -> Any:
        home = home_of(obj.__globals__) if isinstance(obj, FunctionType) else None
        if home is None:
            return reduced
        _, (code, _, _, _, closure), (attributes, slots), _, _, _ = reduced
        for name in ("__globals__", "_cloudpickle_submodules"):
            slots.pop(name, None)
        return function_among, (home, code, closure), (attributes, slots), None, None, finish_function

    def _spare(self, obj: Any) -> bytes:
        spare: bytes | None = spare_copies.get(obj)
        if spare is None:
            spare = _copy_of(obj)
            spare_copies.set(obj, spare)
        return spare


class _Small(io.BytesIO):
    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > MOST_SPARE:
            raise ValueError("too large")
        return super().write(data)


def _copy_of(obj: Any) -> bytes:
    """A function or class by value; b"" if that is not worth it."""
    file = _Small()
    pickler = HomePickler(file)
    pickler.spares = False
    pickler._making = obj
    try:
        pickler.dump(obj)
    except Exception:
        return b""
    return file.getvalue()


# -- copyreg -------------------------------------------------------------------------------------------------------------

#: The pickler's own attribute: cloudpickle's class has one of that name, which would take what is assigned.
_set_table: Callable[[Any, dict[Any, Any]], None] = pickle.Pickler.dispatch_table.__set__  # type: ignore[attr-defined]

_merged: dict[tuple[int, Any], dict[Any, Any]] = {}

#: Where multiprocessing learns how to hand over sockets and ends of its pipes. pickle would send their numbers.
_HANDLES = "multiprocessing.connection"


def _dispatch_table() -> dict[Any, Any]:
    """cloudpickle's and copyreg's in one: theirs is a ChainMap, which is slow, and looked into for each object."""
    connection = getattr(sys.modules.get(_HANDLES), "Connection", None)
    known = len(copyreg.dispatch_table), connection
    merged = _merged.get(known)
    if merged is None:
        handles = dict.fromkeys((socket.socket,) if connection is None else (socket.socket, connection), _reduce_handle)
        merged = {**copyreg.dispatch_table, **cloudpickle.Pickler._dispatch_table, **handles}
        _merged.clear()
        _merged[known] = merged
    return merged


def _reduce_handle(handle: Any) -> Any:
    from multiprocessing.connection import Connection  # noqa: F401 - which registers it
    from multiprocessing.reduction import ForkingPickler

    return ForkingPickler._extra_reducers[type(handle)](handle)  # type: ignore[attr-defined]
