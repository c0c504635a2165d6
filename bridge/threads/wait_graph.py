"""Who waits for whom: what a blocked thread waits for, as its frames tell, and which threads could answer it.

    a thread's innermost frames ──> Wait(what, who could answer) ──> find_deadlock: threads none of which can go on

In: frames of all threads, in the watchdog's thread, while everything else may go on. Out: a Deadlock, or None. Nobody is
asked and no lock is taken: what is read may be old by the time it is looked at, and a thread that has gone on meanwhile
has other frames at the next look. What cannot be followed (a lock, an event, a queue) counts as a thread that goes on.

A wait knows groups of threads: it can end if in each group there is one that goes on. Threads are taken to be stuck until
one is found that is not; what is left then waits for itself.
"""

from __future__ import annotations

import concurrent.futures
import threading
from asyncio.base_events import BaseEventLoop
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from types import CodeType, FrameType, FunctionType
from typing import Any, NamedTuple

from bridge.callables import name_of, qualname_of
from bridge.diagnostics.places import PLUMBING
from bridge.diagnostics.stacks import Stack, capture
from bridge.threads import calls
from bridge.threads.calls import Call, PortalFuture
from bridge.threads.deadlock import Deadlock, Participant, name_of_thread, thread_of
from bridge.threads.future_job import FutureJob
from bridge.threads.loaded import from_loaded
from bridge.threads.pool import WorkerPool, pools
from bridge.threads.safe_future import SafeFuture

#: Frames that are looked at between a thread's innermost one and the call that waits.
_DEEPEST = 12
#: Threads that a circle may have; a loop's callbacks that are looked through.
_MOST_THREADS = 64
_MOST_CALLBACKS = 4096

Frames = dict[int, FrameType]


class Wait(NamedTuple):
    """`what` a thread waits for, in words; groups of threads that could answer; whether it gives up by itself.

    `answer` is what bridge can answer in the stead of the others.
    """

    what: str
    groups: tuple[frozenset[int], ...]
    timed: bool = False
    answer: Call | FutureJob | None = None
    #: What the loop would have to run, if that is known.
    coroutine: Any = None


def find_deadlock(ident: int, frames: Frames) -> Deadlock | None:
    """The circle of waits that the blocked thread `ident` is part of, or waits for; None if somebody may still go on.

    `frames` as `frames_of_others` gives them. A wait with a timeout ends by itself, so it is part of no circle,
    unless a loop's own thread waits for that very loop: then nothing can come of it.
    """
    waits = _all_waits(ident, frames)
    if waits is None:
        return None
    stuck = set(waits)
    while True:
        free = {each for each in stuck if not any(group and group <= stuck for group in waits[each].groups)}
        if not free:
            break
        stuck -= free
    if ident not in stuck:
        return None
    return Deadlock(tuple(_participant(each, waits[each], frames) for each in _in_order(ident, waits, stuck)))


def _all_waits(ident: int, frames: Frames) -> dict[int, Wait] | None:
    """The waits of all threads that can be reached, of those that do wait."""
    waits: dict[int, Wait] = {}
    to_see, seen = [ident], {ident}
    loops: dict[Any, int] = {}
    while to_see and len(seen) <= _MOST_THREADS:
        each = to_see.pop()
        if each not in frames:
            continue
        if not loops:
            loops = _loops(frames)
        wait = _wait_of(each, frames, loops)
        if wait is None or (wait.timed and wait.groups != (frozenset((each,)),)):
            if each == ident:
                return None
            continue
        waits[each] = wait
        more = {other for group in wait.groups for other in group} - seen
        seen |= more
        to_see += more
    return waits


def _in_order(ident: int, waits: dict[int, Wait], stuck: set[int]) -> list[int]:
    """The blocked thread first, then each after one that waits for it."""
    order = [ident]
    for each in order:
        groups = [group for group in waits[each].groups if group <= stuck]
        order += [other for other in sorted(groups[0]) if other not in order]
    return order


