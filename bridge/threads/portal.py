"""Portals: what a thread holds in its hand in order to call into a loop.

In: functions, coroutines, async context managers and async iterables from synchronous code. Out: their results, in the
calling thread. The waiting itself, and what happens when the loop ends meanwhile, is in `calls`.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from inspect import iscoroutine
from types import CoroutineType, TracebackType
from typing import Any, ParamSpec, Self, TypeVar, overload

import anyio
import anyio.to_thread

from bridge.callables import as_kind, async_kind, last_name, name_of, on_a_loop, shown
from bridge.diagnostics.places import submit_site
from bridge.diagnostics.unclosed import Unleft
from bridge.threads.blocking import loop_runs_here, refuse_blocking
from bridge.threads.calls import Call, FutureCall, ask, itself, wait_for_all
from bridge.threads.host import Host
from bridge.threads.lost import is_told
from bridge.threads.session import EnteredContext, PortalIterator, refuse_on_a_loop
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
        if not callable(fn):
            raise not_a_function("portal.call", fn)
        if loop_runs_here():
            kind = async_kind(fn)
            line = f"{last_name(fn)}(...)" if kind is None else on_a_loop(fn, kind)
            refuse_blocking(host, f"portal.call({name_of(fn)})", line)
        call = Call(host, fn, args, kwargs)
        return ask(call)

    def call_soon_threadsafe(self, callback: Callable[..., object], /, *args: Any) -> None:
        """Run `callback(*args)` on the loop, once, after everything sent before. Does not wait; from any thread.

        Raises LoopClosed if the loop has ended. An exception in the callback goes to the loop's exception handler.
        """
        if not callable(callback):
            raise not_a_function("portal.call_soon_threadsafe", callback)
        if async_kind(callback) is not None:
            raise not_a_callback(callback)
        self._host.call_soon(callback, args)

    def run_coroutine_threadsafe(self, coro: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the loop and return a `concurrent.futures.Future` for it; from any thread.

        Cancelling the future cancels the coroutine, whether it has started or not. Waiting for the future on the loop's
        own thread raises WouldDeadlock. Raises LoopClosed, closing the coroutine, if the loop has ended.
        """
        if not iscoroutine(coro):
            raise TypeError(
                f"run_coroutine_threadsafe needs a coroutine, not {shown(coro)}. "
                f"Write portal.run_coroutine_threadsafe(fn(...)), with the call."
            )
        call = None
        try:
            call = FutureCall(self._host, itself, (coro,), {})
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
            call.send()
            return future
        except BaseException:  # refused; or interrupted, and then the caller never gets the future
            if call is None:
                coro.close()
            elif not call.answered:
                call.cancel()
            raise

    def enter(self, async_cm: AbstractAsyncContextManager[T]) -> AbstractContextManager[T]:
        """An async context manager as a synchronous one: entered and left on the loop, both in the same task there."""
        return EnteredContext(self._host, async_cm)

    def iterate(self, async_iterable: AsyncIterable[T]) -> Iterator[T]:
        """Yield the items of an async iterable, in order, asking for each when it is wanted.

        All of the iteration, and the `aclose` of a generator that is left early, happens in one task on the loop.
        """
        if not hasattr(async_iterable, "__aiter__"):
            raise TypeError(f"portal.iterate needs an async iterable, not {shown(async_iterable)}")
        refuse_on_a_loop(self._host, "portal.iterate", "async for ...")
        return PortalIterator(self._host, async_iterable)

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
            wait_for_all(started)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        started = self._leave(exc)
        if started:
            await leave_on_a_loop(started, wait_for_all, exc)

    def _leave(self, exc: BaseException | None) -> list[FutureCall]:
        started = list(self._started or ())
        self._started = None
        if self._unleft is not None:
            self._unleft.left = True
        if exc is not None:
            for call in started:
                call.cancel_future()
        return started


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


def not_a_function(what: str, fn: object) -> TypeError:
    """The error for something that cannot be called, most often a coroutine in place of its function."""
    if type(fn) is CoroutineType:
        fn.close()
        name = last_name(fn)
        return TypeError(
            f"{what} needs the function, not the coroutine that it made: "
            f"write portal.call({name}, ...) instead of {what}({name}(...)), "
            f"or portal.run_coroutine_threadsafe({name}(...)) if you do not want to wait."
        )
    return TypeError(f"{what} needs a function, not {shown(fn)}")


def not_a_callback(fn: object) -> TypeError:
    """The error for an async function that the loop is to call without waiting for it."""
    kind = async_kind(fn) or "coroutine"
    if kind == "async generator":
        instead = f"portal.iterate({last_name(fn)}(...))"
    else:
        instead = f"portal.run_coroutine_threadsafe({last_name(fn)}(...)), or portal.call to wait for it"
    return TypeError(f"{as_kind(fn, kind)}: calling it would run nothing. Write {instead}.")
