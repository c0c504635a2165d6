"""Coroutines that were made and never awaited (BRG201): told with the line that made them.

    loop runs: coroutines of its thread remember the line that made them ──┐
    one is finalized without having run ── CPython calls a hook of warnings ──┴─> BRG201, then the RuntimeWarning as ever

In: finalizers, in whatever thread they happen. Owners: the depth to which coroutines remember their origin is each
thread's own; `_running` holds no entry that an interruption has kept from being taken away. The hook is put in place
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
from itertools import takewhile
from traceback import FrameSummary, StackSummary
from types import CoroutineType, FrameType, TracebackType
from typing import Any
from weakref import WeakSet

from bridge.callables import code_of, kind_made, shown
from bridge.diagnostics.advice import as_a_task, awaited, awaited_object
from bridge.diagnostics.events import Event, emit
from bridge.diagnostics.places import PLUMBING, Place, is_installed, line_of, place_of, submit_site
from bridge.diagnostics.stacks import can_await

_HOOK = "_warn_unawaited_coroutine"
#: Frames that are looked through for the handle whose callback is executed.
_NEAR = 4
_HANDLE_RUNS = asyncio.Handle._run.__code__
#: Outside of these there is nothing but the loop. One that is written in C has no handles of Python, but it is run.
_LOOP_RUNS = (_HANDLE_RUNS, asyncio.Runner.run.__code__)

#: One line of a coroutine's origin, as CPython has it: file, line, function.
Origin = tuple[str, int, str]

_running: WeakSet[RemembersOrigins] = WeakSet()


class RemembersOrigins:
    """In a `with` block, or from `begin` to `end`: forgotten coroutines are told, with the lines in this thread that
    made them. Both ends happen in the thread that runs the loop; both may be repeated, after an interruption.

    asyncio's debug mode wants deeper origins; a depth that is not ours is left as it is.
    """

    __slots__ = ("__weakref__", "_ours")

    def __init__(self) -> None:
        self._ours = False

    def begin(self) -> None:
        _hook.put_in_place()
        _running.add(self)
        if sys.get_coroutine_origin_tracking_depth() == 0:
            self._ours = True
            sys.set_coroutine_origin_tracking_depth(1)

    def end(self) -> None:
        _running.discard(self)
        if self._ours and sys.get_coroutine_origin_tracking_depth() == 1:
            sys.set_coroutine_origin_tracking_depth(0)
        self._ours = False

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
    name = _name_of(coro)
    below = tuple(takewhile(lambda each: not _is_the_loop(Place(*each)), origin))  # the lines within one callback
    place = made_at(below)
    details = []
    advice = None
    called = None if place is None else _awaited(place, coro)
    by_a_library = place is not None and is_installed(place.file)
    dropped = None
    if by_a_library:  # debug mode knows who has called it
        dropped = made_at(each for each in below if not is_installed(each[0])) or _dropped_at(frame)
    elif place is not None and called is None:
        dropped = _dropped_at(frame)
    if dropped is not None and by_a_library:
        called = awaited(dropped, None) or "await what this line calls"
    elif dropped is not None:  # perhaps the call of a decorated function, whose wrapper has made it
        called = _awaited(dropped, coro)
    if dropped is not None and called is not None:
        details.append(f"made at {place}")
        how = f"{'called' if dropped in map(Place._make, origin) else 'dropped'} at {dropped}"
        place, advice = dropped, called
    elif place is not None and not by_a_library:
        how, advice = f"made at {place}", called
    else:  # the program has no line that calls it
        handle = _handle_that_runs(frame)
        callback = getattr(handle, "_callback", None)
        by_the_loop = below != origin or _returned_to_the_loop(frame)
        started = f"asyncio.create_task({_written(coro)}(...))"
        if kind_made(callback, coro) is not None:
            place = scheduled_at(handle)
            how = f"scheduled at {place}" if place is not None else "called by the loop"
            advice = as_a_task(place) if place is not None else None
            advice = advice or f"lambda: {started if handle._args else started.replace('...', '')}"
            details.append("the loop called an async function as a plain callback, and dropped the coroutine")
            if coro.__name__ == "__call__":
                details.append(f"the callback is {shown(callback)}")
        elif place is not None and by_the_loop and (code := code_of(callback)) is not None:
            details.append(f"made at {place}")
            place = Place(code.co_filename, code.co_firstlineno, code.co_qualname)
            how, advice = f"returned to the loop by the callback at {place}", started
        elif not origin:
            how = "made outside of the loop"
        elif by_the_loop:
            place, how, advice = None, "called by the loop", f"lambda: {started}"
        else:
            how = f"made at {place or Place(*origin[0])}"
            advice = f"{started}, in a plain function" if place is None else None
    advice = advice or f"await {_written(coro)}(...)"
    if advice.startswith("await ") and place is not None and not _may_await(place, frame):
        advice = f"asyncio.create_task({advice.removeprefix('await ')})"
    if place is not None and place.source:
        how += f": {place.source}"
    if len(origin) > 1:
        lines = [Place(*each).with_source for each in _completed(origin, frame) if not is_installed(each[0])]
        details += ["made at, innermost first:", *(f"  {line}" for line in lines)]
    if place is None and _name_of_mock(coro) is None:
        code = coro.cr_code
        details.append(f"{name} is defined at {code.co_filename}:{code.co_firstlineno}")
    loop = asyncio._get_running_loop()
    emit(
        Event(
            code="BRG201",
            headline=f"a coroutine was never awaited: {name}(), {how}",
            details=tuple(details),
            advice=advice,
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
        code = site[0]
        timer._source_traceback = [FrameSummary(code.co_filename, line_of(site), code.co_name, lookup_line=False)]


def made_at(origin: Iterable[Origin] | None) -> Place | None:
    """The innermost of these lines that is neither bridge's nor asyncio's; None if there is none."""
    return next((Place(*each) for each in origin or () if not each[0].startswith(PLUMBING)), None)


def scheduled_at(handle: Any) -> Place | None:
    """The line that has given a callback to the loop; None if its handle does not know, as in most cases."""
    stack = getattr(handle, "_source_traceback", None) or ()
    return made_at((each.filename, each.lineno, each.name) for each in reversed(stack))


def _name_of(coro: CoroutineType[Any, Any, Any]) -> str:
    """As its author calls it; of a mock's, the mock."""
    mock = _name_of_mock(coro)
    return f"AsyncMock {mock}" if mock is not None else coro.__qualname__.rpartition("<locals>.")[2]


