"""From no loop to a loop and back: run one async function, then end everything that it started, in bounded time.

run main ── end the remaining tasks ── close the loop (waiting threads get LoopClosed) ── close the threads
            '── after shutdown_timeout: stop waiting for tasks and functions; report them, leave them behind
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Executor as StandardExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from math import inf
from time import monotonic
from types import CoroutineType
from typing import Any, Literal, Protocol, TypeVar, TypeVarTuple, Unpack, runtime_checkable

from bridge.callables import as_kind, async_kind, decorates_async, last_name, name_of, shown
from bridge.diagnostics.switch import wanted
from bridge.loop.asyncio_host import AsyncioHost
from bridge.loop.ending import closing, end_tasks
from bridge.loop.event_loop import EventLoop, new_event_loop
from bridge.loop.hosts import current_host
from bridge.loop.watch.foreign_loops import watch_here
from bridge.threads.blocking import loop_runs_here
from bridge.threads.closing import close_and_wait
from bridge.threads.host import Host
from bridge.threads.importing import refuse_in_an_import
from bridge.threads.job import Job
from bridge.threads.seconds import check_seconds

Ts = TypeVarTuple("Ts")
T = TypeVar("T")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


@runtime_checkable
class Lane(Protocol):
    """What `executors=` takes: an executor that can be ended in bounded time."""

    def submit_job(self, job: Job) -> None: ...

    def cancel_all(self) -> None: ...

    def close_within(self, timeout: float, since: float | None = None) -> None: ...


class HostedRun:
    """One run of a loop: what must happen before it starts and after it has ended. It owns its lanes."""

    def __init__(self, shutdown_timeout: float, lanes: Mapping[str, Lane] | None = None, diagnostics: bool | None = None):
        self.host: Host | None = None
        self._diagnostics = diagnostics
        self._shutdown_timeout = shutdown_timeout
        self._deadline = inf
        self._ended_at: float | None = None  # what runs on the loop; from there on everything is waited for
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
            awaitable: Any = async_fn(*args)
            if not inspect.isawaitable(awaitable):
                self._lanes.clear()  # a run that is refused leaves the executors to their owner
                raise _not_awaitable(async_fn, awaitable)
            result: T = await host.run_main(awaitable)
            return result

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
        if self._ended_at is None:
            self._ended_at = monotonic()
            self._deadline = self._ended_at + self._shutdown_timeout
            if self.host is not None:
                self.host.deadline = self._deadline

    def end_tasks(self, loop: asyncio.AbstractEventLoop) -> None:
        """On an asyncio loop that has not been closed: end what is left there."""
        self.main_has_ended()
        assert self._ended_at is not None
        if self.host is not None:  # else it was interrupted before anything began
            try:
                end_tasks(loop, self.host.leave, self._ended_at, self._deadline)
            except KeyboardInterrupt:
                self._deadline = monotonic()  # nor do the other steps wait
                raise

    def end(self, failed: bool) -> None:
        """When the loop is closed: end its threads and its lanes."""
        host = self.host
        self.main_has_ended()
        assert self._ended_at is not None
        since = self._ended_at
        owned = host.owned if host is not None else {}
        lanes = (*self._lanes.values(), *owned.values())
        with ExitStack() as each:  # last come, first called; one that fails or is interrupted does not keep others open
            for lane in lanes:
                each.callback(self._step, partial(lane.close_within, since=since))
            if failed:
                for lane in lanes:
                    each.callback(lane.cancel_all)
            if host is not None:
                pool = host.pool_if_any()
                if pool is not None:
                    each.callback(self._step, partial(close_and_wait, pool, since=since))
                each.callback(host.close, f"{host!r} was closed")

    def _step(self, close: Callable[[float], object]) -> None:
        """Do one thing of the end, with so many seconds left. Once one is interrupted, the others do not wait."""
        try:
            close(max(0.0, self._deadline - monotonic()))
        except BaseException:
            self._deadline = monotonic()
            raise


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
    main = None
    try:
        with closing(asyncio.Runner(debug=debug, loop_factory=loop_factory)) as runner:
            runner.get_loop()  # which may fail, and then there should be no coroutine yet
            main = run.main(async_fn, args)
            main.__qualname__ = name_of(async_fn)  # type: ignore[attr-defined]  # for asyncio's messages
            try:
                result = runner.run(main)
            finally:
                run.end_tasks(runner.get_loop())
        failed = False
        return result
    finally:
        # Only now: interrupted before its first step, it belonged to a task that the loop has still cancelled.
        if main is not None and inspect.getcoroutinestate(main) == inspect.CORO_CREATED:
            main.close()
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
    cancelled, the loop is closed and threads are waited for, `shutdown_timeout` seconds at most: a task or function that
    is still running then is reported with its stack and left behind. Ctrl-C is handled as by `asyncio.Runner`.
    `loop_factory` makes any asyncio loop (None: asyncio's default); with `backend="trio"` it is trio that runs, and
    neither `loop_factory` nor `debug` has a meaning. `diagnostics` turns the reports of docs/diagnostics.md on or off
    (None: on, unless the environment has BRIDGE_DIAGNOSTICS=0); of a loop that is not bridge's it is told what blocks it.

    A plain function will do if what it returns can be awaited: `bridge.run(lambda: main(1, 2))`. Raises TypeError for
    anything else, RuntimeError inside a running loop, and what `async_fn` raises.
    """
    check_runnable(async_fn)
    check_lanes(executors or {})
    check_timeout(shutdown_timeout)
    if loop_runs_here():
        raise RuntimeError(
            f"bridge.run({last_name(async_fn)}) was called where a loop is running already: "
            f"write `await {last_name(async_fn)}(...)` here, and bridge.run only at the top of the program."
        )
    refuse_in_an_import("bridge.run")
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
    check_seconds("shutdown_timeout", shutdown_timeout, "shutdown_timeout=10.0")


