"""bridge's own event loop: asyncio's, with a door that many threads can use at once without waking it once for each.

    call_soon_threadsafe / post: _ready.append ── loop asleep, and nobody has woken it yet? ──> one byte to the self-pipe
    sleeper.select: note that we sleep -> look at _ready again -> poll -> awake

Owners: `_ready` is a deque that every thread appends to. `_nap` numbers the present sleep and is 0 while awake; only the
loop's thread writes it. `_woken` is the nap that somebody has ended. A waker appends, then reads `_nap`; the loop
writes `_nap`, then looks at `_ready`: one sees the other. A waker delayed between its byte and its note writes the number
of an old nap, which costs one byte later on and loses nothing. There is no lock, so all of it may be called from a signal
handler that has interrupted it.

A round of the loop runs as much as `len(_ready)` says at its beginning. `Ready` says no more than `BATCH`, so that no
flood from threads keeps the loop from its own I/O and timers; the order of everything stays what it was.

Closing: `_closed` alone says whether the loop takes anything, and asyncio's own `close` sets it, as the last thing; what
comes before that is accepted. From then on nothing is taken out of `_ready` to be run, so a waker that finds `_closed`
set after its append can tell: what is still in there will never run, and what is not has run. `close` then puts an empty
deque in its place, and refuses what it finds in the old one.

This needs four private details of asyncio's selector loops (`_ready`, `_selector`, `_write_to_self`, `_ssock`). Where one
is missing (Windows' proactor, a Python to come) the loop stays a stock one, which is slower and otherwise the same.
"""

from __future__ import annotations

import asyncio
import selectors
import sys
from collections import deque
from collections.abc import Callable
from contextvars import Context
from threading import get_ident
from time import monotonic
from types import FunctionType
from typing import Any, ClassVar, TypeVar, TypeVarTuple, Unpack

from anyio import Event, move_on_after

from bridge.diagnostics.switch import first_threshold, wanted
from bridge.errors import LoopClosed
from bridge.loop.executor_job import ExecutorJob
from bridge.loop.forgotten import RemembersOrigins
from bridge.loop.hosts import host_of
from bridge.loop.lost import THREADSAFE, attend, is_of_an_exit, report
from bridge.loop.ready import HANDLE_SLOTS, LeanHandle, Ready, is_in
from bridge.loop.scheduling import SchedulingLoop
from bridge.loop.sleeper import EpollSleeper, Sleeper
from bridge.loop.watch.watching import Watch, watch_of
from bridge.threads.closing import report_stuck
from bridge.threads.inbox import Item
from bridge.threads.pool import WorkerPool

Ts = TypeVarTuple("Ts")
T = TypeVar("T")


def _details_are_known(loop: Any) -> bool:
    """Are the private parts of asyncio that the door is built on there, and of the kind we know?"""
    return (
        type(getattr(loop, "_ready", None)) is deque
        and isinstance(getattr(loop, "_selector", None), selectors.BaseSelector)
        and callable(getattr(loop, "_write_to_self", None))
        and hasattr(loop, "_ssock")
        and set(asyncio.Handle.__slots__) >= HANDLE_SLOTS
    )


