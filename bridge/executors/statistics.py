"""What an executor says about itself: frozen figures, taken when asked for, at no cost to the work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Seconds, over the latest jobs (at most 1024); all zero before the first has ended."""

    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Quantiles:
        if not values:
            return cls(0.0, 0.0, 0.0, 0.0)
        ranked = sorted(values)
        last = len(ranked) - 1
        p50, p90, p99 = (ranked[round(last * share)] for share in (0.5, 0.9, 0.99))
        return cls(p50, p90, p99, ranked[last])


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """One worker process."""

    pid: int
    #: What it runs, as `module.qualname`; None if it is idle.
    function: str | None
    #: Seconds since it was started.
    age: float
    #: Resident memory, in bytes.
    rss: int
    #: Functions that it has ended.
    completed: int


@dataclass(frozen=True, slots=True)
class ExecutorStatistics:
    """One look at an executor. Counts of jobs, except where it says seconds."""

    name: str
    max_workers: int
    #: Accepted, not begun.
    queued: int
    #: Begun, not ended; those that wait in a portal call are counted here, and again in `lent`.
    running: int
    #: Running functions whose slot is lent out because they wait for a loop.
    lent: int
    #: Threads, or processes, without work.
    idle: int
    #: Ended with a value, ended with an error, ended before they began.
    completed: int
    failed: int
    cancelled: int
    #: Seconds between submitting and beginning.
    queue_wait: Quantiles
    #: Seconds between beginning and ending.
    run_time: Quantiles
    #: One for each worker process; threads have none.
    workers: tuple[WorkerStatistics, ...] = ()
