"""The end of a pool: wait for its threads, but not for ever, and say which line they are stuck on.

Worker threads are daemons, so none can keep the interpreter alive. In exchange the interpreter's exit waits for them
here, up to a limit, and what is still running then is reported with its stack and left behind (CPython #111358 is
what happens without a limit).
"""

from __future__ import annotations

import sys
from threading import get_ident
from time import monotonic, sleep

from bridge.errors import WouldDeadlock
from bridge.threads.deadlock import tell_refused
from bridge.threads.here import here
from bridge.threads.job import name_of
from bridge.threads.pool import WorkerPool, pools
from bridge.threads.program_end import at_exit
from bridge.threads.seconds import for_wait
from bridge.threads.stuck import report_thread

#: Seconds that the end of a program waits for functions that are still running in threads.
SHUTDOWN_TIMEOUT = 10.0


def refuse_own_worker(pool: WorkerPool) -> None:
    """Raise WouldDeadlock in a thread of the pool itself: the pool cannot end before that thread does."""
    worker = here.worker
    if worker is not None and worker.pool is pool:
        tell_refused(
            f"{pool.name!r} was told to shut down and wait by a function that it runs itself",
            get_ident(),
            get_ident(),
            "shutdown(wait=False)",
            {"bridge.executor.name": pool.name},
        )
        raise WouldDeadlock(
            f"{pool.name!r} was told to shut down and wait by a function that it runs itself "
            f"({name_of(worker.job.named) if worker.job else '?'}): it would wait for its own end. "
            f"Write shutdown(wait=False) there."
        )


def join(pool: WorkerPool, timeout: float | None = None) -> bool:
    """Wait until every thread of a closed pool has ended, at most `timeout` seconds; True if they have."""
    refuse_own_worker(pool)
    deadline = None if timeout is None else monotonic() + timeout
    while pool.workers:
        if sys.is_finalizing():  # in a finalizer: threads do not run any more
            return False
        for worker in list(pool.workers):
            left = None if deadline is None else for_wait(max(0.0, deadline - monotonic()))
            try:
                worker.thread.join(left)
            except RuntimeError:  # another thread is just about to start it
                sleep(0.001)
        if deadline is not None and monotonic() >= deadline:
            return not pool.workers
    for thread in pool.ending:  # done with its work, on its last instructions
        thread.join(1.0)
    return True


def report_stuck(pool: WorkerPool, since: float) -> None:
    """Report, with the stack of each, the functions that a pool gives up waiting for.

    `since` is when that wait began (`time.monotonic`): the pool may have been closed long before, or only just now.
    """
    pool.given_up = True
    for worker in list(pool.workers):
        job, thread = worker.job, worker.thread
        if job is None or not thread.is_alive():
            continue
        waited = monotonic() - since
        report_thread(
            thread.ident,
            f"{name_of(job.named)} has not ended {waited:.1f} s after the wait for its end began; "
            f"its thread {thread.name!r} is left behind.",
            "bridge.check_cancelled() in its loop, or a timeout for the blocking call: nothing else ends a thread",
            {
                "bridge.executor.name": pool.name,
                "bridge.function": name_of(job.named),
                "bridge.duration": waited,
                "thread.name": thread.name,
            },
        )


def close_and_wait(pool: WorkerPool, timeout: float, since: float | None = None) -> None:
    """Close, wait for at most `timeout` seconds, report what is stuck. The whole wait began at `since` (None: now)."""
    if since is None:
        since = monotonic()
    pool.close()
    if not join(pool, timeout):
        report_stuck(pool, since)


def _at_exit() -> None:
    since = monotonic()
    deadline = since + SHUTDOWN_TIMEOUT
    open_pools = [pool for pool in pools if not pool.given_up]
    for pool in open_pools:  # those without threads too: nobody would wait for work that comes later
        pool.close()
    for pool in open_pools:
        left = max(0.0, deadline - monotonic())
        if not join(pool, left):
            report_stuck(pool, since)


at_exit(_at_exit)
