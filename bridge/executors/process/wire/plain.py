"""What can be told about an object before it is pickled: is it plain, is it large, has it large bytes in it?

Asked for each job and each result, so these functions are written to be quick, and know only what is quickly known: exact
built-in types, near the surface.
"""

from __future__ import annotations

from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from bridge.executors.process.wire.originals import goes_by_name
from bridge.executors.process.wire.patience import TooLarge

#: Bytes of a buffer that travels in a block.
LARGE_BUFFER = 1 << 16

ATOMS = frozenset({int, float, bool, type(None), complex})
TEXTS = frozenset({str, bytes})
_LONGEST_TEXT = 1 << 12
#: Items of a container that is looked through, to see whether it is plain.
FEW = 16
#: Items of a container that is looked through for large bytes; and how deep: (fn, args), args, an argument, its items.
_MANY = 1024
_DEPTH = 4
_HOLDERS = frozenset({tuple, list, dict})
_OF_INTEREST = _HOLDERS | {bytes, bytearray}


def is_plain_call(call: tuple[Any, ...]) -> bool:
    """Is it (fn, args, kwargs, context), with nothing but a function of a module, atoms and short texts?

    As `is_plain`, which could be asked just as well; but this is on the way of every job, and half as long.
    """
    fn, args, kwargs, context = call
    if context is not None or kwargs or type(args) is not tuple or len(args) > FEW:
        return False
    for argument in args:
        kind = type(argument)
        if kind not in ATOMS and (kind not in TEXTS or len(argument) > _LONGEST_TEXT):
            return False
    return _is_function(type(fn), fn) and goes_by_name(fn)


def is_plain(obj: Any, depth: int) -> bool:
    """Would pickle.dumps do the right thing, quickly?"""
    kind = type(obj)
    if kind in ATOMS:
        return True
    if kind in TEXTS:
        return len(obj) <= _LONGEST_TEXT
    if kind is tuple or kind is list:
        if len(obj) > FEW or not depth:
            return False
        for item in obj:  # noqa: SIM110 - a generator would cost more than all the rest
            if type(item) not in ATOMS and not is_plain(item, depth - 1):
                return False
        return True
    if kind is dict:
        if len(obj) > FEW or not depth:
            return not obj
        for key, value in obj.items():  # noqa: SIM110
            if type(key) is not str or not is_plain(value, depth - 1):
                return False
        return True
    return _is_function(kind, obj) and goes_by_name(obj)


def _is_function(kind: type, obj: Any) -> bool:
    return kind is FunctionType or (kind is BuiltinFunctionType and type(obj.__self__) is ModuleType)


def large_bytes(obj: Any) -> dict[int, Any]:
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


def refuse_the_obvious(obj: Any, limit: int) -> None:
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