def check_lanes(executors: Mapping[str, Lane]) -> None:
    """Raise TypeError for what cannot be a lane."""
    given: Mapping[Any, Any] = executors
    for name, executor in given.items():
        if not isinstance(name, str) or not isinstance(executor, Lane):
            own = "bridge.ThreadExecutor(1)"
            if isinstance(executor, StandardExecutor):
                own = f"bridge.ForeignExecutor({type(executor).__name__}(...))"
            raise TypeError(
                f"executors= maps names to bridge executors, not {name!r} to {shown(executor)}: "
                f'write executors={{"db": {own}}}'
            )


def check_runnable(async_fn: object) -> None:
    """Raise TypeError, with the right line, for what `run` cannot run; as far as that is known without calling it."""
    if type(async_fn) is CoroutineType:
        async_fn.close()
        name = last_name(async_fn)
        raise TypeError(
            f"bridge.run needs the function, not the coroutine: write bridge.run({name}), not bridge.run({name}())"
        )
    if not callable(async_fn):
        raise TypeError(f"bridge.run needs an async function, not {shown(async_fn)}")
    kind = async_kind(async_fn)
    if kind == "async generator":
        raise TypeError(
            f"bridge.run needs an async function to await, and {as_kind(async_fn, kind)}: "
            f"write `async for item in {last_name(async_fn)}(...)` in an async function, and run that"
        )


def _not_awaitable(fn: object, value: object) -> TypeError:
    name = last_name(fn)
    if decorates_async(fn):
        return TypeError(
            f"bridge.run needs something to await, and {name_of(fn)}, an async function, is decorated by a function that "
            f"returned {shown(value)}: have the decorator return what `{name}(...)` returns."
        )
    return TypeError(
        f"bridge.run needs an async function, and {name_of(fn)} is a plain one: write `async def {name}(...)`. "
        f"It was called, and returned {shown(value)}, which cannot be awaited."
    )
