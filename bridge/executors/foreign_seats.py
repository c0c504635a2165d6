"""The threads of a foreign pool while they run functions of ours, and the deadlocks that these can be in.

In: jobs that were accepted (`flights`), threads that run them. Out: what portals and streams find in `here.worker`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, cast

from bridge.errors import WouldDeadlock
from bridge.threads.deadlock import tell_refused
from bridge.threads.inbox import Item
from bridge.threads.job import Job, last_name, name_of
from bridge.threads.loaded import from_loaded, trio_task_runs_here
from bridge.threads.pool import WorkerPool
from bridge.threads.worker import Worker


class Flight:
    """A job that was accepted and has not ended."""

    __slots__ = ("awaited_by", "future", "withdrawing")

    def __init__(self, awaited_by: object | None):
        #: The task that made it. If the job is an Item, that task does nothing but wait for it.
        self.awaited_by: object | None = awaited_by
        self.future: Future[Any] | None = None  # None while the executor is being asked
        self.withdrawing: bool = False


class Seat(Worker):
    """A foreign thread for as long as it runs one of our functions: what portals and streams find in `here.worker`."""

    __slots__ = ("waiting",)

    def __init__(self, seats: Seats, job: Job):
        self.pool: WorkerPool = cast(WorkerPool, seats)  # the part of its face that waiting workers use
        self.job: Job | None = job
        self.has_slot = True
        self.thread: threading.Thread = threading.current_thread()
        self.waiting: bool = False
        self.introduced: bool = False


class Seats:
    """The foreign threads that run our functions just now.

    A bridge worker that waits for a loop lends its slot; a foreign thread cannot, because only its own pool could add
    one. So a deadlock is possible here, and is recognised: if each thread of the pool waits for a task, and each of
    these tasks waits for a function that is waiting in the pool or for a thread, then one that is still queued is
    refused. Whoever completes the deadlock has put down its part before it looks: a submitter its flight, a thread
    that goes to wait its `waiting`.
    """

    def __init__(self, name: str, limit: int | None):
        self.name = name
        self.limit = limit  # threads that the pool has; None if it does not say
        self.workers: dict[Seat, None] = {}
        self.flights: dict[Job, Flight] = {}
        self.given_up = False
        self.refuse: Callable[[Job, Exception], object]

    def lend(self, seat: Seat) -> None:
        """As `WorkerPool.lend`, but nothing is lent."""
        seat.waiting = True
        self.look_for_deadlock()

    def reclaim(self, seat: Seat) -> None:
        seat.waiting = False

    def look_for_deadlock(self) -> None:
        seats = list(self.workers)
        if self.limit is None or len(seats) < self.limit or not all(seat.waiting for seat in seats):
            return
        awaited = [(job, flight) for job, flight in list(self.flights.items()) if isinstance(job, Item)]
        last = None
        for seat in seats:
            for job, flight in awaited:
                if self._waits_for(seat, flight.awaited_by):
                    last = last if job.started_at else job
                    break
            else:
                return
        if last is not None:
            name = name_of(last.fn)
            tell_refused(
                f"{name} cannot begin on {self.name!r}: all of its threads ({len(seats)}) wait for tasks that wait for "
                f"functions in that same pool",
                seats[0].thread.ident,
                None,
                f"bridge.ThreadExecutor({self.limit}), whose threads lend their place while they wait for the loop",
                {"bridge.executor.name": self.name},
            )
            self.refuse(
                last,
                WouldDeadlock(
                    f"{name} cannot begin on {self.name!r}: all of its threads ({len(seats)}) wait for tasks that wait "
                    f"for functions in that same pool, and the threads of a foreign pool cannot lend their slot. "
                    f"Use bridge.ThreadExecutor({self.limit}), whose threads can, or send {last_name(last.fn)} elsewhere."
                ),
            )

    def _waits_for(self, seat: Seat, task: object | None) -> bool:
        """Does the seat's function wait for what this task does?"""
        job = seat.job
        if job is None or task is None:
            return False
        call = job.call
        if call is not None and not call.answered:
            return call.task is task or _context_of(task) is call.context
        flight = self.flights.get(job)  # a stream that is full, and waits for its consumer
        return call is None and flight is not None and flight.awaited_by is task


def task_here() -> object | None:
    """The task that runs in this thread, of whatever kind."""
    if asyncio._get_running_loop() is not None:
        return asyncio.current_task()
    return from_loaded("trio.lowlevel", "current_task")() if trio_task_runs_here() else None


def _context_of(task: Any) -> object | None:
    """The very context that a task runs in, where one can ask for it (trio, and asyncio from Python 3.12 on)."""
    get_context = getattr(task, "get_context", None)
    return getattr(task, "context", None) if get_context is None else get_context()
