"""How a function or class that travelled by value finds its way home to the original, and its globals with it.

    parent: token_of(obj) ── by value, with its token ──> worker: arrived(copy, token)
    parent: original(token, ...) <── the token ────────── worker: token_that_came_with(copy)

Tokens are good in the process that made them, for as long as the object lives: nothing is kept alive for their sake. If
it has gone, a name in `__main__` is looked up; failing that, there is the copy that comes along with the token if it is
small. Objects of modules that both sides can import travel by their names and never get here.
"""

from __future__ import annotations

import os
import pickle
import sys
import weakref
from collections.abc import Iterator
from importlib import import_module
from itertools import count
from types import FunctionType, ModuleType
from typing import Any

from bridge.threads.loaded import from_loaded

#: Which process, and which of its objects.
Token = tuple[bytes, int]

#: In the globals of a function that was sent by value: the module, in the sender's process, whose globals they are.
HOME_MARK = "__bridge_home__"
_MODULES = sys.modules
#: Decorators around a function, at most.
_LAYERS = 16


class Originals:
    """Objects that others have tokens for. From any thread."""

    def __init__(self) -> None:
        self._owner = os.urandom(8)
        self._numbers = count(1)
        self._objects: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
        self._tokens = _ByIdentity()

    def token_of(self, obj: Any) -> Token:
        """Always the same for one object. Raises TypeError for objects that cannot be referred to weakly."""
        token: Token | None = self._tokens.get(obj)
        if token is None:
            number = next(self._numbers)
            self._objects[number] = obj
            token = (self._owner, number)
            self._tokens.set(obj, token)
        return token

    def get(self, token: Token) -> Any:
        """None if it is gone, or has never been here."""
        owner, number = token
        return self._objects.get(number) if owner == self._owner else None

    def are_here(self, token: Token) -> bool:
        """Was the token made by this process, or by the one that this was forked from?"""
        return token[0] == self._owner


class _ByIdentity:
    """What is known of objects, for as long as they live; they may be unhashable, or compare as they like."""

    def __init__(self) -> None:
        self._entries: dict[int, tuple[weakref.ref[Any], Any]] = {}

    def get(self, obj: Any) -> Any:
        entry = self._entries.get(id(obj))
        return entry[1] if entry is not None and entry[0]() is obj else None

    def set(self, obj: Any, value: Any) -> None:
        entries, key = self._entries, id(obj)

        def forget(reference: weakref.ref[Any]) -> None:
            entry = entries.get(key)
            if entry is not None and entry[0] is reference:
                entries.pop(key, None)

        entries[key] = (weakref.ref(obj, forget), value)

    def items(self) -> list[tuple[Any, Any]]:
        found = [(reference(), value) for reference, value in list(self._entries.values())]
        return [(obj, value) for obj, value in found if obj is not None]


#: Of this process: functions and classes that it has sent by value, and what it has sent as a mere handle.
originals: Originals = Originals()
#: Copies in this process of what others have sent by value, with the tokens that came along.
_arrived = _ByIdentity()
#: How a copy would travel back if it had to; b"" if that takes too much.
spare_copies: _ByIdentity = _ByIdentity()


def arrived(obj: Any, token: Token) -> None:
    """A copy of somebody's object has been made here."""
    _arrived.set(obj, token)


def token_that_came_with(obj: Any) -> Token | None:
    """The token of the original, if `obj` is a copy."""
    token: Token | None = _arrived.get(obj)
    return token


def functions_that_came() -> list[FunctionType]:
    """Copies of functions, in this process."""
    return [obj for obj, _ in _arrived.items() if isinstance(obj, FunctionType)]


def original(token: Token | None, module: str, qualname: str, is_class: bool, copy: bytes) -> Any:
    """What the token stands for, or else what has its name in `__main__`, or else the copy."""
    if token is not None:
        found = originals.get(token)
        if found is not None:
            return found
    if module == "__main__" and "<" not in qualname:
        found = _look_up(sys.modules.get(module), qualname)
        if found is not None and isinstance(found, type) == is_class:
            return found
    if copy:
        return pickle.loads(copy)
    what = "class" if is_class else "function"
    raise pickle.UnpicklingError(
        f"{module}.{qualname} is not in this process any more: the {what} came from here, and only its name came back. "
        f"Keep a reference to it here for as long as others use it, or define it at the top level of a module."
    )


# -- names ---------------------------------------------------------------------------------------------------------------


def goes_by_name(obj: Any) -> bool:
    """Is a function or class at the top level of a module that the other side can import?

    False if that takes longer to find out.
    """
    name = obj.__module__
    module = _MODULES.get(name) if type(name) is str else None
    if module is None or name == "__main__" or module.__dict__.get(obj.__qualname__) is not obj:
        return False
    return not from_loaded("cloudpickle.cloudpickle", "_PICKLE_BY_VALUE_MODULES")


def layers_above(obj: Any) -> int | None:
    """How many decorators lie around what goes by the name of a function; None if its name does not lead to it.

    0: the name leads to the function itself.
    """
    module, qualname = getattr(obj, "__module__", None), getattr(obj, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(qualname, str) or module == "__main__" or "<" in qualname:
        return None
    for layer, found in enumerate(named(module, qualname)):
        if found is obj:
            return layer
    return None


def named(module: str, qualname: str) -> Iterator[Any]:
    """What goes by that name in this process, then what lies beneath its decorators, one by one."""
    found = _look_up(sys.modules.get(module), qualname)
    for _ in range(_LAYERS):
        if found is None:
            return
        yield found
        found = getattr(found, "__wrapped__", None)


def beneath(module: str, qualname: str, layers: int) -> Any:
    """What goes by that name, without so many decorators around it. Raises ImportError, AttributeError."""
    found: Any = import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    for _ in range(layers):
        found = found.__wrapped__
    return found


def _look_up(module: ModuleType | None, qualname: str) -> Any:
    found: Any = module
    for name in qualname.split("."):
        found = getattr(found, name, None)
    return found


# -- globals -------------------------------------------------------------------------------------------------------------


def module_with(namespace: dict[str, Any]) -> str | None:
    """The module whose globals these are, in this process."""
    name = namespace.get("__name__")
    module = sys.modules.get(name) if isinstance(name, str) else None
    return name if module is not None and module.__dict__ is namespace else None


def home_of(namespace: dict[str, Any]) -> str | None:
    """The module, in the parent of this worker, to which a function with these globals belongs."""
    mark = namespace.get(HOME_MARK)
    return mark if isinstance(mark, str) else module_with(namespace)


def function_among(module: str, code: Any, closure: Any) -> FunctionType:
    """A function that has the globals of a module of this process."""
    found = import_module(module)  # which waits if another thread is importing it
    return FunctionType(code, found.__dict__, None, None, closure)


def finish_function(function: FunctionType, state: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Give it everything but its globals."""
    attributes, slots = state
    function.__dict__.update(attributes)
    cells = slots.pop("__closure__", None) or ()
    for cell, filled in zip(function.__closure__ or (), cells, strict=True):
        try:
            cell.cell_contents = filled.cell_contents
        except ValueError:  # it is empty
            pass
    for name, value in slots.items():
        setattr(function, name, value)


def finish_arrival(obj: Any, state: tuple[Token, Any, Any]) -> None:
    """Give a copy its state, by the setter that cloudpickle would have used, and remember whose copy it is."""
    token, setter, value = state
    setter(obj, value)
    arrived(obj, token)
