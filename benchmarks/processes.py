"""The suite `processes`: calls that go to worker processes and back, bridge's beside those of its peers, and the targets.

Two workers everywhere, and no pinning: a call crosses to another core and back, for everybody, the floors included.
bridge's rows come first in each section, on each loop where calls are small. The peers run on the stock loop.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import bridge
from benchmarks import process_measures as measures
from benchmarks import process_trio
from benchmarks import process_workloads as work
from benchmarks.measure import Case, Section, Suite, Target
from benchmarks.peers import is_there, loop_factories, run_with_bridge
from benchmarks.process_measures import WARM_UP, Call
from benchmarks.process_peers import (
    measure_in_thread,
    measure_kills_of_ours,
    measure_kills_of_theirs,
    measure_ours,
    measure_theirs,
    peers,
)

#: What happens with a pool, given the call that uses it.
Measure = Callable[[Call], Awaitable[float]]

US, MS = "us per call", "ms per call"
MB = 1 << 20

SEQUENTIAL = "Run a no-op in a process, one after the other"
IN_FLIGHT = "Run no-ops in processes, 32 in flight"
GATHER = "Run no-ops in processes, all in one gather"
ARGUMENT = "A float array of 64 MB as argument"
RESULT = "A float array of 64 MB as argument and result"
CALL = "Call the parent's loop from a worker process"
KILL = "After a kill: until the next call runs, at worst"
TICKER = "Worst delay of a 1 ms ticker while a nested list of 200 MB goes to a worker and back"

OURS = "bridge.ProcessExecutor"
ROUND_TRIP = "socket round trip to a child"
ROUND_TRIP_BACK = "socket round trip from a child"
COPY = "plain copy"
PLAIN_CALL, CORO_CALL = "portal.call of a plain function", "portal.call of a coroutine function"
SINCE_END, SINCE_REQUEST = "after the killed call's end", "after the request"
THREAD = "pickle.dumps and loads in a thread"

#: Rounds that are enough where each takes seconds.
FEW, QUICK = 5, 1


def suite(*, quick: bool) -> Suite:
    """All sections with their sizes; `quick` makes them small enough for a smoke test."""

    def calls(usual: int) -> int:
        return usual // 8 if quick else usual

    few = QUICK if quick else FEW
    most = QUICK if quick else None
    sections = [
        sequential(calls(1600), most),
        in_flight(calls(6400), most),
        gather(1_000 if quick else 10_000, few),
        calls_home(calls(1600), most),
        kills(1 if quick else 3, few),
        ticker((10 if quick else 200) * MB, QUICK if quick else 3),
    ]
    notes = list(NOTES)
    if is_there("numpy"):
        size = (4 if quick else 64) * MB
        sections += [argument(size, calls(8), few), argument_and_result(size, calls(8), few)]
    else:
        notes.append("Without numpy the sections with float arrays are left out: pip install numpy")
    return Suite("processes", sections, TARGETS, notes, PEERS, one_core=False)


# -- making cases ------------------------------------------------------------------------------------------------------


def ours(measure: Measure, loops: tuple[str, ...] = ("bridge", "asyncio", "uvloop")) -> list[Case]:
    """bridge's pool, on those of `loops` that are installed."""
    return [
        Case(OURS, on, partial(measure_ours, factory, measure)) for on, factory in loop_factories().items() if on in loops
    ]


def theirs(measure: Measure) -> list[Case]:
    """The peers' pools."""
    return [Case(peer.name, "asyncio", partial(measure_theirs, peer.open, measure)) for peer in peers()]


def on_trio(measure: Callable[..., Any], size: int, count: int, *, and_ours: bool = False) -> list[Case]:
    """The pools that run on trio."""
    pools = [OURS] if and_ours and is_there("trio") else []
    if is_there("trio-parallel"):
        pools.append("trio-parallel")
    return [Case(pool, "trio", partial(process_trio.measured, pool, measure.__name__, size, count)) for pool in pools]


