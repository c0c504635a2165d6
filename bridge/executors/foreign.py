"""ForeignExecutor: any `concurrent.futures.Executor` as a place where bridge runs functions.

    submit_job: flights[job] ──> executor.submit ─┬─> a thread of this process: _work, in a Seat, so that portals work
                                                  └─> anything else: fn(*args), pickled and run as that executor does it
    deliver <── whoever claims the job: _work, withdraw, _ended (the foreign future's callback), Seats (a deadlock)

Owners: the job's claim decides who answers, so each caller is answered once. A flight is put down before the executor is
asked, and before `closing` is looked at; whoever closes sets `closing` before it looks at the flights. It is taken away
after the answer. In threads a job is claimed when it begins, as everywhere; elsewhere only the foreign future knows
whether it has begun, so it is cancelled first and the job claimed after that (`withdrawing` keeps `_ended` out).
Foreign callbacks may run under locks of their executor: nothing here calls an executor from one.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import BrokenExecutor, Future
from concurrent.futures import Executor as StandardExecutor
from contextlib import suppress
from copy import copy
from functools import partial
from itertools import count
from time import monotonic, perf_counter
from typing import Any, ParamSpec, TypeVar, cast

from anyio import Event

from bridge.callables import as_kind, async_kind, on_a_loop
from bridge.errors import ExecutorClosed, LoopClosed, OffloadTimeout
from bridge.executors.amap import Rules, Window
from bridge.executors.base import Executor
from bridge.executors.foreign_futures import ForeignJob, check_executor, checked_workers, knows_beginnings, shares_memory
from bridge.executors.foreign_seats import Flight, Seat, Seats, task_here
from bridge.executors.statistics import ExecutorStatistics, Quantiles
from bridge.loop.hosts import current_host
from bridge.loop.patience import wait_patiently
from bridge.threads.blocking import loop_runs_here
from bridge.threads.closing import refuse_own_worker, report_stuck
from bridge.threads.fork import tell_after_fork
from bridge.threads.future_job import FutureJob, raise_cancelled
from bridge.threads.here import here
from bridge.threads.host import CancelMode, Host
from bridge.threads.interop import introduced
from bridge.threads.job import Job, last_name, name_of
from bridge.threads.pool import SAMPLES, WorkerPool
from bridge.threads.seconds import check_seconds, for_wait
from bridge.threads.stuck import report_job

P = ParamSpec("P")
T = TypeVar("T")

_numbers = count(1)


class ForeignExecutor(Executor):
    """Runs functions on `executor`, any `concurrent.futures.Executor`: loky's, mpi4py's, dask's, the standard ones.

    In a ThreadPoolExecutor functions are run as on a ThreadExecutor, with portals, `check_cancelled`, contextvars and
    `stream`; only that a thread which waits for the loop keeps its slot. Any other executor gets `fn` and its arguments
    and nothing else, so none of these work there. No foreign executor can end a running function (`cancel="kill"`).

    Leaving `with`, or `shutdown`, waits for what was submitted here and leaves `executor` open, because others may share
    it; with `owns=True` it is shut down too. `max_workers` says how many functions it runs at once, for `amap`, if it
    does not say so itself; it limits nothing. Raises TypeError for what is no executor, or bridge's own.
    """

    cancel_modes: tuple[CancelMode, ...] = ("wait", "abandon")

    def __init__(
        self, executor: StandardExecutor, *, name: str | None = None, max_workers: int | None = None, owns: bool = False
    ):
        check_executor(executor)
        known = getattr(executor, "_max_workers", None)
        workers = known if isinstance(known, int) and known > 0 else None
        self.name: str = name or f"ForeignExecutor-{next(_numbers)}"
        self.max_workers: int = workers or os.cpu_count() or 1 if max_workers is None else checked_workers(max_workers)
        self.closing: bool = False
        self._executor = executor
        self._owns = owns
        self._in_threads = shares_memory(executor)
        self._knows_beginnings = self._in_threads or knows_beginnings(executor)
        self._kind = type(executor).__name__
        self._unmarked = f"{self._kind} is not known to mark what has begun"
        self.knows_when_begun: bool = self._in_threads
        self._seats = Seats(self.name, workers)
        self._seats.refuse = self._refuse
        self._flights = self._seats.flights
        self._used = False
        self._left_behind = False
        self._when_empty: list[Callable[[], object]] = []
        self._lock = threading.Lock()
        self._completed = self._failed = self._cancelled = 0
        self._samples: deque[tuple[float, float, float]] = deque(maxlen=SAMPLES)
        tell_after_fork(self)

    def __repr__(self) -> str:
        state = "closed" if self.closing else f"{len(self._flights)} functions in flight"
        return f"<bridge.ForeignExecutor {self.name!r} over {self._kind}, {state}>"

    # -- in ------------------------------------------------------------------------------------------------------------

    def submit_job(self, job: Job) -> None:
        """Accept a job: it is begun at most once. Raises ExecutorClosed, and what the foreign `submit` raises."""
        self._used = True
        flight = self._flights[job] = Flight(task_here() if self._in_threads else None)
        try:
            if self.closing:
                raise self._closed_error()
            future = self._send(job)
        except BaseException as error:
            # A pool may have queued it, and failed after that: it must not begin any more.
            if not job.claim():
                return
            self._land(job)
            if isinstance(job, FutureJob):
                job.context = None
                job.cancel()
            if isinstance(error, RuntimeError) and not isinstance(error, ExecutorClosed) and "shutdown" in str(error):
                raise self._shut_down_error(str(error)) from error
            raise
        flight.future = future
        future.add_done_callback(partial(self._ended, job))
        if self._in_threads:
            self._seats.look_for_deadlock()

    def _send(self, job: Job) -> Future[Any]:
        if self._in_threads:
            return self._executor.submit(self._work, job)
        fn, args, kwargs = job.fn, job.args, job.kwargs
        kind = async_kind(fn)
        if kind is not None:
            raise TypeError(
                f"{as_kind(fn, kind)}: {self.name!r} would only create the {kind}, not run it. "
                f"Write `{on_a_loop(fn, kind)}` on the loop, or use bridge.ProcessExecutor."
            )
        if kwargs:  # all are the function's own, also those that the foreign `submit` has a use for
            fn = partial(fn, **kwargs)
        job.args = job.kwargs = None
        return self._executor.submit(fn, *args)

    def withdraw(self, job: Job) -> bool:
        """Take back a job that has not begun; False if it has."""
        flight = self._flights.get(job)
        if self._in_threads:
            # Its future stays: what is cancelled makes a thread pool whose initializer fails forget the others.
            if not job.withdraw():
                return False
        else:
            if flight is None or flight.future is None:
                return False
            flight.withdrawing = True
            if not flight.future.cancel():
                flight.withdrawing = False
                return False
            if not job.withdraw():
                return False
        self._count_cancelled()
        self._land(job)
        return True

    def has_begun(self, job: Job) -> bool:
        """Does it run, as far as is known? (Process pools count what they have put into a worker's pipe.)"""
        flight = self._flights.get(job)
        return flight is not None and flight.future is not None and flight.future.running()

    # -- out -----------------------------------------------------------------------------------------------------------

    def _work(self, job: Job) -> None:
        """In a foreign thread: run the job as a worker of ours would."""
        if not job.begin():
            return
        before, seat = here.worker, Seat(self._seats, job)
        self._seats.workers[seat] = None
        here.worker = seat
        try:
            job.started_at = perf_counter()
            with introduced(seat):
                job.run()
        finally:
            here.worker = before
            self._seats.workers.pop(seat, None)  # it may have forked meanwhile
            seat.job = None
        self._count(job)
        job.deliver()
        self._land(job)

    def _ended(self, job: Job, future: Future[Any]) -> None:
        """The foreign future is done, in whatever thread. In threads that is news only if the job has never begun."""
        flight = self._flights.get(job)
        if flight is None or flight.withdrawing:
            return
        if job.claim():
            if future.cancelled():
                self._drop(job, "was cancelled by its executor, perhaps because that was shut down")
            else:
                self._take_outcome(job, future)
        self._land(job)

    def _take_outcome(self, job: Job, future: Future[Any]) -> None:
        error = future.exception()
        if error is None:
            job.value = future.result()
        else:
            job.error = _own(error)
        self._count(job)
        job.deliver()
        if isinstance(error, BrokenExecutor) and not self._in_threads and getattr(self._executor, "_broken", False):
            # A process pool of Python 3.11 that breaks forgets all that come after one that was cancelled.
            for other in list(self._flights):
                if other is not job:
                    self._refuse(other, error)

    def _refuse(self, job: Job, error: BaseException) -> None:
        """Answer a job that has not begun, and will not."""
        if not job.claim():
            return
        job.error = _own(error)
        self._count(job)
        job.deliver()
        self._land(job)

    def _drop(self, job: Job, why: str) -> None:
        """Answer a claimed job, which as far as the executor says will have no result."""
        job.context = None
        self._count_cancelled()
        self._tell_dropped(job, why)

    def _tell_dropped(self, job: Job, why: str) -> None:
        if isinstance(job, FutureJob):
            job.cancel()
        else:
            job.error = ExecutorClosed(
                f"this function had not begun on {self.name!r} when it {why}"
                if self._knows_beginnings
                else f"this function, sent to {self.name!r}, {why}; it may run all the same: {self._unmarked}"
            )
            job.deliver()

    def _land(self, job: Job) -> None:
        self._flights.pop(job, None)
        self._tell_if_empty()

    def _count(self, job: Job) -> None:
        with self._lock:
            if job.error is None:
                self._completed += 1
            else:
                self._failed += 1
        self._samples.append((job.queued_at, job.started_at, perf_counter()))

    def _count_cancelled(self) -> None:
        with self._lock:
            self._cancelled += 1

    def _closed_error(self) -> ExecutorClosed:
        if self._left_behind:
            return ExecutorClosed(
                f"{self.name!r} was left behind by a fork: its workers belong to the parent process. "
                f"In the child, make a new executor and a bridge.ForeignExecutor over it."
            )
        return ExecutorClosed(
            f"{self.name!r} was shut down and takes no more work. Submit inside its `with` block, "
            f"or keep the executor open for as long as anything uses it."
        )

    def _shut_down_error(self, said: str) -> ExecutorClosed:
        if "interpreter" in said:
            return ExecutorClosed(
                f"the {self._kind} behind {self.name!r} takes no more work, because the program is ending; "
                f"it says: {said}. Send work before that, and wait for it: `with bridge.ForeignExecutor(...)`."
            )
        return ExecutorClosed(
            f"the {self._kind} behind {self.name!r} was shut down underneath; it says: {said}. "
            f"Keep it open for as long as anything uses it, or put a bridge.ForeignExecutor over a new one."
        )

    # -- what is different from threads ----------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As `concurrent.futures.Executor.submit`: schedule `fn(*args, **kwargs)`, return its Future. Any thread."""
        if self._in_threads:
            return super().submit(fn, *args, **kwargs)
        job = ForeignJob(self, fn, args, kwargs)
        future = job.future
        self.submit_job(job)
        return future

    def _window(self, fn: Callable[..., Any], in_flight: int | None, rules: Rules) -> Window:
        if in_flight is None and rules.timeout is not None and not self._in_threads:
            in_flight = self.max_workers  # no call waits behind another one, which would count as its own time
        return super()._window(fn, in_flight, rules)

    def timeout_error(self, fn: Callable[..., Any], job: Job, timeout: float) -> OffloadTimeout:
        """Return the error of a job that is ended because its time is over."""
        if self._in_threads:
            return super().timeout_error(fn, job, timeout)
        if not job.withdrawn:
            begun = "it could not be withdrawn any more, and cannot be ended from here"
        elif self._knows_beginnings:
            begun = "it had not begun, and was withdrawn"
        else:
            begun = f"its future was cancelled, but it may run all the same: {self._unmarked}"
        return OffloadTimeout(
            f"{name_of(fn)} did not end within {timeout:g} s on {self.name!r}, queueing included; {begun}. "
            f"Raise timeout=, or use bridge.ProcessExecutor, which can end a running function."
        )

    def stream(
        self, gen_fn: Callable[..., Iterable[T]], /, *args: Any, in_flight: int = 16, **kwargs: Any
    ) -> AsyncGenerator[T, None]:
        """As `Executor.stream`, in threads. Raises TypeError over an executor that shares no memory with this process.

        A generator that waits for its consumer keeps its thread.
        """
        if not self._in_threads:
            raise TypeError(
                f"{self.name!r} cannot stream {last_name(gen_fn)}: what a {self._kind} runs has no "
                f"way back to this process until it ends. Use bridge.ProcessExecutor, which streams from processes, "
                f"or a bridge.ForeignExecutor over a ThreadPoolExecutor."
            )
        return super().stream(gen_fn, *args, in_flight=in_flight, **kwargs)

    # -- the end -------------------------------------------------------------------------------------------------------

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As in `concurrent.futures`, for what was submitted here; the foreign executor too if it is owned.

        Raises WouldDeadlock if a function that runs here waits for its own end.
        """
        if sys.is_finalizing():  # no thread could end anything any more
            return
        self._close()
        if cancel_futures:
            self._drop_queued()
        if wait:
            self._wait(None)
        if self._owns and not self._left_behind:
            self._executor.shutdown(wait=wait)

    def close_within(self, timeout: float, since: float | None = None) -> None:
        """As `Executor.close_within`."""
        check_seconds("timeout", timeout, "close_within(10.0)")
        now = monotonic()
        deadline = now + timeout
        self._close()
        if not self._wait(for_wait(timeout)):
            self._report(now if since is None else since)
        if self._owns and not self._left_behind:
            self._end_executor(lambda: None).join(for_wait(max(0.0, deadline - monotonic())))

    async def aclose(self) -> None:
        """Take no more work and wait, without blocking the loop, until all that was accepted here has ended."""
        refuse_own_worker(cast(WorkerPool, self._seats))
        host = current_host()
        empty, ended = Event(), Event()
        self._close()
        self._call_when_empty(partial(_set, host, empty))
        try:
            await empty.wait()
        except BaseException:  # cancelled: leaving is no longer patient, but still leaves nothing behind
            self.cancel_all()
            await wait_patiently(host, empty)
            raise
        finally:
            if self._owns and not self._left_behind:
                self._end_executor(partial(_set, host, ended))
                await wait_patiently(host, ended)

    def cancel_all(self) -> None:
        """Withdraw all that is queued, telling whoever waits for it, and ask all that runs in threads to end early."""
        self._drop_queued()
        for seat in list(self._seats.workers):
            job = seat.job
            if job is not None and job.cancelling is None:
                job.request_cancel(raise_cancelled(job))

    def _drop_queued(self) -> None:
        for job in list(self._flights):
            if self.withdraw(job):
                self._tell_dropped(job, "was withdrawn")

    def _close(self) -> None:
        self.closing = True
        self._tell_if_empty()

    def _wait(self, timeout: float | None) -> bool:
        """Until all flights have landed; True if they have. Blocks."""
        seats = cast(WorkerPool, self._seats)
        refuse_own_worker(seats)
        empty = threading.Event()
        self._call_when_empty(empty.set)
        host = current_host() if self._in_threads and loop_runs_here() else None
        if host is None or empty.is_set():
            return empty.wait(timeout)
        with host.standing_still(seats, f"shutting down {self.name!r} and waiting for its functions"):
            return empty.wait(timeout)

    def _call_when_empty(self, callback: Callable[[], object]) -> None:
        self._when_empty.append(callback)
        self._tell_if_empty()

    def _tell_if_empty(self) -> None:
        while self.closing and not self._flights and self._when_empty:
            try:
                self._when_empty.pop()()
            except IndexError:  # another thread was quicker
                pass

    def _end_executor(self, then: Callable[[], object]) -> threading.Thread:
        """Shut the foreign executor down in a thread of its own, which may take as long as it takes."""

        def end() -> None:
            try:
                self._executor.shutdown(wait=True)
            finally:
                then()

        thread = threading.Thread(target=end, name=f"{self.name}-shutdown", daemon=True)
        thread.start()
        return thread

    def _report(self, since: float) -> None:
        report_stuck(cast(WorkerPool, self._seats), since)
        for job in [] if self._in_threads else list(self._flights):
            waited = monotonic() - since
            report_job(
                job,
                f"{name_of(job.fn)} in {self.name!r} has not ended {waited:.1f} s after the wait for its end began; "
                f"it is left to the {self._kind} that has it.",
                "a timeout for what it waits for, or bridge.ProcessExecutor, which can end a running function",
                {"bridge.executor.name": self.name, "bridge.duration": waited},
            )

    def after_fork_in_child(self) -> None:
        """The workers are the parent's: asking them from here would wait for ever. If there were none, none is lost."""
        self._lock = threading.Lock()
        self._flights.clear()
        self._seats.workers.clear()
        self._when_empty = []
        if self._used:
            self.closing = self._left_behind = True

    def statistics(self) -> ExecutorStatistics:
        """What was sent from here is doing at this moment. `idle` is not known; nothing is ever `lent`.

        Where it is not known when functions begin, `running` are those that the executor calls so, `run_time` is from
        submission to end, and `queue_wait` is zero.
        """
        seats = list(self._seats.workers)
        flights = list(self._flights.items())
        samples = list(self._samples)
        if self._in_threads:
            running = len(seats)
            queued = sum(not job.started_at and not job.withdrawn for job, _ in flights)
        else:
            running = sum(flight.future is not None and flight.future.running() for _, flight in flights)
            queued = sum(flight.future is None or not flight.future.done() for _, flight in flights) - running
        return ExecutorStatistics(
            name=self.name,
            max_workers=self.max_workers,
            queued=max(0, queued),
            running=running,
            lent=0,
            idle=0,
            completed=self._completed,
            failed=self._failed,
            cancelled=self._cancelled,
            queue_wait=Quantiles.of([started - queued for queued, started, _ in samples if started]),
            run_time=Quantiles.of([ended - (started or queued) for queued, started, ended in samples]),
        )


def _own(error: BaseException) -> BaseException:
    """A pool that breaks gives one and the same error to all; each caller gets a copy, to add its own traceback to."""
    if not isinstance(error, BrokenExecutor):
        return error
    with suppress(Exception):
        twin = copy(error)
        if type(twin) is type(error):
            twin.__cause__ = error.__cause__
            return twin
    return error


def _set(host: Host, event: Event) -> None:
    with suppress(LoopClosed):
        host.call_soon(event.set, ())
