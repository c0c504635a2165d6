"""Sessions: several calls from one thread that must run in one and the same task on the loop.

Cancel scopes, task groups and `asyncio.timeout` insist on being left by the task that entered them, and an async
generator keeps its contextvars only within one task. So a session is one coroutine on the loop (`_serve`) that takes
requests from the thread and answers them in turn.

    thread: ask(fn) ── Request through the door ──> requests, wake ──> _serve: await fn() ──> answer

Owners: `_requests`, `_wake` and `_current` belong to the loop's thread. A request is a `Call`, so everything that
answers calls when a loop ends answers requests too. If the serving task is cancelled between two requests (the loop is
shutting down), it cleans up by itself and refuses what comes later.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from contextvars import Context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import anyio

from bridge.errors import LoopClosed
from bridge.threads.blocking import loop_runs_here, refuse_blocking
from bridge.threads.calls import Call, ask

if TYPE_CHECKING:
    from bridge.threads.host import Host

T = TypeVar("T")

#: What is done if the task is cancelled while the thread is away; gets the cancellation, says if it has dealt with it.
Interrupted = Callable[[BaseException], Awaitable[bool]]


class Request(Call):
    """Something to be awaited by a session's task."""

    __slots__ = ("session",)

    fn: Callable[..., Awaitable[Any]] | None  # type: ignore[assignment]  # None: the session is to end

    def __init__(self, session: Session, fn: Callable[..., Awaitable[Any]] | None, args: tuple[Any, ...]):
        super().__init__(session.host, fn, args, {})  # type: ignore[arg-type]
        self.session: Session = session

    def _run(self) -> None:
        if self.claim():
            self.session.accept(self)

    def stop(self) -> None:
        self.session.stop(self)


class Session:
    """One task on `host`'s loop that serves whoever made it, in `context` or a copy of the maker's. Raises LoopClosed."""

    def __init__(self, host: Host, interrupted: Interrupted, context: Context | None = None):
        self.host: Host = host
        self.current: Request | None = None
        self.task: Call = Call(host, self._serve, (), {})
        if context is not None:
            self.task.context = context
        self._interrupted = interrupted
        self._requests: deque[Request] = deque()
        self._wake: anyio.Event | None = None
        self._over: LoopClosed | None = None
        self.task.send()

    def ask(self, fn: Callable[..., Awaitable[T]], *args: Any, cleanup: bool = False) -> T:
        """In the thread: have `await fn(*args)` done by the session's task; return or raise its outcome."""
        result: T = ask(Request(self, fn, args), cleanup=cleanup)
        return result

    def end(self, *last: Callable[[], Awaitable[object]]) -> None:
        """Have `last` done, then let the task go. Does not wait."""
        with suppress(LoopClosed):
            for fn in last:
                Request(self, fn, ()).send()
            Request(self, None, ()).send()

    def accept(self, request: Request) -> None:
        """On the loop: take a request from the door."""
        if self._over is not None:
            request.answer(None, self._over)
            return
        self._requests.append(request)
        if self._wake is not None:
            self._wake.set()

    def stop(self, request: Request) -> None:
        """On the loop: end what the request is doing, or take it out of the line."""
        if self.current is request:
            self.host.cancel(self.task)
        elif request in self._requests:
            self._requests.remove(request)
            request.answer(None, CancelledError("cancelled before the loop could begin with it"))

    async def _serve(self) -> None:
        try:
            while True:
                try:
                    request = await self._next()
                except BaseException as error:
                    if await self._interrupted(error):
                        continue
                    raise
                if request.fn is None:
                    request.answer(None, None)
                    return
                self.current = request
                try:
                    value = await request.fn(*request.args)
                except BaseException as error:
                    self.current = None
                    request.answer(None, _for_a_thread(error))
                    if isinstance(error, (KeyboardInterrupt, SystemExit)):
                        raise
                else:
                    self.current = None
                    request.answer(value, None)
                del request
        except BaseException as error:
            self._over = LoopClosed(f"the task on {self.host!r} that served this `with` or `for` was ended ({error!r})")
            raise
        finally:
            self._over = self._over or LoopClosed("this session has ended")
            while self._requests:
                self._requests.popleft().answer(None, self._over)

    async def _next(self) -> Request:
        while not self._requests:
            self._wake = anyio.Event()
            await self._wake.wait()
        return self._requests.popleft()