def small_calls(measure: Callable[[int, Call], Awaitable[float]], calls: int) -> list[Case]:
    """Every way to run a no-op in a process and await it, below its floor."""
    round_trips = partial(measures.awaited_round_trips, min(1600, calls))
    return [
        Case(ROUND_TRIP, "bridge", partial(run_with_bridge, bridge.new_event_loop, round_trips)),
        *ours(partial(measure, calls)),
        *on_trio(measure, 0, calls, and_ours=True),
        *theirs(partial(measure, calls)),
    ]


# -- sections ----------------------------------------------------------------------------------------------------------

_OURS = f"{OURS} on bridge"
_FLOOR = f"{ROUND_TRIP} on bridge"


def sequential(calls: int, rounds: int | None) -> Section:
    return Section(SEQUENTIAL, US, small_calls(measures.sequential, calls), _OURS, _FLOOR, rounds)


def in_flight(calls: int, rounds: int | None) -> Section:
    return Section(IN_FLIGHT, US, small_calls(measures.in_flight, calls), _OURS, _FLOOR, rounds)


def gather(calls: int, rounds: int) -> Section:
    cases = small_calls(measures.gathered, calls)
    return Section(GATHER, f"{US}, {calls:,} calls", cases, _OURS, _FLOOR, rounds)


def calls_home(calls: int, rounds: int | None) -> Section:
    """bridge alone: no peer can do that."""

    async def measure(fn: Callable[[], Any], call: Call) -> float:
        figure: float = await call(work.calls_home, fn, WARM_UP, calls)
        return figure

    def named(name: str, fn: Callable[[], Any]) -> list[Case]:
        return [Case(name, case.on, case.measure) for case in ours(partial(measure, fn))]

    round_trips = partial(measures.reflected_round_trips, calls)
    cases = [
        Case(ROUND_TRIP_BACK, "bridge", partial(run_with_bridge, bridge.new_event_loop, round_trips)),
        *named(PLAIN_CALL, work.noop),
        *named(CORO_CALL, work.async_noop),
    ]
    return Section(CALL, US, cases, f"{PLAIN_CALL} on bridge", f"{ROUND_TRIP_BACK} on bridge", rounds)


def kills(count: int, rounds: int) -> Section:
    """Counted from the request, and from the moment at which the killed call has ended."""
    cases = []
    for since, from_request in ((SINCE_END, False), (SINCE_REQUEST, True)):
        measure = partial(measures.after_kill, from_request, count)
        cases += [
            Case(f"{OURS}, {since}", "bridge", partial(measure_kills_of_ours, bridge.new_event_loop, measure)),
            *(
                Case(f"{peer.name}, {since}", "asyncio", partial(measure_kills_of_theirs, peer.open, measure))
                for peer in peers()
                if peer.kills
            ),
            *(
                Case(f"{case.name}, {since}", case.on, case.measure)
                for case in on_trio(measures.after_kill, int(from_request), count)
            ),
        ]
    return Section(KILL, "ms", cases, f"{OURS}, {SINCE_END} on bridge", max_rounds=rounds)


def ticker(size: int, rounds: int) -> Section:
    """`run_in_executor` and a thread that pickles and unpickles are what the target names."""
    measure = partial(measures.lateness, size)
    pools = [peer for peer in peers() if peer.name.startswith("ProcessPoolExecutor")]
    cases = [
        *ours(measure, ("bridge", "asyncio")),
        *(Case(peer.name, "asyncio", partial(measure_theirs, peer.open, measure)) for peer in pools),
        Case(THREAD, "asyncio", partial(measure_in_thread, partial(measures.lateness_of_thread, size))),
    ]
    return Section(TICKER, "ms" if size == 200 * MB else f"ms, only {size // MB} MB", cases, _OURS, max_rounds=rounds)


