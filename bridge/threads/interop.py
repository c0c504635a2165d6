"""The worker threads of anyio, trio and asgiref, and what these libraries look for in bridge's.

    anyio.to_thread, trio.to_thread, sync_to_async ──> thread ──> sent_by: the loop     watch_over: its cancellation
    bridge's worker ── introduce ──> anyio.from_thread, async_to_sync ──> the worker's job: its loop, its cancellation

Each library notes in thread-locals of its own which loop has sent the work. What is set in bridge's threads is set once
for each thread and looks the job up when it is used, so that a job pays nothing for it. Nothing is imported here that
the program has not imported, and where a library is not as it is known here, its functions say themselves that this is
none of their threads.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio.from_thread
import anyio.lowlevel
from anyio.from_thread import check_cancelled as check_cancelled_in_anyios

from bridge.callables import wrap
from bridge.errors import WrongThread
from bridge.threads.here import current_job, here
from bridge.threads.job import check_cancelled
from bridge.threads.loaded import from_loaded

if TYPE_CHECKING:
    from bridge.threads.calls import Call
    from bridge.threads.host import Host
    from bridge.threads.job import Job
    from bridge.threads.worker import Worker

_modules = sys.modules
#: The thread-locals of others are looked at as dictionaries: asking for an attribute that is not there costs 20 times as
#: much. This one stands for those that a library does not have.
_none = threading.local()
_anyios: threading.local = getattr(anyio.from_thread, "threadlocals", _none)

# -- their threads -------------------------------------------------------------------------------------------------------


def sent_by() -> Any:
    """The loop, of asyncio or a TrioToken, that has sent its work to the calling thread of anyio or asgiref; or None."""
    token = _anyios.__dict__.get("current_token")
    if token is not None:
        return getattr(token, "native_token", token)  # before anyio 4.11 the token is the loop
    local = _asgirefs().__dict__
    if local.get("main_event_loop_pid") != os.getpid() or not _works_for_asgiref():
        return None
    loop = local.get("main_event_loop")
    return None if loop is None or loop.is_closed() else loop


def _works_for_asgiref() -> bool:
    """Does the calling thread run what `sync_to_async` has sent? asgiref leaves its notes there when the work is done."""
    handler = getattr(getattr(from_loaded("asgiref.sync", "SyncToAsync"), "thread_handler", None), "__code__", None)
    frame = sys._getframe(1) if handler is not None else None
    while frame is not None and frame.f_code is not handler:
        frame = frame.f_back
    return frame is not None


def is_trios() -> bool:
    """Is the calling thread one of trio's, at work? True if only trio can know."""
    data = from_loaded("trio._threads", "PARENT_TASK_DATA")
    return "token" in data.__dict__ if data is not None else from_loaded("trio.from_thread", "run_sync") is not None


def watch_over(call: Call) -> Callable[[], object] | None:
    """In a thread that no worker of bridge runs, before `call` is sent: have it cancelled with the work that asks for it.

    What is returned raises once that work is cancelled; None in a thread of the program's own.
    """
    if "current_token" in _anyios.__dict__:
        return check_cancelled_in_anyios
    if "asgiref.sync" in _modules:
        local = _asgirefs().__dict__
        tasks = local.get("task_context")
        if tasks is not None and local.get("main_event_loop") is call.host.loop:
            call.fn = _Listed(call.fn, tasks)
    return check_of_trio()


def check_of_this_thread() -> Callable[[], object] | None:
    """In a thread that is no worker of bridge: what raises once the work that another library has sent is cancelled."""
    return check_cancelled_in_anyios if "current_token" in _anyios.__dict__ else check_of_trio()


def check_of_trio() -> Callable[[], object] | None:
    """In a thread of trio's, at work: what raises once the work is cancelled."""
    return _trios_check() if "trio._threads" in _modules and is_trios() else None


def check_cancelled_there() -> None:
    """`bridge.check_cancelled` in a thread that is none of bridge's: raise what the library whose thread it is raises."""
    if "current_token" in _anyios.__dict__:
        check_cancelled_in_anyios()
    elif is_trios():
        check = _trios_check()
        if check is not None:
            check()


def _trios_check() -> Callable[[], object] | None:
    check = from_loaded("trio.from_thread", "check_cancelled")
    try:
        check()
    except RuntimeError:  # "this thread wasn't created by Trio"
        return None
    return check  # type: ignore[no-any-return]


def _asgirefs() -> threading.local:
    local: threading.local = getattr(from_loaded("asgiref.sync", "SyncToAsync"), "threadlocal", _none)
    return local


class _Listed:
    """A function whose task is among those that asgiref cancels when the work that asks for it is cancelled."""

    def __init__(self, fn: Callable[..., Any], tasks: list[Any]):
        wrap(self, fn)  # for messages
        self._fn = fn
        self._tasks = tasks

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        value = self._fn(*args, **kwargs)
        return self._await(value) if hasattr(type(value), "__await__") else value

    async def _await(self, awaitable: Awaitable[Any]) -> Any:
        task = asyncio.current_task()
        self._tasks.append(task)
        try:
            return await awaitable
        finally:
            self._tasks.remove(task)


