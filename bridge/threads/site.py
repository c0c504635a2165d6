"""Which job, and from where: the line of the program that the error of a job should point to.

    submit: submit_site() ── (code, instruction), two pointers ──> job.site ┐
    await:  nothing at all; the task that waits still stands at its line ───┴─> note_site(error, job), if it fails

In: jobs. Out: notes on errors. Only what has failed pays for finding the line.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from time import sleep
from types import (
    AsyncGeneratorType,
    CoroutineType,
    FrameType,
    FunctionType,
    GeneratorType,
    MethodType,
)
from typing import TYPE_CHECKING, Any, TypeGuard

from bridge.diagnostics.places import PLUMBING, Place, Site, describe, place_of
from bridge.threads.here import current_job
from bridge.threads.loaded import from_loaded

if TYPE_CHECKING:
    from asyncio import Future, Task

    from bridge.threads.job import Job

#: How the attributes of what can await begin.
_AWAITING: dict[type, str] = {CoroutineType: "cr", AsyncGeneratorType: "ag", GeneratorType: "gi"}
#: Tasks that are asked who waits for them, until one has a line of the program.
_MOST_TASKS = 8
#: Seconds for which a thread lets a task go on that is about to wait, and how often.
_NAP, _MOST_NAPS = 0.001, 100
_FEW_NAPS = 10  # for a future that nobody may ever wait for
#: Awaits inside one another that are looked through.
_MOST_AWAITS = 1000


# -- awaited -------------------------------------------------------------------------------------------------------------


def site_of(job: Job) -> Site | None:
    """Where `job` was submitted, or where it is awaited; None if unknown. From any thread; never raises."""
    try:
        site: Site | None = getattr(job, "site", None)
        return waiting_site(job) if site is None else site
    except Exception:  # its task goes on meanwhile
        return None


def place_of_job(job: Job) -> Place | None:
    """The same as a line of the program; where the task that awaits `job` has none, the line that made its coroutine."""
    try:
        site = site_of(job)
        if site is not None:
            return place_of(site)
        origin = getattr(_coroutine_of(_task_of(job)), "cr_origin", None)
        return Place(*origin[0]) if origin and not origin[0][0].startswith(PLUMBING) else None
    except Exception:  # its task goes on meanwhile
        return None


def _task_of(job: Job) -> Any:
    task = _waiter_of(getattr(job, "_step", None)) or getattr(job, "task", None)
    return task or _who_waits_for(getattr(job, "future", None))  # run_in_executor's


def waiting_site(job: Job) -> Site | None:
    """The line at which the task that awaits `job` stands, or the task that waits for that one."""
    return _site_of_task(_task_of(job))


def _site_of_task(task: Any) -> Site | None:
    for _ in range(_MOST_TASKS):
        if task is None:
            return None
        site = _innermost(_coroutine_of(task))
        if site is not None:
            return site
        task = _who_waits_for(task)  # asyncio.gather(executor.run(...)): nothing but bridge in the task itself
    return None


def sender_here() -> Site | None:
    """The line that sent what the calling thread runs, or that awaits it; None if unknown. Never raises.

    The function may be so short that the task is only about to wait for it: it is given the time for that.
    """
    job = current_job()
    future = None if job is not None else _future_of_pool_thread(sys._getframe(1))
    if job is None and future is None:
        return None
    for nap in range(_MOST_NAPS):
        site = site_of(job) if job is not None else _site_of_waiters(future)
        awaited = job.awaited if job is not None else nap < _FEW_NAPS or bool(getattr(future, "_done_callbacks", ()))
        if site is not None or not awaited:
            return site
        sleep(_NAP)
    return None


def _future_of_pool_thread(frame: FrameType | None) -> Any:
    """The concurrent future of what runs in a thread of a ThreadPoolExecutor."""
    item = from_loaded("concurrent.futures.thread", "_WorkItem")  # it cannot be imported once the program is ending
    while frame is not None and item is not None and frame.f_code is not item.run.__code__:
        frame = frame.f_back
    return None if frame is None or item is None else getattr(frame.f_locals.get("self"), "future", None)


def _site_of_waiters(future: Any) -> Site | None:
    """The line of the task that awaits a concurrent future, through asyncio.wrap_future, which has its own."""
    try:
        held = (each for callback in list(future._done_callbacks) for each in _held_by(callback))
        return next((site for each in held if _is_future(each) and (site := _site_of_task(_who_waits_for(each)))), None)
    except Exception:  # its task goes on meanwhile
        return None


def _waiter_of(step: object) -> Any:
    """The asyncio task whose next step this callback is."""
    task = getattr(step, "__self__", None)
    return task if _is_task(task) else None


def _is_task(thing: object) -> TypeGuard[Task[Any]]:
    kind = from_loaded("asyncio", "Task")  # where asyncio is not loaded there is none
    return kind is not None and isinstance(thing, kind)


def _is_future(thing: object) -> TypeGuard[Future[Any]]:
    return bool(getattr(thing, "_asyncio_future_blocking", None) is not None and hasattr(thing, "_callbacks"))


def _coroutine_of(task: Any) -> Any:
    return task.get_coro() if _is_task(task) else getattr(task, "coro", None)  # trio


def _innermost(coro: Any) -> Site | None:
    """The innermost frame outside bridge in a chain of things that await one another."""
    found = None
    for _ in range(_MOST_AWAITS):
        kind = _AWAITING.get(type(coro))
        if kind is None:
            coro = _behind(coro)
            if coro is None:
                break
            continue
        frame: FrameType | None = getattr(coro, f"{kind}_frame")
        if frame is not None and not _is_plumbing(frame):
            found = frame.f_code, frame.f_lasti
        coro = getattr(coro, "gi_yieldfrom" if kind == "gi" else f"{kind}_await")
    return found


def _behind(awaited: Any) -> Any:
    """What a step of an async generator, or the iterator of a coroutine, belongs to."""
    if type(awaited).__module__ != "builtins":
        return None
    return next((each for each in gc.get_referents(awaited) if type(each) in _AWAITING), None)


def _is_plumbing(frame: FrameType) -> bool:
    if frame.f_code.co_filename.startswith(PLUMBING):
        return True
    module: str = frame.f_globals.get("__name__", "")
    return module.partition(".")[0] in ("trio", "anyio")


def _who_waits_for(task: Any) -> Any:
    """The task that will go on when `task` is done, through gather, wait, shield and task groups; None if unknown."""
    nursery = getattr(task, "parent_nursery", None)
    if nursery is not None:
        return nursery.parent_task  # trio
    futures = [task]
    for _ in range(_MOST_TASKS):
        futures, before = [], futures
        for future in before:
            for callback, _context in getattr(future, "_callbacks", None) or ():
                waiter = _waiter_of(callback) or _host_of(callback)
                if waiter is not None:
                    return waiter
                futures += [each for each in _held_by(callback) if _is_future(each)]
    return None


def _host_of(callback: Any) -> Any:
    """The task that has entered the task group to which this callback belongs."""
    for held in _held_by(callback):
        host = getattr(held, "_parent_task", None)  # asyncio.TaskGroup
        if host is None:
            host = getattr(getattr(held, "cancel_scope", None), "_host_task", None)  # anyio
        if _is_task(host):
            return host
    return None


def _held_by(callback: Any) -> Iterator[Any]:
    """What a callback was made with: its object, its arguments, its closure."""
    kind = type(callback)
    if kind is partial:
        yield from callback.args
    elif kind is FunctionType:
        for cell in callback.__closure__ or ():
            with suppress(ValueError):  # empty
                yield cell.cell_contents
    elif kind is MethodType or kind.__module__ in ("builtins", "_asyncio"):  # a task's next step is of the latter
        yield getattr(callback, "__self__", None)


# -- the note ------------------------------------------------------------------------------------------------------------


def note_site(error: BaseException, job: Job) -> None:
    """Add to `error` where `job` was submitted, or where it is awaited, as a note. Never raises; nothing if unknown."""
    try:
        site, how = getattr(job, "site", None), "submitted"
        if site is None:
            site, how = waiting_site(job), "awaited"
        if site is None:
            return
        note = f"{how} at {describe(site)}"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
    except Exception:  # an error that takes no notes is told without
        pass
