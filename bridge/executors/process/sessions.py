"""What a worker process has open on a loop: async context managers, iterations. The loop's side of it.

A session is one task on the loop (`bridge.threads.session`); the worker's requests are put to it one after another, and
nobody blocks for them. If the worker dies, what it has entered is left by an error, and what it iterates is closed.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from bridge.errors import LoopClosed
from bridge.threads.session import Scope, Session

if TYPE_CHECKING:
    from bridge.threads.host import Host

logger: logging.Logger = logging.getLogger("bridge.executors")


class Subject(Protocol):
    """What a session is about. Everything runs in the session's task."""

    async def interrupted(self, error: BaseException) -> bool:
        """The task was cancelled between two requests."""

    async def abandon(self, error: BaseException) -> None:
        """The worker is gone, because of `error`."""


class Entered(Scope[Any]):
    """An async context manager that a worker enters."""

    async def leave_by(self, error: BaseException | None) -> bool:
        """End the block; true if it suppresses the error."""
        if not self._entered and self._left is None:
            return False
        if error is None:
            return bool(await self.leave(None, None, None))
        try:
            return bool(await self.leave(type(error), error, error.__traceback__))
        except BaseException as raised:
            if raised is error:  # the worker has the original
                return False
            raise


class Iteration:
    """An async iterable that a worker iterates."""

    def __init__(self, async_iterable: AsyncIterable[Any]):
        self._async_iterable: AsyncIterable[Any] | None = async_iterable
        self._iterator: AsyncIterator[Any] | None = None

    async def next(self) -> Any:
        """The next item; after the last one the iterator is closed, and StopAsyncIteration raised."""
        if self._iterator is None:
            assert self._async_iterable is not None
            self._iterator = aiter(self._async_iterable)
            self._async_iterable = None
        try:
            return await anext(self._iterator)
        except StopAsyncIteration:
            await self.close()
            raise

    async def close(self) -> None:
        """Have the iterator clean up, if it knows how to."""
        aclose: Callable[[], Awaitable[object]] | None = getattr(self._iterator, "aclose", None)
        if aclose is not None:
            await aclose()

    async def interrupted(self, error: BaseException) -> bool:
        await self.close()
        return False

    async def abandon(self, error: BaseException) -> None:
        await self.close()


class RemoteSession:
    """A session on `host`'s loop, and what it is about. Raises LoopClosed."""

    def __init__(self, host: Host, subject: Entered | Iteration, context: Context):
        self.host: Host = host
        self.subject: Any = subject
        self.session: Session = Session(host, subject.interrupted, context)

    def end(self) -> None:
        """Let the task go, after what was asked of it."""
        self.session.end()

    def drop(self, error: BaseException) -> None:
        """Likewise, because the worker is gone: nobody will ask for the end of the block, or of the iteration."""
        with suppress(LoopClosed):
            self.session.end(partial(_abandon, self.subject, error))


async def _abandon(subject: Subject, error: BaseException) -> None:
    try:
        await subject.abandon(error)
    except Exception as raised:
        if raised is not error:
            logger.error("clean-up for a worker process that has ended raised", exc_info=raised)
