"""The suite `diagnostics`: what noticing costs while nothing is wrong, and debug mode, beside the same loop without.

Each sample makes a loop and ends it, so that there is no other one in the process: not even a paused one, for which the
watchdog would look more often. It is run with `run_until_complete` on the main thread; what a running loop sets for its
thread (the depth of coroutine origins, say) is set as in production, and taken back before the next case. Samples are
short and many, and compared within their round, see `Section.paired`, with the garbage collector off for all alike.

The figure is CPU time of the whole process, not time on the wall: everything is on one core, where whatever another
thread does (the watchdog's looks, the hand-overs of the GIL) is paid for by the loop, and is counted; what strangers on
the machine do is not, nor is the client that asks for the served requests. Everything here belongs to the main thread;
the workers only run what a sample hands them. On a busy machine a sample lasts longer, and the watchdog, which looks by
the clock, more often in it: what is measured there is an upper bound.

Calls that cross threads used to have two speeds, by how the system let the threads take turns. The thread that is woken
does not have the GIL yet. If Linux puts it on the core at once, it finds that out, asks for the GIL and sleeps again: 3
switches to and fro for a call, most of them counted as involuntary. If the waker goes on until it sleeps itself, one or
two are enough. Which of the two happens depends on the share of the core that both threads have had lately, stays so for
seconds, has nothing to do with diagnostics, and is worth more than all that diagnostics cost. So no thread may push
another one off the core here (`scheduling.take_turns`): 2 switches for each call, in every case. It is the cheapest way
to switch, by which what diagnostics add weighs the most.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import bridge
from benchmarks.measure import Case, Column, Section, Suite, Target
from benchmarks.peers import is_there

US = "us of CPU per call"

TASK = "Create a task and await it"
CHAIN = "A chain of call_soon"
OFFLOAD = "Offload a no-op to a thread"
PORTAL = "Call the loop from a worker by a portal"
SERVE = "Serve an HTTP request with uvicorn"

OFF, ON, DEBUG = "diagnostics off", "diagnostics on", "debug mode"
PLAIN, PLAIN_DEBUG = "asyncio", "asyncio, debug mode"
#: asyncio's debug mode is so slow that a part of the calls is enough, and less of a disturbance.
FEWER = 4
#: Which loops, and whether in debug mode.
LOOPS: dict[str, tuple[Callable[[], asyncio.AbstractEventLoop], bool]] = {
    OFF: (partial(bridge.new_event_loop, diagnostics=False), False),
    ON: (partial(bridge.new_event_loop, diagnostics=True), False),
    DEBUG: (partial(bridge.new_event_loop, diagnostics=True), True),
    PLAIN: (asyncio.new_event_loop, False),
    PLAIN_DEBUG: (asyncio.new_event_loop, True),
}


#: Does something so many times on the stage's loop; gives the seconds of CPU time that it took the process.
Measure = Callable[["Stage", int], Coroutine[Any, Any, float]]


class Stage:
    """A loop, for one sample."""

    def __init__(self, name: str) -> None:
        factory, debug = LOOPS[name]
        self.ours = name not in {PLAIN, PLAIN_DEBUG}
        self.loop = factory()
        self.loop.set_debug(debug)

    def sample(self, measure: Measure, calls: int) -> float:
        """Microseconds of CPU time that a call takes this process, on average over `calls`."""
        gc.disable()
        try:
            return self.loop.run_until_complete(measure(self, calls)) / calls * 1e6
        finally:
            gc.enable()
            self.loop.run_until_complete(self.loop.shutdown_default_executor())
            self.loop.close()


def timed(workload: Callable[[Stage, int], Awaitable[None]]) -> Measure:
    """Measure `workload`, after a warm-up of a tenth more."""

    async def measure(stage: Stage, calls: int) -> float:
        await workload(stage, max(1, calls // 10))
        start = time.process_time()
        await workload(stage, calls)
        return time.process_time() - start

    return measure


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
    """All sections; a sample takes about 40 ms, or a tenth of that if `quick`."""

    def section(title: str, measure: Measure, usual: int) -> Section:
        def sample(name: str) -> float:
            calls = usual // 10 if quick else usual
            return Stage(name).sample(measure, calls // FEWER if name == PLAIN_DEBUG else calls)

        cases = [Case(name, "", partial(sample, name)) for name in LOOPS]
        return Section(title, US, cases, reference=OFF, paired=True)

    sections = [
        section(TASK, timed(create_tasks), 5_000),
        section(CHAIN, timed(chain), 15_000),
        section(OFFLOAD, timed(offload), 2_500),
        section(PORTAL, timed(call_back), 2_500),
    ]
    if all(map(is_there, OPTIONAL)):
        from benchmarks import served  # which needs them

        sections.append(section(SERVE, served.serve, 1_200))
    return Suite("diagnostics", sections, TARGETS, NOTES, OPTIONAL, turns=True, rounds=41, columns=COLUMNS)


OPTIONAL = ("uvicorn", "httptools")

COLUMNS = [
    Column("off, us", OFF),
    Column("on / off", ON, OFF),
    Column("debug / off", DEBUG, OFF),
    Column("asyncio, us", PLAIN),
    Column("asyncio's debug / asyncio", PLAIN_DEBUG, PLAIN),
]

TITLES = (TASK, CHAIN, OFFLOAD, PORTAL, SERVE)
TARGETS = [
    *(Target(f"{title}: on, times off", title, ON, 1.10, 1.05, OFF, limit=True) for title in TITLES),
    *(Target(f"{title}: debug mode, times off", title, DEBUG, 2.0, other=OFF, limit=True) for title in TITLES),
]

NOTES = [
    "Here `/ bridge` is how many times the figure with diagnostics off, by the medians. A ratio of the last table, and a",
    "measured target, is the median of the ratios within each round; in brackets: where the middle half of them lies.",
    "Beside a figure: the least one. asyncio's rows use asyncio's own calls for threads. The requests to serve come on",
    "8 connections from another process, whose time is not counted.",
]
