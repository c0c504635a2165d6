"""One worker thread: take a job, run it, deliver it, and when there is none, rest until somebody opens the gate.

A worker holds one of its pool's slots, except while it is benched (`rest_on_bench`) or waits in a portal call, when the
slot is lent out. The gate is a lock that is always shut; whoever takes the worker off `pool.idle`, off `pool.bench` or
off `pool.returners` opens it exactly once, and owes the worker that opening from the moment of taking it off.
"""

from __future__ import annotations

import threading
from _thread import LockType, allocate_lock
from sys import modules
from time import perf_counter
from typing import TYPE_CHECKING

from bridge.threads.here import here
from bridge.threads.interop import introduce_to_anyio, introduce_to_asgiref

if TYPE_CHECKING:
    from bridge.threads.job import Job
    from bridge.threads.pool import WorkerPool


class Worker:
    """A daemon thread that serves one pool until it has been idle for too long or the pool closes."""

    __slots__ = ("completed", "failed", "gate", "has_slot", "introduced", "job", "pool", "resting", "thread")

    def __init__(self, pool: WorkerPool, name: str):
        self.pool: WorkerPool = pool
        self.gate: LockType = allocate_lock()
        self.gate.acquire()
        self.job: Job | None = None
        self.has_slot: bool = True  # written under the pool's lock
        self.resting: bool = False
        self.introduced: bool = False  # to asgiref, which may be loaded at any time
        self.completed: int = 0
        self.failed: int = 0
        self.thread: threading.Thread = threading.Thread(target=self._work, name=name, daemon=True)

    def _work(self) -> None:
        here.worker = self
        introduce_to_anyio()
        pool = self.pool
        queue, samples = pool.queue, pool.samples
        pool.waking = False
        if not pool.admit(self):
            return
        try:
            while True:
                if pool.crowded:
                    job = pool.take(self)
                    if job is None:
                        if not (self._rest() if self.has_slot else self._rest_on_bench()):
                            return
                        continue
                    if not pool.waking:
                        pool.wake_one()
                else:
                    try:
                        job = queue.popleft()
                    except IndexError:
                        if not self._rest():
                            return
                        continue
                    if queue and not pool.waking:
                        pool.wake_one()
                if job.begin():
                    self.job = job
                    if not self.introduced and "asgiref.sync" in modules:
                        introduce_to_asgiref(self)
                    started_at = job.started_at = perf_counter()
                    job.run()
                    samples.append((job.queued_at, started_at, perf_counter()))
                    if job.error is None:
                        self.completed += 1
                    else:
                        self.failed += 1
                    self.job = None
                    job.deliver()
                del job
                if pool.returners and not self._hand_over():
                    return
        finally:
            here.worker = None
            pool.leave(self)

    def _rest(self) -> bool:
        """Wait, with the slot, to be woken. True: look for work. False: the thread is done.

        First onto the idle stack, then a second look at everything that could have come in between: a submitter who
        found the stack empty has queued its job before it looked, and we look after we are on the stack.
        """
        pool = self.pool
        self.resting = True
        pool.idle.append(self)
        if pool.queue or pool.crowded or pool.closing or pool.returners:
            if not pool.take_off_idle(self):
                return self._woken()
            self.resting = False
            if pool.queue or pool.crowded:
                return True
            if pool.returners:
                return self._hand_over()
            return False
        if self.gate.acquire(timeout=pool.idle_timeout):
            return self._after_waking()
        if not pool.take_off_idle(self):
            return self._woken()
        self.resting = False
        return bool(pool.queue) or pool.crowded

    def _woken(self) -> bool:
        """Somebody has taken us off a list and is about to open the gate."""
        self.gate.acquire()
        return self._after_waking()

    def _after_waking(self) -> bool:
        self.resting = False
        self.pool.waking = False
        if self.pool.alarmed:
            self.pool.take_off_idle(self)
        return self.has_slot or self._rest_on_bench()

    def _hand_over(self) -> bool:
        """Give the slot to a worker that comes back from a portal call. True: there was none to give it to, go on."""
        return not self.pool.give_slot_to_returner(self) or self._rest_on_bench()

    def _rest_on_bench(self) -> bool:
        """Wait, without a slot, to be woken with one. False: the thread is done."""
        pool = self.pool
        while pool.onto_bench(self):
            if (pool.queue or pool.crowded) and not pool.waking:  # a submitter may have found no slot before
                pool.wake_one()
            if not self.gate.acquire(timeout=pool.idle_timeout):
                if pool.take_off_bench(self):
                    return False
                self.gate.acquire()
            self.resting = False
            pool.waking = False
            if self.has_slot:
                return True
            if not pool.take_off_bench(self) and self.has_slot:
                return True  # type: ignore[unreachable]  # found a slot in between; should its gate still stand open, that means one look too many
        return False
