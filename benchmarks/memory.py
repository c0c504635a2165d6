"""How much memory queued offloads take: `python -m benchmarks.memory WAY LOOP CALLS` prints bytes per call.

A process of its own for each measurement: two workers are kept busy, so many offloads of a no-op are queued behind them,
and what the process has grown by is divided by their number. What awaits the offloads (a task each, where the way needs
one) is counted in, because nothing can be queued without it.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread

import bridge
from benchmarks.peers import loop_factories
from benchmarks.workloads import noop

WORKERS = 2

#: Begins an offload of the given function.
Way = Callable[[Callable[[], object]], Awaitable[Any]]


def queued(way: str, loop: str, calls: int) -> float:
    """Bytes per queued call, measured in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", way, loop, str(calls)]
    root = Path(__file__).resolve().parent.parent
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=100, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{result.stderr}")
    return float(result.stdout)


def resident() -> int:
    """Bytes of memory that this process occupies (where there is no /proc: the most that it ever did)."""
    try:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def _to_thread_by_bridge() -> Way:
    return bridge.to_thread


def _to_thread_by_asyncio() -> Way:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(WORKERS))
    return asyncio.to_thread


def _run_in_executor() -> Way:
    return partial(asyncio.get_running_loop().run_in_executor, ThreadPoolExecutor(WORKERS))


def _run_sync_by_anyio() -> Way:
    anyio.to_thread.current_default_thread_limiter().total_tokens = WORKERS
    return anyio.to_thread.run_sync


WAYS = {
    "bridge.to_thread": _to_thread_by_bridge,
    "asyncio.to_thread": _to_thread_by_asyncio,
    "loop.run_in_executor": _run_in_executor,
    "anyio.to_thread.run_sync": _run_sync_by_anyio,
}


async def _begin(way: Way, functions: list[Callable[[], object]]) -> list[asyncio.Future[Any]]:
    begun: list[asyncio.Future[Any]] = [asyncio.ensure_future(way(function)) for function in functions]
    for _ in range(3):  # every task takes its first step, up to where it waits
        await asyncio.sleep(0)
    return begun


async def _measure(way: Way, calls: int) -> float:
    gate = threading.Event()
    arrived = threading.Semaphore(0)

    def block() -> None:
        arrived.release()
        gate.wait()

    blocking = await _begin(way, [block] * WORKERS)
    for _ in range(WORKERS):
        while not arrived.acquire(blocking=False):
            await asyncio.sleep(0.001)
    warm = await _begin(way, [noop] * 100)
    functions: list[Callable[[], object]] = [noop] * calls
    gc.collect()
    gc.disable()  # its passes over so many objects take most of the time, and free nothing here
    before = resident()
    waiting = await _begin(way, functions)
    gc.collect()
    added = resident() - before
    if any(future.done() for future in (*blocking, *warm, *waiting)):
        raise AssertionError("an offload ended that should have been queued")
    return added / calls


async def _main(way: str, calls: int) -> None:
    print(await _measure(WAYS[way](), calls), flush=True)
    os._exit(0)  # the figure is out; running so many calls to their end would take longer than queueing them


if __name__ == "__main__":
    _way, _loop, _calls = sys.argv[1:]
    bridge.run(
        _main,
        _way,
        int(_calls),
        loop_factory=loop_factories()[_loop],
        executors={"thread": bridge.ThreadExecutor(WORKERS)},
    )
