"""Portals: what a thread holds in its hand in order to call into a loop.

In: functions, coroutines, async context managers and async iterables from synchronous code. Out: their results, in the
calling thread. The waiting itself, and what happens when the loop ends meanwhile, is in `calls`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from inspect import CO_COROUTINE, iscoroutine, iscoroutinefunction
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

import anyio
import anyio.to_thread

from bridge.diagnostics.places import submit_site
from bridge.diagnostics.unclosed import Unleft
from bridge.threads.blocking import loop_runs_here, refuse_blocking
from bridge.threads.calls import Call, FutureCall, ask, lent_slot
from bridge.threads.host import Host
from bridge.threads.job import last_name, name_of
from bridge.threads.lost import is_told
from bridge.threads.session import EnteredContext, iterate
from bridge.threads.trail import last_in

P = ParamSpec("P")
T = TypeVar("T")


class Portal:
    """A way into one event loop from other threads. Get one from `bridge.portal()` or `bridge.background_loop()`.

    As a context manager (`with` or `async with`) it owns the coroutines started through it meanwhile: leaving waits for
    them, leaving by an exception cancels them first.
    """

    __slots__ = ("_host", "_keeps", "_started", "_unleft")

    def __init__(self, host: Host, keeps: object = None):
        self._host = host
        self._keeps = keeps  # what is not left before all of its portals are gone
        self._started: set[FutureCall] | None = None
        self._unleft: Unleft | None = None

    def __repr__(self) -> str:
        return f"<bridge.Portal into {self._host!r}>"

    @overload
    def call(self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    def call(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run `fn(*args, **kwargs)` on the loop, await what it returns if that is awaitable; return or raise its outcome.

        Blocks the calling thread, in the caller's contextvars context. In a worker the slot is lent out meanwhile. Ctrl-C
        in the main thread cancels the coroutine, waits for its clean-up and raises KeyboardInterrupt.

        Raises LoopClosed if the loop stops, closes or was left behind by a fork before it answered; WouldDeadlock on the
        loop's own thread, WrongThread on another loop's; concurrent.futures.CancelledError if the coroutine is cancelled.
        """
        host = self._host
        if loop_runs_here():
            refuse_blocking(host, f"portal.call({name_of(fn)})", f"{'await ' * _is_async(fn)}{last_name(fn)}(...)")
        if not callable(fn):
            raise not_a_function("portal.call", fn)
        call = Call(host, fn, args, kwargs)
        return ask(call)

    def call_soon_threadsafe(self, callback: Callable[..., object], /, *args: Any) -> None:
        """Run `callback(*args)` on the loop, once, after everything sent before. Does not wait; from any thread.

        Raises LoopClosed if the loop has ended. An exception in the callback goes to the loop's exception handler.
        """
        if not callable(callback):
            raise not_a_function("portal.call_soon_threadsafe", callback)
        if _is_async(callback):
            raise TypeError(
                f"{name_of(callback)} is a coroutine function: calling it would run nothing. "
                f"Write portal.run_coroutine_threadsafe({callback.__name__}(...)), or portal.call to wait for it."
            )
        self._host.call_soon(callback, args)

    def run_coroutine_threadsafe(self, coro: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the loop and return a `concurrent.futures.Future` for it; from any thread.

        Cancelling the future cancels the coroutine, whether it has started or not. Waiting for the future on the loop's
        own thread raises WouldDeadlock. Raises LoopClosed, closing the coroutine, if the loop has ended.
        """
        if not iscoroutine(coro):
            raise TypeError(
                f"run_coroutine_threadsafe needs a coroutine, not {coro!r}. "
                f"Write portal.run_coroutine_threadsafe(fn(...)), with the call."
            )
        call = FutureCall(self._host, _itself, (coro,), {})
        future = call.future
        if is_told(self._host):
            advice = "portal.run_coroutine_threadsafe(...).result()"
            future.tell_if_lost(coro.__qualname__, advice, submit_site(), last_in(call.context))
        scope = self._started
        if scope is not None:
            call.scope = scope
            scope.add(call)
            if self._unleft is not None:
                self._unleft.used = True
        try:
            call.send()
        except BaseException:
            if scope is not None:
                scope.discard(call)  # it never ran: nothing will ever open its gate
            raise
        return future

    def enter(self, async_cm: AbstractAsyncContextManager[T]) -> AbstractContextManager[T]:
        """An async context manager as a synchronous one: entered and left on the loop, both in the same task there."""
        return EnteredContext(self._host, async_cm)

    def iterate(self, async_iterable: AsyncIterable[T]) -> Iterator[T]:
        """Yield the items of an async iterable, in order, asking for each when it is wanted.

        All of the iteration, and the `aclose` of a generator that is left early, happens in one task on the loop.
        """
        if not hasattr(async_iterable, "__aiter__"):
            raise TypeError(f"portal.iterate needs an async iterable, not {async_iterable!r}")
        return iterate(self._host, async_iterable)

    # -- as a scope ----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._started is not None:
            raise RuntimeError("this portal is already entered: call bridge.portal() again for a scope of its own")
        self._started = set()
        site = submit_site()
        self._unleft = None if site is None else Unleft(site)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        started = self._leave(exc)
        if started:
            if loop_runs_here():
                refuse_blocking(self._host, "leaving `with portal`", "async with portal")
            _wait_for_all(started)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        started = self._leave(exc)
        if started:
            await leave_on_a_loop(started, _wait_for_all, exc)

    def _leave(self, exc: BaseException | None) -> list[FutureCall]:
        started = list(self._started or ())
        self._started = None
        if self._unleft is not None:
            self._unleft.left = True
        if exc is not None:
            for call in started:
                call.cancel_future()
        return started


def _wait_for_all(calls: list[FutureCall]) -> None:
    """Until each coroutine has ended, clean-up included: a cancelled future is done before its coroutine is."""
    with lent_slot():
        for call in calls:
            call.gate.acquire()
            call.gate.release()


async def leave_on_a_loop(
    started: list[Any], wait_for_all: Callable[[list[Any]], None], exc: BaseException | None
) -> None:
    """The end of `async with portal`: wait, without blocking the loop, until all that was started has ended."""
    try:
        with anyio.CancelScope(shield=exc is not None):
            await anyio.to_thread.run_sync(wait_for_all, started, abandon_on_cancel=True)
    except BaseException:  # cancelled while leaving: what it waits for is cancelled too, and still waited for
        for call in started:
            call.cancel_future()
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(wait_for_all, started)
        raise


def _is_async(fn: object) -> bool:
    """`inspect.iscoroutinefunction`, in a tenth of its time for plain functions."""
    code = getattr(fn, "__code__", None)
    return iscoroutinefunction(fn) if code is None else bool(code.co_flags & CO_COROUTINE)


def _itself(coro: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    return coro


def not_a_function(what: str, fn: object) -> TypeError:
    """The error for something that cannot be called, most often a coroutine in place of its function."""
    if iscoroutine(fn):
        fn.close()
        name = fn.__name__
        return TypeError(
            f"{what} needs the function, not the coroutine that it made: "
            f"write portal.call({name}, ...) instead of {what}({name}(...)), "
            f"or portal.run_coroutine_threadsafe({name}(...)) if you do not want to wait."
        )
    return TypeError(f"{what} needs a function, not {fn!r}")
