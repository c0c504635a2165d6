"""The names that lead from a thread into a loop: `portal` and `syncify`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from bridge.errors import WrongThread
from bridge.loop.hosts import current_host
from bridge.threads.blocking import loop_runs_here
from bridge.threads.here import current_job
from bridge.threads.job import last_name, name_of
from bridge.threads.portal import Portal

P = ParamSpec("P")
T = TypeVar("T")


def portal() -> Portal:
    """The way into the loop that sent this work here; on a loop's own thread, into that loop.

    Raises WrongThread in a thread that no loop has sent work to.
    """
    if loop_runs_here():
        return Portal(current_host())
    job = current_job()
    if job is not None and job.origin is not None:
        return Portal(job.origin)
    raise WrongThread(
        "bridge.portal() was called in a thread that no loop has sent work to. Send the work with bridge.to_thread(...), "
        "or hand a portal over: portal = bridge.portal() on the loop, then use it in the thread; "
        "in a program without a loop, `with bridge.background_loop() as portal`."
    )


def syncify(async_fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, T]:
    """Make a blocking function of an async one: calling it in a worker runs it on `bridge.portal()` and waits.

    Raises what `portal()` and `Portal.call` raise, and TypeError for a plain function.
    """
    if inspect.iscoroutine(async_fn):
        async_fn.close()  # type: ignore[unreachable]
    if not inspect.iscoroutinefunction(async_fn):
        raise TypeError(f"syncify needs an async function, and {name_of(async_fn)} is not one: call it as it is")

    @functools.wraps(async_fn)
    def synchronous(*args: P.args, **kwargs: P.kwargs) -> T:
        if loop_runs_here():
            raise WrongThread(
                f"{last_name(async_fn)} was made synchronous for threads, and this thread runs a loop: "
                f"write `await {last_name(async_fn)}.__wrapped__(...)`, or call it in bridge.to_thread(...)."
            )
        return portal().call(async_fn, *args, **kwargs)

    return synchronous