def argument(size: int, calls: int, rounds: int) -> Section:
    return _arrays(ARGUMENT, measures.argument, size, calls, rounds, copies=1)


def argument_and_result(size: int, calls: int, rounds: int) -> Section:
    return _arrays(RESULT, measures.argument_and_result, size, calls, rounds, copies=2)


def _arrays(
    title: str, measure: Callable[..., Awaitable[float]], size: int, calls: int, rounds: int, *, copies: int
) -> Section:
    array = measures.float_array(size)
    floor = f"{COPY}, there and back" if copies == 2 else COPY
    step, first = partial(measure, array, calls), work.pid_with_numpy_after
    cases = [
        Case(floor, "", partial(measures.plain_copies, array, copies, max(calls, 4))),
        Case(OURS, "bridge", partial(measure_ours, bridge.new_event_loop, step, first)),
        *on_trio(measure, size, calls),
        *(Case(peer.name, "asyncio", partial(measure_theirs, peer.open, step, first)) for peer in peers()),
    ]
    unit = MS if size == 64 * MB else f"{MS}, only {size // MB} MB"
    return Section(title, unit, cases, _OURS, floor, rounds)


# -- what the figures have to be ---------------------------------------------------------------------------------------

PEERS = ("uvloop", "trio", "numpy", "pebble", "trio-parallel", "aiomultiprocess")

_FORK, _SPAWN = "ProcessPoolExecutor (fork) on asyncio", "ProcessPoolExecutor (spawn) on asyncio"
_LOKY, _ANYIO = "loky on asyncio", "anyio.to_process on asyncio"
_EVERY_PEER = [
    _FORK,
    _SPAWN,
    _LOKY,
    _ANYIO,
    "pebble.ProcessPool on asyncio",
    "aiomultiprocess.Pool on asyncio",
    "trio-parallel on trio",
]


def _faster(what: str, section: str, required: float, others: list[str], *, strict: bool = False) -> list[Target]:
    return [
        Target(f"{what}: faster than {other.rpartition(' on ')[0]}", section, _OURS, required, other=other, strict=strict)
        for other in others
    ]


TARGETS = [
    *_faster("32 in flight", IN_FLIGHT, 10.0, [_FORK, _SPAWN, _LOKY]),
    *_faster("32 in flight", IN_FLIGHT, 6.0, [_ANYIO]),
    *_faster("gather of 10,000", GATHER, 10.0, [_FORK, _SPAWN, _LOKY]),
    Target("sequential: times the socket floor", SEQUENTIAL, _OURS, 2.0, 1.5, _FLOOR, limit=True),
    *_faster("sequential", SEQUENTIAL, 1.0, _EVERY_PEER, strict=True),
    *_faster("64 MB as argument", ARGUMENT, 20.0, _EVERY_PEER),
    *_faster("64 MB as argument and result", RESULT, 12.0, _EVERY_PEER),
    *(
        Target(
            f"{name}: times the socket floor", CALL, f"{name} on bridge", 2.0, 1.5, f"{ROUND_TRIP_BACK} on bridge", True
        )
        for name in (PLAIN_CALL, CORO_CALL)
    ),
    *(
        Target(f"next call runs, {since}", KILL, f"{OURS}, {since} on bridge", 30.0, limit=True, unit=" ms")
        for since in (SINCE_END, SINCE_REQUEST)
    ),
    *(
        Target(f"ticker beside 200 MB: less late than with {other}", TICKER, _OURS, 5.0, other=f"{other} on asyncio")
        for other in ("ProcessPoolExecutor (fork)", "ProcessPoolExecutor (spawn)", THREAD)
    ),
]

NOTES = [
    "The targets were set for Python 3.13 and 2 workers: bridge on its own loop, the peers on asyncio's stock loop.",
    "Measures of small calls stop after a second, however slow a peer is. Kills are without grace: cancel, SIGTERM.",
]