async def _nothing() -> None: ...


def _for_a_thread(error: BaseException) -> BaseException:
    """A cancellation means something to its own task only; the thread is told in its own terms."""
    if isinstance(error, anyio.get_cancelled_exc_class()):
        return CancelledError("the task on the loop that served this `with` or `for` was cancelled")
    return error


class _Left:
    """How an async context was left while the thread was away."""

    def __init__(self, error: BaseException | None):
        self.error = error


class Scope(Generic[T]):
    """An async context manager, entered and left by a session's task. All of it runs on the loop."""

    def __init__(self, async_cm: AbstractAsyncContextManager[T]):
        self._async_cm = async_cm
        self._entered = False
        self._left: _Left | None = None

    async def enter(self) -> T:
        """Begin the block."""
        value = await self._async_cm.__aenter__()
        self._entered = True
        return value

    async def leave(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """End the block, as the interpreter does at the end of `async with`."""
        if self._left is not None:  # a task group or cancel scope has ended it already
            if self._left.error is not None:
                raise self._left.error
            return None
        self._entered = False
        return await self._async_cm.__aexit__(exc_type, exc, traceback)

    async def abandon(self, error: BaseException) -> None:
        """End the block by an error, if it has begun and nobody has ended it."""
        if self._entered:
            self._entered = False
            await self._async_cm.__aexit__(type(error), error, error.__traceback__)

    async def interrupted(self, error: BaseException) -> bool:
        """The task was cancelled while the thread is in its `with` block: leave the context as `async with` would.

        A task group whose child failed, or a cancelled scope, takes its own cancellation back; what it says instead is
        kept for the thread. Any other cancellation is the end.
        """
        if not self._entered:
            return False
        self._entered = False
        try:
            dealt_with = bool(await self._async_cm.__aexit__(type(error), error, error.__traceback__))
            self._left = _Left(None)
        except BaseException as other:
            dealt_with = not isinstance(other, anyio.get_cancelled_exc_class())
            self._left = _Left(other)
        if not dealt_with:
            self._left = None
        return dealt_with


class EnteredContext(AbstractContextManager[T], Generic[T]):
    """The synchronous face of an async context manager on another loop."""

    def __init__(self, host: Host, async_cm: AbstractAsyncContextManager[T]):
        if not hasattr(async_cm, "__aenter__"):
            raise TypeError(f"portal.enter needs an async context manager, not {async_cm!r}")
        self._host = host
        self._scope = Scope(async_cm)
        self._session: Session | None = None

    def __enter__(self) -> T:
        if self._session is not None:
            raise RuntimeError("this context manager is already entered: call portal.enter(...) again")
        _may_block(self._host, "portal.enter", "async with ...")
        self._session = Session(self._host, self._scope.interrupted)
        try:
            return self._session.ask(self._scope.enter)
        except BaseException as error:
            # Ctrl-C or a cancellation may have come when it was too late not to enter.
            with suppress(LoopClosed):
                self._session.ask(self._scope.interrupted, error, cleanup=True)
            self._session.end()
            raise

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        session, self._session = self._session, None
        assert session is not None
        try:
            return session.ask(self._scope.leave, exc_type, exc, traceback, cleanup=True)
        finally:
            session.end()


def iterate(host: Host, async_iterable: AsyncIterable[T]) -> Iterator[T]:
    """Yield the items of `async_iterable`, which is iterated by one task on `host`'s loop."""
    _may_block(host, "portal.iterate", "async for ...")
    iterator = aiter(async_iterable)
    aclose = getattr(iterator, "aclose", _nothing)

    async def interrupted(error: BaseException) -> bool:
        await aclose()
        return False

    session = Session(host, interrupted)
    try:
        while True:
            try:
                item = session.ask(iterator.__anext__)
            except StopAsyncIteration:
                return
            yield item
    finally:
        if loop_runs_here():  # collected on a loop's own thread, which must not wait
            session.end(aclose)
        else:
            try:
                with suppress(LoopClosed):  # then the task has closed it, or there is no loop left to close it on
                    session.ask(aclose, cleanup=True)
            finally:
                session.end()


def _may_block(host: Host, what: str, instead: str) -> None:
    if loop_runs_here():
        refuse_blocking(host, what, instead)
