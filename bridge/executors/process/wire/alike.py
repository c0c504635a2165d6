"""Several calls of one function in one parcel: its name is written, looked up and found once for all of them.

Only calls whose own part cannot fail travel together, those with nothing but atoms and short texts. What can fail is the
name of the function (its module), and that would have failed for each of them.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from struct import Struct
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from bridge.executors.process.wire.originals import goes_by_name
from bridge.executors.process.wire.plain import ATOMS, FEW, TEXTS

if TYPE_CHECKING:
    from bridge.executors.process.wire.unpacking import Unpacker

#: Flags of the first call (the others have a permit), and how many calls there are.
HEAD: Struct = Struct("<BB")

_SHORT = 256


def can_be_shared(fn: Any) -> bool:
    """Is it a function of a module that the other side can import?"""
    kind = type(fn)
    return (kind is FunctionType or (kind is BuiltinFunctionType and type(fn.__self__) is ModuleType)) and goes_by_name(
        fn
    )


def are_harmless(args: tuple[Any, ...]) -> bool:
    """Can nothing go wrong with these arguments, and do they take next to no time?"""
    if len(args) > FEW:
        return False
    for argument in args:
        kind = type(argument)
        if kind not in ATOMS and (kind not in TEXTS or len(argument) > _SHORT):
            return False
    return True


def pack_alike(fn: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> bytes:
    """One parcel of `fn(*args)` for each of `arguments`. May raise anything, if there is something odd about `fn`."""
    return pickle.dumps((fn, arguments), 5)


class AlikeCalls:
    """Such a parcel where it arrived, opened when the first call is begun."""

    __slots__ = ("_arguments", "_first", "_fn", "_parcel")

    def __init__(self, first: int, parcel: bytes):
        self._first = first
        self._parcel = parcel
        self._fn: Any = None

    def take(self, seq: int, unpacker: Unpacker) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Function and arguments of the call of that number. Raises UnpicklingError."""
        if self._fn is None:
            self._fn, self._arguments = unpacker.unpack(self._parcel)
        return self._fn, self._arguments[seq - self._first]
