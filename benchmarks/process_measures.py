"""What is done while the clock of the processes suite runs.

Each measure is handed `call`, which begins `fn(*args)` in a worker process that is up already. How fast the peers are
differs by a factor of a hundred, so what repeats calls stops after `LONGEST`, however few they are by then.
"""

from __future__ import annotations

import asyncio
import gc
import pickle
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

from benchmarks import process_workloads as work
from benchmarks.workloads import IN_FLIGHT

WORKERS = 2
WARM_UP = 50
#: Seconds.
LONGEST = 1.0
TICK = 0.001

#: Begins `fn(*args)` in a worker process.
Call = Callable[..., Awaitable[Any]]
#: Begins calls in each worker process until all of them are up.
Ready = Callable[[], Awaitable[object]]


async def warm(call: Call, fn: Callable[[float], int] = work.pid_after) -> None:
    """Every worker has come up and run `fn`. Raises TimeoutError if one of them does not come."""
    seen: set[int] = set()
    waited_until = monotonic() + 30.0
    while len(seen) < WORKERS:
        if monotonic() > waited_until:
            raise TimeoutError(f"{len(seen)} of {WORKERS} worker processes answered within 30 s")
        seen.update(await asyncio.gather(*[call(fn, 0.02) for _ in range(WORKERS)]))


# -- floors ------------------------------------------------------------------------------------------------------------


