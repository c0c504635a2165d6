"""bridge's own event loop: asyncio's, with a door that many threads can use at once without waking it once for each.

    call_soon_threadsafe / post: _ready.append ── loop asleep, and nobody has woken it yet? ──> one byte to the self-pipe
    sleeper.select: note that we sleep -> look at _ready again -> poll -> awake

Owners: `_ready` is a deque that every thread appends to. `_nap` numbers the present sleep and is 0 while awake; only the
loop's thread writes it. `_woken` is the nap that somebody has ended. A waker appends, then reads `_nap`; the loop
writes `_nap`, then looks at `_ready`: one sees the other. A waker delayed between its byte and its note writes the number
of an old nap, which costs one byte later on and loses nothing. There is no lock, so all of it may be called from a signal
handler that has interrupted it.

A round of the loop runs as much as `len(_ready)` says at its beginning. `_Ready` says no more than `BATCH`, so that no
flood from threads keeps the loop from its own I/O and timers; the order of everything stays what it was.

Closing: `close` sets `_shut`, then puts a new deque in the place of `_ready`. A waker takes hold of the deque, then looks
at `_shut`: so all appends go to the old one. Nothing is taken out of that any more, and a waker that finds `_shut` set
after its append can tell: what is still in there will never run, and what is not has run.

This needs four private details of asyncio's selector loops (`_ready`, `_selector`, `_write_to_self`, `_ssock`). Where one
is missing (Windows' proactor, a Python to come) the loop stays a stock one, which is slower and otherwise the same.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError as ThreadCancelled
from contextvars import Context, copy_context
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

from anyio import Event, move_on_after

from bridge.errors import LoopClosed
from bridge.loop.hosts import host_of
from bridge.loop.sleeper import EpollSleeper, Sleeper
from bridge.threads.closing import report_stuck
from bridge.threads.inbox import Item
from bridge.threads.job import Job
from bridge.threads.pool import WorkerPool

if TYPE_CHECKING:  # what all of them have in common
    from asyncio import BaseEventLoop as StockLoop
elif sys.platform == "win32":
    from asyncio import ProactorEventLoop as StockLoop
else:
    from asyncio import SelectorEventLoop as StockLoop

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

_HANDLE_SLOTS = {"_callback", "_args", "_cancelled", "_loop", "_source_traceback", "_repr", "_context"}


class _LeanHandle(asyncio.Handle):
    """A Handle without the debug mode's bookkeeping, made in half the time."""

    __slots__ = ()

    def __init__(self, callback: Any, args: Any, loop: Any, context: Context | None):
        self._context = copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


#: Callbacks run before the loop looks at its I/O and timers again.
BATCH = 256


class _Ready(deque[Any]):
    """The ready queue, of which each round of the loop sees a bounded part."""

    __slots__ = ()

    def __len__(self) -> int:
        length = super().__len__()
        return min(BATCH, length)


def _details_are_known(loop: Any) -> bool:
    """Are the private parts of asyncio that the door is built on there, and of the kind we know?"""
    return (
        type(getattr(loop, "_ready", None)) is deque
        and isinstance(getattr(loop, "_selector", None), selectors.BaseSelector)
        and callable(getattr(loop, "_write_to_self", None))
        and hasattr(loop, "_ssock")
        and set(asyncio.Handle.__slots__) >= _HANDLE_SLOTS
    )


def _is_in(ready: deque[Any], item: object) -> bool:
    return any(left is item for left in list(ready))