def _name_of_mock(coro: CoroutineType[Any, Any, Any]) -> str | None:
    """The name of the AsyncMock that has made the coroutine; None if something else has."""
    if coro.cr_code.co_qualname.endswith("AsyncMockMixin._execute_mock_call") and coro.cr_frame is not None:
        mock: Any = coro.cr_frame.f_locals.get("self")
        with suppress(Exception):  # its private method
            return str(mock._extract_mock_name())
    return None


def _written(coro: CoroutineType[Any, Any, Any]) -> str:
    """What made the coroutine, as a line of code may have it. Neither an object that is called nor a mock need have a
    name in the program."""
    mock = _name_of_mock(coro)
    if mock is not None:
        return mock if all(map(str.isidentifier, mock.split("."))) else "that_mock"
    return "that_object" if coro.__name__ == "__call__" else coro.__name__


def _awaited(place: Place, coro: CoroutineType[Any, Any, Any]) -> str | None:
    """The call that begins at `place` and has made the coroutine, with `await`; None if none is found there."""
    called = awaited(place, coro.__name__)
    return awaited_object(place) if called is None and coro.__name__ == "__call__" else called


def _dropped_at(frame: FrameType | None) -> Place | None:
    """The program's line, in the callback of the loop that is executed, at which a coroutine is finalized that a library
    has made on its behalf: the line that has called that library, in most cases."""
    while frame is not None and frame.f_code not in _LOOP_RUNS:
        if not is_installed(frame.f_code.co_filename):
            return place_of((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return None


def _may_await(place: Place, frame: FrameType | None) -> bool:
    """Could `await` be written at `place`? Not in a lambda, nor in a plain function that the loop calls: neither can be
    async."""
    code = code_of(getattr(_handle_that_runs(frame), "_callback", None))
    if code is not None and (code.co_filename, code.co_name) == (place.file, place.function):
        return can_await((code, 0))
    return not place.function.endswith("<lambda>")


def _returned_to_the_loop(frame: FrameType | None) -> bool:
    """Is a coroutine that is finalized in this frame what a callback of the loop has returned? Not if a task runs, which
    has kept it until its own end."""
    return frame is not None and frame.f_code in _LOOP_RUNS and asyncio.current_task() is None


def _is_the_loop(place: Place) -> bool:
    """Is this the line of asyncio that runs callbacks, or the one below which a loop in C does?"""
    return any(place.file == each.co_filename and place.function == each.co_name for each in _LOOP_RUNS)


def _completed(origin: tuple[Origin, ...], frame: FrameType | None) -> tuple[Origin, ...]:
    """Debug mode's origins end after ten lines. Where the last of them is still being executed, so is what called it."""
    outer: list[Origin] = []
    while frame is not None:
        outer.append((frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        frame = frame.f_back
    return origin + tuple(outer[outer.index(origin[-1]) + 1 :] if origin[-1] in outer else ())


def _handle_that_runs(frame: FrameType | None) -> Any:
    """The handle of the loop whose callback is executed; None if that is not known."""
    for _ in range(_NEAR):
        if frame is None or frame.f_code is _HANDLE_RUNS:
            break
        frame = frame.f_back
    return None if frame is None or frame.f_code is not _HANDLE_RUNS else frame.f_locals.get("self")
