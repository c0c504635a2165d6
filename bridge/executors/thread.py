"""ThreadExecutor: functions that block, on daemon threads that come when needed and leave when idle."""

from __future__ import annotations

from itertools import count

from anyio import Event

from bridge.diagnostics.places import Site, submit_site
from bridge.errors import ExecutorClosed
from bridge.executors.base import Executor, tell_forgotten
from bridge.executors.statistics import ExecutorStatistics, Quantiles
from bridge.loop.hosts import current_host
from bridge.loop.patience import wait_patiently
from bridge.threads.blocking import loop_runs_here
from bridge.threads.closing import close_and_wait, join, refuse_own_worker
from bridge.threads.future_job import FutureJob, raise_cancelled
from bridge.threads.host import CancelMode
from bridge.threads.job import Job
from bridge.threads.lending import checked_max_lent
from bridge.threads.pool import DEFAULT_IDLE_TIMEOUT, DEFAULT_MAX_WORKERS, WorkerPool, default_max_lent
from bridge.threads.queue_watch import DEFAULT_QUEUE_LIMIT, checked_limit
from bridge.threads.seconds import check_seconds

_numbers = count(1)


class ThreadExecutor(Executor):
    """Runs functions in at most `max_workers` threads (default 64), one at a time each, begun in order of submission.

    `name` appears in thread names and messages. Threads leave after `idle_timeout` seconds without work. A function that
    waits for a thread for longer than `queue_limit` seconds is reported (BRG401), together with what keeps the threads
    busy, unless the queue is worked off as fast as the threads can; None: never. Calls of `map` and `amap` may wait for
    as long as they like.

    A function that waits in a portal call lends its slot, so at `max_workers=1` another may run meanwhile, on another
    thread; never do two run at once. `max_lent` limits that: with `max_workers + max_lent` functions begun and not ended,
    running or waiting, only calls begin that one of them has sent by its own portal call; the others wait (BRG405). So
    nesting goes on, however deep, with at most `max_workers` functions more for each level (or 16, if that is more).
    `max_lent` is 4 times `max_workers` by default, and at least 64.

    Raises TypeError or ValueError for anything but a positive whole number of workers, and a whole `max_lent`.
    """

    cancel_modes: tuple[CancelMode, ...] = ("wait", "abandon")

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        name: str | None = None,
        idle_timeout: float = DEFAULT_IDLE_TIMEOUT,
        queue_limit: float | None = DEFAULT_QUEUE_LIMIT,
        max_lent: int | None = None,
    ):
        workers = DEFAULT_MAX_WORKERS if max_workers is None else _checked(max_workers)
        check_seconds("idle_timeout", idle_timeout, "idle_timeout=10.0")
        limit = checked_limit(queue_limit)
        lent = checked_max_lent(max_lent, default_max_lent(workers))
        self._serve_with(WorkerPool(workers, name or f"ThreadExecutor-{next(_numbers)}", idle_timeout, limit, lent))
        self.made_at: Site | None = submit_site()

    @classmethod
    def over(cls, pool: WorkerPool) -> ThreadExecutor:
        """An executor that shares an existing pool, without owning it."""
        executor = cls.__new__(cls)
        executor._serve_with(pool)
        executor._owner = False
        return executor

    _owner = True

    def _serve_with(self, pool: WorkerPool) -> None:
        self._pool = pool
        self.name: str = pool.name
        self.max_workers: int = pool.max_workers
        self.max_lent: int = pool.max_lent
        # Straight to the pool: one call less on the way of every job.
        self.submit_job = pool.submit_job  # type: ignore[method-assign]
        self.withdraw = pool.withdraw  # type: ignore[method-assign]

    def submit_job(self, job: Job) -> None:
        """Accept a job: it is begun at most once. Raises ExecutorClosed."""
        self._pool.submit_job(job)

    def withdraw(self, job: Job) -> bool:
        """Take back a job that has not begun; False if it has."""
        return self._pool.withdraw(job)

    def __repr__(self) -> str:
        state = "closed" if self._pool.closing else f"{len(self._pool.workers)} threads"
        return f"<bridge.ThreadExecutor {self.name!r}, max_workers={self.max_workers}, {state}>"

    def __del__(self) -> None:
        # Forgotten without being shut down: what was accepted is still done, then the threads leave.
        pool = self.__dict__.get("_pool")
        if pool is not None and self._owner and not pool.closing:
            used = pool.used
            pool.close()
            if used:
                tell_forgotten(self, ThreadExecutor)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As in `concurrent.futures`. Raises WouldDeadlock if a function that runs here waits for its own end."""
        self._pool.close()
        if cancel_futures:
            self._drop_queued()
        if wait:
            self._join()

    def close_within(self, timeout: float, since: float | None = None) -> None:
        """As `Executor.close_within`."""
        check_seconds("timeout", timeout, "close_within(10.0)")
        close_and_wait(self._pool, timeout, since)

    async def aclose(self) -> None:
        """Take no more work and wait, without blocking the loop, until all that was accepted has ended."""
        refuse_own_worker(self._pool)
        host = current_host()
        empty = Event()
        self._pool.close()
        self._pool.when_empty(lambda: host.call_soon(empty.set, ()))
        try:
            await empty.wait()
        except BaseException:  # cancelled: leaving is no longer patient, but still leaves nothing behind
            self.cancel_all()
            await wait_patiently(host, empty)
            raise
        join(self._pool)

    def cancel_all(self) -> None:
        """Withdraw all that is queued, telling whoever waits for it, and ask all that runs to end early."""
        self._drop_queued()
        for worker in list(self._pool.workers):
            job = worker.job
            if job is not None and job.cancelling is None:
                job.request_cancel(raise_cancelled(job))

    def _drop_queued(self) -> None:
        for job in self._pool.jobs:
            if isinstance(job, FutureJob):
                job.cancel_future()  # which takes it back; interrupted in between, a worker drops it
            elif self._pool.withdraw(job):
                job.error = ExecutorClosed(f"{self.name!r} was shut down before this function could begin")
                job.deliver()

    def _join(self) -> None:
        host = current_host() if loop_runs_here() else None
        if host is None:
            join(self._pool)
            return
        with host.standing_still(self._pool, f"shutting down {self.name!r} and waiting for its threads"):
            join(self._pool)

    def statistics(self) -> ExecutorStatistics:
        """What the executor is doing at this moment; costs the work nothing."""
        pool = self._pool
        workers = list(pool.workers)
        samples = list(pool.samples)
        running = [worker for worker in workers if worker.job is not None]
        return ExecutorStatistics(
            name=self.name,
            max_workers=self.max_workers,
            queued=sum(not job.withdrawn for job in pool.jobs),
            running=len(running),
            lent=sum(not worker.has_slot for worker in running),
            idle=len(workers) - len(running),
            completed=pool.completed + sum(worker.completed for worker in workers),
            failed=pool.failed + sum(worker.failed for worker in workers),
            cancelled=pool.cancelled,
            queue_wait=Quantiles.of([started - queued for queued, started, _ in samples]),
            run_time=Quantiles.of([ended - started for _, started, ended in samples]),
        )


def _checked(max_workers: object) -> int:
    if not isinstance(max_workers, int) or isinstance(max_workers, bool):
        raise TypeError(f"max_workers must be a whole number of threads, not {max_workers!r}: write ThreadExecutor(8)")
    if max_workers < 1:
        raise ValueError(f"max_workers must be greater than 0, not {max_workers}: write ThreadExecutor(8)")
    return max_workers
