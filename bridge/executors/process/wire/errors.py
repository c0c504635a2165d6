"""How an exception travels between processes: itself, and the traceback of where it was raised, as text.

    pack_error: traceback, type, message: always ──┐                           ┌─> the exception, or
                it itself, or its parts: if it can ┴─> payload ─> unpack_error ┴─> PicklingError, UnpicklingError
                                                                  __cause__ = RemoteTraceback, in any case

An exception with an `__init__` of its own is often pickled into something else, or into something that cannot be rebuilt,
because pickle calls `__init__` with `args`. Such a one travels in parts, and is put together without its `__init__`.
"""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from struct import Struct
from types import FunctionType
from typing import Any, NamedTuple, Protocol

from bridge.callables import name_of
from bridge.diagnostics.places import is_bridges

_LENGTH = Struct("<I")
#: Characters of a traceback, and of a message, that travel at most.
_MOST_TEXT = 1 << 16
_MOST_MESSAGE = 1 << 12
#: Groups inside groups that are looked into.
_DEPTH = 20
_CAUSE: Any = BaseException.__dict__["__cause__"]
#: In `type.__flags__`: the class was made by a class statement.
_HEAP_TYPE = 1 << 9


class _Packer(Protocol):
    def pack(self, obj: Any, /) -> bytes: ...


class _Unpacker(Protocol):
    def unpack(self, parcel: Any, /) -> Any: ...


