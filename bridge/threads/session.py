"""Sessions: several calls from one thread that must run in one and the same task on the loop.

Cancel scopes, task groups and `asyncio.timeout` insist on being left by the task that entered them, and an async
generator keeps its contextvars only within one task. So a session is one coroutine on the loop (`_serve`) that takes
requests from the thread and answers them in turn, until what it is about (its subject) is over.

    thread: ask(fn) ── Request through the door ──> accept: the first starts the task ──> _serve: await fn() ──> answer
    __exit__, close: the last request    dropped, interrupted: `drop`, a request for which no thread waits

Owners: all state of a session and of its subject belongs to the loop's thread. Making a session has no effect elsewhere,
so a thread that is interrupted before its first request leaves nothing behind. A request is a `Call`, so everything that
answers calls when a loop ends answers requests too. No thread waits for the task itself, and a loop that is being left
does not wait for it either: it is cancelled with the loop's other tasks, and then leaves the context or closes the
iterator by itself. Requests that come later are refused.
"""

from __future__ import annotations

import logging
import sys
from _thread import get_ident
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, AbstractContextManager, _AsyncGeneratorContextManager, suppress
from contextvars import Context, copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import anyio

from bridge.errors import LoopClosed, WouldDeadlock
from bridge.threads.blocking import loop_runs_here, refuse_blocking
from bridge.threads.calls import Call, ask
from bridge.threads.trail import settle_in, trail_here

if TYPE_CHECKING:
    from bridge.threads.host import Host

T = TypeVar("T")

logger: logging.Logger = logging.getLogger("bridge.loop")


class Subject(Protocol):
    """What a session is about. Everything runs in the session's task."""

    #: True once there is nothing left to ask for; the session's task ends then.
    over: bool

    @property
    def named(self) -> Any:
        """What messages name."""

    async def interrupted(self, error: BaseException) -> bool:
        """The task was cancelled between two requests, by `error`. Return True if that is dealt with."""

    async def abandon(self, error: BaseException) -> None:
        """End it because of `error`: its holder cannot any more."""


class Request(Call):
    """Something to be awaited by a session's task."""

    __slots__ = ("session",)

    fn: Callable[..., Awaitable[Any]]

    def __init__(self, session: Session, fn: Callable[..., Awaitable[Any]], args: tuple[Any, ...]):
        super().__init__(session.host, fn, args, {})
        self.session: Session = session

    @property
    def named(self) -> Any:
        return self.session.subject.named

    def _run(self) -> None:
        if self.claim():
            self.session.accept(self)

    def stop(self) -> None:
        self.session.stop(self)


class DropRequest(Request):
    """The last request of a session for which no thread waits."""

    __slots__ = ()

    from_a_thread = False


class ServingTask(Call):
    """The task of a session, as the loop's host knows it."""

    __slots__ = ("session",)

    from_a_thread = False

    def __init__(self, session: Session):
        super().__init__(session.host, session._serve, (), {})
        self.context: Context = session.context
        self.session: Session = session

    def _open(self) -> None:
        self.host.forget(self)
        _, error = self._take_outcome()
        self.session.end(error)