class EventLoop(SchedulingLoop):
    """A drop-in asyncio event loop whose door from other threads is coalesced, signal-safe and answers when it closes.

    Use it through `bridge.run`, or as a factory: `asyncio.Runner(loop_factory=bridge.new_event_loop)`, uvicorn's
    `--loop bridge:new_event_loop`, `anyio.run(..., backend_options={"loop_factory": bridge.new_event_loop})`.
    `run_in_executor(None, ...)` goes to bridge's worker threads unless `set_default_executor` was called.
    """

    _default_executor: Any
    _exception_handler: Any
    _selector: Any
    _ssock: Any
    _csock: Any
    _process_self_data: Callable[[bytes], None]
    _check_default_executor: Callable[[], None]
    _bridge_door: Callable[[Item], None] | None

    #: For a loop that bridge has started for its own purposes: what it serves. What happens on it is reported only where
    #: the program can do something about it.
    serves: str | None = None
    #: What `slow_callback_duration` is at first, in seconds; None: what the environment says, or else as in asyncio.
    first_threshold: ClassVar[float | None] = None

    def __init__(self, *args: Any, diagnostics: bool | None = None):
        self._nap = 0
        self._woken = -1
        self._watch: Watch | None = None
        self._origins = RemembersOrigins()
        self._told = 0  # the exception context that was reported last
        try:
            super().__init__(*args, diagnostics=wanted(diagnostics))
        except BaseException:  # no descriptor is left: there is nothing to be closed
            self._closed = True
            raise
        self.slow_callback_duration: float = self.first_threshold or first_threshold()
        if _details_are_known(self):
            self._ready = Ready(self._ready)
            sleeper = EpollSleeper if EpollSleeper.can_serve(self, self._selector) else Sleeper
            self._selector = sleeper(self, self._selector)
            self._bridge_door = self._post
            self._known = True
        else:
            self._bridge_door = None
        self._choose_ways()

    def run_forever(self) -> None:
        """As in asyncio; with diagnostics on, it is watched for as long as it runs."""
        if self._closed or self.is_running():  # which raises
            super().run_forever()
            return
        if self._known and (self._diagnostics or self._debug):
            self.guard = get_ident()
        try:
            self._run_watched()
        finally:
            self.guard = None

    def _run_watched(self) -> None:
        if not self._diagnostics:
            super().run_forever()
            return
        watch = self._watch = watch_of(self, self._watch)
        watch.resume()
        try:
            with self._origins:
                super().run_forever()
        finally:
            watch.pause()

    @property
    def is_watched(self) -> bool:
        """Does it have itself watched, while it runs?"""
        return self._diagnostics

    @property
    def calls_the_watchdog(self) -> bool:
        """Does it say so when it wakes up, if nobody has looked at it for a while?"""
        return self._bridge_door is not None

    # -- the door ------------------------------------------------------------------------------------------------------

    def _post(self, item: Item) -> None:
        ready = self._ready
        if self._closed:
            raise LoopClosed(self._closed_message())
        ready.append(item)
        nap = self._nap
        if nap and self._woken != nap:
            self._write_to_self()
            self._woken = nap
        if self._closed and is_in(ready, item):  # type: ignore[unreachable]  # closed since we looked
            raise LoopClosed(self._closed_message())

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As in asyncio; safe in signal handlers too. Raises LoopClosed, which is a RuntimeError."""
        ready = self._ready
        if type(callback) is FunctionType and callback.__code__ is THREADSAFE and self._diagnostics:
            attend(self, callback)
        if self._plain:
            handle: asyncio.Handle = LeanHandle(callback, args, self, context)
        elif self._closed:
            raise LoopClosed(self._closed_message())
        elif self._checked:
            handle = self._checked_handle(callback, args, context, "call_soon_threadsafe")
        else:
            return super().call_soon_threadsafe(callback, *args, context=context)
        ready.append(handle)
        nap = self._nap
        if nap and self._woken != nap:
            self._write_to_self()
            self._woken = nap
        if self._closed and is_in(ready, handle):  # closed since we looked
            raise LoopClosed(self._closed_message())
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

    # -- what it is told of --------------------------------------------------------------------------------------------

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """As in asyncio; with diagnostics on, an exception that nobody asked for is told with its lines."""
        super().default_exception_handler(context)
        if self._diagnostics:
            self._told = id(context)
            report(self, context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """As in asyncio; listeners hear of such an exception even where the program has set a handler of its own."""
        if is_of_an_exit(context):
            return
        super().call_exception_handler(context)
        told, self._told = self._told, 0
        if self._exception_handler is not None and self._diagnostics and told != id(context):
            report(self, context, log=False)

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
        return ExecutorJob.submit(self, host_of(self).pool(), func, args)

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
        since = monotonic()
        empty = Event()
        pool.when_empty(lambda: self.call_soon_threadsafe(empty.set))
        pool.close()
        with move_on_after(timeout) as scope:
            await empty.wait()
        if scope.cancelled_caught and host_of(self).deadline is None:  # else the runner reports it
            report_stuck(pool, since)

    def close(self) -> None:
        """As in asyncio; whoever still waits for this loop, in whatever thread, is told LoopClosed."""
        if self._closed or self.is_running():
            super().close()
            return
        if self._watch is not None:
            self._watch.close()
        self._origins.end()  # an interruption may have kept it from ending
        super().close()
        self._plain = self._checked = False
        left: deque[Any] = deque()
        if self._bridge_door is not None:
            left, self._ready = self._ready, left
        host = self.__dict__.get("_bridge_host")
        if host is not None:
            host.close(f"{host!r} was closed")
            pool = host.pool_if_any()
            if pool is not None:
                pool.close()  # its threads end what they do, and leave
        for item in list(left):
            if isinstance(item, Item):
                item.refuse(LoopClosed(self._closed_message()))


def new_event_loop(*, diagnostics: bool | None = None) -> EventLoop:
    """A new `bridge.loop.EventLoop`, for every place that takes a loop factory.

    `diagnostics` says whether it is watched while it runs, and reports what goes wrong; None: yes, unless the environment
    has BRIDGE_DIAGNOSTICS=0.
    """
    return EventLoop(diagnostics=diagnostics)
