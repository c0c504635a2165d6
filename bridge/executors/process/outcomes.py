"""What becomes of jobs: outcomes on their way to those who wait, cancellations, and how long functions take.

    a reply, a death, a bad pickle ──> settle, fail ──> crew.todo ──> deliver, outside the turn
    cancel: in the queue? out of it ── begun? the soft flag, and the worker is condemned

All of it belongs to the crew's home, under its turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from types import FunctionType
from typing import TYPE_CHECKING, Any

from bridge.callables import builtin_name, explained
from bridge.errors import ExecutorClosed, LoopClosed
from bridge.executors.process.member import Member
from bridge.threads.future_job import FutureJob
from bridge.threads.host import Host
from bridge.threads.job import Job
from bridge.threads.pool import SAMPLES
from bridge.threads.site import note_site

if TYPE_CHECKING:
    from bridge.executors.process.roster import Roster

#: Functions whose pace is remembered.
REMEMBERED = 4096


def pace_key(fn: Any) -> Any:
    """Return what the time that a function takes is remembered by; None for what only its own attributes could tell."""
    if type(fn) is FunctionType:
        return fn.__code__
    return builtin_name(fn)


def _prestarted() -> None:
    """What those wait for who wait for a worker and not for a function."""


_NO_JOB = Job(_prestarted, (), {}, None)


class Outcomes:
    """The ends of one roster's jobs, and what was learnt from them."""

    def __init__(self, roster: Roster):
        self._roster = roster
        self._crew = roster.crew
        #: When the latest jobs were submitted, begun and ended (`time.perf_counter`).
        self.samples: deque[tuple[float, float, float]] = deque(maxlen=SAMPLES)
        self.completed: int = 0
        self.failed: int = 0
        self.cancelled: int = 0
        #: Seconds that a function is expected to take, by `pace_key`.
        self.paces: dict[Any, float] = {}

    def learn(self, job: Job, began: float, ended: float) -> None:
        """How long a job took: what is expected of the next of its kind. Quick to rise, slow to fall."""
        self.samples.append((job.queued_at, began, ended))
        if job.on_the_wire:
            return
        fn, paces, took = job.fn, self.paces, ended - began
        key = fn.__code__ if type(fn) is FunctionType else pace_key(fn)
        pace = paces.get(key)
        if pace is not None:
            paces[key] = took if took > pace else pace + (took - pace) * 0.125
        elif key is not None:
            if len(paces) >= REMEMBERED:
                paces.clear()
            paces[key] = took

    def settle(self, job: Job) -> None:
        """A job has its outcome: on its way to whoever waits for it."""
        if job.error is not None:
            job.error = explained(job.error, job.fn)
        job.args = job.kwargs = job.context = job.call = job.remote = None
        if job.step is not None:
            job.step.end()
            job.step = None
        if job.error is None:
            self.completed += 1
            self._crew.todo.append(job)
        else:
            self.failed += 1
            self._crew.todo.append(partial(_deliver_error, job, self._crew.home.host))

    def fail(self, job: Job, error: BaseException) -> None:
        """Likewise, with an error that did not come from the worker."""
        job.error = error
        self.settle(job)

    def count_cancelled(self) -> None:
        """One more job ended before it began."""
        self.cancelled += 1

    def cancel(self, job: Job, kill: bool) -> None:
        """Nobody wants the result of a job that was given to a worker: take it back, or have it end."""
        member = job.remote
        if member is None:
            return  # it has its outcome
        if isinstance(member, Member):
            if member.packing is job:
                member.packing = None
                self._roster.rest(member)
                self._end_as_cancelled(job)
                return
            self._roster.take_back(member)
        if job.remote is self._crew:
            self._roster.remove(job)
            self._end_as_cancelled(job)
        elif isinstance(member, Member):
            member.tell_cancelled(job)
            self._roster.to_flush(member)
            if kill:
                self._roster.endings.condemn(member, job)

    def _end_as_cancelled(self, job: Job) -> None:
        self.cancelled += 1
        job.error = CancelledError("it was cancelled before it began")
        job.args = job.kwargs = job.context = job.call = job.remote = None
        self._crew.todo.append(job)

    def drop_queued(self) -> None:
        """Withdraw everything that waits for a worker, and tell those who wait for it."""
        for job in self._roster.drop_queue():
            if job.remote is None and not job.claim():
                continue
            self.cancelled += 1
            job.args = job.kwargs = job.context = job.remote = None
            if isinstance(job, FutureJob):
                self._crew.todo.append(job.cancel)
            else:
                job.error = ExecutorClosed(f"{self._crew.name!r} was shut down before this function could begin")
                self._crew.todo.append(job)

    def cancel_running(self) -> None:
        """Have everything that runs end early."""
        for member in list(self._roster.members):
            for job, _ in list(member.in_flight.values()):
                self.cancel(job, kill=True)
            if member.packing is not None:
                self.cancel(member.packing, kill=True)

    def fail_queued(self, error_for: Callable[[Job], BaseException]) -> None:
        """No worker can be had: everything that waits for one is told why."""
        for job in self._roster.drop_queue():
            if job.remote is not None or (not job.withdrawn and job.begin()):
                self.fail(job, error_for(job))
        self.fail_awaited(error_for)

    def fail_awaited(self, error_for: Callable[[Job], BaseException]) -> None:
        """Those who wait for workers before there is work are told why there are none."""
        waiting, self._roster.awaited = self._roster.awaited, []
        for _, ready in waiting:
            self._crew.todo.append(partial(ready, error_for(_NO_JOB)))


def _deliver_error(job: Job, host: Host) -> None:
    """Say where the job was sent off. Whether its task waits yet, and where, only the task's own loop can tell."""
    origin = job.origin
    if job.awaited and origin is not None and origin is not host and getattr(job, "site", None) is None:
        try:
            origin.call_soon(_deliver_with_site, (job,))
            return
        except LoopClosed:
            pass
    _deliver_with_site(job)


def _deliver_with_site(job: Job) -> None:
    if job.error is not None:
        note_site(job.error, job)
    job.deliver()
