"""The pools on trio: `python -m benchmarks.process_trio POOL MEASURE SIZE COUNT` prints one figure.

A process of its own for each, because one that has imported trio makes libraries for several backends look twice before
they know which loop runs.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import bridge
from benchmarks import process_measures as measures
from benchmarks import process_workloads as work
from benchmarks.process_measures import LONGEST, WORKERS, Call
from benchmarks.workloads import IN_FLIGHT

TIMEOUT = 110


def measured(pool: str, measure: str, size: int, count: int) -> float:
    """The figure, from a fresh process."""
    command = [sys.executable, "-m", "benchmarks.process_trio", pool, measure, str(size), str(count)]
    root = Path(__file__).resolve().parent.parent
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{result.stderr}")
    return float(result.stdout)


# -- the pools ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def open_bridge(_: bool) -> AsyncIterator[Call]:
    async with bridge.ProcessExecutor(WORKERS) as executor:
        yield executor.run


@asynccontextmanager
async def open_trio_parallel(kill: bool) -> AsyncIterator[Call]:
    import trio
    import trio_parallel

    limiter = trio.CapacityLimiter(WORKERS)
    async with trio_parallel.open_worker_context() as context:
        yield partial(context.run_sync, kill_on_cancel=kill, limiter=limiter)


POOLS: dict[str, Callable[[bool], AbstractAsyncContextManager[Call]]] = {
    "bridge.ProcessExecutor": open_bridge,
    "trio-parallel": open_trio_parallel,
}


# -- the measures, as far as they are not the same on every loop -------------------------------------------------------


async def all_of(functions: list[Callable[[], Awaitable[Any]]]) -> list[Any]:
    """Calls them at once, waits for all, returns what they return."""
    import trio

    results: list[Any] = [None] * len(functions)

    async def into(number: int, function: Callable[[], Awaitable[Any]]) -> None:
        results[number] = await function()

    async with trio.open_nursery() as nursery:
        for number, function in enumerate(functions):
            nursery.start_soon(into, number, function)
    return results


async def warm(call: Call, fn: Callable[[float], int] = work.pid_after) -> None:
    """As `process_measures.warm`."""
    seen: set[int] = set()
    while len(seen) < WORKERS:
        seen.update(await all_of([partial(call, fn, 0.02)] * WORKERS))


async def sequential(_: int, calls: int, call: Call) -> float:
    return await measures.sequential(calls, call)


async def in_flight(_: int, calls: int, call: Call) -> float:
    """As `process_measures.in_flight`."""
    done, started = 0, 0.0
    for count in (2, max(1, calls // IN_FLIGHT)):
        started = perf_counter()
        one = partial(measures.one_after_the_other, call, count, started + LONGEST)
        done = sum(await all_of([one] * IN_FLIGHT))
    return (perf_counter() - started) / done * 1e6


async def gathered(_: int, calls: int, call: Call) -> float:
    """As `process_measures.gathered`, in a nursery."""
    await all_of([partial(call, work.noop)] * IN_FLIGHT)
    started = perf_counter()
    await all_of([partial(call, work.noop)] * calls)
    return (perf_counter() - started) / calls * 1e6


async def argument(size: int, calls: int, call: Call) -> float:
    return await measures.argument(measures.float_array(size), calls, call)


async def argument_and_result(size: int, calls: int, call: Call) -> float:
    return await measures.argument_and_result(measures.float_array(size), calls, call)


async def after_kill(from_request: int, kills: int, call: Call) -> float:
    """As `process_measures.after_kill`."""
    import trio

    worst = 0.0

    async def hang(sign: Path, scope: trio.CancelScope, ended: trio.Event) -> None:
        with scope:
            await call(work.hang, str(sign))
        ended.set()

    for _ in range(kills):
        await warm(call)
        with tempfile.TemporaryDirectory() as folder:
            signs = [Path(folder, str(number)) for number in range(WORKERS)]
            scopes = [trio.CancelScope() for _ in signs]
            ends = [trio.Event() for _ in signs]
            async with trio.open_nursery() as nursery:
                for arguments in zip(signs, scopes, ends, strict=True):
                    nursery.start_soon(hang, *arguments)
                while not all(sign.exists() for sign in signs):
                    await trio.sleep(0.002)
                requested = monotonic()
                scopes[0].cancel()
                await ends[0].wait()
                since = requested if from_request else monotonic()
                worst = max(worst, await call(work.moment) - since)
                nursery.cancel_scope.cancel()
    return worst * 1e3


MEASURES: dict[str, Callable[[int, int, Call], Awaitable[float]]] = {
    measure.__name__: measure for measure in (sequential, in_flight, gathered, argument, argument_and_result, after_kill)
}


async def _main(pool: str, measure: str, size: int, count: int) -> float:
    async with POOLS[pool](measure == after_kill.__name__) as call:
        await warm(call, work.pid_with_numpy_after if size else work.pid_after)
        return await MEASURES[measure](size, count, call)


if __name__ == "__main__":
    _pool, _measure, _size, _count = sys.argv[1:]
    print(bridge.run(_main, _pool, _measure, int(_size), int(_count), backend="trio"))
