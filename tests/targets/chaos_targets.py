"""What the chaos test runs in worker processes: each function writes its number down before anything else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import process_targets as targets
from process_targets import Tally

import bridge


def work(tally: Tally, ident: str, seconds: float = 0.0, end: Callable[[], Any] | None = None) -> str:
    tally.add(ident)
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        time.sleep(0.0005)
        bridge.check_cancelled()
    if end is not None:
        end()
    return ident


def deaf(tally: Tally, ident: str, seconds: float) -> str:
    """Does not ask whether anybody still wants it: it can only be killed."""
    tally.add(ident)
    time.sleep(seconds)
    return ident


async def work_async(tally: Tally, ident: str, seconds: float) -> str:
    tally.add(ident)
    return str(await targets.sleep_and_return(ident, seconds))


def numbers(tally: Tally, ident: str, count: int) -> Iterator[int]:
    tally.add(ident)
    yield from range(count)


async def go_on(depth: int) -> int:
    """At home: the next worker of a chain."""
    done: int = await targets.at_home["executor"].run(chain, None, "", depth)
    return done


def chain(tally: Tally | None, ident: str, depth: int) -> int:
    """A worker that calls the loop, which calls a worker, which ..."""
    if tally is not None:
        tally.add(ident)
    return 1 + bridge.portal().call(go_on, depth - 1) if depth else 0


def consume(tally: Tally, ident: str, items: Any) -> list[int]:
    tally.add(ident)
    return list(bridge.portal().iterate(items))


def look_at(tally: Tally, ident: str, array: Any) -> Any:
    import worker_arrays  # imports numpy; most workers here die young and need not wait for that

    tally.add(ident)
    worker_arrays.keep(array)
    array += 1
    return array


def unpicklable(tally: Tally, ident: str) -> Any:
    tally.add(ident)
    return targets.make_lock()