class Session:
    """One task on `host`'s loop that serves whoever made it, in `context` or a copy of the maker's."""

    def __init__(self, host: Host, subject: Subject, context: Context | None = None):
        if context is None:
            trail_here()
            context = copy_context()
        self.host: Host = host
        self.context: Context = context
        self.current: Request | None = None
        #: True once no thread will ask for anything any more.
        self.dropped: bool = False
        self.task: ServingTask | None = None
        self.subject: Any = subject
        self._requests: deque[Request] = deque()
        self._wake: anyio.Event | None = None
        self._serving = False
        self._over: str | None = None

    @property
    def is_open(self) -> bool:
        """False once there is nothing left to end. From any thread."""
        return self._over is None and not self.subject.over

    # -- in the thread -------------------------------------------------------------------------------------------------

    def ask(self, fn: Callable[..., Awaitable[T]], *args: Any, cleanup: bool = False) -> T:
        """In the thread: have `await fn(*args)` done by the session's task; return or raise its outcome."""
        result: T = ask(Request(self, fn, args), cleanup=cleanup)
        return result

    def finish(self, fn: Callable[..., Awaitable[object]], *args: Any) -> None:
        """In the thread: have `await fn(*args)` done as the last thing, and wait for it wherever that is possible."""
        try:
            self.ask(fn, *args, cleanup=True)
        except LoopClosed:
            pass  # its task has ended the subject, or there is no loop left to end it on
        except WouldDeadlock:  # the loop's thread waits for this one, and ends the subject when it goes on
            self.drop(GeneratorExit())

    def drop(self, error: BaseException) -> None:
        """End the subject because of `error`. Does not wait; from any thread, also in a finalizer."""
        self.dropped = True
        request = DropRequest(self, self.abandon, (error,))
        try:
            request.send()
        except LoopClosed:
            pass  # its task has ended it, or there is no loop left to end it on
        except BaseException:  # interrupted
            request.resend()
            raise

    # -- on the loop ---------------------------------------------------------------------------------------------------

    def accept(self, request: Request) -> None:
        """On the loop: take a request from the door."""
        self._requests.append(request)
        if self._over is not None:
            self._refuse_requests(LoopClosed(self._over))
        elif self.task is None:
            self._start()
        elif self._wake is not None:
            self._wake.set()

    def stop(self, request: Request) -> None:
        """On the loop: end what the request is doing, or take it out of the line."""
        if self.current is request:
            if self.task is not None:
                self.host.cancel(self.task)
        elif request in self._requests:
            self._requests.remove(request)
            request.answer(None, CancelledError("cancelled before the loop could begin with it"))

    def end(self, error: BaseException | None) -> None:
        """The task has ended, or could not be made, because of `error`: refuse what is asked from now on."""
        if self._over is None:
            why = "" if error is None else f" ({error!r})"
            self._over = f"the task on {self.host!r} that served this `with` or `for` has ended{why}"
        self.task = None
        self._refuse_requests(LoopClosed(self._over) if error is None or self._serving else error)

    def _refuse_requests(self, error: BaseException) -> None:
        while self._requests:
            with suppress(IndexError):  # refused by two threads
                self._requests.popleft().answer(None, error)

    def _start(self) -> None:
        task = self.task = ServingTask(self)
        task.claim()
        settle_in(self.context)
        try:
            self.host.expect(task, None)
        except LoopClosed as error:
            task.answer(None, error)
        else:
            self.host.start(task)

    async def _serve(self) -> None:
        self._serving = True
        subject: Subject = self.subject
        while not subject.over:
            try:
                request = await self._next()
            except GeneratorExit:  # its loop has closed without it: nothing can be awaited any more
                raise
            except BaseException as error:
                if await subject.interrupted(error):
                    continue
                raise
            self.current = request
            try:
                value = await request.fn(*request.args)
            except GeneratorExit:
                raise
            except BaseException as error:
                self.current = None
                request.answer(None, _for_a_thread(error))
                if isinstance(error, (KeyboardInterrupt, SystemExit)):
                    raise
            else:
                self.current = None
                request.answer(value, None)
            del request

    async def _next(self) -> Request:
        while not self._requests:
            self._wake = anyio.Event()
            await self._wake.wait()
        return self._requests.popleft()

    async def abandon(self, error: BaseException) -> None:
        """In the task: end the subject because of `error`. What else that raises is logged, since no caller is left."""
        try:
            await self.subject.abandon(error)
        except Exception as raised:
            if raised is not error:
                logger.error("ending %r, which was dropped, raised", self.subject, exc_info=raised)


def _for_a_thread(error: BaseException) -> BaseException:
    """A cancellation means something to its own task only; the thread is told in its own terms."""
    if isinstance(error, anyio.get_cancelled_exc_class()):
        return CancelledError("the task on the loop that served this `with` or `for` was cancelled")
    return error


class _Left:
    """How an async context was left while the thread was away."""

    def __init__(self, error: BaseException | None):
        self.error = error


class _Owner:
    """Ends a session that is still open when its holder goes away.

    The holder does so too, but a signal handler may interrupt its finalizer, and Python swallows the exception then.
    """

    __slots__ = ("session",)

    def __init__(self, session: Session):
        self.session: Session = session

    def __del__(self) -> None:
        session = self.session
        if session.is_open and not sys.is_finalizing():
            session.drop(GeneratorExit("it was dropped without being ended"))