def _child(connection: socket.socket, *arguments: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", work.__name__, str(connection.fileno()), *map(str, arguments)]
    root = Path(__file__).resolve().parent.parent
    return subprocess.Popen(
        command, cwd=root, pass_fds=[connection.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )


async def awaited_round_trips(calls: int) -> float:
    """A message to a child process that blocks in `recv`, and back through the loop's epoll; a task awaits each."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    child = _child(theirs)
    theirs.close()
    message = bytes(work.MESSAGE)
    with child, closing(ours):
        ours.setblocking(False)
        answered = loop.create_future()
        loop.add_reader(ours, lambda: answered.set_result(ours.recv(work.MESSAGE)))
        started = 0.0
        for count in (WARM_UP, calls):
            started = perf_counter()
            for _ in range(count):
                answered = loop.create_future()
                ours.send(message)
                await answered
        taken = perf_counter() - started
        loop.remove_reader(ours)
        ours.close()
    return taken / calls * 1e6


async def reflected_round_trips(calls: int) -> float:
    """The other way round: the child sends and blocks until the loop, woken by epoll, has sent the message back."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    child = _child(theirs, WARM_UP, calls)
    theirs.close()
    with child, closing(ours):
        ours.setblocking(False)
        ended = loop.create_future()

        def reflect() -> None:
            if message := ours.recv(work.MESSAGE):
                ours.send(message)
            else:
                loop.remove_reader(ours)
                ended.set_result(None)

        loop.add_reader(ours, reflect)
        await ended
        assert child.stdout is not None
        return float(child.stdout.read())


def plain_copies(array: Any, copies: int, calls: int) -> float:
    """The array copied into memory that is warm. Milliseconds for `copies` of them."""
    import numpy as np

    there = array.copy()
    started = perf_counter()
    for _ in range(calls * copies):
        np.copyto(there, array)
    return (perf_counter() - started) / calls * 1e3


# -- small calls -------------------------------------------------------------------------------------------------------


async def sequential(calls: int, call: Call) -> float:
    """One no-op after the other. Microseconds per call. On any loop."""
    done, started = 0, 0.0
    for count in (WARM_UP, calls):
        done, started = 0, perf_counter()
        while done < count and perf_counter() - started < LONGEST:
            await call(work.noop)
            done += 1
    return (perf_counter() - started) / done * 1e6


async def one_after_the_other(call: Call, count: int, until: float) -> int:
    """What each of many tasks does; the number of calls it made. On any loop."""
    done = 0
    while done < count and perf_counter() < until:
        await call(work.noop)
        done += 1
    return done


async def in_flight(calls: int, call: Call) -> float:
    """32 tasks at once, each one no-op after the other. Microseconds per call."""
    each = max(1, calls // IN_FLIGHT)
    done, started = 0, 0.0
    for count in (2, each):
        started = perf_counter()
        until = started + LONGEST
        done = sum(await asyncio.gather(*[one_after_the_other(call, count, until) for _ in range(IN_FLIGHT)]))
    return (perf_counter() - started) / done * 1e6


async def gathered(calls: int, call: Call) -> float:
    """All at once: one `gather` over so many no-ops. Microseconds per call."""
    await asyncio.gather(*[call(work.noop) for _ in range(IN_FLIGHT)])
    started = perf_counter()
    await asyncio.gather(*[call(work.noop) for _ in range(calls)])
    return (perf_counter() - started) / calls * 1e6


# -- arrays ------------------------------------------------------------------------------------------------------------


def float_array(size: int) -> Any:
    """Of so many bytes; every page of it is in memory."""
    import numpy as np

    return np.arange(size // 8, dtype=np.float64)


async def argument(array: Any, calls: int, call: Call) -> float:
    """The array goes to a worker. Milliseconds per call, after three that warm up. On any loop."""
    return await _timed(calls, partial(_send, call, array))


async def argument_and_result(array: Any, calls: int, call: Call) -> float:
    """The array goes to a worker, is changed there and comes back. Likewise."""
    return await _timed(calls, partial(_send_and_return, call, array))


async def _timed(calls: int, step: Callable[[int], Awaitable[None]]) -> float:
    started = 0.0
    for count in (3, calls):
        started = perf_counter()
        for number in range(count):
            await step(number)
    return (perf_counter() - started) / calls * 1e3


async def _send(call: Call, array: Any, _: int) -> None:
    if await call(work.last, array) != array[-1]:
        raise AssertionError("the array did not arrive as it was")


async def _send_and_return(call: Call, array: Any, number: int) -> None:
    result = await call(work.stamp, array, -1.0 - number)
    if result.shape != array.shape or result[0] != array[0] or result[-1] != -1.0 - number or array[-1] < 0:
        raise AssertionError("the array did not come back as it was sent, or the original was changed")


# -- the loop during a large transfer ----------------------------------------------------------------------------------

#: What an item of `nested_list` takes in memory, and what half a million of them have been seen to take: bytes.
ITEM = 327


def nested_list(size: int) -> list[Any]:
    """Lists of numbers, strings and lists that take about so many bytes in memory."""
    return [[number, number * 0.5, f"item {number}", [number + 1, number + 2]] for number in range(size // ITEM)]


class Ticker:
    """A task that wants to wake every millisecond, and notes by how much it was late at worst."""

    def __init__(self) -> None:
        self.worst = 0.0
        self.stopped = False

    async def run(self) -> float:
        """Until `stopped`; the seconds of the worst delay."""
        while not self.stopped:
            due = perf_counter() + TICK
            await asyncio.sleep(TICK)
            self.worst = max(self.worst, perf_counter() - due)
        return self.worst


async def lateness(size: int, call: Call) -> float:
    """A nested list goes to a worker and comes back. The ticker's worst delay meanwhile, in milliseconds."""
    value = nested_list(size)
    await call(work.echo, value[:1000])
    gc.collect()  # what making the list left behind
    ticker = Ticker()
    ticking = asyncio.ensure_future(ticker.run())
    await asyncio.sleep(0.02)
    result = await call(work.echo, value)
    ticker.stopped = True
    worst = await ticking
    if len(result) != len(value) or result[-1] != value[-1]:
        raise AssertionError("the list did not come back as it was sent")
    return worst * 1e3


async def lateness_of_thread(size: int, call: Call) -> float:
    """The same with a thread that pickles the list and unpickles it, as anything has to that sends it to a process."""

    def through_pickle(_: object, value: Any) -> Awaitable[Any]:
        return call(lambda: pickle.loads(pickle.dumps(value, pickle.HIGHEST_PROTOCOL)))

    return await lateness(size, through_pickle)


# -- after a kill ------------------------------------------------------------------------------------------------------


async def after_kill(from_request: bool, kills: int, call: Call, ready: Ready) -> float:
    """Both workers hang, one is killed by cancelling its call: milliseconds until the next call runs, at worst.

    They count from the request to cancel, or from the moment at which the cancelled call ended.
    """
    worst = 0.0
    for _ in range(kills):
        await ready()
        with tempfile.TemporaryDirectory() as folder:
            signs = [Path(folder, str(number)) for number in range(WORKERS)]
            hanging = [asyncio.ensure_future(call(work.hang, str(sign))) for sign in signs]
            while not all(sign.exists() for sign in signs):
                await asyncio.sleep(0.002)
        try:
            since = await _cancel(hanging.pop(), from_request)
            worst = max(worst, await call(work.moment) - since)
        finally:
            for task in hanging:
                await _cancel(task, from_request)
    return worst * 1e3


async def _cancel(task: asyncio.Future[Any], from_request: bool) -> float:
    requested = monotonic()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return requested if from_request else monotonic()
