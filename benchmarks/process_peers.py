"""The pools of the processes suite, bridge's and its peers': two workers each, up before the clock runs and gone after.

open_*() ── async with ──> call(fn, *args) -> awaitable
"""

from __future__ import annotations

import asyncio
import multiprocessing
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from time import monotonic, sleep
from typing import Any

import anyio
import anyio.to_process
import psutil
from loky import get_reusable_executor

import bridge
from benchmarks import process_workloads as work
from benchmarks.peers import LoopFactory, is_there, run_with_bridge, run_without_bridge
from benchmarks.process_measures import WORKERS, Call, Ready, warm

Open = Callable[[], AbstractAsyncContextManager[Call]]


@dataclass(frozen=True)
class Peer:
    """A library that runs functions in processes, on asyncio."""

    name: str
    open: Open
    #: Whether cancelling the await kills the function.
    kills: bool = False


def peers() -> list[Peer]:
    """All that are installed, but for those on trio."""
    found = [
        Peer("ProcessPoolExecutor (fork)", partial(open_process_pool, "fork")),
        Peer("ProcessPoolExecutor (spawn)", partial(open_process_pool, "spawn")),
        Peer("loky", open_loky),
        Peer("anyio.to_process", open_anyio, kills=True),
    ]
    if is_there("pebble"):
        found.append(Peer("pebble.ProcessPool", open_pebble, kills=True))
    if is_there("aiomultiprocess"):
        found.append(Peer("aiomultiprocess.Pool", open_aiomultiprocess))
    return found


# -- ours --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_bridge() -> AsyncIterator[Call]:
    async with bridge.ProcessExecutor(WORKERS) as executor:
        await executor.prestart()
        yield executor.run


@asynccontextmanager
async def open_bridge_for_kills() -> AsyncIterator[tuple[Call, Ready]]:
    """Without grace: the signal follows the request at once."""
    async with bridge.ProcessExecutor(WORKERS, grace=0) as executor:
        yield executor.run, executor.prestart


# -- theirs ------------------------------------------------------------------------------------------------------------


def _in(executor: Executor) -> Call:
    return partial(asyncio.get_running_loop().run_in_executor, executor)


@asynccontextmanager
async def open_process_pool(start_method: str) -> AsyncIterator[Call]:
    context = multiprocessing.get_context(start_method)
    with ProcessPoolExecutor(WORKERS, mp_context=context) as executor:
        yield _in(executor)


@asynccontextmanager
async def open_loky() -> AsyncIterator[Call]:
    executor = get_reusable_executor(max_workers=WORKERS, timeout=None)
    try:
        yield _in(executor)
    finally:
        executor.shutdown(wait=True)


@asynccontextmanager
async def open_anyio() -> AsyncIterator[Call]:
    """anyio ends the processes with the loop."""
    yield partial(anyio.to_process.run_sync, cancellable=True, limiter=anyio.CapacityLimiter(WORKERS))


@asynccontextmanager
async def open_pebble() -> AsyncIterator[Call]:
    import pebble

    pool = pebble.ProcessPool(WORKERS)

    def call(fn: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        return asyncio.wrap_future(pool.schedule(fn, args))

    try:
        yield call
    finally:
        pool.stop()
        pool.join()


@asynccontextmanager
async def open_aiomultiprocess() -> AsyncIterator[Call]:
    import aiomultiprocess
    from aiomultiprocess import core

    async with aiomultiprocess.Pool(WORKERS) as pool:

        def call(fn: Callable[..., Any], *args: Any) -> Awaitable[Any]:
            result: Awaitable[Any] = pool.apply(work.call, (fn, *args))  # it takes coroutine functions only
            return result

        yield call
    core.get_manager().shutdown()  # a process, too, which it keeps for good
    core._manager = None


@asynccontextmanager
async def open_thread() -> AsyncIterator[Call]:
    """No process at all: a thread calls the function."""
    yield asyncio.to_thread


# -- one run -----------------------------------------------------------------------------------------------------------


def measure_ours(
    factory: LoopFactory, measure: Callable[[Call], Awaitable[float]], first: Callable[[float], int] = work.pid_after
) -> float:
    """`measure(call)` with bridge's own pool, each worker of which has run `first`."""

    async def main() -> float:
        async with open_bridge() as call:
            await warm(call, first)
            return await measure(call)

    return _leaving_nothing(partial(run_with_bridge, factory, main))


def measure_kills_of_ours(factory: LoopFactory, measure: Callable[[Call, Ready], Awaitable[float]]) -> float:
    """`measure(call, ready)` with bridge's own pool; `ready` returns when a spare worker is warm, too."""

    async def main() -> float:
        async with open_bridge_for_kills() as (call, ready):
            return await measure(call, ready)

    return _leaving_nothing(partial(run_with_bridge, factory, main))


def measure_theirs(
    open_pool: Open, measure: Callable[[Call], Awaitable[float]], first: Callable[[float], int] = work.pid_after
) -> float:
    """`measure(call)` with a peer's pool, on the stock loop. Likewise."""

    async def main() -> float:
        async with open_pool() as call:
            await warm(call, first)
            return await measure(call)

    return _leaving_nothing(partial(run_without_bridge, asyncio.new_event_loop, main))


def measure_kills_of_theirs(open_pool: Open, measure: Callable[[Call, Ready], Awaitable[float]]) -> float:
    """`measure(call, ready)` with a peer's pool."""

    async def main() -> float:
        async with open_pool() as call:
            return await measure(call, partial(warm, call))

    return _leaving_nothing(partial(run_without_bridge, asyncio.new_event_loop, main))


def measure_in_thread(measure: Callable[[Call], Awaitable[float]]) -> float:
    """`measure(call)` with a thread in place of processes, on the stock loop."""

    async def main() -> float:
        async with open_thread() as call:
            return await measure(call)

    return run_without_bridge(asyncio.new_event_loop, main)


def _leaving_nothing(run: Callable[[], float]) -> float:
    """`run()`; raises AssertionError if a worker process outlives it, which would disturb whoever comes next."""
    with warnings.catch_warnings():
        # Pools that fork do so after they have begun threads; their own affair.
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        figure = run()
    given_up = monotonic() + 5.0
    while left := _workers():
        if monotonic() > given_up:
            raise AssertionError(f"worker processes left behind: {left}")
        sleep(0.005)
    return figure


def _workers() -> list[str]:
    """Children of this process, but for those that live as long as it does: they track resources, or fork the workers of
    a ProcessPoolExecutor (multiprocessing's fork server, the default from Python 3.14 on)."""
    multiprocessing.active_children()  # collects those that have ended
    found = []
    for child in psutil.Process().children():
        try:
            command = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if "resource_tracker" not in command and "multiprocessing.forkserver" not in command:
            found.append(f"{child.pid}: {command}")
    return found
