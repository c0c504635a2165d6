"""The portal in a worker process: into the loop, in the parent, that sent the job.

Same names as `bridge.threads.portal.Portal`, and nothing imported that only an event loop needs. It works in the thread
that runs the job, and in any other thread of the process that was handed the portal.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from inspect import iscoroutine
from os import getppid
from types import TracebackType
from typing import Any, NoReturn, Self, TypeVar

from bridge.callables import async_kind, name_of, shown
from bridge.errors import WrongThread
from bridge.executors.process.wire import frames
from bridge.executors.process.wire.requests import CALL, CORO, HEAD, SOON
from bridge.executors.process.worker.asking import ask, job_number, refuse_blocking
from bridge.executors.process.worker.futures import RemoteFuture, wait_for_all
from bridge.executors.process.worker.line import Line
from bridge.executors.process.worker.sessions import Entered, Iteration
from bridge.threads.here import here, runs_a_loop
from bridge.threads.loaded import from_loaded

T = TypeVar("T")


class RemotePortal:
    """A way from a worker process into a loop of its parent. Get one from `bridge.portal()`; see `bridge.Portal`."""

    __slots__ = ("_line", "_seq", "_started")

    def __init__(self, line: Line, seq: int = 0):
        self._line = line
        self._seq = seq  # of the job for which it was made
        self._started: set[RemoteFuture] | None = None

    def __repr__(self) -> str:
        return f"<bridge.Portal into a loop of process {getppid()}>"

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """`isinstance(portal, bridge.Portal)` holds, in a process that has imported that class at all."""
        return from_loaded("bridge.threads.portal", "Portal") or RemotePortal

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a worker process's portal leads from that process into its parent and is of no use elsewhere: "
            "call bridge.portal() where you need one"
        )

    def call(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """As `Portal.call`: run `fn(*args, **kwargs)` on the parent's loop, await it, return or raise its outcome.

        Function, arguments and outcome are pickled; PicklingError is raised here for what cannot be.
        """
        if runs_a_loop():
            refuse_blocking(f"portal.call({name_of(fn)})")
        if not callable(fn):
            raise _not_a_function("portal.call", fn)
        line = self._line
        return ask(line, CALL, self._seq, line.packer.pack((fn, args, kwargs)))

    def call_soon_threadsafe(self, callback: Callable[..., object], /, *args: Any) -> None:
        """As `Portal.call_soon_threadsafe`: run `callback(*args)` on the parent's loop, after everything sent before.

        Does not wait, so it is the parent that reports if its loop has ended.
        """
        if not callable(callback):
            raise _not_a_function("portal.call_soon_threadsafe", callback)
        if async_kind(callback) is not None:
            from bridge.threads.portal import not_a_callback

            raise not_a_callback(callback)
        line = self._line
        body = line.packer.pack((callback, args))
        line.send(frames.CALL, line.new_ident(), HEAD.pack(SOON, job_number(self._seq)) + body)

    def run_coroutine_threadsafe(self, coro: Coroutine[Any, Any, T]) -> Future[T]:
        """As `Portal.run_coroutine_threadsafe`: start a coroutine, made here by calling its function, in the parent.

        Its function and arguments are pickled. Cancelling the future cancels the coroutine. Callbacks of the future run
        in a thread that must not wait for the portal.
        """
        if not iscoroutine(coro):
            raise TypeError(
                f"run_coroutine_threadsafe needs a coroutine, not {shown(coro)}. "
                f"Write portal.run_coroutine_threadsafe(fn(...)), with the call."
            )
        line, seq = self._line, job_number(self._seq)
        try:
            body = line.packer.pack(coro)
        finally:
            coro.close()  # it runs in the parent, or nowhere
        future: RemoteFuture = RemoteFuture(line, seq)
        scope = self._started
        if scope is not None:
            future.scope = scope
            scope.add(future)
        line.waiting[future.ident] = future
        line.send(frames.CALL, future.ident, HEAD.pack(CORO, seq) + body)
        line.read_in_background()
        return future

    def enter(self, async_cm: AbstractAsyncContextManager[T]) -> AbstractContextManager[T]:
        """As `Portal.enter`: an async context manager, pickled, entered and left in one task on the parent's loop."""
        return Entered(self._line, self._seq, async_cm)

    def iterate(self, async_iterable: AsyncIterable[T]) -> Iterator[T]:
        """As `Portal.iterate`: the items of an async iterable that is iterated, and closed, in one task in the parent."""
        if not hasattr(async_iterable, "__aiter__"):
            raise TypeError(f"portal.iterate needs an async iterable, not {shown(async_iterable)}")
        if runs_a_loop():
            refuse_blocking("portal.iterate")
        return Iteration(self._line, self._seq, async_iterable)

    # -- as a scope ----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._started is not None:
            raise RuntimeError("this portal is already entered: call bridge.portal() again for a scope of its own")
        self._started = set()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        started = self._leave(exc)
        if started:
            if runs_a_loop():
                refuse_blocking("leaving `with portal`")
            wait_for_all(started)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        started = self._leave(exc)
        if started:
            from bridge.threads.portal import leave_on_a_loop

            await leave_on_a_loop(started, wait_for_all, exc)

    def _leave(self, exc: BaseException | None) -> list[RemoteFuture]:
        started = list(self._started or ())
        self._started = None
        if exc is not None:
            for future in started:
                future.cancel_future()
        return started


def portal_here() -> RemotePortal:
    """What a portal becomes that is sent to a worker process: the way back from there."""
    portal: RemotePortal | None = getattr(here.worker, "portal", None)
    if portal is None:
        raise WrongThread(
            "a portal was unpickled outside a worker process of bridge. In the parent, call bridge.portal() on the loop "
            "and hand that over without pickling it."
        )
    return portal


def _not_a_function(what: str, fn: object) -> TypeError:
    from bridge.threads.portal import not_a_function

    return not_a_function(what, fn)