def _participant(ident: int, wait: Wait, frames: Frames) -> Participant:
    frame = frames.get(ident)
    stack = Stack(()) if frame is None else capture(frame)
    return Participant(ident, wait.what, stack, wait.timed, wait.answer, wait.coroutine)


def _loops(frames: Frames) -> dict[Any, int]:
    """The asyncio loops written in Python that run just now, and their threads."""
    found: dict[Any, int] = {}
    for ident, innermost in frames.items():
        frame: FrameType | None = innermost
        while frame is not None:
            if frame.f_code is _RUN_FOREVER:
                found[frame.f_locals.get("self")] = ident
                break
            frame = frame.f_back
    return found


# -- what a thread waits for ---------------------------------------------------------------------------------------------


def _wait_of(ident: int, frames: Frames, loops: dict[Any, int]) -> Wait | None:
    frame: FrameType | None = frames[ident]
    for _ in range(_DEEPEST):
        if frame is None:
            return None
        code = frame.f_code
        reader = _READERS.get(code)
        if reader is not None:
            return reader(frame.f_locals, frames, loops)
        if not code.co_filename.startswith(_INSIDE):
            return None
        frame = frame.f_back
    return None


def _future(local: Any, frames: Frames, loops: dict[Any, int]) -> Wait | None:
    """In `Future.result` or `Future.exception`."""
    future, timeout = local.get("self"), local.get("timeout")
    if future is None or future.done():
        return None
    found = _answering(future, frames, loops)
    return None if found is None else found._replace(timed=timeout is not None)


def _futures(local: Any, frames: Frames, loops: dict[Any, int]) -> Wait | None:
    """In `concurrent.futures.wait`."""
    pending = [future for future in local.get("fs") or () if not future.done()]
    found = [_answering(future, frames, loops) for future in pending]
    if not found or any(each is None for each in found):
        return None
    known = [each for each in found if each is not None]
    groups = tuple(group for each in known for group in each.groups)
    if local.get("return_when") != concurrent.futures.ALL_COMPLETED and len(known) > 1:
        groups = (frozenset().union(*groups),)
    what = f"the first of {len(known)} futures" if len(groups) == 1 and len(known) > 1 else f"{len(known)} futures"
    return Wait(what, groups, timed=local.get("timeout") is not None, answer=known[0].answer)


def _call(local: Any, frames: Frames, loops: dict[Any, int]) -> Wait | None:
    """In a portal's call."""
    call = local.get("call")
    return None if not isinstance(call, Call) or call.answered else _of_call(call)


def _joined(local: Any, frames: Frames, loops: dict[Any, int]) -> Wait | None:
    """In `Thread.join`."""
    thread = local.get("self")
    if thread is None or thread.ident is None or not thread.is_alive():
        return None
    return Wait(
        f"the end of thread {thread.name!r}", (frozenset((thread.ident,)),), timed=local.get("timeout") is not None
    )


def _slot(local: Any, frames: Frames, loops: dict[Any, int]) -> Wait | None:
    """In the wait of a worker that comes back from a portal call, for one of its pool's slots."""
    pool = local.get("self")
    return _of_pool(pool, f"a place among the workers of {pool.name!r}") if isinstance(pool, WorkerPool) else None


_RUN_FOREVER = BaseEventLoop.run_forever.__code__
_INSIDE = (*PLUMBING, threading.__file__, concurrent.futures.__file__)
_READERS: dict[CodeType, Callable[[Any, Frames, dict[Any, int]], Wait | None]] = {
    Future.result.__code__: _future,
    Future.exception.__code__: _future,
    SafeFuture._wait.__code__: _future,
    concurrent.futures.wait.__code__: _futures,
    calls._lend_and_ask.__code__: _call,
    calls._ask_interruptibly.__code__: _call,
    calls._wait_for_each.__code__: _call,
    threading.Thread.join.__code__: _joined,
    WorkerPool.reclaim.__code__: _slot,
}


# -- who could answer it -------------------------------------------------------------------------------------------------


def _answering(future: Any, frames: Frames, loops: dict[Any, int]) -> Wait | None:
    """The wait for a concurrent future."""
    if isinstance(future, PortalFuture):
        return _of_call(future._call)
    job = getattr(future, "_job", None)
    if isinstance(job, FutureJob):
        return _of_job(job)
    return _of_pool_thread(future, frames) or _of_chained(future) or _of_callback(future, loops)


