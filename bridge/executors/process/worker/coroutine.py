"""A coroutine function in a worker process: on an event loop of its own, for as long as it runs.

The loop watches the line meanwhile, so that a cancellation, and answers to portal calls, come through.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from contextvars import Context
from time import monotonic
from typing import Any, TypeVar

from bridge.executors.process.worker.line import Line
from bridge.loop.ending import closing, end_tasks
from bridge.loop.event_loop import new_event_loop
from bridge.threads.closing import SHUTDOWN_TIMEOUT

T = TypeVar("T")


def run_coroutine(line: Line, coro: Coroutine[Any, Any, T], context: Context, cancelled: Callable[[], bool]) -> T:
    """Run `coro` in `context` to its end and return or raise its outcome; cancel it once `cancelled()` is true.

    Tasks that it leaves are cancelled, and have as long to end as at the end of a program.
    """
    try:
        with closing(asyncio.Runner(loop_factory=new_event_loop)) as runner:
            try:
                return runner.run(_watched(line, coro, cancelled), context=context)
            finally:
                since = monotonic()
                end_tasks(runner.get_loop(), lambda: None, since, since + SHUTDOWN_TIMEOUT)
    except asyncio.CancelledError as error:
        raise CancelledError(*error.args) from None  # the one that means the same on every loop


async def _watched(line: Line, coro: Coroutine[Any, Any, T], cancelled: Callable[[], bool]) -> T:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    def look() -> None:
        line.read_what_is_there()
        if cancelled():
            loop.remove_reader(line.sock)
            task.cancel()

    loop.add_reader(line.sock, look)
    try:
        if cancelled():
            task.cancel()
        return await coro
    finally:
        loop.remove_reader(line.sock)
