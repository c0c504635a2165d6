"""Exceptions of tasks and futures that nobody has asked for (BRG202): asyncio's message, with the lines that matter.

    a task goes away, its exception unseen ──> loop.call_exception_handler ── asyncio's own message, on `asyncio`, as ever
                                                                           └─> report ──> BRG202, without the traceback

In: the contexts that asyncio makes for exception handlers, which are left as they are, in whatever thread the garbage is
found. `asyncio.run_coroutine_threadsafe` asks for its task's exception itself, so there it is the concurrent future
that loses it: that one is made attentive as it comes through the loop's door.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import Context
from types import CodeType
from typing import Any, cast

from bridge.callables import last_name, qualname_of
from bridge.diagnostics.advice import awaited
from bridge.diagnostics.events import emit
from bridge.diagnostics.places import Place, submit_site
from bridge.loop.forgotten import made_at
from bridge.threads.lost import AttendedFuture, lost
from bridge.threads.trail import last_in, trail_here

#: How asyncio's message ends; it begins with the name of the class.
_UNSEEN = " exception was never retrieved"
_asyncio_logger = logging.getLogger("asyncio")


def is_of_an_exit(context: dict[str, Any]) -> bool:
    """Is this about a SystemExit or KeyboardInterrupt that was not asked for? It is not lost: it has ended the loop."""
    error = context.get("exception")
    return issubclass(type(error), (KeyboardInterrupt, SystemExit)) and str(context.get("message")).endswith(_UNSEEN)


def report(loop: AbstractEventLoop, context: dict[str, Any], *, log: bool = True) -> None:
    """Emit BRG202 if that is what `context` is about. With `log` False, only listeners are told. Never raises."""
    error, future = context.get("exception"), context.get("future")
    if error is None or future is None or not str(context.get("message")).endswith(_UNSEEN):
        return
    try:
        event = _event_of(error, future, context)
    except Exception:  # a diagnostic must not become the program's trouble
        logging.getLogger("bridge").debug("a lost exception could not be told", exc_info=True)
        return
    shown = log and _asyncio_logger.isEnabledFor(logging.ERROR)  # asyncio's message has the traceback
    emit(event, log=log, every_time=loop.get_debug(), traceback=not shown)


def _event_of(error: BaseException, future: Any, context: dict[str, Any]) -> Any:
    coro = future.get_coro() if hasattr(future, "get_coro") else None
    place = place_of_task(future, coro, context.get("source_traceback") or getattr(future, "_source_traceback", None))
    own = next((each for each in gc.get_referents(future) if type(each) is Context), None)
    last = None if own is None else last_in(own)
    if coro is None:
        return lost(error, f"in a {type(future).__name__}", "created", place, last, "await future", {})
    name = qualname_of(coro).rpartition("<locals>.")[2]
    short = last_name(coro)
    call = (awaited(place, short) if place is not None else None) or f"{short}(...)"
    advice = f"async with asyncio.TaskGroup() as tasks: tasks.create_task({call.removeprefix('await ')})"
    who = f"in task {future.get_name()!r} running {name}()"
    return lost(error, who, "created", place, last, advice, {"bridge.task.name": future.get_name()})


def place_of_task(future: Any, coro: Any, stack: Any) -> Place | None:
    """Where a task or a future was created, as far as that is known: in debug mode exactly, else where its coroutine
    was made."""
    place = made_at((each.filename, each.lineno, each.name) for each in reversed(stack or ()))
    if place is None:
        place = made_at(getattr(coro, "cr_origin", None))
    for child in getattr(future, "_children", ()):  # gather's
        place = place or place_of_task(child, child.get_coro() if hasattr(child, "get_coro") else None, None)
    return place


# -- loops that are not bridge's ---------------------------------------------------------------------------------------


@contextmanager
def reporting_lost_exceptions(loop: AbstractEventLoop) -> Iterator[None]:
    """Meanwhile, BRG202 for the tasks and futures of any asyncio loop, uvloop's too.

    An attribute of this one loop hides its method; a program that has set an exception handler is called as ever, and
    only listeners are told.
    """
    before: Callable[[dict[str, Any]], None] = loop.call_exception_handler

    def call_exception_handler(context: dict[str, Any]) -> None:
        if is_of_an_exit(context):
            return
        before(context)
        report(loop, context, log=loop.get_exception_handler() is None)

    loop.call_exception_handler = call_exception_handler  # type: ignore[method-assign]
    try:
        yield
    finally:
        if vars(loop).get("call_exception_handler") is call_exception_handler:
            del loop.call_exception_handler


# -- asyncio.run_coroutine_threadsafe ----------------------------------------------------------------------------------

#: The code of the callback that run_coroutine_threadsafe sends through the door.
THREADSAFE: CodeType | None = next(
    (each for each in asyncio.run_coroutine_threadsafe.__code__.co_consts if getattr(each, "co_name", "") == "callback"),
    None,
)


class _ThreadsafeFuture(AttendedFuture):
    """What asyncio.run_coroutine_threadsafe returns; asyncio's own callback asks for nothing."""

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        if qualname_of(fn).endswith("._call_check_cancel"):
            Future.add_done_callback(self, fn)
        else:
            super().add_done_callback(fn)


def attend(loop: AbstractEventLoop, callback: Any) -> None:
    """A callback of this code comes through the door: its future is made attentive."""
    held = dict(zip(callback.__code__.co_freevars, callback.__closure__ or (), strict=True))
    future, coro = held["future"].cell_contents, held["coro"].cell_contents
    if type(future) is Future:
        future.__class__ = _ThreadsafeFuture
        name = qualname_of(coro)
        advice = "asyncio.run_coroutine_threadsafe(...).result()"
        last = trail_here()
        ours = cast(_ThreadsafeFuture, future)
        ours.renew_lock()  # no thread can wait for it yet
        ours.tell_if_lost(name, advice, submit_site(), last)
        if last is not None and last.job is not None:
            loop.call_soon_threadsafe(last.settle)