class Scope(Generic[T]):
    """An async context manager, entered and left by a session's task. All of it runs on the loop."""

    def __init__(self, async_cm: AbstractAsyncContextManager[T]):
        self.over: bool = False
        self._async_cm = async_cm
        self._entered = False
        self._left: _Left | None = None

    def __repr__(self) -> str:
        return f"<the context of {self._async_cm!r}>"

    @property
    def named(self) -> Any:
        generator = vars(self._async_cm).get("gen") if isinstance(self._async_cm, _AsyncGeneratorContextManager) else None
        return self._async_cm if generator is None else generator

    async def enter(self) -> T:
        """Begin the block."""
        try:
            value = await self._async_cm.__aenter__()
        except BaseException:
            self.over = True
            raise
        self._entered = True
        return value

    async def leave(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        """End the block, as the interpreter does at the end of `async with`."""
        self.over = True
        left, self._left = self._left, None
        if left is not None:  # a task group or cancel scope has ended it already
            if left.error is not None:
                raise left.error
            return None
        if not self._entered:
            return None
        self._entered = False
        return await self._async_cm.__aexit__(exc_type, exc, traceback)

    async def abandon(self, error: BaseException) -> None:
        """End the block by an error, if it has begun and nothing has ended it."""
        self.over = True
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
        except GeneratorExit:  # as in Session._serve
            raise
        except BaseException as other:
            dealt_with = not isinstance(other, anyio.get_cancelled_exc_class())
            self._left = _Left(other)
        if not dealt_with:
            self._left = None
        return dealt_with


class Iteration(Generic[T]):
    """An async iterable, iterated and closed by a session's task. All of it runs on the loop."""

    def __init__(self, async_iterable: AsyncIterable[T]):
        self.over: bool = False
        self._async_iterable: AsyncIterable[T] | None = async_iterable
        self._iterator: AsyncIterator[T] | None = None

    def __repr__(self) -> str:
        return f"<the iteration of {self.named!r}>"

    @property
    def named(self) -> Any:
        return self._async_iterable if self._iterator is None else self._iterator

    async def next(self) -> T:
        """The next item. After the last one, and after an error, the iterator is closed and StopAsyncIteration or the
        error is raised."""
        try:
            if self._iterator is None:
                if self._async_iterable is None:
                    raise StopAsyncIteration
                self._iterator = aiter(self._async_iterable)
                self._async_iterable = None
            return await anext(self._iterator)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Have the iterator clean up, if it knows how to."""
        self.over = True
        self._async_iterable = None
        iterator, self._iterator = self._iterator, None
        aclose: Callable[[], Awaitable[object]] | None = getattr(iterator, "aclose", None)
        if aclose is not None:
            await aclose()

    async def interrupted(self, error: BaseException) -> bool:
        await self.close()
        return False

    async def abandon(self, error: BaseException) -> None:
        await self.close()


class EnteredContext(AbstractContextManager[T], Generic[T]):
    """The synchronous face of an async context manager on another loop."""

    _session: Session | None = None
    _owner: _Owner | None = None

    def __init__(self, host: Host, async_cm: AbstractAsyncContextManager[T]):
        if not hasattr(async_cm, "__aenter__"):
            raise TypeError(f"portal.enter needs an async context manager, not {async_cm!r}")
        self._host = host
        self._async_cm = async_cm

    def __enter__(self) -> T:
        if self._session is not None:
            raise RuntimeError("this context manager is already entered: call portal.enter(...) again")
        refuse_on_a_loop(self._host, "portal.enter", "async with ...")
        scope = Scope(self._async_cm)
        session = self._session = Session(self._host, scope)  # until it has ended, however that comes about
        try:
            self._owner = _Owner(session)
            return session.ask(scope.enter)
        except BaseException as error:
            # Ctrl-C or a cancellation may have come when it was too late not to enter.
            self._end(session, error)
            raise

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        session = self._session
        if session is None:
            raise RuntimeError(
                "this context manager is not entered, or was left before: write `with portal.enter(...) as value:`"
            )
        refuse_on_a_loop(self._host, "leaving the context of portal.enter", "async with ...")
        suppressed: bool | None
        try:
            suppressed = session.ask(session.subject.leave, exc_type, exc, traceback, cleanup=True)
            self._session = None
            return suppressed
        except BaseException as error:
            self._end(session, error)
            raise

    def _end(self, session: Session, error: BaseException) -> None:
        """See to it that the context is left, because of `error`."""
        if session.is_open:
            session.finish(session.abandon, error)
        self._session = None

    def __del__(self) -> None:
        session = self._session
        if session is not None and session.is_open and not sys.is_finalizing():
            session.drop(GeneratorExit("the context was dropped without being left"))


class PortalIterator(Iterator[T], Generic[T]):
    """The synchronous face of an iteration on another loop. Like a generator it has `close`, and closes itself."""

    _session: Session | None = None
    _owner: _Owner | None = None

    def __init__(self, host: Host, async_iterable: AsyncIterable[T]):
        self._host = host
        self._iteration = Iteration(async_iterable)
        self._thread = 0  # which has asked for the last item
        self._over = False

    def __next__(self) -> T:
        if self._over:
            raise StopIteration
        iteration = self._iteration
        refuse_on_a_loop(self._host, "asking an iterator of portal.iterate for its next item", "async for ...")
        self._thread = get_ident()
        try:
            session = self._session
            if session is None:
                session = self._session = Session(self._host, iteration)
                self._owner = _Owner(session)
            return session.ask(iteration.next)
        except StopAsyncIteration:
            self._over = True
            self._session = None
        except BaseException:
            self.close()
            raise
        raise StopIteration

    def close(self) -> None:
        """End the iteration: its iterator is closed on the loop, in the task that iterates. On a loop's own thread, which
        must not wait, it is closed soon."""
        self._over = True
        session = self._session
        if session is None or not session.is_open:
            pass
        elif loop_runs_here():
            session.drop(GeneratorExit())
        else:
            session.finish(self._iteration.close)
        self._session = None

    def __del__(self) -> None:
        session = self._session
        if session is None or sys.is_finalizing():
            return
        if get_ident() == self._thread:  # at the end of a `for` that was left early: what it holds is closed by then
            self.close()
        else:
            session.drop(GeneratorExit())


def refuse_on_a_loop(host: Host, what: str, instead: str) -> None:
    """Raise WouldDeadlock or WrongThread in a thread that runs an event loop: it must not wait for another one."""
    if loop_runs_here():
        refuse_blocking(host, what, instead)
