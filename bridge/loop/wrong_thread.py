"""Calls from a thread that does not run the loop (BRG301): told, and handed over or refused.

In: what was called, in the calling thread, before anything has changed. Out, in production: the event, and the loop does
what was asked on its own thread. In debug mode: the event each time, and WrongThread.

A program may do it a thousand times a second for years: what an event says of a line and a stack is worked out once. And
whatever goes wrong in here, the program's call goes on as if nobody had looked.
"""

from __future__ import annotations

import ast
import asyncio
import logging
import os
import sys
import threading
from functools import lru_cache
from types import FrameType
from typing import Any, NoReturn

from bridge.diagnostics.advice import called_at, sent_to_a_thread, threadsafe
from bridge.diagnostics.events import Event, emit
from bridge.diagnostics.places import PACKAGE, Site, is_stdlib, place_of, submit_site, where
from bridge.diagnostics.stacks import Stack, capture
from bridge.errors import WrongThread
from bridge.threads.site import sender_here

logger: logging.Logger = logging.getLogger("bridge.threads.BRG301")

#: What a program calls the objects whose methods look at their thread.
_OWNERS = {"DebugFuture": "future", "DebugTask": "task"}
#: What completes a future whose callbacks are called then; longer names than this are not shown.
_OF_A_FUTURE = "a method of a future"
_LONGEST = 60
_COMPLETING = ("set_result", "set_exception", "cancel")
#: Where the methods lie that look at their thread, and those that call them.
_OF_LOOPS = (os.path.join(PACKAGE, "loop", ""), os.path.join(os.path.dirname(asyncio.__file__), ""))


def tell(loop: Any, *, by_future: bool = False, every_time: bool = False) -> None:
    """The call will be handed over. `by_future`: a future calls its callbacks, which is why the loop was asked."""
    try:
        emit(_event_of(loop, "it was handed over to the loop's thread", by_future), every_time=every_time)
    except Exception:
        logger.debug("a call from a wrong thread could not be reported", exc_info=True)


def refuse(loop: Any, *, told: bool, changed: bool = False) -> NoReturn:
    """The call is refused, because the loop is in debug mode.

    `told`: with an event besides. `changed`: what was called had changed its own state before it came to the loop.
    """
    became = "nothing has changed"
    if changed:
        became = "what it had changed by then stands, and those who waited for it are woken up by the loop"
    message = "Non-thread-safe operation invoked on an event loop other than the current one"
    try:
        event = _event_of(loop, f"it was refused, and {became}", by_future=False)
        if told:
            emit(event, every_time=True)
        message = f"{message}: {event.headline}. Write {event.advice}"
    except Exception:
        logger.debug("a call from a wrong thread could not be reported", exc_info=True)
    raise WrongThread(message)


def _event_of(loop: Any, what_became: str, by_future: bool) -> Event:
    site = submit_site()
    sent = site is None or is_stdlib(site[0].co_filename)  # no line of the program is executed in this thread
    if sent:
        site = sender_here()
    place = None if site is None else place_of(site)
    method = _method(sys._getframe(1), None if sent else site, by_future)
    thread = threading.current_thread().name
    return Event(
        code="BRG301",
        headline=f"{method} was called in thread {thread!r}, which does not run the loop{_where(site, sent)}",
        details=(
            f"the loop runs in thread {_name_of(loop.guard)!r}; {what_became}",
            "stack, innermost first:",
            *_lines(capture(sys._getframe(2))),
        ),
        advice=_advice_to_the_sender(site, method) if sent else _advice(site),
        place=place,
        attributes={"bridge.method": method, "thread.name": thread},
    )


def _method(frame: FrameType | None, site: Site | None, by_future: bool) -> str:
    """What the program's line calls: the outermost function of asyncio's, or of the loop's, that it is in."""
    method = _OF_A_FUTURE
    while frame is not None and frame.f_code.co_filename.startswith(_OF_LOOPS):
        code = frame.f_code
        owner, _, name = code.co_qualname.rpartition(".")
        if not code.co_filename.startswith(PACKAGE):
            method = f"asyncio.{code.co_qualname}"
        elif not by_future:
            method = f"{_OWNERS.get(owner, 'loop')}.{name}"
        frame = frame.f_back
    return _name_in_source(site) if method is _OF_A_FUTURE and site is not None else method


@lru_cache(maxsize=256)
def _name_in_source(site: Site) -> str:
    """What is called at `site`, as its source has it."""
    call = called_at(site)
    name = "" if call is None else ast.unparse(call.func)
    return name if 0 < len(name) <= _LONGEST else _OF_A_FUTURE


@lru_cache(maxsize=256)
def _where(site: Site | None, sent: bool) -> str:
    return "" if site is None else where(place_of(site), "sent at" if sent else "at")


@lru_cache(maxsize=256)
def _advice(site: Site | None) -> str:
    return "loop.call_soon_threadsafe(...)" if site is None else threadsafe(site)


@lru_cache(maxsize=256)
def _advice_to_the_sender(site: Site | None, method: str) -> str:
    """Where a thread was given the very method, and no function of the program: `await bridge.to_thread(event.set)`."""
    owner, _, name = method.removeprefix("asyncio.").rpartition(".")
    for each in (name,) if method is not _OF_A_FUTURE else _COMPLETING:
        sent = None if site is None else sent_to_a_thread(place_of(site), each)
        if sent is not None:
            function, arguments = sent
            called = arguments if function.endswith(".call_soon") else (function, *arguments)
            from_a_thread = f"loop.call_soon_threadsafe({', '.join(called)})"
            return f"{function}({', '.join(arguments)}) on the loop, without a thread; from a thread {from_a_thread}"
    function = "future.set_result" if method is _OF_A_FUTURE else f"{owner.lower()}.{name}"
    return f"loop.call_soon_threadsafe({'function' if owner == 'loop' else function}, ...)"


@lru_cache(maxsize=256)
def _lines(stack: Stack) -> tuple[str, ...]:
    return stack.indented()


def _name_of(ident: int | None) -> str:
    return next((each.name for each in threading.enumerate() if each.ident == ident), "another one")