class EventLoop(StockLoop):
    """A drop-in asyncio event loop whose door from other threads is coalesced, signal-safe and answers when it closes.

    Use it through `bridge.run`, or as a factory: `asyncio.Runner(loop_factory=bridge.new_event_loop)`, uvicorn's
    `--loop bridge:new_event_loop`, `anyio.run(..., backend_options={"loop_factory": bridge.new_event_loop})`.
    `run_in_executor(None, ...)` goes to bridge's worker threads unless `set_default_executor` was called.
    """

    _closed: bool
    _debug: bool
    _default_executor: Any
    _ready: deque[Any]
    _selector: Any
    _ssock: Any
    _csock: Any
    _process_self_data: Callable[[bytes], None]
    _check_closed: Callable[[], None]
    _check_default_executor: Callable[[], None]
    _check_callback: Callable[[Any, str], None]
    _bridge_door: Callable[[Item], None] | None

    def __init__(self, *args: Any):
        self._nap = 0
        self._woken = -1
        self._shut = False
        super().__init__(*args)
        if _details_are_known(self):
            self._ready = _Ready(self._ready)
            sleeper = EpollSleeper if EpollSleeper.can_serve(self, self._selector) else Sleeper
            self._selector = sleeper(self, self._selector)
            self._bridge_door = self._post
        else:
            self._bridge_door = None

    # -- the door ------------------------------------------------------------------------------------------------------

    def _post(self, item: Item) -> None:
        ready = self._ready
        if self._shut:
            raise LoopClosed(self._closed_message())
        ready.append(item)
        nap = self._nap
        if nap and self._woken != nap:
            self._write_to_self()
            self._woken = nap
        if self._shut and _is_in(ready, item):  # type: ignore[unreachable]  # closed since we looked
            raise LoopClosed(self._closed_message())

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As in asyncio; safe in signal handlers too. Raises LoopClosed, which is a RuntimeError."""
        ready = self._ready
        if self._bridge_door is None or self._debug or self._shut:
            if self._shut:
                raise LoopClosed(self._closed_message())
            handle: asyncio.Handle = super().call_soon_threadsafe(callback, *args, context=context)
            return handle
        handle = _LeanHandle(callback, args, self, context)
        ready.append(handle)
        nap = self._nap
        if nap and self._woken != nap:
            self._write_to_self()
            self._woken = nap
        if self._shut and _is_in(ready, handle):  # type: ignore[unreachable]  # closed since we looked
            raise LoopClosed(self._closed_message())
        return handle

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As in asyncio."""
        if self._bridge_door is None or self._debug or self._closed:
            handle: asyncio.Handle = super().call_soon(callback, *args, context=context)
            return handle
        handle = _LeanHandle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def _read_from_self(self) -> None:
        """One read for a wake-up is enough: should there be more, the selector says so again."""
        if self._bridge_door is None:
            super()._read_from_self()  # type: ignore[misc]
            return
        try:
            data = self._ssock.recv(4096)
        except (InterruptedError, BlockingIOError):
            return
        if data:
            self._process_self_data(data)

    def _write_to_self(self) -> None:
        """Ring. A pipe full of bytes that nobody has read yet would not ring again, so then make room first."""
        csock = self._csock
        if csock is None:
            return
        try:
            csock.send(b"\0")
        except BlockingIOError:
            self._read_from_self()
            super()._write_to_self()  # type: ignore[misc]
        except OSError:
            super()._write_to_self()  # type: ignore[misc]

    def _closed_message(self) -> str:
        return f"Event loop is closed: {self!r} has ended and runs nothing any more"

    # -- its threads ---------------------------------------------------------------------------------------------------

    def run_in_executor(self, executor: Any, func: Callable[[Unpack[Ts]], T], *args: *Ts) -> asyncio.Future[T]:
        """As in asyncio. With None and no default executor set, `func` runs in bridge's worker threads, with context."""
        if executor is not None or self._default_executor is not None:
            future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
            return future
        self._check_closed()
        self._check_default_executor()
        if self._debug:
            self._check_callback(func, "run_in_executor")
        return _ExecutorJob.submit(self, host_of(self).pool(), func, args)

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """As in asyncio: wait for what runs in the default executor, at most `timeout` seconds (None: no limit).

        What runs on after that is reported with its stack and left behind.
        """
        host = host_of(self)
        pool = host.pool_if_any()
        if pool is not None:
            await self._close_pool(pool, timeout if host.deadline is None else max(0.0, host.deadline - monotonic()))
        if sys.version_info >= (3, 12):
            await super().shutdown_default_executor(timeout)
        else:
            await super().shutdown_default_executor()

    async def _close_pool(self, pool: WorkerPool, timeout: float | None) -> None:
        empty = Event()
        pool.when_empty(lambda: self.call_soon_threadsafe(empty.set))
        pool.close()
        with move_on_after(timeout) as scope:
            await empty.wait()
        if scope.cancelled_caught and host_of(self).deadline is None:  # else the runner reports it
            report_stuck(pool)

    def close(self) -> None:
        """As in asyncio; whoever still waits for this loop, in whatever thread, is told LoopClosed."""
        if self._closed or self.is_running():
            super().close()
            return
        self._shut = True
        left: deque[Any] = deque()
        if self._bridge_door is not None:
            left, self._ready = self._ready, left
        super().close()
        host = self.__dict__.get("_bridge_host")
        if host is not None:
            host.close(f"{host!r} was closed")
            pool = host.pool_if_any()
            if pool is not None:
                pool.close()  # its threads end what they do, and leave
        for item in list(left):
            if isinstance(item, Item):
                item.refuse(LoopClosed(self._closed_message()))


class _ExecutorJob(Job, Item):
    """A job whose outcome goes into an asyncio future, for `run_in_executor`."""

    __slots__ = ("future", "loop")

    @classmethod
    def submit(
        cls, loop: EventLoop, pool: WorkerPool, fn: Callable[..., Any], args: tuple[Any, ...]
    ) -> asyncio.Future[Any]:
        job = cls(fn, args, {}, host_of(loop))
        job.loop = loop
        job.future = future = loop.create_future()
        future.add_done_callback(lambda future: future.cancelled() and pool.withdraw(job))
        pool.submit_job(job)
        return future

    loop: EventLoop
    future: asyncio.Future[Any]

    def deliver(self) -> None:
        try:
            self.origin.post(self)  # type: ignore[union-attr]
        except LoopClosed:
            pass  # nobody is left to be told

    def _run(self) -> None:
        future = self.future
        del self.future
        if future.done():
            return
        value, error = self.take_awaitable_outcome()
        if error is None:
            future.set_result(value)
        else:
            future.set_exception(_as_asyncio(error))


def _as_asyncio(error: BaseException) -> BaseException:
    """asyncio has its own CancelledError; a function that waits for a concurrent future raises the other one."""
    return asyncio.CancelledError(*error.args) if type(error) is ThreadCancelled else error


def new_event_loop() -> EventLoop:
    """A new `bridge.loop.EventLoop`, for every place that takes a loop factory."""
    return EventLoop()
