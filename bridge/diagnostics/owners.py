"""Objects that belong to one thread, so that moving a call of theirs to another thread would fail, or lock for ever.

In: a call's source and the frame in which it is executed. Out: how to write it instead. Nothing of the program is called:
names are looked up in variables, attributes in instances and classes, without descriptors.
"""

from __future__ import annotations

import ast
import builtins
import sys
from inspect import getattr_static
from types import FrameType, MemberDescriptorType, ModuleType
from typing import Any

#: Types whose objects belong to one thread: module, name, and how that came. Only those of imported modules are known.
_OWNED: tuple[tuple[str, str, str], ...] = (
    ("threading", "_RLock", "took"),
    ("_thread", "RLock", "took"),
    ("threading", "Condition", "took"),
    ("multiprocessing.synchronize", "RLock", "took"),
    ("multiprocessing.synchronize", "Condition", "took"),
    ("sqlite3", "Connection", "made"),
    ("sqlite3", "Cursor", "made"),
    ("tkinter", "Misc", "made"),
)
#: For what cannot be looked up.
_UNKNOWN: Any = object()


def owned_instead(call: ast.Call, frame: FrameType | None, to: str) -> str | None:
    """What to write instead of `call`, if it is a method of an object that belongs to one thread, or may do so."""
    if not isinstance(call.func, ast.Attribute):
        return None
    thing = call.func.value
    if isinstance(thing, ast.Call):  # `connection.cursor().execute(...)`: what is in front decides
        return owned_instead(thing, frame, to)
    value = _UNKNOWN if frame is None else _value_of(thing, frame)
    how = _how_owned(value)
    if value is _UNKNOWN and call.func.attr in ("acquire", "wait_for"):  # perhaps of an RLock, of a Condition
        how = "took"
    if how is None:
        return None
    with_it = f"opens {ast.unparse(thing)} and does all the work with it"
    if how == "took":
        with_it = f"has the whole `with {ast.unparse(thing)}:` in it"
    return f"await bridge.to_{to}(that_function, ...), where that_function {with_it}"


def _how_owned(value: object) -> str | None:
    """What a thread did to become the owner of this; None if it belongs to no thread."""
    kind = type(value)
    for module, name, how in _OWNED:
        owned = vars(sys.modules.get(module, builtins)).get(name)
        if isinstance(owned, type) and issubclass(kind, owned):
            return how
    return None


def _value_of(expression: ast.expr, frame: FrameType) -> Any:
    """The value of a name, or of an attribute of one, as far as it can be had without calling anything."""
    if isinstance(expression, ast.Name):
        for namespace in (frame.f_locals, frame.f_globals, vars(builtins)):
            if expression.id in namespace:
                return namespace[expression.id]
        return _UNKNOWN
    if not isinstance(expression, ast.Attribute):
        return _UNKNOWN
    owner = _value_of(expression.value, frame)
    if owner is _UNKNOWN:
        return _UNKNOWN
    if isinstance(owner, ModuleType):
        return vars(owner).get(expression.attr, _UNKNOWN)
    value = getattr_static(owner, expression.attr, _UNKNOWN)
    if isinstance(value, MemberDescriptorType):  # a slot
        try:
            return value.__get__(owner, type(owner))
        except AttributeError:
            return _UNKNOWN
    return _UNKNOWN if hasattr(type(value), "__get__") else value
