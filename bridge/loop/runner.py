"""From no loop to a loop and back: run one async function, then end everything that it started, in bounded time.

run main ── cancel what is left ── close the loop (whoever still waits for it is told) ── close the threads
            '── after shutdown_timeout: stop waiting for functions in threads; report them, leave them behind
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from time import monotonic
from typing import Any, Literal, Protocol, TypeVar, TypeVarTuple, Unpack, runtime_checkable

from bridge.diagnostics.switch import wanted
from bridge.loop.asyncio_host import AsyncioHost
from bridge.loop.event_loop import EventLoop, new_event_loop
from bridge.loop.hosts import current_host
from bridge.loop.watch.foreign_loops import watch_here
from bridge.threads.blocking import loop_runs_here
from bridge.threads.closing import close_and_wait
from bridge.threads.host import Host
from bridge.threads.job import Job, last_name

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@runtime_checkable
class Lane(Protocol):
    """What `executors=` takes: an executor that can be ended in bounded time."""

    def submit_job(self, job: Job) -> None: ...

    def cancel_all(self) -> None: ...

    def close_within(self, timeout: float) -> None: ...


class HostedRun:
    """One run of a loop: what must happen before it starts and after it has ended. It owns its lanes."""

    def __init__(self, shutdown_timeout: float, lanes: Mapping[str, Lane] | None = None, diagnostics: bool | None = None):
        self.host: Host | None = None
        self._diagnostics = diagnostics
        self._shutdown_timeout = shutdown_timeout
        self._lanes = dict(lanes or {})
        self._last_call: AsyncGenerator[None, None] | None = None  # kept, for the loop to close

    async def main(self, async_fn: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
        """What runs on the loop."""
        host = self.host = current_host()
        for name, lane in self._lanes.items():
            host.open_lane(name, lane)
        if isinstance(host, AsyncioHost):
            self._last_call = _last_call(host)
            await anext(self._last_call)
        with self._watched(host):
            return await async_fn(*args)

    @contextmanager
    def _watched(self, host: Host) -> Iterator[None]:
        """A loop that is not bridge's does not have itself watched."""
        chosen = isinstance(host.loop, EventLoop) and self._diagnostics is None  # by whoever made the loop
        if chosen or not wanted(self._diagnostics):
            yield
            return
        end = watch_here()
        try:
            yield
        finally:
            end()

    def main_has_ended(self) -> None:
        """From here on the end is a matter of `shutdown_timeout`."""
        host = self.host
        if host is not None:
            host.deadline = monotonic() + self._shutdown_timeout
            host.loop.call_later(self._shutdown_timeout, host.leave)

    def end(self, failed: bool) -> None:
        """When the loop is closed: end its threads and its lanes."""
        host = self.host
        deadline = host.deadline if host is not None else None
        if deadline is None:
            deadline = monotonic() + self._shutdown_timeout
        if host is not None:
            host.close(f"{host!r} was closed")
            pool = host.pool_if_any()
            if pool is not None:
                close_and_wait(pool, max(0.0, deadline - monotonic()))
        with ExitStack() as each:  # one that fails does not keep the others open
            owned = host.owned if host is not None else {}
            for lane in (*self._lanes.values(), *owned.values()):
                if failed:
                    lane.cancel_all()
                each.callback(lambda lane: lane.close_within(max(0.0, deadline - monotonic())), lane)


async def _last_call(host: AsyncioHost) -> AsyncGenerator[None, None]:
    """Every asyncio loop closes its async generators after its tasks and before itself: the moment to end calls."""
    try:
        yield
    finally:
        await host.end_calls()


def run_on_asyncio(
    run: HostedRun,
    async_fn: Callable[..., Awaitable[T]],
    args: tuple[Any, ...],
    debug: bool | None,
    loop_factory: LoopFactory | None,
) -> T:
    """Run `async_fn` with `asyncio.Runner`, and end its threads after it."""
    failed = True
    try:
        with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
            runner.get_loop()  # which may fail, and then there should be no coroutine yet
            main = run.main(async_fn, args)
            try:
                result = runner.run(main)
            finally:
                if inspect.getcoroutinestate(main) == inspect.CORO_CREATED:
                    main.close()
                run.main_has_ended()
        failed = False
        return result
    finally:
        run.end(failed)


