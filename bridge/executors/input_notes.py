"""For which input of a `map` a function has failed: a note on its error (PEP 678).

    error, index, input ──> text ─┬─ built-in types: at once ──────────────────> add_note
                                  └─ else in a thread, for at most PATIENCE ───> add_note

What is shown of an input is bounded, whatever its size. `repr` of a user's class is code of the user: it may raise or
block, so it is called in a thread, and neither the loop nor the result waits for it longer than PATIENCE.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import fields, is_dataclass
from itertools import islice
from pathlib import Path
from time import perf_counter
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from anyio import Event, move_on_after

from bridge.callables import name_of
from bridge.errors import LoopClosed
from bridge.executors.process.wire.errors import twin_of
from bridge.threads.host import Host

#: Seconds within which the `repr` of an input is waited for.
PATIENCE = 1.0
#: Characters of all inputs together, and of one text; items of one container, and containers in one another.
MOST = 400
MOST_TEXT = 200
MOST_ITEMS = 6
LEVELS = 3
#: Bits of a whole number that is written out.
MOST_BITS = 256

#: Callables whose name is found without their `repr`.
_NAMED = (FunctionType, BuiltinFunctionType, MethodType, type)
#: Their `repr` is no code of a user, and short.
_HARMLESS = frozenset((type(None), bool, int, float, complex, str, bytes, bytearray, type(Path())))
_BRACKETS: dict[Any, tuple[str, str]] = {
    dict: ("{", "}"),
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("{", "}"),
    deque: ("[", "]"),
}
_LITERALS = (dict, list, tuple, set)


class MapNote(str):
    """A note of this module: which map has added it, and when. When it travels it becomes a plain one."""

    by: object
    at: float

    def __reduce__(self) -> tuple[Any, ...]:
        return str, (str(self),)


def add_input_note(error: BaseException, text: str, by: object, begun_at: float) -> BaseException:
    """`error` with `text` as a note. Never raises: an error that takes no notes is returned as it is.

    If the function has raised this very object before, for another input of the same map (`by`) or before the call began
    (`begun_at`), then a copy of it is returned, so that what came of the other input keeps its note.
    """
    with suppress(Exception):
        notes = list(getattr(error, "__notes__", ()))
        others = [note for note in notes if type(note) is MapNote and (note.by is by or note.at < begun_at)]
        note = MapNote(text)
        note.by, note.at = by, perf_counter()
        if not others:
            error.add_note(note)
            return error
        twin = twin_of(error)
        twin.__notes__ = [each for each in notes if not any(each is other for other in others)]
        twin.add_note(note)
        return twin
    return error


async def text_of(host: Host, fn: object, inputs: tuple[Any, ...], blocks: bool) -> tuple[str, bool]:
    """The call as one would write it, and whether a `repr` has blocked, which is not tried a second time (`blocks`)."""
    has_name = issubclass(type(fn), _NAMED)
    if has_name and all(type(each) in _HARMLESS for each in inputs):
        return _call(fn, inputs), blocks
    text = None if blocks else await _in_a_thread(host, lambda: _call(fn, inputs))
    if text is not None:
        return text, False
    name = name_of(fn) if has_name else _kind(fn)
    return f"{name}({', '.join(map(_kind, inputs))})", True


def _kind(thing: object) -> str:
    return f"<{type(thing).__qualname__} object>"


def _call(fn: object, inputs: tuple[Any, ...]) -> str:
    text = ", ".join(repr_of(each) for each in inputs)
    return f"{name_of(fn)}({text if len(text) <= MOST else f'{text[:MOST]}...'})"


async def _in_a_thread(host: Host, make: Callable[[], str]) -> str | None:
    """What `make` returns; None if it raises, or takes longer than PATIENCE: the thread is left behind then."""
    made: list[str] = []
    ended = Event()

    def run() -> None:
        with suppress(BaseException):
            made.append(make())
        with suppress(LoopClosed):
            host.call_soon(ended.set, ())

    try:
        threading.Thread(target=run, name="bridge-repr", daemon=True).start()
    except RuntimeError:  # no thread can be had
        return None
    with move_on_after(PATIENCE):
        await ended.wait()
    return made[0] if made else None


# -- bounded -------------------------------------------------------------------------------------------------------------


def repr_of(thing: object, levels: int = LEVELS) -> str:
    """`repr(thing)`, cut where it is long: texts, containers, dataclasses. Never raises, but may block."""
    kind = type(thing)
    try:
        text = _shown(thing, kind, levels)
    except BaseException as error:
        text = f"<{kind.__qualname__} object, whose repr raises {type(error).__qualname__}>"
    return text if len(text) <= MOST else f"{text[:MOST]}..."


def _shown(thing: Any, kind: type, levels: int) -> str:
    for text_kind in (str, bytes, bytearray):
        if issubclass(kind, text_kind) and text_kind.__len__(thing) > MOST_TEXT:
            cut: Any = text_kind.__getitem__
            half = MOST_TEXT // 2
            return f"{cut(thing, slice(half))!r}...{cut(thing, slice(-half, None))!r}"
    for container in _BRACKETS:
        if issubclass(kind, container):
            return _container(thing, kind, container, levels)
    if issubclass(kind, int) and int.bit_length(thing) > MOST_BITS:
        return f"<{kind.__qualname__} of {int.bit_length(thing)} bits>"
    if kind.__module__ == "array":
        return f"array({thing.typecode!r}, <{len(thing)} items>)"
    if is_dataclass(kind) and _is_generated(kind.__repr__):
        shown = [field.name for field in fields(kind) if field.repr]
        inner = (f"{name}={repr_of(getattr(thing, name), levels - 1)}" for name in shown)
        return f"{kind.__qualname__}({_joined(inner) if levels else '...'})"
    return " ".join(repr(thing).split())


def _container(thing: Any, kind: type, container: Any, levels: int) -> str:
    """Read by the methods of the built-in type: those of a subclass are code of a user, and may go on for ever."""
    names = getattr(kind, "_fields", None) if container is tuple else None  # of a named tuple
    parts: Iterable[str]
    if not levels:
        parts = ["..."]
    elif container is dict:
        parts = (f"{repr_of(key, levels - 1)}: {repr_of(value, levels - 1)}" for key, value in dict.items(thing))
    elif names:
        items = zip(names, tuple.__iter__(thing), strict=False)
        parts = (f"{name}={repr_of(each, levels - 1)}" for name, each in items)
    else:
        parts = (repr_of(each, levels - 1) for each in container.__iter__(thing))
    inner = _joined(parts)
    if names:
        return f"{kind.__qualname__}({inner})"
    if container in (set, frozenset) and not inner:
        return f"{kind.__qualname__}()"
    if kind is tuple and tuple.__len__(thing) == 1:
        inner += ","
    opening, closing = _BRACKETS[container]
    text = f"{opening}{inner}{closing}"
    return text if kind in _LITERALS else f"{kind.__qualname__}({text})"


def _joined(parts: Iterable[str]) -> str:
    shown = list(islice(parts, MOST_ITEMS + 1))
    if len(shown) > MOST_ITEMS:
        shown[MOST_ITEMS:] = ["..."]
    return ", ".join(shown)


def _is_generated(function: Any) -> bool:
    """Has `dataclass` written it?"""
    code = getattr(getattr(function, "__wrapped__", None), "__code__", None)
    return code is not None and code.co_filename == "<string>"
