"""The queue of a pool of threads, watched for work that waits too long; see `queue_watch`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from time import perf_counter
from typing import TYPE_CHECKING
from weakref import ref

from bridge.diagnostics.events import Event
from bridge.diagnostics.places import where
from bridge.diagnostics.stacks import capture, frames_of_others
from bridge.threads.job import Job, name_of
from bridge.threads.queue_watch import Occupant, QueueWatch, saturated

if TYPE_CHECKING:
    from bridge.threads.pool import WorkerPool


class PoolWatch(QueueWatch):
    """Holds the pool weakly, which holds it while it rests."""

    def __init__(self, pool: WorkerPool, limit: float):
        super().__init__(limit)
        self._pool = ref(pool)

    def queue(self) -> Sequence[Job] | None:
        pool = self._pool()
        # Whoever closes it waits for the end of all that is queued, and knows why.
        return None if pool is None or pool.closing else pool.jobs if pool.crowded else pool.queue

    def since(self) -> float:
        pool = self._pool()
        # A thread is there at once, unless too many functions wait for a loop, which is reported by itself (BRG405).
        return perf_counter() if pool is not None and pool.crowded else 0.0

    def workers(self) -> int:
        pool = self._pool()
        return 0 if pool is None else pool.max_workers

    def begun(self, now: float) -> list[float]:
        pool = self._pool()
        workers = [] if pool is None else list(pool.workers)
        # One that has taken its job just now has not noted when.
        return [job.started_at or now for each in workers if each.has_slot and (job := each.job) is not None]

    def last_begun(self) -> float:
        pool = self._pool()
        return pool.samples[-1][1] if pool is not None and pool.samples else 0.0

    def resting(self) -> list[QueueWatch] | None:
        pool = self._pool()
        return None if pool is None else pool.resting

    def report(self, job: Job, seconds: float, queued: int) -> Event:
        pool = self._pool()
        assert pool is not None
        return saturated(job, seconds, queued, pool.name, "ThreadExecutor", pool.max_workers, _occupants(pool))


def _occupants(pool: WorkerPool) -> Iterator[Occupant]:
    """What runs, and holds a slot."""
    frames = frames_of_others()
    now = perf_counter()
    for worker in list(pool.workers):
        job = worker.job
        if job is None or not worker.has_slot:
            continue
        place = capture(frames.get(worker.thread.ident or 0)).place
        began = job.started_at or now  # it has just begun
        yield Occupant(name_of(job.named), where(place, "at"), now - began)
