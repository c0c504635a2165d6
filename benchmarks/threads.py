"""The suite `threads`: every crossing between a loop and threads, bridge's beside those of its peers, and the targets.

bridge's own rows come first in each section. Theirs run on the stock loop and, where they can, on uvloop and on bridge's
loop, because a program may well put bridge's loop under libraries that know nothing of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread

import bridge
from benchmarks import memory
from benchmarks import workloads as work
from benchmarks.measure import Case, Section, Suite, Target
from benchmarks.peers import (
    is_there,
    loop_factories,
    run_on_trio,
    run_with_bridge,
    run_with_bridge_on_trio,
    run_without_bridge,
)

#: An async function without arguments that measures something on the loop it runs on.
Workload = Callable[[], Any]

US = "us per call"
FLOOR = "token between two threads"

SEQUENTIAL = "Offload a no-op, one after the other"
IN_FLIGHT = "Offload no-ops, 32 in flight"
GATHER = "Offload no-ops, all in one gather"
FAILING = "Offload a function that raises, one after the other"
ITERATE = "Iterate a synchronous generator"
CALL = "Call a coroutine function on the loop, from a worker"
CALL_SUSPENDING = "Call a coroutine function that suspends once, from a worker"
CALL_SYNC = "Call a plain function on the loop, from a worker"
BURST = "Burst of call_soon_threadsafe from a thread"
SLEEPERS = "40 offloads sleeping 10 ms, on 40 cold workers"
MEMORY = "Memory added by queued offloads"
TRIO_SEQUENTIAL = "trio: offload a no-op, one after the other"
TRIO_IN_FLIGHT = "trio: offload no-ops, 32 in flight"
TRIO_CALL = "trio: call a coroutine function on the loop, from a worker"

#: The loops that peers are measured on, as far as they are installed.
STOCK, BOTH, ALL = ("asyncio",), ("asyncio", "uvloop"), ("asyncio", "uvloop", "bridge")


def suite(*, quick: bool) -> Suite:
    """All sections with their sizes; `quick` makes them small enough for a smoke test."""

    def calls(usual: int) -> int:
        return usual // 8 if quick else usual

    sections = [
        sequential(calls(1600)),
        in_flight(calls(3200)),
        gather(2_000 if quick else 10_000),
        failing(calls(1600)),
        iterate(calls(1600)),
        call_coroutine(calls(1600)),
        call_suspending(calls(1600)),
        call_sync(calls(1600)),
        burst(calls(16_000)),
        sleepers(),
        queued_memory(10_000 if quick else 100_000),
    ]
    if is_there("trio"):  # last, see `peers`
        sections += [trio_sequential(calls(1600)), trio_in_flight(calls(3200)), trio_call(calls(1600))]
    return Suite("threads", sections, TARGETS, NOTES, PEERS)


# -- making cases ------------------------------------------------------------------------------------------------------


def ours(name: str, workload: Workload) -> list[Case]:
    """bridge's way, on each loop."""
    return [Case(name, on, partial(run_with_bridge, factory, workload)) for on, factory in loop_factories().items()]


def theirs(name: str, workload: Workload, loops: tuple[str, ...] = BOTH) -> list[Case]:
    """A peer's way, on those of `loops` that are installed."""
    factories = loop_factories()
    return [Case(name, on, partial(run_without_bridge, factories[on], workload)) for on in loops if on in factories]


def asgiref_way(name: str, make: Callable[[], Workload]) -> list[Case]:
    """asgiref's way, if it is installed."""
    return theirs(name, make()) if is_there("asgiref") else []


def floor(calls: int) -> Case:
    """The floor, measured anew in each section that is compared with it."""
    return Case(FLOOR, "", partial(work.token_between_threads, calls))


# -- out of the loop ---------------------------------------------------------------------------------------------------


def offload_cases(workload: Callable[..., Any], fn: Callable[[], None], calls: int) -> list[Case]:
    """Every way to run `fn` in a thread and await it."""

    def in_executor() -> Awaitable[None]:
        return asyncio.get_running_loop().run_in_executor(None, fn)

    def asgiref(thread_sensitive: bool) -> Workload:
        from asgiref.sync import sync_to_async

        return partial(workload, sync_to_async(fn, thread_sensitive=thread_sensitive), calls)

    return [
        *ours("bridge.to_thread", partial(workload, partial(bridge.to_thread, fn), calls)),
        *theirs("asyncio.to_thread", partial(workload, partial(asyncio.to_thread, fn), calls), ALL),
        *theirs("loop.run_in_executor", partial(workload, in_executor, calls), ALL),
        *theirs("anyio.to_thread.run_sync", partial(workload, partial(anyio.to_thread.run_sync, fn), calls)),
        *asgiref_way("asgiref.sync_to_async", partial(asgiref, True)),
        *asgiref_way("asgiref.sync_to_async(thread_sensitive=False)", partial(asgiref, False)),
    ]


