"""The suite `diagnostics`: what noticing costs while nothing is wrong, and debug mode, beside the same loop without.

Each case keeps one loop for the whole measurement; a sample runs it with `run_until_complete`, always on the main thread,
so that what a running loop sets for its thread (the depth of coroutine origins, say) is set as in production, and is
taken back before the next case. Only one loop runs at a time. Samples are compared within their round, see
`Section.paired`, with the garbage collector off for all alike.

The figure is CPU time of the whole process, not time on the wall: everything is on one core, where whatever another
thread does (the watchdog's looks, the hand-overs of the GIL) is paid for by the loop, and is counted; what strangers on
the machine do is not. Everything here belongs to the main thread; the workers only run what a sample hands them.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import time
from collections.abc import Awaitable, Callable
from functools import partial

import bridge
from benchmarks.measure import Case, Section, Suite, Target

US = "us of CPU per call"

TASK = "Create a task and await it"
CHAIN = "A chain of call_soon"
OFFLOAD = "Offload a no-op to a thread"
PORTAL = "Call the loop from a worker by a portal"

OFF, ON, DEBUG = "diagnostics off", "diagnostics on", "debug mode"
PLAIN, PLAIN_DEBUG = "asyncio", "asyncio, debug mode"
#: Which loops, and whether in debug mode.
LOOPS: dict[str, tuple[Callable[[], asyncio.AbstractEventLoop], bool]] = {
    OFF: (partial(bridge.new_event_loop, diagnostics=False), False),
    ON: (partial(bridge.new_event_loop, diagnostics=True), False),
    DEBUG: (partial(bridge.new_event_loop, diagnostics=True), True),
    PLAIN: (asyncio.new_event_loop, False),
    PLAIN_DEBUG: (asyncio.new_event_loop, True),
}


class Stage:
    """A loop that lives as long as the measurement, and what runs on it."""

    def __init__(self, name: str) -> None:
        factory, debug = LOOPS[name]
        self.ours = name not in {PLAIN, PLAIN_DEBUG}
        self.loop = factory()
        self.loop.set_debug(debug)
        atexit.register(self.close)

    def sample(self, workload: Callable[[Stage, int], Awaitable[None]], calls: int) -> float:
        """Microseconds of CPU time that a call takes this process, on average over `calls`."""

        async def timed() -> float:
            await workload(self, max(1, calls // 20))
            start = time.process_time()
            await workload(self, calls)
            return time.process_time() - start

        gc.disable()
        try:
            return self.loop.run_until_complete(timed()) / calls * 1e6
        finally:
            gc.enable()

    def close(self) -> None:
        """End the loop; the interpreter has ended the workers before."""
        self.loop.close()


# -- what is done ------------------------------------------------------------------------------------------------------


async def no_op() -> None:
    """The task that is created and awaited."""


def nothing() -> None:
    """What is offloaded, and what is called on the loop."""


async def create_tasks(stage: Stage, calls: int) -> None:
    create_task = stage.loop.create_task
    for _ in range(calls):
        await create_task(no_op())


async def chain(stage: Stage, calls: int) -> None:
    done = stage.loop.create_future()
    call_soon = stage.loop.call_soon

    def link(left: int) -> None:
        if left:
            call_soon(link, left - 1)
        else:
            done.set_result(None)

    link(calls)
    await done


async def offload(stage: Stage, calls: int) -> None:
    """By each loop's own way."""
    if stage.ours:
        for _ in range(calls):
            await bridge.to_thread(nothing)
    else:
        for _ in range(calls):
            await asyncio.to_thread(nothing)


async def call_back(stage: Stage, calls: int) -> None:
    """By each loop's own way."""
    if stage.ours:
        portal = bridge.portal()

        def cross() -> None:
            for _ in range(calls):
                portal.call(nothing)

        await bridge.to_thread(cross)
    else:

        def cross_plainly() -> None:
            for _ in range(calls):
                asyncio.run_coroutine_threadsafe(no_op(), stage.loop).result()

        await asyncio.to_thread(cross_plainly)


# -- the suite ---------------------------------------------------------------------------------------------------------


def suite(*, quick: bool) -> Suite:
    """All sections; a sample takes 50 to 100 ms, or a tenth of that if `quick`."""
    stages: dict[str, Stage] = {}

    def section(title: str, workload: Callable[[Stage, int], Awaitable[None]], usual: int) -> Section:
        calls = usual // 10 if quick else usual

        def sample(name: str) -> float:
            if name not in stages:
                stages[name] = Stage(name)
            return stages[name].sample(workload, calls)

        cases = [Case(name, "", partial(sample, name)) for name in LOOPS]
        return Section(title, US, cases, reference=OFF, paired=True)

    sections = [
        section(TASK, create_tasks, 6_000),
        section(CHAIN, chain, 40_000),
        section(OFFLOAD, offload, 2_000),
        section(PORTAL, call_back, 2_000),
    ]
    return Suite("diagnostics", sections, TARGETS, NOTES)


TARGETS = [
    *(
        Target(f"{title}: on, times off", title, ON, 1.10, 1.05, OFF, limit=True)
        for title in (TASK, CHAIN, OFFLOAD, PORTAL)
    ),
    *(
        Target(f"{title}: debug mode, times off", title, DEBUG, 2.0, other=OFF, limit=True)
        for title in (TASK, CHAIN, OFFLOAD, PORTAL)
    ),
]

NOTES = [
    "Here `/ bridge` is how many times the figure with diagnostics off. A measured target is the median of the ratios",
    "within each round; in brackets the least and the most of them. asyncio's rows use asyncio's own calls for threads.",
    "Rows that cross threads have two speeds, by how the threads happen to take turns, a factor of 2.5 apart: where the",
    "brackets are that wide, their verdict says nothing about diagnostics. A served HTTP request is not measured yet.",
]
