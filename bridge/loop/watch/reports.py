"""What the loop's watcher has to say, put into events."""

from __future__ import annotations

import asyncio
import threading
from types import FrameType
from typing import Any, Literal

from bridge.callables import name_of, qualname_of, written
from bridge.diagnostics.advice import offloaded, offloaded_callback
from bridge.diagnostics.events import AttributeValue, Event
from bridge.diagnostics.places import PLUMBING, Place, Site, place_of
from bridge.diagnostics.stacks import Stack, can_await, capture
from bridge.loop.forgotten import scheduled_at
from bridge.loop.watch.causes import Cause
from bridge.loop.watch.finalizers import finalizer_in
from bridge.loop.watch.views import Glance


def milliseconds(seconds: float) -> str:
    """As a reader would round it."""
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def blocked(
    glance: Glance,
    elapsed: float,
    cause: Cause,
    collected: Stack | None,
    other: FrameType | None,
    served: str | None = None,
) -> Event:
    """BRG101: one callback keeps the loop for `elapsed` seconds now. `collected`: where the collector was at work,
    `other`: what the thread executes that holds the GIL, `served`: the executor, if it is bridge's own loop for that."""
    stack = capture(glance.frame, glance.base)
    if cause is Cause.GARBAGE and collected is not None:
        stack = collected
    place = stack.place if other is None else capture(other).place
    where = f" at {_at(place)}"
    by = "" if other is None else " by another thread, which holds the GIL"
    finalizer = None if other is not None else finalizer_in(stack)
    if finalizer is not None:
        by = f" by {finalizer}"
        if place != place_of(finalizer.site):
            by += f" ({place_of(finalizer.site)})"
    advice = _advice(stack, cause, _library(glance), glance.frame) if finalizer is None else finalizer.advice
    if other is None and finalizer is None and cause is not Cause.GARBAGE and stack.shows_only_plumbing:
        # No line of the program has called it, and those of bridge and asyncio are not to be changed.
        place, where = None, ""
        by = f" by {what_runs(glance, stack)}, which the loop calls itself"
        advice = _advice_for(glance, cause)
    loop = "the loop"
    if served is not None:
        loop = f"the loop that serves {served!r}"
        advice = "a queue.SimpleQueue, or another thread, for what takes long: all calls of the executor wait for it"
    return Event(
        code="BRG101",
        headline=f"{loop} has been blocked for {milliseconds(elapsed)}{by}{where}",
        details=(f"cause: {cause.value}", *_task(glance, stack), "stack, innermost first:", *stack.indented()),
        advice=advice,
        place=place,
        attributes={"bridge.duration": elapsed, "bridge.cause": cause.name.lower(), **_attributes(glance)},
    )


def recovered(place: Place | None, elapsed: float, attributes: dict[str, AttributeValue]) -> Event:
    """BRG102: the same callback has ended after `elapsed` seconds."""
    at = "" if place is None else f" at {place.with_source}"
    return Event(
        code="BRG102",
        headline=f"the loop goes on: it was blocked for {milliseconds(elapsed)}{at}",
        place=place,
        attributes={**attributes, "bridge.duration": elapsed},
    )


def stalled(glance: Glance, elapsed: float, ranked: list[tuple[str, Place | None, float]]) -> Event:
    """BRG103: many callbacks of one turn take `elapsed` seconds together; `ranked`: what, where, which share of it."""
    many = f"{glance.callbacks} callbacks" if glance.callbacks else "many callbacks"
    lines = [f"  {share:4.0%} {what} at {_at(place)}" for what, place, share in ranked]
    return Event(
        code="BRG103",
        headline=f"one turn of the loop has taken {milliseconds(elapsed)}, for {many}; the longest: {_at(ranked[0][1])}",
        details=("what was seen, and how often:", *lines),
        advice="await asyncio.sleep(0) between parts of the work, or do many of them in one bridge.to_thread(...)",
        place=ranked[0][1],
        attributes={"bridge.duration": elapsed, "bridge.callbacks": glance.callbacks},
    )