class RemoteTraceback(Exception):
    """The traceback of the process in which the exception was raised; the exception's `__cause__`."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}" if self.args else ""


# -- there ---------------------------------------------------------------------------------------------------------------


def pack_error(error: BaseException, packer: _Packer) -> bytes:
    """`error`, ready to travel. Never raises: what cannot be pickled travels as the text that it would print."""
    parcel, reason = b"", ""
    try:
        parcel = _pack(error, packer)
    except BaseException as why:
        reason = _message(why)
    head = pickle.dumps((os.getpid(), _type_name(error), _message(error), format_error(error), reason))
    return _LENGTH.pack(len(head)) + head + parcel


def _pack(error: BaseException, packer: _Packer) -> bytes:
    portable = _portable(error)
    if portable is not error:
        try:
            return packer.pack(portable)
        except Exception:  # the message has a better path if the exception itself is packed
            pass
    return packer.pack(error)


def format_error(error: BaseException) -> str:
    """The traceback as Python prints it, with causes and notes, without bridge's own frames. Never raises.

    In development mode (`python -X dev`) those are kept.
    """
    try:
        told = traceback.TracebackException.from_exception(error, compact=True)
        if not sys.flags.dev_mode:
            _leave_out_bridge(told)
        text = "".join(told.format()).rstrip("\n")
    except Exception as why:
        text = f"{_type_name(error)}: {_message(error)}\n(its traceback cannot be formatted: {_message(why)})"
    return _shortened(text, _MOST_TEXT)


def _leave_out_bridge(told: traceback.TracebackException) -> None:
    todo, seen = [told], set()
    while todo:
        each = todo.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        each.stack[:] = [frame for frame in each.stack if not is_bridges(frame.filename)]
        todo += [other for other in (each.__cause__, each.__context__) if other is not None]
        todo += each.exceptions or []


def _shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    head = most // 4
    return f"{text[:head]}\n... {len(text) - most} characters left out ...\n{text[head - most :]}"


def _message(error: BaseException) -> str:
    try:
        return _shortened(str(error), _MOST_MESSAGE)
    except Exception:
        return "(its message cannot be had: str() of it raises)"


def _type_name(error: BaseException) -> str:
    return name_of(type(error)).removeprefix("builtins.")


# -- in parts ------------------------------------------------------------------------------------------------------------


class _Parts(NamedTuple):
    """An exception taken apart: its class, `args`, and what `__setstate__` takes."""

    kind: type[BaseException]
    args: tuple[Any, ...]
    state: Any


def reduce_error(error: BaseException) -> Any:
    """For picklers (`reducer_override`), so that exceptions inside of other things arrive as they were, too."""
    parts = _portable(error)
    return NotImplemented if parts is error else (_put_together, (parts,))


def _portable(error: BaseException, depth: int = 0) -> BaseException | _Parts:
    """`error`, or its parts if pickle would call code with arguments that this was not made for."""
    kind = type(error)
    if kind.__reduce_ex__ is not object.__reduce_ex__ or isinstance(kind.__reduce__, FunctionType):
        return error  # it knows how to travel
    if isinstance(error, BaseExceptionGroup):
        return _portable_group(error, depth)
    if isinstance(kind.__init__, FunctionType) or isinstance(kind.__new__, FunctionType):
        return _parts(error)
    return error


def _portable_group(group: BaseExceptionGroup[BaseException], depth: int) -> BaseException | _Parts:
    members = group.exceptions
    portable = members if depth >= _DEPTH else tuple(_portable(member, depth + 1) for member in members)
    kind = type(group)
    if kind is BaseExceptionGroup or kind is ExceptionGroup:
        if all(there is here for there, here in zip(portable, members, strict=True)):
            return group
    elif not isinstance(kind.__init__, FunctionType) and not isinstance(kind.__new__, FunctionType):
        return group
    return _Parts(kind, (group.message, list(portable)), _parts(group).state)


def _parts(error: BaseException) -> _Parts:
    reduced: Any = error.__reduce__()  # a tuple, because it is a built-in's
    return _Parts(reduced[0], reduced[1], reduced[2] if len(reduced) > 2 else None)


def _put_together(parts: _Parts) -> BaseException:
    """The exception, made by the built-in class that it derives from: no code of the class itself is called."""
    kind, args, state = parts
    if issubclass(kind, BaseExceptionGroup):
        message, members = args
        args = (message, [_put_together(each) if type(each) is _Parts else each for each in members])
    base = _built_in_base(kind)
    error: BaseException = base.__new__(kind, *args)
    base.__init__(error, *args)
    if isinstance(kind.__setstate__, FunctionType):
        error.__setstate__(state)
    else:
        for name, value in (state or {}).items():
            object.__setattr__(error, name, value)  # also where the class forbids it
    return error


def _built_in_base(kind: type[BaseException]) -> Any:
    return next(each for each in kind.__mro__ if not each.__flags__ & _HEAP_TYPE)


def twin_of(error: BaseException) -> BaseException:
    """Another object like `error`, with the same traceback and causes. May raise what a class of users raises."""
    reduced: Any = _built_in_base(type(error)).__reduce__(error)
    twin = _put_together(_Parts(type(error), reduced[1], dict(reduced[2]) if len(reduced) > 2 else None))
    for name in ("__traceback__", "__cause__", "__context__", "__suppress_context__"):
        BaseException.__dict__[name].__set__(twin, getattr(error, name))
    return twin


# -- here ----------------------------------------------------------------------------------------------------------------


def unpack_error(payload: bytes | memoryview, unpacker: _Unpacker) -> BaseException:
    """The exception that `pack_error` was given, or the best that can be had. Never raises."""
    (length,) = _LENGTH.unpack_from(payload)
    start = _LENGTH.size
    pid, name, message, text, reason = pickle.loads(payload[start : start + length])
    parcel = payload[start + length :]
    said = f"{name}: {message}" if message else name
    if reason:
        error: BaseException = pickle.PicklingError(f"{said}\n(this exception cannot be pickled: {reason})")
    else:
        error = _rebuilt(parcel, unpacker, said)
    cause = RemoteTraceback(f"in process {pid}:\n\n{text}\n")
    # Past `__setattr__`, which a frozen dataclass forbids.
    _CAUSE.__set__(error, cause)
    return error


def _rebuilt(parcel: bytes | memoryview, unpacker: _Unpacker, said: str) -> BaseException:
    try:
        error = unpacker.unpack(parcel)
        if type(error) is _Parts:
            error = _put_together(error)
        if isinstance(error, BaseException):
            return error
        reason = f"what came of it is {name_of(type(error))!r}, which is no exception"
    except KeyboardInterrupt:
        raise
    except BaseException as why:  # whatever rebuilding it does
        reason = f"{_type_name(why)}: {_message(why)}"
    return pickle.UnpicklingError(f"{said}\n(this exception cannot be rebuilt here: {reason})")
