"""What a loop is asked for on its own thread: callbacks, timers, tasks and futures, each in three ways.

    plain    asyncio's, made leaner; a call from another thread is told (BRG301) and handed over
    checked  debug mode: what is made remembers who made it; a call from another thread raises WrongThread
    stock    asyncio's own, where its private parts are not as we know them, and when the loop is closed

Owner: the loop's thread, which alone comes past the guard. `guard` is its ident while it runs, None while it does not or
where nobody wants to know; it is looked at before anything changes.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio import Future, Task
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from heapq import heappush
from inspect import CO_COROUTINE
from threading import get_ident
from types import BuiltinFunctionType, CoroutineType, FrameType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVarTuple, Unpack, cast

from bridge.callables import async_kind, shown
from bridge.loop.debug import Creation, DebugFuture, DebugHandle, DebugTask, DebugTimerHandle, creation_stack
from bridge.loop.forgotten import remember_caller
from bridge.loop.ready import LeanHandle, LeanTimerHandle
from bridge.loop.waiters import wake_up_the_others
from bridge.loop.wrong_thread import refuse, tell

if TYPE_CHECKING:  # what all of them have in common
    from asyncio import BaseEventLoop as StockLoop
elif sys.platform == "win32":
    from asyncio import ProactorEventLoop as StockLoop
else:
    from asyncio import SelectorEventLoop as StockLoop

Ts = TypeVarTuple("Ts")


class SchedulingLoop(StockLoop):
    """asyncio's loop, whose ways of scheduling are cheaper, and know their thread."""

    _closed: bool
    _debug: bool
    _ready: deque[Any]
    _scheduled: list[asyncio.TimerHandle]
    _thread_id: int | None
    _task_factory: Any
    _check_closed: Callable[[], None]

    #: Are asyncio's private parts as we know them?
    _known: bool = False
    _plain: bool = False
    _checked: bool = False
    #: What `get_debug` says: not so while our own constructors call asyncio's.
    _shows_debug: bool = False
    #: The stack that the handle to be made next is to have.
    _making: Creation | None = None

    def __init__(self, *args: Any, diagnostics: bool):
        self._diagnostics: bool = diagnostics
        self.guard: int | None = None
        #: Threads whose call is being handed over, and was told.
        self._handing_over: set[int] = set()
        super().__init__(*args)

    def _choose_ways(self) -> None:
        """After a change of what they depend on."""
        open_ = self._known and not self._closed
        self._shows_debug = self._debug
        self._plain = open_ and not self._debug
        self._checked = open_ and self._debug
        self.guard = self._thread_id if self._known and (self._diagnostics or self._debug) else None

    def set_debug(self, enabled: bool) -> None:
        """As in asyncio."""
        super().set_debug(enabled)
        self._choose_ways()

    def get_debug(self) -> bool:
        """As in asyncio."""
        return self._shows_debug

    # -- callbacks -----------------------------------------------------------------------------------------------------

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """As in asyncio. From another thread: handed over and reported; in debug mode, WrongThread."""
        if self._plain:
            guard = self.guard
            if guard is not None and guard != get_ident():
                return self._call_soon_elsewhere(callback, args, context, sys._getframe(1))
            handle: asyncio.Handle = LeanHandle(callback, args, self, context)
        elif self._checked:
            guard = self.guard
            if guard is not None and guard != get_ident():
                if not _completes(args):
                    self._refuse()
                # It is done by now: were this refused, nobody would call its callbacks.
                return self._call_soon_elsewhere(callback, args, context, sys._getframe(1))
            handle = self._checked_handle(callback, args, context, "call_soon")
        else:
            return super().call_soon(callback, *args, context=context)
        self._ready.append(handle)
        return handle

    def _call_soon_elsewhere(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None, caller: FrameType
    ) -> asyncio.Handle:
        if not _completes(args):
            self._tell()
        elif get_ident() not in self._handing_over:
            self._tell(by_future=True)
            with self._handed_over():
                wake_up_the_others(cast("Future[Any]", args[0]), caller)
        return self.call_soon_threadsafe(callback, *args, context=context)

    def _checked_handle(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None, method: str
    ) -> asyncio.Handle:
        made = self._making  # for a task's first step, which needs no check
        if made is None:
            self._check_callback(callback, method)
            made = creation_stack(sys._getframe(2))
        return DebugHandle(callback, args, self, context, made)

    def _check_callback(self, callback: Any, method: str) -> None:
        """Raise TypeError, in asyncio's words, for coroutine functions and what cannot be called."""
        kind = type(callback)
        if kind is FunctionType:
            if not callback.__code__.co_flags & CO_COROUTINE and not callback.__dict__:  # where one is marked as such
                return
        elif kind is BuiltinFunctionType or (kind.__module__ == "_asyncio" and callable(callback)):
            return
        if type(callback) is CoroutineType or async_kind(callback) == "coroutine":
            raise TypeError(f"coroutines cannot be used with {method}()")
        if not callable(callback):
            raise TypeError(f"a callable object was expected by {method}(), got {shown(callback)}")

    # -- timers --------------------------------------------------------------------------------------------------------

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As in asyncio. From another thread: handed over and reported; in debug mode, WrongThread."""
        if delay is None:
            raise TypeError("delay must not be None")
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As in asyncio. From another thread: handed over and reported; in debug mode, WrongThread."""
        timer: asyncio.TimerHandle
        if when is None or not (self._plain or self._checked):
            timer = super().call_at(when, callback, *args, context=context)
            return timer
        guard = self.guard
        if guard is not None and guard != get_ident():
            if self._checked:
                self._refuse()
            self._tell()
            timer = LeanTimerHandle(when, callback, args, self, context)
            self.call_soon_threadsafe(self._schedule, timer)
            return timer
        if self._plain:
            timer = LeanTimerHandle(when, callback, args, self, context)
            kind = type(callback)
            function: Any = callback.__func__ if kind is MethodType else callback  # type: ignore[attr-defined]
            if type(function) is FunctionType:  # nearly always
                is_async = function.__code__.co_flags & CO_COROUTINE
            else:
                is_async = kind is not BuiltinFunctionType and _is_async_object(callback)
            if is_async and self._diagnostics:
                remember_caller(timer)
        else:
            self._check_callback(callback, "call_at")
            timer = DebugTimerHandle(when, callback, args, self, context, creation_stack(sys._getframe(1)))
        heappush(self._scheduled, timer)
        timer._scheduled = True
        return timer

    def _schedule(self, timer: Any) -> None:
        if not timer.cancelled():
            heappush(self._scheduled, timer)
            timer._scheduled = True

    # -- tasks and futures ---------------------------------------------------------------------------------------------

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None, **kwargs: Any) -> Task[Any]:
        """As in asyncio. From another thread: handed over and reported; in debug mode, WrongThread.

        A task factory is not asked then: what it does is meant for the loop's thread.
        """
        ours = self._task_factory is None and not kwargs
        if ours and self._plain:  # in another thread `call_soon`, which this calls, tells of it
            return Task(coro, loop=self, name=name, context=context)  # type: ignore[arg-type]
        guard = self.guard
        if guard is not None and guard != get_ident():
            return self._create_task_elsewhere(coro, name, context)
        if ours and self._checked:
            return self._create_checked_task(coro, name, context)
        if name is not None:
            kwargs["name"] = name
        if context is not None:
            kwargs["context"] = context
        return super().create_task(coro, **kwargs)  # which hands on to a task factory what it was given

    def _create_checked_task(self, coro: Any, name: Any, context: Context | None) -> Task[Any]:
        made = self._making = creation_stack(sys._getframe(2))
        self._shows_debug = False
        try:
            task = DebugTask(coro, loop=self, name=name, context=context)
        finally:
            self._making = None
            self._shows_debug = self._debug
        task.made = made
        return task

    def _create_task_elsewhere(self, coro: Any, name: Any, context: Context | None) -> Task[Any]:
        """The task's first step is what is handed over."""
        if self._checked:
            if hasattr(coro, "close"):
                coro.close()  # or it would be reported as forgotten, too
            self._refuse()
        self._tell()
        with self._handed_over():
            return Task(coro, loop=self, name=name, context=context)

    def create_future(self) -> Future[Any]:
        """As in asyncio."""
        if not self._checked:
            return Future(loop=self)
        self._shows_debug = False
        try:
            future = DebugFuture(loop=self)
        finally:
            self._shows_debug = self._debug
        future.made = creation_stack(sys._getframe(1))
        return future

    def stop(self) -> None:
        """As in asyncio. From another thread: handed over and reported; in debug mode, WrongThread."""
        guard = self.guard
        if guard is not None and guard != get_ident():
            if self._checked:
                self._refuse()
            self._tell()
            self.call_soon_threadsafe(super().stop)
        else:
            super().stop()

    # -- what runs -------------------------------------------------------------------------------------------------------

    @property
    def _current_handle(self) -> Any:
        """What runs just now, in debug mode: set by asyncio's `_run_once`, read by its exception handler."""
        return self._current

    @_current_handle.setter
    def _current_handle(self, handle: Any) -> None:
        self._current = handle
        #: The step of a task that a job takes, which it has forgotten when asyncio describes what was slow.
        self.step_that_runs: Any = getattr(handle, "_step", None)

    # -- the wrong thread ----------------------------------------------------------------------------------------------

    @contextmanager
    def _handed_over(self) -> Iterator[None]:
        """What the calling thread asks of the loop meanwhile has been told already."""
        ident = get_ident()
        self._handing_over.add(ident)
        try:
            yield
        finally:
            self._handing_over.discard(ident)

    def _refuse(self) -> NoReturn:
        refuse(self, told=self._diagnostics)

    def _tell(self, *, by_future: bool = False) -> None:
        if self._diagnostics and get_ident() not in self._handing_over:
            tell(self, by_future=by_future, every_time=self._checked)


def _is_async_object(callback: Any) -> bool:
    """Does calling this, which is no function, only make a coroutine? A partial of a plain function is known at once."""
    while type(callback) is partial:
        callback = callback.func
    return async_kind(callback) == "coroutine"


def _completes(args: tuple[Any, ...]) -> bool:
    """Are these the arguments of a callback that a future calls because it is done?"""
    return len(args) == 1 and asyncio.isfuture(args[0]) and args[0].done()