def run_on_trio(run: HostedRun, async_fn: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
    """Run `async_fn` with `trio.run`, and end its threads after it."""
    try:
        import trio
    except ImportError:
        raise ImportError("backend='trio' needs trio: pip install 'executor-bridge[trio]'") from None
    failed = True
    try:
        result: T = trio.run(run.main, async_fn, args)
        failed = False
        return result
    finally:
        run.end(failed)


def run(
    async_fn: Callable[[Unpack[Ts]], Awaitable[T]],
    /,
    *args: *Ts,
    debug: bool | None = None,
    loop_factory: LoopFactory | None = new_event_loop,
    shutdown_timeout: float = 10.0,
    executors: Mapping[str, Lane] | None = None,
    backend: Literal["asyncio", "trio"] = "asyncio",
    diagnostics: bool | None = None,
) -> T:
    """Run `async_fn(*args)` on a new loop until it returns; end everything it started; return or raise its outcome.

    `executors` are named lanes for `to=`; the run owns them and closes them. When `async_fn` has ended, tasks are
    cancelled, the loop is closed and threads are waited for, `shutdown_timeout` seconds at most: a function that is still
    running then is reported with its stack and left behind. Ctrl-C is handled as by `asyncio.Runner`.
    `loop_factory` makes any asyncio loop (None: asyncio's default); with `backend="trio"` it is trio that runs, and
    neither `loop_factory` nor `debug` has a meaning. `diagnostics` turns the reports of docs/diagnostics.md on or off
    (None: on, unless the environment has BRIDGE_DIAGNOSTICS=0); of a loop that is not bridge's it is told what blocks it.

    Raises TypeError for anything but an async function, RuntimeError inside a running loop, and what `async_fn` raises.
    """
    check_runnable(async_fn)
    check_lanes(executors or {})
    check_timeout(shutdown_timeout)
    if loop_runs_here():
        raise RuntimeError(
            f"bridge.run({last_name(async_fn)}) was called where a loop is running already: "
            f"write `await {last_name(async_fn)}(...)` here, and bridge.run only at the top of the program."
        )
    hosted = HostedRun(shutdown_timeout, executors, diagnostics)
    if backend == "trio":
        return run_on_trio(hosted, async_fn, args)
    if backend != "asyncio":
        raise ValueError(f"backend is 'asyncio' or 'trio', not {backend!r}")
    return run_on_asyncio(hosted, async_fn, args, debug, diagnosed(loop_factory, diagnostics))


def diagnosed(loop_factory: LoopFactory | None, diagnostics: bool | None) -> LoopFactory | None:
    """bridge's own loop, told whether to diagnose itself; any other factory as it is."""
    return partial(new_event_loop, diagnostics=diagnostics) if loop_factory is new_event_loop else loop_factory


def check_timeout(shutdown_timeout: object) -> None:
    """Raise TypeError or ValueError for what is no number of seconds."""
    if not isinstance(shutdown_timeout, (int, float)) or isinstance(shutdown_timeout, bool):
        raise TypeError(f"shutdown_timeout is in seconds, not {shutdown_timeout!r}: write shutdown_timeout=10.0")
    if not shutdown_timeout >= 0:
        raise ValueError(
            f"shutdown_timeout is in seconds and cannot be {shutdown_timeout!r}: write shutdown_timeout=10.0"
        )


def check_lanes(executors: Mapping[str, Lane]) -> None:
    """Raise TypeError for what cannot be a lane."""
    for name, executor in executors.items():
        if not isinstance(name, str) or not isinstance(executor, Lane):
            raise TypeError(
                f"executors= maps names to bridge executors, not {name!r} to {executor!r}: "
                f'write executors={{"db": bridge.ThreadExecutor(1)}}'
            )


def check_runnable(async_fn: object) -> None:
    """Raise TypeError, with the right line, for what `run` cannot run."""
    if inspect.iscoroutine(async_fn):
        async_fn.close()
        name = async_fn.__name__
        raise TypeError(
            f"bridge.run needs the function, not the coroutine: write bridge.run({name}), not bridge.run({name}())"
        )
    called = getattr(async_fn, "func", async_fn)  # functools.partial
    if not callable(async_fn):
        raise TypeError(f"bridge.run needs an async function, not {async_fn!r}")
    if not inspect.iscoroutinefunction(called) and not inspect.iscoroutinefunction(type(called).__call__):
        name = last_name(async_fn)
        raise TypeError(f"bridge.run needs an async function, and {name} is a plain one: write `async def {name}(...)`")
