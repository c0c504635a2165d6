"""Which part of an object it is that cannot be pickled: looked for only once pickling has failed.

    (fn, {"db": Holder(connection)}) ──> args[0]['db'].connection: cannot pickle 'sqlite3.Connection' object

From the object that failed the search goes down to the first part that fails by itself, until no part does. It ends
after so many seconds, levels and attempts, and then names the last part that it found. It calls the same `__reduce__`
methods as pickling did.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import suppress
from functools import partial
from time import perf_counter
from types import FunctionType, MethodType
from typing import Any

from bridge.callables import shown
from bridge.executors.process.wire.frames import Setup
from bridge.executors.process.wire.mocks import INSTEAD, is_mock
from bridge.executors.process.wire.traveling import Stays
from bridge.executors.process.worker.chunk import Chunk, run_chunk

#: How far the search goes.
MOST_LEVELS = 60
MOST_ATTEMPTS = 2000
#: Items of one container that are looked at.
MOST_ITEMS = 1000
#: Characters of a path that are shown.
_LONGEST = 300


class Untried(Exception):
    """A part is too long for that."""


#: Pickles an object into nothing: None, or the error, which is Untried if it is too long to be tried.
Attempt = Callable[[Any], BaseException | None]
Step = tuple[str, Any]


class _Search:
    """One search. `found` is the path to the last part that failed, and its error."""

    def __init__(self, error: BaseException, attempt: Attempt, seconds: float):
        self._error = error  # of the whole
        self._attempt = attempt
        self._until = perf_counter() + seconds
        self._left = MOST_ATTEMPTS
        self._above: set[int] = set()  # the parts that lead to the one that is looked into
        self._seen: set[int] = set()

    def look_into(self, steps: Iterator[Step], path: str, level: int) -> tuple[str, BaseException] | None:
        """The culprit among these parts, or in them. None if none of them fails, or only because of what lies above."""
        suspect = None
        untried = []
        in_time = True
        for name, part in steps:
            if id(part) in self._above:
                suspect = suspect or _ABOVE
            if id(part) in self._seen or isinstance(part, (int, str, float, bytes, type(None))):
                continue
            in_time = self._left > 0 and perf_counter() <= self._until
            if not in_time:
                if is_mock(part):  # few of these can be pickled
                    untried = [(name, part)]
                break
            self._left -= 1
            error = self._attempt(part)
            if isinstance(error, Untried):
                untried.append((name, part))
                continue
            if error is None:
                continue
            found = self._inside(part, path + name, error, level)
            if found is not _ABOVE:
                return found
            suspect = path + name, error
        if suspect is None and len(untried) == 1 and (in_time or is_mock(untried[0][1])):
            [(name, part)] = untried  # all the others can be pickled
            return self._inside(part, path + name, self._error, level)
        return suspect

    def _inside(self, part: Any, path: str, error: BaseException, level: int) -> tuple[str, BaseException]:
        """It fails: is there a part of it that does?"""
        if is_mock(part):
            return path, Stays(f"{shown(part)}: {INSTEAD}")
        if level >= MOST_LEVELS or isinstance(error, Stays) or type(error) is RuntimeError:
            return path, error  # the last is how objects refuse, such as a lock of multiprocessing
        self._seen.add(id(part))
        self._above.add(id(part))
        try:
            found = self.look_into(_steps(part), path, level + 1)
        except Exception:  # something in it raises when it is looked at
            found = None
        self._above.discard(id(part))
        if isinstance(error, RecursionError) and (found is None or not isinstance(found[1], Stays)):
            return path, error  # it is the depth: no part of it is at fault
        return found or (path, error)


#: Instead of a culprit: it contains what contains it, and is at fault no more than that.
_ABOVE: tuple[str, BaseException] = ("", Exception())


def find_culprit(obj: Any, error: BaseException, attempt: Attempt, seconds: float) -> tuple[str, BaseException]:
    """The path to the part at fault, and its error. `error` is what pickling the whole object raised."""
    try:
        found = _Search(error, attempt, seconds).look_into(_first_steps(obj), "", 0)
    except Exception:
        found = None
    return (_shown(found[0]), found[1]) if found else ("", error)


def _first_steps(obj: Any) -> Iterator[Step]:
    """A call is named as its author sees it, anything else as a value."""
    if isinstance(obj, Setup):
        yield from zip(obj._fields, obj, strict=True)
    elif type(obj) is Chunk:
        yield from (("value", _Itself(value)) for value in obj.values)
    elif type(obj) is tuple and len(obj) >= 2 and obj[0] is run_chunk:
        fn, calls = obj[1]
        yield "fn", fn
        yield from ((f"args[{number}]", argument) for args in calls for number, argument in enumerate(args))
    elif type(obj) is tuple and len(obj) >= 2 and callable(obj[0]) and type(obj[1]) is tuple:
        yield "fn", obj[0]
        for number, argument in enumerate(obj[1]):
            yield f"args[{number}]", argument
        for rest in obj[2:]:
            if type(rest) is dict:
                for key, argument in rest.items():
                    yield f"kwargs[{key!r}]", argument
            else:
                yield "context", rest
    else:
        yield "error" if isinstance(obj, BaseException) else "value", _Itself(obj)


class _Itself:
    """The object as its own first part, because that is what is given a name."""

    def __init__(self, obj: Any):
        self.obj = obj

    def __reduce__(self) -> tuple[Any, ...]:
        return _Itself, (self.obj,)


def _steps(part: Any) -> Iterator[Step]:
    """Its parts, the telling ones first."""
    if type(part) is _Itself:
        part = part.obj
    if isinstance(part, (list, tuple)):
        yield from ((f"[{number}]", item) for number, item in enumerate(part[:MOST_ITEMS]))
    elif isinstance(part, Mapping):
        yield from _of_mapping(part)
    elif isinstance(part, Set):
        yield from (("{...}", item) for item, _ in zip(part, range(MOST_ITEMS), strict=False))
    if isinstance(part, FunctionType):
        yield from _of_function(part)
    elif isinstance(part, partial):
        yield from ((".func", part.func), (".args", part.args), (".keywords", part.keywords))
    elif isinstance(part, MethodType):
        yield ".__self__", part.__self__
    elif isinstance(part, type):
        yield from ((f".{name}", value) for name, value in vars(part).items() if not name.startswith("__"))
    elif not isinstance(part, (list, tuple, dict, Set)) or type(part).__module__ != "builtins":
        yield from _of_object(part)


def _of_mapping(part: Mapping[Any, Any]) -> Iterator[Step]:
    for (key, value), _ in zip(part.items(), range(MOST_ITEMS), strict=False):
        yield f"[{key!r:.60}]", value
        yield f" (the key {key!r:.60})", key


def _of_function(function: FunctionType) -> Iterator[Step]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # it is empty
            yield f" (its variable {name!r})", cell.cell_contents
    for number, value in enumerate(function.__defaults__ or ()):
        yield f".__defaults__[{number}]", value
    for name, value in (function.__kwdefaults__ or {}).items():
        yield f".__kwdefaults__[{name!r}]", value
    namespace = function.__globals__
    for name in _names_in(function.__code__):
        if name in namespace:
            yield f" (the global variable {name!r})", namespace[name]
    for name, value in vars(function).items():
        yield f".{name}", value


def _names_in(code: Any) -> list[str]:
    names = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, type(code)):
            names += _names_in(constant)
    return names


def _of_object(part: Any) -> Iterator[Step]:
    yielded = set()
    for name, value in (*_attributes(part), *_slots(part)):
        yielded.add(id(value))
        yield f".{name}", value
    yield from (("." + step[0], step[1]) for step in _of_reduction(part) if id(step[1]) not in yielded)


def _attributes(part: Any) -> list[Step]:
    attributes = getattr(part, "__dict__", None)
    return [(str(name), value) for name, value in attributes.items()] if isinstance(attributes, dict) else []


def _slots(part: Any) -> Iterator[Step]:
    for kind in type(part).__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(part, name):
                yield name, getattr(part, name)


def _of_reduction(part: Any) -> Iterator[Step]:
    """What its `__reduce_ex__` says that it consists of."""
    reduced = part.__reduce_ex__(5)
    if not isinstance(reduced, tuple):
        return
    names = ("__reduce__()[0]", "__reduce__()[1]", "__getstate__()")
    for name, value in zip(names, reduced, strict=False):
        if not isinstance(value, pickle.PickleBuffer):
            yield name, value
    for position in (3, 4):
        if len(reduced) > position and reduced[position] is not None:
            yield from ((f"__reduce__()[{position}]", item) for item in reduced[position])


def _shown(path: str) -> str:
    return path if len(path) <= _LONGEST else f"{path[: _LONGEST // 2]} ... {path[-_LONGEST // 2 :]}"
