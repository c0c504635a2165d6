"""Calls from a thread that does not run the loop (BRG301): told, and handed over or refused.

In: what was called, in the calling thread, before anything has changed. Out, in production: the event, and the loop does
what was asked on its own thread. In debug mode: the event each time, and WrongThread.
"""

from __future__ import annotations

import sys
import threading
from typing import Any, NoReturn

from bridge.diagnostics.advice import threadsafe
from bridge.diagnostics.events import Event, emit
from bridge.diagnostics.places import place_of, submit_site
from bridge.diagnostics.stacks import capture
from bridge.errors import WrongThread


def tell(loop: Any, method: str) -> None:
    """The call will be handed over."""
    emit(_event_of(loop, method, "it was handed over to the loop's thread"))


def refuse(loop: Any, method: str, *, told: bool) -> NoReturn:
    """The call is refused, because the loop is in debug mode. `told`: with an event besides."""
    event = _event_of(loop, method, "it was refused, and nothing has changed")
    if told:
        emit(event, every_time=True)
    raise WrongThread(
        f"Non-thread-safe operation invoked on an event loop other than the current one: {event.headline}. "
        f"Write {event.advice}"
    )


def _event_of(loop: Any, method: str, what_became: str) -> Event:
    site = submit_site()
    place = None if site is None else place_of(site)
    thread = threading.current_thread().name
    where = "" if place is None else f", at {place}: {place.source}" if place.source else f", at {place}"
    return Event(
        code="BRG301",
        headline=f"{method} was called in thread {thread!r}, which does not run the loop{where}",
        details=(
            f"the loop runs in thread {_name_of(loop.guard)!r}; {what_became}",
            "stack, innermost first:",
            *(f"  {line}" for line in capture(sys._getframe(2)).lines()),
        ),
        advice=threadsafe(site) if site is not None else "loop.call_soon_threadsafe(...)",
        place=place,
        attributes={"bridge.method": method, "thread.name": thread},
    )


def _name_of(ident: int | None) -> str:
    return next((each.name for each in threading.enumerate() if each.ident == ident), "another one")
