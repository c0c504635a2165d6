"""The names that lead from a thread, or from a worker process, into a loop: `portal` and `syncify`.

In a worker process `portal` must not import what only a loop needs, so that is imported where it is used.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from bridge.errors import WrongThread
from bridge.threads.here import current_job, here, runs_a_loop
from bridge.threads.job import last_name, name_of

if TYPE_CHECKING:
    from bridge.threads.portal import Portal

P = ParamSpec("P")
T = TypeVar("T")


def portal() -> Portal:
    """The way into the loop that sent this work here; on a loop's own thread, into that loop.

    In a worker process it leads back into the parent. Raises WrongThread in a thread that no loop has sent work to.
    """
    if runs_a_loop():
        from bridge.loop.hosts import current_host
        from bridge.threads.portal import Portal

        return Portal(current_host())
    remote: Portal | None = getattr(here.worker, "portal", None)  # this is a worker process
    if remote is not None:
        return remote
    job = current_job()
    if job is not None and job.origin is not None:
        from bridge.threads.portal import Portal

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
        return _on_the_portal(synchronous, async_fn)(*args, **kwargs)

    return synchronous


def _on_the_portal(synchronous: Callable[P, T], async_fn: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    # A function of its own: what `synchronous` mentions travels with it when it is pickled by value.
    if runs_a_loop():
        raise WrongThread(
            f"{last_name(async_fn)} was made synchronous for threads, and this thread runs a loop: "
            f"write `await {last_name(async_fn)}.__wrapped__(...)`, or call it in bridge.to_thread(...)."
        )
    if hasattr(here.worker, "portal"):
        return functools.partial(portal().call, _Original(synchronous, async_fn))
    return functools.partial(portal().call, async_fn)


class _Original(Generic[P, T]):
    """The async function behind a synchronous one, on its way out of a worker process.

    Functions are pickled by name, and the name of a decorated function leads to what the decorator made of it.
    """

    def __init__(self, synchronous: Callable[P, T], async_fn: Callable[P, Coroutine[Any, Any, T]]):
        self._synchronous = synchronous
        self._async_fn = async_fn
        self.__module__, self.__qualname__ = async_fn.__module__, async_fn.__qualname__  # for messages

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, T]:
        return self._async_fn(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        found: Any = sys.modules.get(self._async_fn.__module__)
        for name in self._async_fn.__qualname__.split("."):
            found = getattr(found, name, None)
        if found is self._async_fn:  # syncify(fn)(...), with fn still going by its name
            return _same, (self._async_fn,)
        return _behind, (self._synchronous,)


def _same(fn: Any) -> Any:
    return fn


def _behind(synchronous: Any) -> Any:
    """`synchronous` may have become the async function itself, where that goes by the name."""
    if inspect.iscoroutinefunction(synchronous):
        return synchronous
    return synchronous.__wrapped__