# -- ours ----------------------------------------------------------------------------------------------------------------


def introduce_to_anyio() -> None:
    """In a worker's thread, once: let anyio find the loop of whatever job it runs."""
    _anyios.__dict__.update(_FOR_ANYIO)


def _in_child() -> None:
    """In the child of a fork, the thread that was a worker's is one of the program's own."""
    anyios, asgirefs = _anyios.__dict__, _asgirefs().__dict__
    if anyios.get("current_async_backend") is _FromThread:
        del anyios["current_token"], anyios["current_async_backend"]
    if asgirefs.get("main_event_loop") is _senders_loop:
        del asgirefs["main_event_loop"], asgirefs["main_event_loop_pid"], asgirefs["task_context"]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def introduce_to_asgiref(worker: Worker) -> None:
    """As `introduce_to_anyio`, for asgiref, which is loaded."""
    tasks = _Tasks()
    tasks.worker = worker
    _asgirefs().__dict__.update(main_event_loop=_senders_loop, main_event_loop_pid=os.getpid(), task_context=tasks)
    worker.introduced = True


@contextmanager
def introduced(worker: Worker) -> Iterator[None]:
    """In a thread that `worker` has for one job only."""
    places = _anyios.__dict__, _asgirefs().__dict__
    before = [dict(place) for place in places]
    introduce_to_anyio()
    introduce_to_asgiref(worker)
    try:
        yield
    finally:
        for place, attributes in zip(places, before, strict=True):
            place.clear()
            place.update(attributes)


class _FromThread:
    """What of an anyio backend `anyio.from_thread` calls in a worker thread, answered by the portal of its job."""

    @staticmethod
    def run_async_from_thread(func: Callable[..., Any], args: tuple[Any, ...], token: object) -> Any:
        return _call(func, args)

    @staticmethod
    def run_sync_from_thread(func: Callable[..., Any], args: tuple[Any, ...], token: object) -> Any:
        return _call(_Unawaited(func), args)[0]

    @staticmethod
    def check_cancelled() -> None:
        check_cancelled()


def _token() -> Any:
    kind: Any = getattr(anyio.lowlevel, "EventLoopToken", None)
    return None if kind is None else kind(_FromThread, None)


#: What anyio finds in a worker's thread; the backend by itself is for versions before 4.11.
_FOR_ANYIO: dict[str, Any] = {"current_token": _token(), "current_async_backend": _FromThread}


def _call(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    from bridge.threads.portal import Portal

    return Portal(_origin()).call(fn, *args)


def _origin() -> Host:
    job = current_job()
    if job is None or job.origin is None:
        raise WrongThread(
            "this worker thread runs a function that no loop has sent, so there is no loop to call. "
            "Send it with bridge.to_thread(...), or hand it a portal: `with bridge.background_loop() as portal`."
        )
    return job.origin


class _Unawaited:
    """A function whose result is handed over as it is, be it awaitable."""

    def __init__(self, fn: Callable[..., Any]):
        wrap(self, fn)  # for messages
        self._fn = fn

    def __call__(self, *args: Any) -> tuple[Any]:
        return (self._fn(*args),)


class _SendersLoop(asyncio.AbstractEventLoop):
    """What `async_to_sync` finds in the thread of any worker: as much of a loop as it uses, namely that of the job."""

    def is_running(self) -> bool:
        loop = self._loop()
        return loop is not None and loop.is_running()

    def is_closed(self) -> bool:
        return not self.is_running()

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> asyncio.Handle:
        loop = self._loop()
        if loop is None:
            raise RuntimeError("no asyncio loop has sent this work")  # asgiref goes on with a loop of its own
        worker = here.worker
        if worker is not None:
            worker.introduced = False  # what asgiref runs in this thread now puts another loop in the place of this
        return loop.call_soon_threadsafe(callback, *args, **kwargs)

    def create_task(self, coro: Any, **kwargs: Any) -> asyncio.Task[Any]:
        """On the loop."""
        return asyncio.get_running_loop().create_task(coro, **kwargs)

    def _loop(self) -> asyncio.AbstractEventLoop | None:
        job = current_job()
        loop = None if job is None or job.origin is None else job.origin.loop
        return loop if isinstance(loop, asyncio.AbstractEventLoop) else None


_senders_loop: _SendersLoop = _SendersLoop()  # type: ignore[abstract]


class _Tasks(list[Any]):
    """The tasks, on the loop, for which `async_to_sync` waits in the thread of a worker. They end with its job."""

    __slots__ = ("worker",)
    worker: Worker

    def append(self, task: Any) -> None:
        """On the loop, which is also where jobs are cancelled."""
        super().append(task)
        job = self.worker.job
        if job is not None:
            job.remote = self
            if job.cancelling is not None:
                task.cancel()

    def cancel(self, job: Job, kill: bool) -> None:
        for task in list(self):
            task.cancel()