def held_up(seconds: float, stack: Stack | None) -> Event:
    """BRG104: the loop's thread could not run, because another thread held the GIL; its `stack`, if it is still there."""
    place = None if stack is None else stack.place
    return Event(
        code="BRG104",
        headline=f"the loop could not run for {milliseconds(seconds)}: another thread held the GIL, at {_at(place)}",
        details=() if stack is None else ("stack, innermost first:", *stack.indented()),
        advice=_advice(stack, Cause.OTHER_THREAD) if stack is not None else "",
        place=place,
        attributes={"bridge.duration": seconds, "bridge.cause": Cause.OTHER_THREAD.name.lower()},
    )


def what_runs(glance: Glance, stack: Stack) -> str:
    """The coroutine of the task, or the callback; of the coroutines that carry one another, the application's own."""
    coro = _coroutine(glance.task)
    if coro is not None:
        outermost = stack.outermost_coroutine
        return outermost[0].co_qualname if outermost else qualname_of(coro)
    callback = _callback_of(glance)
    return name_of(callback) if callback is not None else "a callback"


def _callback_of(glance: Glance) -> Any:
    """The function that the loop has called; None if it is not known."""
    return getattr(glance.callback, "_callback", None) or getattr(glance.callback, "named", None)  # bridge's items


def _at(place: Place | None) -> str:
    return "an unknown line" if place is None else place.with_source


def _library(glance: Glance) -> str:
    return "asyncio" if glance.task is None or isinstance(glance.task, asyncio.Task) else "trio"


def _advice(stack: Stack, cause: Cause, library: str = "asyncio", frame: FrameType | None = None) -> str:
    if cause is Cause.GARBAGE:
        return "gc.freeze() when the program has started, or keep fewer objects that refer to one another"
    to = "process" if cause.burns_cpu else "thread"
    site = stack.awaiting or stack.blamed
    own_code = cause is Cause.PYTHON and stack.sites[:1] == (site,)  # whatever it calls just now is short
    if site is not None and not own_code:
        line = offloaded(site, "process" if cause.burns_cpu else "thread", library, _frame_of(site, frame))
        if line is not None:
            return f"{line}{_where_to_await(site)}"
    function = "function" if site is None else _function(site)
    line = f"move what blocks out of {function} into a function, and await bridge.to_{to}(that_function, ...)"
    return line if site is None else f"{line}{_where_to_await(site)}"


def _advice_for(glance: Glance, cause: Cause) -> str:
    """What to write where the loop itself calls a function that blocks."""
    to: Literal["thread", "process"] = "process" if cause.burns_cpu else "thread"
    scheduled = scheduled_at(glance.callback)  # in debug mode
    line = None if scheduled is None else offloaded_callback(scheduled, to)
    if line is None:
        callback = _callback_of(glance)
        line = f"await bridge.to_{to}({written(callback) if callback is not None else 'that_function'}, ...)"
    return f"{line} in a coroutine, and have the loop run that"


def _where_to_await(site: Site) -> str:
    return "" if can_await(site) else f", in an async function, which {_function(site)} is not"


def _function(site: Site) -> str:
    return site[0].co_name


def _frame_of(site: Site, frame: FrameType | None) -> FrameType | None:
    """The frame of the stack from `frame` outwards that executes `site`."""
    while frame is not None and frame.f_code is not site[0]:
        frame = frame.f_back
    return frame


def _coroutine(task: Any) -> Any:
    if task is None:
        return None
    return task.get_coro() if isinstance(task, asyncio.Task) else getattr(task, "coro", None)


def _task(glance: Glance, stack: Stack) -> tuple[str, ...]:
    task = glance.task
    if task is None:
        return (f"callback {what_runs(glance, stack)}",)
    name = task.get_name() if isinstance(task, asyncio.Task) else getattr(task, "name", "?")
    origin = getattr(_coroutine(task), "cr_origin", None)
    spawned = f", spawned at {Place(*origin[0])}" if origin and not origin[0][0].startswith(PLUMBING) else ""
    return (f"task {name!r} running {what_runs(glance, stack)}{spawned}",)


def _attributes(glance: Glance) -> dict[str, AttributeValue]:
    name = glance.task.get_name() if isinstance(glance.task, asyncio.Task) else ""
    thread = threading.current_thread().name
    return {"bridge.task.name": name, "bridge.reported_by": thread}