def _of_call(call: Call) -> Wait | None:
    ident = thread_of(call.host)
    if ident is None:
        return None
    return Wait(f"{name_of(call.named)} on {call.host!r}", (frozenset((ident,)),), answer=call)


def _of_job(job: FutureJob) -> Wait | None:
    for pool in list(pools):
        for worker in list(pool.workers):
            if worker.job is job and worker.thread.ident is not None:
                what = f"{name_of(job.named)} in thread {worker.thread.name!r}"
                return Wait(what, (frozenset((worker.thread.ident,)),), answer=job)
        if job in pool.jobs:
            return _of_pool(pool, f"{name_of(job.named)}, which is queued in {pool.name!r}", job)
    call = job.call
    if job.remote is None or call is None or call.answered:
        return None
    asked = _of_call(call)  # it runs in a worker process, which has called back
    return asked and asked._replace(what=f"{name_of(job.named)} in a worker process, which waits for {asked.what}")


def _of_pool(pool: WorkerPool, what: str, job: FutureJob | None = None) -> Wait | None:
    """Any worker that has a slot and ends its function would do; if there is one to be had, all is well."""
    busy = [worker for worker in list(pool.workers) if worker.has_slot and worker.thread.ident is not None]
    if len(busy) < pool.max_workers or any(worker.job is None for worker in busy):
        return None
    return Wait(what, (frozenset(worker.thread.ident or 0 for worker in busy),), answer=job)


def _of_pool_thread(future: Any, frames: Frames) -> Wait | None:
    """A ThreadPoolExecutor's future whose function runs."""
    run = getattr(from_loaded("concurrent.futures.thread", "_WorkItem"), "run", None)
    run_item = getattr(run, "__code__", None)
    for ident, innermost in frames.items():
        frame: FrameType | None = innermost
        while frame is not None:
            if frame.f_code is run_item:
                item = frame.f_locals.get("self")
                if getattr(item, "future", None) is future:
                    return Wait(f"{name_of(getattr(item, 'fn', None))} in another thread", (frozenset((ident,)),))
                break
            frame = frame.f_back
    return None


def _of_chained(future: Any) -> Wait | None:
    """One that a task of an asyncio loop will answer: `run_coroutine_threadsafe`, once the loop has come to it."""
    for callback in list(getattr(future, "_done_callbacks", ())):
        if type(callback) is FunctionType and callback.__name__ == "_call_check_cancel":
            cells = dict(_closure(callback))
            ident = getattr(cells.get("source_loop"), "_thread_id", None)
            if ident is not None:
                task = cells.get("source")
                coroutine = task.get_coro() if task is not None and hasattr(task, "get_coro") else None
                return _of_loop(cells["source_loop"], ident, coroutine)
    return None


def _of_callback(future: Any, loops: dict[Any, int]) -> Wait | None:
    """Likewise before the loop has come to it: the callback stands among those that the loop is to run."""
    for loop, ident in loops.items():
        with suppress(RuntimeError):  # it goes on
            for handle in list(islice(getattr(loop, "_ready", ()), _MOST_CALLBACKS)):
                cells = dict(_closure(getattr(handle, "_callback", None)))
                if any(each is future for each in cells.values()):
                    return _of_loop(loop, ident, cells.get("coro"))
    return None


def _of_loop(loop: Any, ident: int, coroutine: Any) -> Wait:
    name = "a coroutine" if coroutine is None else qualname_of(coroutine)
    return Wait(f"{name} on the loop of thread {name_of_thread(ident)!r}", (frozenset((ident,)),), coroutine=coroutine)


def _closure(callback: Any) -> Iterator[tuple[str, Any]]:
    if type(callback) is not FunctionType:
        return
    for name, cell in zip(callback.__code__.co_freevars, callback.__closure__ or (), strict=False):
        try:
            yield name, cell.cell_contents
        except ValueError:  # empty
            continue
