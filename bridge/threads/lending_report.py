"""BRG405: as many functions of an executor wait for a loop as may, so others wait for them. Once for each executor.

In: executors that have refused a slot for the first time. Out: an event; for threads from the watchdog's thread, because
a slot may be refused anywhere, also in a signal handler.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import TYPE_CHECKING

from bridge.diagnostics.events import Event, emit
from bridge.diagnostics.places import where
from bridge.diagnostics.punctuality import Tick
from bridge.diagnostics.stacks import capture, frames_of_others
from bridge.diagnostics.watchdog import watchdog
from bridge.threads.job import Job, last_name, name_of
from bridge.threads.lost import is_told
from bridge.threads.queue_watch import Occupant, lines_of
from bridge.threads.site import place_of_job

if TYPE_CHECKING:
    from bridge.threads.pool import WorkerPool


class LendingReport:
    """Is looked at once, and reports then."""

    def __init__(self, pool: WorkerPool, begun: int, job: Job):
        self._pool = pool
        self._begun = begun
        self._job = job

    def look(self, tick: Tick) -> float | None:
        """As `Watcher.look`."""
        watchdog.unwatch(self)
        pool = self._pool
        if is_told(self._job.origin):
            waiting = list(_waiting(pool))
            emit(lent_out(self._job, pool.name, "ThreadExecutor", self._begun, pool.max_workers, pool.max_lent, waiting))
        return None


def lent_out(
    job: Job, name: str, kind: str, begun: int, max_workers: int, max_lent: int, waiting: Iterable[Occupant]
) -> Event:
    """`job` may not begin though a worker of the executor `name`, a bridge.<kind>, has lent its place."""
    place = place_of_job(job)
    function = name_of(job.named)
    return Event(
        code="BRG405",
        headline=f"{begun} functions of {name!r} have begun and most of them wait for a loop: "
        f"{function} cannot begin before one has ended{where(place, 'sent at')}",
        details=("what they wait in:", *lines_of(waiting)),
        advice=f"bridge.map({last_name(job.named)}, ..., in_flight={max_workers + max_lent}) for fewer calls at a time, "
        f"or bridge.{kind}({max_workers}, max_lent={2 * max(max_lent, max_workers)}) if more must wait at once",
        place=place,
        attributes={
            "bridge.executor.name": name,
            "bridge.function": function,
            "bridge.begun": begun,
            "bridge.workers": max_workers,
            "bridge.max_lent": max_lent,
        },
    )


def _waiting(pool: WorkerPool) -> Iterator[Occupant]:
    """What has lent its slot."""
    frames = frames_of_others()
    now = perf_counter()
    for worker in list(pool.workers):
        job = worker.job
        if job is None or worker.has_slot:
            continue
        place = capture(frames.get(worker.thread.ident or 0)).place
        yield Occupant(name_of(job.named), where(place, "at"), now - (job.started_at or now))
