"""The names that lead from a thread, or from a worker process, into a loop: `portal` and `syncify`.

In a worker process `portal` must not import what only a loop needs, so that is imported where it is used.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from functools import partial
from types import FrameType, FunctionType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from bridge.callables import Kind, async_kind, discard, last_name, name_of, wrap
from bridge.errors import WrongThread
from bridge.threads.here import current_job, here, runs_a_loop
from bridge.threads.loaded import from_loaded
from bridge.threads.program_end import too_late

if TYPE_CHECKING:
    from bridge.threads.host import Host
    from bridge.threads.portal import Portal

P = ParamSpec("P")
T = TypeVar("T")


def portal() -> Portal:
    """The way into the loop that sent this work here; on a loop's own thread, into that loop.

    It need not be bridge that sent it: in a worker thread of anyio, trio or asgiref it is their loop. In a worker process
    it leads back into the parent. Raises WrongThread in any other thread, also in one of a pool of concurrent.futures, to
    which a loop has sent work without bridge.
    """
    if runs_a_loop():
        from bridge.loop.hosts import current_host
        from bridge.threads.portal import Portal

        return Portal(current_host())
    remote: Portal | None = getattr(here.worker, "portal", None)  # this is a worker process
    if remote is not None:
        return remote
    job = current_job()
    host = job.origin if job is not None else _host_that_sent()
    if host is not None:
        from bridge.threads.portal import Portal

        return Portal(host)
    raise WrongThread(
        f"bridge.portal() was called in {_kind_of_thread()}, or hand a portal over: portal = bridge.portal() on the "
        f"loop, then use it in the thread; in a program without a loop, `with bridge.background_loop() as portal`."
    )


def _kind_of_thread() -> str:
    """What is known of a thread without a loop, and how to send work there instead."""
    worker: FunctionType | None = from_loaded("concurrent.futures.thread", "_worker")
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and worker is not None:
        if frame.f_code is worker.__code__:
            return (
                "a thread of a ThreadPoolExecutor, which does not know the loop whose work it does, be it that of "
                "loop.run_in_executor or asyncio.to_thread. Send the work with bridge.to_thread(...), with "
                "bridge.ForeignExecutor(pool).run(...) if it has to be that pool"
            )
        frame = frame.f_back
    return (
        "a thread that knows no loop. Threads of bridge, anyio, trio and asgiref whose work comes from a loop know it, "
        "and worker processes of bridge.ProcessExecutor. Send the work with bridge.to_thread(...)"
    )


def _host_that_sent() -> Host | None:
    """In a thread that no worker of bridge runs: the loop that sent its work through another library."""
    with too_late("portal", "Call it earlier, and keep the portal."):
        from bridge.loop.hosts import host_that_sent

    return host_that_sent()


def syncify(async_fn: Callable[P, Coroutine[Any, Any, T]], /) -> Callable[P, T]:
    """Make a blocking function of an async one: calling it in a worker runs it on `bridge.portal()` and waits.

    Raises what `portal()` and `Portal.call` raise, and TypeError for a plain function.
    """
    discard(async_fn)  # a coroutine, by mistake
    kind = async_kind(async_fn)
    if kind != "coroutine":
        raise TypeError(f"syncify needs an async function, and {name_of(async_fn)} {_instead(async_fn, kind)}")

    def synchronous(*args: P.args, **kwargs: P.kwargs) -> T:
        return _on_the_portal(synchronous, async_fn)(*args, **kwargs)

    wrap(synchronous, async_fn)
    return synchronous


def _instead(fn: object, kind: Kind | None) -> str:
    """What else to do with something that `syncify` does not take."""
    if kind is not None:
        return f"is an async generator function: write `for item in bridge.portal().iterate({last_name(fn)}(...))`"
    beneath = getattr(fn, "__wrapped__", None) if type(fn) is FunctionType else None
    if async_kind(beneath) is not None:
        return (
            "is a plain function around one: decorate the async function itself, below the other decorators, "
            "or mark the plain one with inspect.markcoroutinefunction"
        )
    return "is not one: call it as it is"


def _on_the_portal(synchronous: Callable[P, T], async_fn: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    # A function of its own: what `synchronous` mentions travels with it when it is pickled by value.
    if runs_a_loop():
        raise WrongThread(
            f"{last_name(async_fn)} was made synchronous for threads, and this thread runs a loop: "
            f"write `await {last_name(async_fn)}.__wrapped__(...)`, or call it in bridge.to_thread(...)."
        )
    goes_by_name = type(async_fn) is FunctionType
    if goes_by_name and hasattr(here.worker, "portal"):
        return partial(portal().call, _Original(synchronous, async_fn))
    return partial(portal().call, async_fn)


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
        first, *names = self._async_fn.__qualname__.split(".")
        found: Any = from_loaded(self._async_fn.__module__, first)
        for name in names:
            found = getattr(found, name, None)
        if found is self._async_fn:  # syncify(fn)(...), with fn still going by its name
            return _same, (self._async_fn,)
        return _behind, (self._synchronous,)


def _same(fn: Any) -> Any:
    return fn


def _behind(synchronous: Any) -> Any:
    """`synchronous` may have become the async function itself, where that goes by the name."""
    if async_kind(synchronous) is not None:
        return synchronous
    return synchronous.__wrapped__
