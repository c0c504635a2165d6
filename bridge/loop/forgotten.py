"""Coroutines that were made and never awaited (BRG201): told with the line that made them.

    loop runs: coroutines of its thread remember the line that made them ──┐
    one is finalized without having run ── CPython calls a hook of warnings ──┴─> BRG201, then the RuntimeWarning as ever

In: finalizers, in whatever thread they happen. Owners: the depth to which coroutines remember their origin is each
thread's own; `_running` is a set, to which one step adds and from which one step takes away. The hook is put in place
by the first loop that runs with diagnostics, and stays: what is forgotten may be kept alive by a traceback or a cycle,
and found when its loop has ended. From then on, and while nothing runs, only coroutines with an origin are told.

Where a Python to come has no such hook, nothing is put in place, and nothing is told.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from traceback import FrameSummary, StackSummary
from types import CoroutineType, FrameType, TracebackType
from typing import Any

from bridge.diagnostics.advice import awaited
from bridge.diagnostics.events import Event, emit
from bridge.diagnostics.places import PLUMBING, Place, is_installed, place_of, submit_site

_HOOK = "_warn_unawaited_coroutine"
#: Frames that are looked through for the handle whose callback was dropped.
_NEAR = 4
_HANDLE_RUNS = asyncio.Handle._run.__code__

#: One line of a coroutine's origin, as CPython has it: file, line, function.
Origin = tuple[str, int, str]

_running: set[RemembersOrigins] = set()


class RemembersOrigins:
    """In a `with` block, or from `begin` to `end`: forgotten coroutines are told, with the lines in this thread that
    made them. Both ends happen in the thread that runs the loop.

    asyncio's debug mode wants deeper origins; a depth that is not ours is left as it is.
    """

    __slots__ = ("_ours",)

    def __init__(self) -> None:
        self._ours = False

    def begin(self) -> None:
        _hook.put_in_place()
        _running.add(self)
        if sys.get_coroutine_origin_tracking_depth() == 0:
            sys.set_coroutine_origin_tracking_depth(1)
            self._ours = True

    def end(self) -> None:
        _running.discard(self)
        if self._ours:
            self._ours = False
            if sys.get_coroutine_origin_tracking_depth() == 1:
                sys.set_coroutine_origin_tracking_depth(0)

    def __enter__(self) -> None:
        self.begin()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()


# -- CPython's hook ----------------------------------------------------------------------------------------------------


class _Hook:
    """What CPython calls for a coroutine that is finalized and has not run, and what it called before."""

    def __init__(self) -> None:
        self._before: Callable[[Any], object] | None = None

    def put_in_place(self) -> None:
        if self._before is None:
            self._before = getattr(warnings, _HOOK, None)
            if self._before is not None:
                setattr(warnings, _HOOK, self.noticed)

    def noticed(self, coro: CoroutineType[Any, Any, Any]) -> None:
        """Called by the finalizer. What it raises (the warning, where warnings are errors) is written out by CPython.

        The warning is worded here as in the standard library, because its own function would blame the line that calls
        it, which is in this file. An origin of one line is there only because BRG201 wants it: the text does without,
        as it does without bridge.
        """
        origin: tuple[Origin, ...] | None = coro.cr_origin
        if origin is not None or _running:
            with suppress(Exception):  # the interpreter ends
                _tell(coro, origin or (), sys._getframe(1))
        before = self._before
        if before is not None and before.__module__ not in ("warnings", "_py_warnings"):
            before(coro)  # somebody else's
            return
        message = f"coroutine '{coro.__qualname__}' was never awaited"
        if origin is not None and len(origin) > 1:
            lines = StackSummary.from_list([FrameSummary(*each) for each in reversed(origin)]).format()
            message += f"\nCoroutine created at (most recent call last)\n{''.join(lines)}".rstrip("\n")
        warnings.warn(message, category=RuntimeWarning, stacklevel=2, source=coro)


_hook: _Hook = _Hook()


# -- the event ---------------------------------------------------------------------------------------------------------


def _tell(coro: CoroutineType[Any, Any, Any], origin: tuple[Origin, ...], frame: FrameType | None) -> None:
    name = coro.__qualname__.rpartition("<locals>.")[2]
    place = made_at(origin)
    details = []
    advice = None
    if place is not None:
        advice = awaited(place, coro.__name__)
        how = f"made at {place}"
    else:
        handle = _handle_that_called(coro, frame)
        if handle is None:
            how = "made outside of the loop" if not origin else f"made at {Place(*origin[0])}"
        else:
            place = made_at((each.filename, each.lineno, each.name) for each in handle._source_traceback or ())
            how = f"scheduled at {place}" if place is not None else "called by the loop"
            advice = f"lambda: asyncio.create_task({coro.__name__}({'...' if handle._args else ''}))"
            details.append("the loop called an async function as a plain callback, and dropped the coroutine")
    if place is not None and place.source:
        how += f": {place.source}"
    if len(origin) > 1:
        lines = [Place(*each).with_source for each in _completed(origin, frame) if not is_installed(each[0])]
        details += ["made at, innermost first:", *(f"  {line}" for line in lines)]
    if place is None:
        code = coro.cr_code
        details.append(f"{name} is defined at {code.co_filename}:{code.co_firstlineno}")
    loop = asyncio._get_running_loop()
    emit(
        Event(
            code="BRG201",
            headline=f"a coroutine was never awaited: {name}(), {how}",
            details=tuple(details),
            advice=advice or f"await {coro.__name__}(...)",
            place=place,
            attributes={"bridge.coroutine": coro.__qualname__},
        ),
        every_time=loop is not None and loop.get_debug(),
    )


def remember_caller(timer: Any) -> None:
    """Keep the line that sets a timer whose callback is an async function, so that the loop will drop a coroutine; in the
    place that debug mode has for that."""
    site = submit_site()
    if site is not None:
        place = place_of(site)
        timer._source_traceback = [FrameSummary(place.file, place.line, place.function, lookup_line=False)]


def made_at(origin: Iterable[Origin] | None) -> Place | None:
    """The innermost of these lines that is neither bridge's nor asyncio's; None if there is none."""
    return next((Place(*each) for each in origin or () if not each[0].startswith(PLUMBING)), None)


def _completed(origin: tuple[Origin, ...], frame: FrameType | None) -> tuple[Origin, ...]:
    """Debug mode's origins end after ten lines. Where the last of them is still being executed, so is what called it."""
    outer: list[Origin] = []
    while frame is not None:
        outer.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return origin + tuple(outer[outer.index(origin[-1]) + 1 :] if origin[-1] in outer else ())


def _handle_that_called(coro: CoroutineType[Any, Any, Any], frame: FrameType | None) -> Any:
    """The handle of the loop whose callback was the coroutine's function."""
    for _ in range(_NEAR):
        if frame is None:
            break
        if frame.f_code is _HANDLE_RUNS:
            handle = frame.f_locals.get("self")
            callback = getattr(handle, "_callback", None)
            callback = getattr(callback, "func", callback)  # functools.partial
            return handle if getattr(callback, "__code__", None) is coro.cr_code else None
        frame = frame.f_back
    return None
