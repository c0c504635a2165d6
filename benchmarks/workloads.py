"""What is done while the clock runs. Each workload is handed the call to measure and returns microseconds per call,
or milliseconds for the whole where it says so. All of them warm up first, except where being cold is the point."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from time import perf_counter, sleep
from typing import Any

WARM_UP = 200
IN_FLIGHT = 32
SLEEPERS = 40
SLEEP = 0.01

#: One offload, begun by calling it.
Offload = Callable[[], Awaitable[Any]]
#: One call from a thread into the loop.
Crossing = Callable[[], Any]


def noop() -> None:
    """The function that is offloaded, or called on the loop."""


async def async_noop() -> None:
    """Likewise, as a coroutine function that never suspends."""


async def suspend_once() -> None:
    """Likewise, one that goes through the loop once."""
    await asyncio.sleep(0)


def fail() -> None:
    """Likewise, a function that raises."""
    raise ValueError("on purpose")


def per_call(started: float, calls: int) -> float:
    """Microseconds."""
    return (perf_counter() - started) / calls * 1e6


# -- the floor ---------------------------------------------------------------------------------------------------------


def token_between_threads(calls: int) -> float:
    """Two threads pass a token to and fro through two SimpleQueues: what any crossing and back costs at least."""
    there: queue.SimpleQueue[bool] = queue.SimpleQueue()
    back: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def reflect() -> None:
        while there.get():
            back.put(True)

    thread = threading.Thread(target=reflect)
    thread.start()
    try:
        for _ in range(WARM_UP):
            there.put(True)
            back.get()
        started = perf_counter()
        for _ in range(calls):
            there.put(True)
            back.get()
        return per_call(started, calls)
    finally:
        there.put(False)
        thread.join()


# -- out of the loop ---------------------------------------------------------------------------------------------------


async def sequential(offload: Offload, calls: int) -> float:
    """One after the other. On any loop."""
    for _ in range(WARM_UP):
        await offload()
    started = perf_counter()
    for _ in range(calls):
        await offload()
    return per_call(started, calls)


async def sequential_failing(offload: Offload, calls: int) -> float:
    """One after the other, each ending with an exception that the awaiting side catches."""
    started = perf_counter()
    for number in range(WARM_UP + calls):
        if number == WARM_UP:
            started = perf_counter()
        try:
            await offload()
        except ValueError:
            pass
        else:
            raise AssertionError("the exception got lost")
    return per_call(started, calls)


async def _repeat(offload: Offload, calls: int) -> None:
    for _ in range(calls):
        await offload()


async def in_flight(offload: Offload, calls: int) -> float:
    """32 tasks at once, each one call after the other."""
    each = calls // IN_FLIGHT
    await asyncio.gather(*[_repeat(offload, WARM_UP // IN_FLIGHT) for _ in range(IN_FLIGHT)])
    started = perf_counter()
    await asyncio.gather(*[_repeat(offload, each) for _ in range(IN_FLIGHT)])
    return per_call(started, each * IN_FLIGHT)


async def in_flight_on_trio(offload: Offload, calls: int) -> float:
    """The same in trio's terms."""
    import trio

    each = calls // IN_FLIGHT
    started = 0.0
    for count in (WARM_UP // IN_FLIGHT, each):
        started = perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(IN_FLIGHT):
                nursery.start_soon(_repeat, offload, count)
    return per_call(started, each * IN_FLIGHT)


async def gathered(offload: Offload, calls: int) -> float:
    """All at once: one `gather` over so many offloads."""
    await asyncio.gather(*[offload() for _ in range(WARM_UP)])
    started = perf_counter()
    await asyncio.gather(*[offload() for _ in range(calls)])
    return per_call(started, calls)


async def iterated(open_stream: Callable[[int], AsyncIterable[int]], items: int) -> float:
    """A synchronous generator of so many items, consumed by `async for`."""
    started = perf_counter()
    for count in (WARM_UP, items):
        seen = 0
        started = perf_counter()
        async for _ in open_stream(count):
            seen += 1
        if seen != count:
            raise AssertionError(f"{seen} of {count} items arrived")
    return per_call(started, items)


async def sleepers(offload: Callable[[Callable[[float], None], float], Awaitable[Any]]) -> float:
    """40 functions that sleep 10 ms, on threads that do not exist yet. Milliseconds until all have ended."""
    started = perf_counter()
    await asyncio.gather(*[offload(sleep, SLEEP) for _ in range(SLEEPERS)])
    return (perf_counter() - started) * 1e3


def numbers(count: int) -> Iterator[int]:
    """The generator that is iterated."""
    yield from range(count)


# -- into the loop -----------------------------------------------------------------------------------------------------


async def crossings(
    send: Callable[[Callable[[], float]], Awaitable[float]], bind: Callable[[], Crossing], calls: int
) -> float:
    """A worker, sent there by `send`, calls into the loop again and again. `bind` is called in that worker. Any loop."""

    def work() -> float:
        cross = bind()
        for _ in range(WARM_UP):
            cross()
        started = perf_counter()
        for _ in range(calls):
            cross()
        return per_call(started, calls)

    return await send(work)


async def burst(
    send: Callable[[Callable[[], float]], Awaitable[float]],
    bind: Callable[[], Callable[[Callable[[], None]], object]],
    calls: int,
) -> float:
    """A thread schedules so many callbacks without waiting. From the first call until the last callback has run."""
    done = asyncio.Event()
    ran = 0

    def callback() -> None:
        nonlocal ran
        ran += 1
        if ran == calls:
            done.set()

    def work() -> float:
        call_soon_threadsafe = bind()
        started = perf_counter()
        for _ in range(calls):
            call_soon_threadsafe(callback)
        return started

    started = await send(work)
    await done.wait()
    return per_call(started, calls)