def sequential(calls: int) -> Section:
    cases = [floor(calls), *offload_cases(work.sequential, work.noop, calls)]
    return Section(SEQUENTIAL, US, cases, "bridge.to_thread on bridge", FLOOR)


def in_flight(calls: int) -> Section:
    cases = [floor(calls // 2), *offload_cases(work.in_flight, work.noop, calls)]
    return Section(IN_FLIGHT, US, cases, "bridge.to_thread on bridge", FLOOR)


def gather(calls: int) -> Section:
    cases = [floor(1000), *offload_cases(work.gathered, work.noop, calls)]
    return Section(GATHER, f"{US}, {calls:,} calls", cases, "bridge.to_thread on bridge", FLOOR, max_rounds=5)


def failing(calls: int) -> Section:
    cases = [floor(calls), *offload_cases(work.sequential_failing, work.fail, calls)]
    return Section(FAILING, US, cases, "bridge.to_thread on bridge", FLOOR)


def iterate(items: int) -> Section:
    """The peers hop to a thread for each item, as web frameworks do with the body of a streaming response."""
    end = object()

    async def hop(to_thread: Callable[..., Awaitable[Any]], count: int) -> AsyncIterator[int]:
        iterator = work.numbers(count)
        while (item := await to_thread(next, iterator, end)) is not end:
            yield item

    cases = [
        floor(items),
        *ours("bridge.stream", partial(work.iterated, partial(bridge.stream, work.numbers), items)),
        *theirs("asyncio.to_thread(next)", partial(work.iterated, partial(hop, asyncio.to_thread), items)),
        *theirs("anyio.to_thread.run_sync(next)", partial(work.iterated, partial(hop, anyio.to_thread.run_sync), items)),
    ]
    return Section(ITERATE, "us per item", cases, "bridge.stream on bridge", FLOOR)


def sleepers() -> Section:
    """Executors are made outside the time taken, their threads inside."""

    async def run_by_bridge() -> float:
        async with bridge.ThreadExecutor(work.SLEEPERS) as executor:
            return await work.sleepers(executor.run)

    async def run_in_executor() -> float:
        with ThreadPoolExecutor(work.SLEEPERS) as executor:
            return await work.sleepers(partial(asyncio.get_running_loop().run_in_executor, executor))

    async def run_sync_by_anyio() -> float:
        limiter = anyio.CapacityLimiter(work.SLEEPERS)
        return await work.sleepers(partial(anyio.to_thread.run_sync, limiter=limiter))

    cases = [
        *ours("bridge.ThreadExecutor(40).run", run_by_bridge),
        *ours("bridge.to_thread", partial(work.sleepers, bridge.to_thread)),
        *theirs("run_in_executor(ThreadPoolExecutor(40))", run_in_executor),
        *theirs("anyio.to_thread.run_sync, limiter of 40", run_sync_by_anyio),
    ]
    return Section(SLEEPERS, "ms in all", cases, "bridge.ThreadExecutor(40).run on bridge")


def queued_memory(calls: int) -> Section:
    loops = loop_factories()
    cases = [
        Case(way, on, partial(memory.queued, way, on, calls))
        for way in memory.WAYS
        for on in (loops if way.startswith("bridge") else BOTH)
        if on in loops
    ]
    return Section(MEMORY, f"bytes per call, {calls:,} calls", cases, "bridge.to_thread on bridge", max_rounds=2)


# -- into the loop -----------------------------------------------------------------------------------------------------


def by_portal(fn: Callable[..., Any], calls: int) -> Workload:
    """`bridge.portal().call(fn)`."""
    return partial(work.crossings, bridge.to_thread, lambda: partial(bridge.portal().call, fn), calls)


async def by_coroutine_threadsafe(fn: Callable[..., Any], calls: int) -> float:
    """`asyncio.run_coroutine_threadsafe(fn(), loop).result()`."""
    loop = asyncio.get_running_loop()

    def cross() -> None:
        asyncio.run_coroutine_threadsafe(fn(), loop).result()

    return await work.crossings(asyncio.to_thread, lambda: cross, calls)


async def by_callback_and_future(fn: Callable[[], Any], calls: int) -> float:
    """The standard library has no blocking call of a plain function: what one writes by hand."""
    loop = asyncio.get_running_loop()

    def cross() -> None:
        future: Future[Any] = Future()
        loop.call_soon_threadsafe(lambda: future.set_result(fn()))
        future.result()

    return await work.crossings(asyncio.to_thread, lambda: cross, calls)


async def by_blocking_portal(fn: Callable[..., Any], calls: int) -> float:
    """`anyio.from_thread.BlockingPortal.call`."""
    async with anyio.from_thread.BlockingPortal() as portal:
        figure = await work.crossings(asyncio.to_thread, lambda: partial(portal.call, fn), calls)
    return figure  # noqa: RET504 - by its type the portal may swallow an error, so mypy wants the return out here


def by_from_thread(run: Callable[..., Any], fn: Callable[..., Any], calls: int) -> Workload:
    """`anyio.from_thread.run` or `run_sync`."""
    return partial(work.crossings, anyio.to_thread.run_sync, lambda: partial(run, fn), calls)


def by_async_to_sync(fn: Callable[..., Any], calls: int) -> Workload:
    """`asgiref.sync.async_to_sync(fn)()` in a thread that `sync_to_async` sent there."""
    from asgiref.sync import async_to_sync, sync_to_async

    async def send(function: Callable[[], float]) -> float:
        return await sync_to_async(function)()

    return partial(work.crossings, send, lambda: async_to_sync(fn), calls)


def coroutine_cases(fn: Callable[..., Any], calls: int) -> list[Case]:
    """Every way to have a coroutine function run on the loop and wait for it in a thread."""

    def portal_future() -> work.Crossing:
        portal = bridge.portal()
        return lambda: portal.run_coroutine_threadsafe(fn()).result()

    by_future = partial(work.crossings, bridge.to_thread, portal_future, calls)
    return [
        *ours("portal.call", by_portal(fn, calls)),
        *ours("portal.run_coroutine_threadsafe().result()", by_future),
        *theirs("run_coroutine_threadsafe().result()", partial(by_coroutine_threadsafe, fn, calls), ALL),
        *theirs("anyio BlockingPortal.call", partial(by_blocking_portal, fn, calls)),
        *theirs("anyio.from_thread.run", by_from_thread(anyio.from_thread.run, fn, calls)),
        *asgiref_way("asgiref.async_to_sync", partial(by_async_to_sync, fn, calls)),
    ]


def call_coroutine(calls: int) -> Section:
    return Section(CALL, US, [floor(calls), *coroutine_cases(work.async_noop, calls)], "portal.call on bridge", FLOOR)


def call_suspending(calls: int) -> Section:
    cases = [floor(calls), *coroutine_cases(work.suspend_once, calls)]
    return Section(CALL_SUSPENDING, US, cases, "portal.call on bridge", FLOOR)


def call_sync(calls: int) -> Section:
    cases = [
        floor(calls),
        *ours("portal.call", by_portal(work.noop, calls)),
        *theirs("call_soon_threadsafe and a Future", partial(by_callback_and_future, work.noop, calls), ALL),
        *theirs("anyio BlockingPortal.call", partial(by_blocking_portal, work.noop, calls)),
        *theirs("anyio.from_thread.run_sync", by_from_thread(anyio.from_thread.run_sync, work.noop, calls)),
    ]
    return Section(CALL_SYNC, US, cases, "portal.call on bridge", FLOOR)


def burst(calls: int) -> Section:
    async def of_the_loop() -> float:
        loop = asyncio.get_running_loop()
        return await work.burst(asyncio.to_thread, lambda: loop.call_soon_threadsafe, calls)

    by_bridge = partial(work.burst, bridge.to_thread, lambda: bridge.portal().call_soon_threadsafe, calls)
    cases = [
        *theirs("loop.call_soon_threadsafe", of_the_loop, ("bridge", *BOTH)),
        *ours("portal.call_soon_threadsafe", by_bridge),
    ]
    return Section(BURST, f"us per callback, {calls:,} callbacks", cases, "loop.call_soon_threadsafe on bridge")


# -- trio --------------------------------------------------------------------------------------------------------------


def ours_on_trio(name: str, workload: Workload) -> Case:
    return Case(name, "trio", partial(run_with_bridge_on_trio, workload))


def theirs_on_trio(name: str, workload: Workload) -> Case:
    return Case(name, "trio", partial(run_on_trio, workload))


def beside_trio(name: str, workload: Workload) -> Case:
    """bridge on its own loop, in a process that has imported trio, which makes it look twice which loop it is on."""

    def measure() -> float:
        import trio  # noqa: F401

        return run_with_bridge(bridge.new_event_loop, workload)

    return Case(name, "bridge, trio imported", measure)


def trio_offloads(workload: Callable[..., Any], calls: int) -> list[Case]:
    def by_trio() -> Awaitable[None]:
        import trio

        return trio.to_thread.run_sync(work.noop)

    by_bridge = partial(bridge.to_thread, work.noop)
    return [
        floor(calls // 2),
        ours_on_trio("bridge.to_thread", partial(workload, by_bridge, calls)),
        theirs_on_trio("trio.to_thread.run_sync", partial(workload, by_trio, calls)),
        theirs_on_trio(
            "anyio.to_thread.run_sync", partial(workload, partial(anyio.to_thread.run_sync, work.noop), calls)
        ),
    ]


def trio_sequential(calls: int) -> Section:
    cases = trio_offloads(work.sequential, calls)
    cases.append(beside_trio("bridge.to_thread", partial(work.sequential, partial(bridge.to_thread, work.noop), calls)))
    return Section(TRIO_SEQUENTIAL, US, cases, "bridge.to_thread on trio", FLOOR)


def trio_in_flight(calls: int) -> Section:
    cases = trio_offloads(work.in_flight_on_trio, calls)
    cases.append(beside_trio("bridge.to_thread", partial(work.in_flight, partial(bridge.to_thread, work.noop), calls)))
    return Section(TRIO_IN_FLIGHT, US, cases, "bridge.to_thread on trio", FLOOR)


def trio_call(calls: int) -> Section:
    def by_trio() -> work.Crossing:
        import trio

        return partial(trio.from_thread.run, work.async_noop)

    async def send_by_trio(function: Callable[[], float]) -> float:
        import trio

        return await trio.to_thread.run_sync(function)

    cases = [
        floor(calls),
        ours_on_trio("portal.call", by_portal(work.async_noop, calls)),
        theirs_on_trio("trio.from_thread.run", partial(work.crossings, send_by_trio, by_trio, calls)),
        theirs_on_trio("anyio.from_thread.run", by_from_thread(anyio.from_thread.run, work.async_noop, calls)),
    ]
    return Section(TRIO_CALL, US, cases, "portal.call on trio", FLOOR)


# -- what the figures have to be ---------------------------------------------------------------------------------------

PEERS = ("uvloop", "asgiref", "trio")

_OFFLOAD = "bridge.to_thread on bridge"
_CALL = "portal.call on bridge"
_BURST = "loop.call_soon_threadsafe on bridge"

TARGETS = [
    Target("32 in flight: faster than asyncio.to_thread", IN_FLIGHT, _OFFLOAD, 4.0, 6.0, "asyncio.to_thread on asyncio"),
    Target(
        "32 in flight: faster than anyio.to_thread.run_sync",
        IN_FLIGHT,
        _OFFLOAD,
        8.0,
        12.0,
        "anyio.to_thread.run_sync on asyncio",
    ),
    Target("sequential offload: times the floor", SEQUENTIAL, _OFFLOAD, 2.2, 1.6, FLOOR, limit=True),
    Target(
        "sequential offload: faster than asyncio.to_thread",
        SEQUENTIAL,
        _OFFLOAD,
        1.5,
        other="asyncio.to_thread on asyncio",
    ),
    Target(
        "portal.call: faster than run_coroutine_threadsafe().result()",
        CALL,
        _CALL,
        2.0,
        2.5,
        "run_coroutine_threadsafe().result() on asyncio",
    ),
    Target("portal.call: faster than anyio's portal.call", CALL, _CALL, 4.0, 5.0, "anyio BlockingPortal.call on asyncio"),
    Target(
        "portal.call: faster than asgiref's async_to_sync",
        CALL,
        _CALL,
        1.0,
        other="asgiref.async_to_sync on asyncio",
        strict=True,
    ),
    Target("burst: faster than stock asyncio", BURST, _BURST, 3.0, other="loop.call_soon_threadsafe on asyncio"),
    Target("burst: times uvloop's", BURST, _BURST, 3.5, 2.0, "loop.call_soon_threadsafe on uvloop", limit=True),
    Target(
        "40 sleeps of 10 ms on 40 cold workers",
        SLEEPERS,
        "bridge.ThreadExecutor(40).run on bridge",
        40.0,
        limit=True,
        unit=" ms",
    ),
    Target(
        "memory of queued offloads: times asyncio.to_thread's",
        MEMORY,
        _OFFLOAD,
        1.0,
        other="asyncio.to_thread on asyncio",
        limit=True,
        strict=True,
    ),
]

NOTES = [
    "The targets were set for Python 3.13: bridge on its own loop, the peers on asyncio's stock loop.",
    "From Python 3.12 on, portal.call takes a coroutine's first step at once; one that suspends has its own section.",
]
