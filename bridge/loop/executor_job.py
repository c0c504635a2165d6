"""`loop.run_in_executor` on bridge's worker threads: a job whose outcome goes into an asyncio future."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError as ThreadCancelled
from functools import partial
from typing import Any

from bridge.errors import LoopClosed
from bridge.loop.hosts import host_of
from bridge.threads.inbox import Item
from bridge.threads.job import Job
from bridge.threads.pool import WorkerPool


class ExecutorJob(Job, Item):
    """It is its own message on the way back."""

    __slots__ = ("future", "loop")

    @classmethod
    def submit(
        cls, loop: asyncio.AbstractEventLoop, pool: WorkerPool, fn: Callable[..., Any], args: tuple[Any, ...]
    ) -> asyncio.Future[Any]:
        job = cls(fn, args, {}, host_of(loop))
        job.loop = loop
        job.future = future = loop.create_future()
        future.add_done_callback(partial(job._follow, pool))
        pool.submit_job(job)
        return future

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]

    def _follow(self, pool: WorkerPool, future: asyncio.Future[Any]) -> None:
        """Nobody awaits a cancelled future any more: withdraw the function, or let it know if it runs."""
        if future.cancelled() and not pool.withdraw(self):
            self.request_cancel(self.origin.raise_cancelled)  # type: ignore[union-attr]

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
