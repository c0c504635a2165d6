"""The worker pool: a queue of jobs, a limited number of slots, and as few threads awake as possible.

    submit_job: queue.append ── nobody on the way up? ──> idle.pop -> gate opens ──> worker takes a job
                                     │ nobody idle, slots left                    │ more queued, nobody on the way up?
                                     └──> new thread                              └──> wakes the next, runs its own

Short jobs stay on the one thread that is hot; a job that blocks has always woken a successor before it started. Go's
and Tokio's schedulers throttle their wake-ups the same way.

Owners and order:
- `queue`, `idle`, `waking` are shared without a lock and touched by atomic operations only, so that `submit_job` may be
  called from a signal handler or a finalizer that interrupts another `submit`. A submitter appends, then reads `waking`
  and `idle`; a worker clears `waking`, then takes from the queue, and goes onto `idle`, then looks at the queue again.
  In each pair one sees what the other did, so no job is left lying with a worker asleep. `waking` is set before the gate
  is opened and cleared by the worker after it: it cannot stay set.
- slots: `_slots` exist (at most `max_workers`), each held by a worker that works or idles, or counted in `_spare`: lent
  out by a worker that waits in a portal call. A worker without a slot is lent, waiting in `returners`, or on `bench`.
  All of that changes under `_lock` only. It is reentrant, and no two statements that must not be interrupted have a call
  or a backward jump between them, which is where CPython lets signal handlers and collections in.
- Ctrl-C may end `wake_one` in the main thread at any instruction, even between taking a worker off `idle` and opening its
  gate. `_alarm` then sets things right from what is certain: it opens every resting worker's gate and counts the slots
  anew. A worker woken for nothing looks at the queue and rests again.
- A worker that comes back from its call takes a spare slot, makes one, takes an idle worker's, or waits in `returners`
  for the next worker that finishes a job. So never more than `max_workers` functions run at once, also with lending.
- The bound on lending (`lending`) is looked at where another thread would be added. Workers that are not on the bench
  are those in service; if as many as the bound allows are, the pool is `crowded`: `queue` is sorted into `backlog`, and
  a worker is added only for a call that is nested deep enough. While it is crowded, workers take from the backlog,
  under the lock (`take`); one that may begin nothing gives its slot away and goes onto the bench. A worker gives first
  and looks at the queue once more then; a submitter appends first, then looks for a slot. A submitter that interrupts
  its own thread while that sorts (a signal handler, a finalizer) leaves its job in `queue`; what it has interrupted
  looks there again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from math import inf
from typing import TYPE_CHECKING
from weakref import WeakSet

from bridge.diagnostics.watchdog import watchdog
from bridge.errors import ExecutorClosed, LoopClosed
from bridge.threads.fork import tell_after_fork
from bridge.threads.green import require_threads
from bridge.threads.lending import Backlog, Bound
from bridge.threads.lending_report import LendingReport
from bridge.threads.pool_watch import PoolWatch
from bridge.threads.queue_watch import DEFAULT_QUEUE_LIMIT, QueueWatch, call
from bridge.threads.seconds import for_wait
from bridge.threads.worker import Worker

if TYPE_CHECKING:
    from bridge.threads.job import Job

#: Threads are made for calls that block, which use no core while they do; they come only when a job would have to wait.
DEFAULT_MAX_WORKERS = 64
#: Functions that may begin for each level of nesting beyond the bound of lending, at least.
LEVEL = 16
#: Seconds without work after which a thread leaves.
DEFAULT_IDLE_TIMEOUT = 10.0
#: How many of the latest jobs the wait- and run-time quantiles are taken over.
SAMPLES = 1024

pools: WeakSet[WorkerPool] = WeakSet()


def default_max_lent(max_workers: int) -> int:
    """A few times max_workers: threads that wait cost little but memory."""
    return 4 * max(max_workers, LEVEL)


def open_gate(worker: Worker) -> None:
    """Wake a worker; after an alarm its gate may be open already."""
    try:
        worker.gate.release()
    except RuntimeError:
        pass


class WorkerPool:
    """Up to `max_workers` functions at a time on daemon threads that come on demand and leave after `idle_timeout` s.

    A job that waits for one for longer than `queue_limit` seconds is told of. At most `max_lent` functions more than
    `max_workers` have begun because others wait for a loop, but for those that these have sent themselves.
    """

    def __init__(
        self,
        max_workers: int,
        name: str,
        idle_timeout: float,
        queue_limit: float = DEFAULT_QUEUE_LIMIT,
        max_lent: int | None = None,
    ):
        self.max_workers: int = max_workers
        self.max_lent: int = default_max_lent(max_workers) if max_lent is None else max_lent
        self._bound = Bound(max_workers, self.max_lent, max(max_workers, LEVEL))
        self.name: str = name
        self.idle_timeout: float = for_wait(idle_timeout)
        self.queue_limit: float = queue_limit
        self.queue: deque[Job] = deque()
        self.samples: deque[tuple[float, float, float]] = deque(maxlen=SAMPLES)
        self._start_afresh()
        pools.add(self)
        tell_after_fork(self)

    def _start_afresh(self) -> None:
        self.idle: list[Worker] = []
        self.bench: list[Worker] = []
        self.returners: deque[Worker] = deque()
        self.workers: set[Worker] = set()
        self.ending: list[threading.Thread] = []  # threads that have left, but may still be seen for a moment
        self.waking: bool = False
        self.closing: bool = False
        self.alarmed: bool = False
        #: As many workers are in service as the bound on lending allows, or more, or `backlog` is not empty.
        self.crowded: bool = False
        self.backlog: Backlog = Backlog("thread")
        self._sorting = False
        self._announced = False  # that the bound was reached
        #: Holds the watch of the queue, while it does not watch.
        self.resting: list[QueueWatch] = [] if self.queue_limit == inf else [PoolWatch(self, self.queue_limit)]
        self.given_up: bool = False  # its stuck threads have been reported and left behind
        self.completed: int = 0  # by workers that have left
        self.failed: int = 0  # likewise
        self.cancelled: int = 0
        self._slots = 0
        self._spare = 0
        self._lock = threading.RLock()
        self._numbers = count(1)
        self._when_empty: list[Callable[[], object]] = []

    @property
    def used(self) -> bool:
        """Has it threads, or had it any that did something?"""
        return bool(self.workers or self.completed or self.failed)

    @property
    def jobs(self) -> list[Job]:
        """What is queued, from any thread; what is being sorted may be there twice."""
        queue = list(self.queue)  # first, because jobs go from there to the backlog
        return [*self.backlog, *queue]

    # -- in ------------------------------------------------------------------------------------------------------------

    def submit_job(self, job: Job) -> None:
        """Queue a job; it is begun once, in order. Raises ExecutorClosed."""
        if self.closing:
            raise self._closed_error()
        self.queue.append(job)
        if not self.waking:
            try:
                self.wake_one()
            except RuntimeError:  # not one thread could be started
                if job.withdraw():
                    with suppress(ValueError):  # an empty shell would have `close` look for a thread again
                        self.queue.remove(job)
                    raise
        if self.closing and job.withdraw():  # type: ignore[unreachable]  # closed since we looked, and no worker has got to it
            raise self._closed_error()

    def withdraw(self, job: Job) -> bool:
        """Take back a job that has not begun. What is left in the queue is an empty shell; those in front go now."""
        if not job.withdraw():
            return False
        self.count_cancelled()
        queue = self.queue
        try:
            while (first := queue[0]).withdrawn:
                queue.remove(first)
        except (IndexError, ValueError):  # empty, or a worker was quicker
            pass
        if self.crowded:
            self._drop_withdrawn()
        return True

    def count_cancelled(self) -> None:
        """One more job that ended before it began."""
        with self._lock:
            self.cancelled += 1

    def _closed_error(self) -> ExecutorClosed:
        return ExecutorClosed(
            f"{self.name!r} was shut down and takes no more work. Submit inside its `with` block, "
            f"or keep the executor open for as long as anything uses it."
        )

    # -- threads -------------------------------------------------------------------------------------------------------

    def wake_one(self) -> None:
        """Have one more worker look at the queue, if there is one to have. Raises RuntimeError if there can be none."""
        try:
            try:
                worker = self.idle.pop()
            except IndexError:
                if self._slots < self.max_workers or self._spare:
                    self._add_worker()
                elif self.resting:
                    call(self.resting)
                return
            self.waking = True
            open_gate(worker)
        except RuntimeError:
            raise
        except BaseException:  # Ctrl-C, or what another signal handler raised
            self._alarm()
            raise

    def _add_worker(self) -> None:
        while self._was_refused():
            pass

    def _was_refused(self) -> bool:
        """Have one more worker in service, if there is a slot and the bound on lending allows. True: look once more."""
        with self._lock:
            made = self._slots < self.max_workers
            if not made and not self._spare:
                return False
            in_service = len(self.workers) - len(self.bench)
            allowed = in_service < self._bound.limit or self._next_line(in_service) is not None
            if allowed:
                if made:
                    self._slots += 1
                else:
                    self._spare -= 1
                self.waking = True
                if self.bench:
                    worker = self.bench.pop()
                    worker.has_slot = True
                    open_gate(worker)
                    return False
                worker = Worker(self, f"{self.name}-{next(self._numbers)}")
                self.workers.add(worker)
        if not allowed:
            self._announce(in_service)
            return bool(self.queue)
        try:
            require_threads(f"{self.name!r}", "thread")
            worker.thread.start()
        except RuntimeError:  # "can't start new thread"
            with self._lock:
                self.waking = False
                self.workers.discard(worker)
                if not self._pass_slot_on():
                    self._slots -= made
                    self._spare += not made
                if not self.workers:
                    raise
        return False

    def admit(self, worker: Worker) -> bool:
        """A thread has come up. True, unless an alarm has counted it out meanwhile and its place is taken."""
        with self._lock:
            if worker in self.workers:
                return True
            if self._slots >= self.max_workers:
                return False
            self._slots += 1
            self.workers.add(worker)
            return True

    def _alarm(self) -> None:
        """Something that must not be interrupted was: forget all that is uncertain, and let everybody look."""
        with self._lock:
            self.alarmed = True
            self.waking = False
            self.workers = {worker for worker in self.workers if worker.thread.ident is not None}
            self._slots = sum(worker.has_slot for worker in self.workers) + self._spare
            for worker in self.workers:
                if worker.resting:
                    open_gate(worker)

    def take_off_idle(self, worker: Worker) -> bool:
        """False if somebody else has taken the worker off and is going to wake it."""
        try:
            self.idle.remove(worker)
        except ValueError:
            return False
        return True

    def onto_bench(self, worker: Worker) -> bool:
        """A worker without a slot waits for one to be found for it; False if the pool is closing."""
        with self._lock:
            if self.closing:
                return False
            worker.resting = True
            self.bench.append(worker)
            return True

    def take_off_bench(self, worker: Worker) -> bool:
        """Likewise for the bench."""
        with self._lock:
            if worker not in self.bench:
                return False
            self.bench.remove(worker)
            return True

    def leave(self, worker: Worker) -> None:
        """The worker's thread is about to end."""
        with self._lock:
            self.workers.discard(worker)
            self.ending = [thread for thread in self.ending if thread.is_alive()] + [worker.thread]
            self.completed += worker.completed
            self.failed += worker.failed
            if worker.has_slot and not self._pass_slot_on():
                self._slots -= 1
        if self.queue or self.crowded:  # a submitter may have counted on us
            self.wake_one()
        self._tell_if_empty()

    # -- at the bound on lending ---------------------------------------------------------------------------------------

    def _next_line(self, in_service: int) -> deque[Job] | None:
        """Under the lock: where a worker finds a job that it may begin with so many others in service; None: nowhere."""
        if self._sorting:  # this thread is at it, and has been interrupted
            return None
        self._sorting = True
        try:
            self.crowded = True
            self.backlog.take_over(self.queue)
            line = self.backlog.next_line(self._bound.depth(in_service))
        finally:
            self._sorting = False
        return line

    def take(self, worker: Worker) -> Job | None:
        """In a crowded pool: what `worker` is to do next. None: nothing; its slot is gone if it is one too many."""
        with self._lock:
            others = len(self.workers) - len(self.bench) - 1
            line = self._next_line(others)
            job = line.popleft() if line else None
            if job is None and others >= self._bound.limit:
                worker.has_slot = False
                if not self._pass_slot_on():
                    self._spare += 1
            if not self.backlog.lines and others + worker.has_slot <= self._bound.limit:
                self.crowded = False
            return job

    def _drop_withdrawn(self) -> None:
        with self._lock:
            if not self._sorting:
                self._sorting = True
                try:
                    self.backlog.next_line(0)
                finally:
                    self._sorting = False

    def _announce(self, in_service: int) -> None:
        if self._announced:
            return
        job = next(iter(self.backlog), None)
        if job is not None:
            self._announced = True
            watchdog.watch(LendingReport(self, in_service, job))

    # -- lending -------------------------------------------------------------------------------------------------------

    def lend(self, worker: Worker) -> None:
        """Called by a worker that is going to wait for a loop: others may use its slot meanwhile."""
        with self._lock:
            worker.has_slot = False
            if not self._pass_slot_on():
                self._spare += 1
        if (self.queue or self.crowded) and not self.waking:
            self.wake_one()

    def reclaim(self, worker: Worker) -> None:
        """Called by the same worker before it goes on: get a slot back, waiting for one if all are in use."""
        with self._lock:
            worker.has_slot = True
            if self._spare:
                self._spare -= 1
                return
            if self._slots < self.max_workers:
                self._slots += 1
                return
            worker.has_slot = False
            self.returners.append(worker)
            if self.idle and self._displace_idle(worker):
                return
        while not worker.has_slot:  # after an alarm a gate may stand open
            worker.gate.acquire()

    def _displace_idle(self, worker: Worker) -> bool:
        try:
            other = self.idle.pop()
        except IndexError:
            return False
        self.returners.remove(worker)
        other.has_slot = False
        worker.has_slot = True
        open_gate(other)
        return True

    def give_slot_to_returner(self, worker: Worker) -> bool:
        """Pass `worker`'s slot on to one that came back from its call. False if there is none."""
        with self._lock:
            if not self._pass_slot_on():
                return False
            worker.has_slot = False
            return True

    def _pass_slot_on(self) -> bool:
        if not self.returners:
            return False
        returner = self.returners.popleft()
        returner.has_slot = True
        open_gate(returner)
        return True

    # -- out -----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Take no more jobs; workers leave when the queue is empty. Does not wait."""
        try:
            with self._lock:
                self.closing = True
                leaving, self.bench = self.bench, []
            for worker in leaving:
                open_gate(worker)
            while self.idle:
                try:
                    open_gate(self.idle.pop())
                except IndexError:
                    break
            for worker in list(self.workers):
                if worker.resting:  # taken off `idle` by a wake-up that was interrupted, and an alarm that was, too
                    open_gate(worker)
            if (self.queue or self.crowded) and not self.workers:
                self.wake_one()
        except BaseException:
            self._alarm()
            raise
        self._tell_if_empty()

    def when_empty(self, callback: Callable[[], object]) -> None:
        """Have `callback` called, in whatever thread, once the pool is closed and its last thread is leaving."""
        self._when_empty.append(callback)
        self._tell_if_empty()

    def _tell_if_empty(self) -> None:
        while self.closing and not self.workers and self._when_empty:
            try:
                self._when_empty.pop()()
            except (IndexError, LoopClosed):
                pass

    def after_fork_in_child(self) -> None:
        """Nothing of what was accepted is this process's to do; new work finds new threads."""
        self.queue.clear()
        self._start_afresh()
