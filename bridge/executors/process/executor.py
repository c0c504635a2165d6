"""ProcessExecutor: functions that compute, in worker processes of which any may crash without harm to the others."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from functools import partial
from itertools import count
from threading import Event as ThreadEvent
from time import perf_counter
from typing import Any, TypeVar

from anyio import Event
from loky import cpu_count

from bridge.diagnostics.places import Site, submit_site
from bridge.executors.amap import amap
from bridge.executors.base import Executor, tell_forgotten
from bridge.executors.process import tree
from bridge.executors.process.chunks import ChunkWindow, map_in_chunks
from bridge.executors.process.closing import close_within
from bridge.executors.process.crew import Crew
from bridge.executors.process.member import Member
from bridge.executors.process.options import Options, seconds, whole_number
from bridge.executors.process.stream import stream
from bridge.executors.process.wire.context import resolve
from bridge.executors.statistics import ExecutorStatistics, Quantiles, WorkerStatistics
from bridge.loop.hosts import current_host
from bridge.loop.patience import wait_patiently
from bridge.threads.blocking import loop_runs_here
from bridge.threads.host import CancelMode
from bridge.threads.job import Job, name_of
from bridge.threads.queue_watch import DEFAULT_QUEUE_LIMIT, checked_limit

T = TypeVar("T")

_numbers = count(1)


class ProcessExecutor(Executor):
    """Runs functions in at most `max_workers` processes (default: one for each core), begun in order of submission.

    Processes come when needed and leave after `idle_timeout` seconds without work, or after `max_tasks_per_child` calls.
    Each runs `initializer(*initargs)` first. `memory_limit` is the resident memory, in bytes, that a worker may
    have while a function runs in it. A function that is cancelled or timed out is asked to end (`check_cancelled`), after
    `grace` seconds its process gets SIGTERM, after as many again SIGKILL, descendants included; another worker is ready
    by then. `env` is added to the workers' environment. `context_vars` are the contextvars whose values travel with each
    call. `name` appears in process names and messages. A call that waits for a worker for longer than `queue_limit`
    seconds is reported (BRG401), together with what keeps the workers busy; None: never. Calls of `map` and `amap` may
    wait for as long as they like.

    A worker that dies fails the call that it was running (WorkerDied) and no other. Functions, arguments and results are
    pickled (with cloudpickle: lambdas, closures and functions of `__main__` work); large buffers travel through shared
    memory. POSIX only: elsewhere use `bridge.ForeignExecutor(loky.get_reusable_executor())`.

    Raises TypeError and ValueError for what cannot be meant, NotImplementedError where there are no private channels.
    """

    cancel_modes: tuple[CancelMode, ...] = ("kill", "wait", "abandon")
    runs_coroutines = True

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        name: str | None = None,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        memory_limit: int | None = None,
        idle_timeout: float = 60.0,
        grace: float = 1.0,
        queue_limit: float | None = DEFAULT_QUEUE_LIMIT,
        env: Mapping[str, str] | None = None,
        context_vars: Iterable[ContextVar[Any]] = (),
    ):
        if sys.platform == "win32":
            raise NotImplementedError(
                "ProcessExecutor needs descriptors that pass between processes, which Windows does not have: "
                "write bridge.ForeignExecutor(loky.get_reusable_executor())"
            )
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a function, not {initializer!r}")
        self.max_workers: int = (
            int(cpu_count()) if max_workers is None else whole_number("max_workers", max_workers, "processes")
        )
        self.name: str = name or f"ProcessExecutor-{next(_numbers)}"
        variables = tuple(context_vars)
        options = Options(
            max_workers=self.max_workers,
            name=self.name,
            initializer=initializer,
            initargs=tuple(initargs),
            max_tasks_per_child=None
            if max_tasks_per_child is None
            else whole_number("max_tasks_per_child", max_tasks_per_child, "calls"),
            memory_limit=None if memory_limit is None else whole_number("memory_limit", memory_limit, "bytes"),
            idle_timeout=seconds("idle_timeout", idle_timeout),
            grace=seconds("grace", grace),
            queue_limit=checked_limit(queue_limit),
            env=dict(env or {}),
            context_vars=variables,
            context_specs=resolve(variables),
        )
        self._crew = Crew(options)
        # Straight to the crew: one call less on the way of every job.
        self.submit_job = self._crew.submit_job  # type: ignore[method-assign]
        self.withdraw = self._crew.withdraw  # type: ignore[method-assign]
        self.made_at: Site | None = submit_site()

    def __repr__(self) -> str:
        crew = self._crew
        state = "closed" if crew.closing else f"{len(crew.roster.members)} processes"
        return f"<bridge.ProcessExecutor {self.name!r}, max_workers={self.max_workers}, {state}>"

    def __del__(self) -> None:
        # Forgotten without being shut down: what was accepted is still done, then the processes leave.
        crew = self.__dict__.get("_crew")
        if crew is not None and not crew.closing:
            used = crew.used
            crew.close()
            if used:
                tell_forgotten(self, ProcessExecutor)

    @property
    def counts_calls(self) -> bool:
        """Do workers leave after so many calls, so that calls must not travel together?"""
        return self._crew.options.max_tasks_per_child is not None

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def submit_job(self, job: Job) -> None:
        """Accept a job: it is begun at most once. Raises ExecutorClosed."""
        self._crew.submit_job(job)

    def withdraw(self, job: Job) -> bool:
        """Take back a job that has not been given to a worker; False if it has."""
        return self._crew.withdraw(job)

    async def prestart(self, count: int | None = None) -> None:
        """Return when `count` workers (default: `max_workers`) are ready, and a spare one that replaces a killed one.

        Raises WorkerDied if they cannot be had. They leave after `idle_timeout` seconds without work, as all do.
        """
        wanted = self.max_workers if count is None else min(count, self.max_workers)
        await self._crew.prestart(current_host(), wanted)

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """As `concurrent.futures.ProcessPoolExecutor.map`: `chunksize` calls travel together. Blocks the thread."""
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        return map_in_chunks(self, fn, iterables, timeout, chunksize)

    def amap(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        in_flight: int | None = None,
    ) -> AsyncGenerator[T, None]:
        """As `Executor.amap`. Calls of a function that proves to be short travel in chunks.

        At most `in_flight` calls are queued, running or not yet taken; by default it grows from twice `max_workers` for
        functions that are short.
        """
        return amap(partial(ChunkWindow, self, fn, in_flight), iterables, ordered)

    def stream(
        self, gen_fn: Callable[..., Iterable[T]], /, *args: Any, in_flight: int = 16, **kwargs: Any
    ) -> AsyncGenerator[T, None]:
        """As `Executor.stream`: the generator runs in a worker process, at most `in_flight` items ahead."""
        return stream(self._crew, gen_fn, args, kwargs, in_flight)

    # -- the end -------------------------------------------------------------------------------------------------------

    def cancel_all(self) -> None:
        """Withdraw all that is queued, telling whoever waits for it, and end all that runs."""
        self._crew.post(self._crew.roster.outcomes.drop_queued)
        self._crew.post(self._crew.roster.outcomes.cancel_running)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As in `concurrent.futures`. Works in any thread, also on a loop that uses the executor."""
        crew = self._crew
        crew.close(cancel_futures)
        if wait:
            self._wait(None)

    def _wait(self, timeout: float | None) -> bool:
        crew = self._crew
        finished = ThreadEvent()
        crew.when_finished(finished.set)
        if finished.is_set():
            return True
        if not loop_runs_here():
            return finished.wait(timeout)
        crew.move_off_this_loop()
        with current_host().standing_still(crew, f"shutting down {self.name!r} and waiting for its processes"):
            return finished.wait(timeout)

    def close_within(self, timeout: float) -> None:
        """Shut down and wait for at most `timeout` seconds; what is still running then is reported and killed."""
        close_within(self._crew, timeout)

    async def aclose(self) -> None:
        """Take no more work and wait, without blocking the loop, until all that was accepted has ended."""
        host = current_host()
        finished = Event()
        self._crew.close()
        self._crew.when_finished(lambda: host.call_soon(finished.set, ()))
        try:
            await finished.wait()
        except BaseException:  # cancelled: leaving is no longer patient, but still leaves nothing behind
            self.cancel_all()
            await wait_patiently(host, finished)
            raise

    def statistics(self) -> ExecutorStatistics:
        """What the executor is doing at this moment; costs the work nothing."""
        roster = self._crew.roster
        members = [member for member in list(roster.members) if member.ready]
        samples = list(roster.outcomes.samples)
        busy = [member for member in members if member.busy]
        return ExecutorStatistics(
            name=self.name,
            max_workers=self.max_workers,
            queued=sum(not job.withdrawn for job in (*list(roster.queue), *self._crew.not_taken_in()))
            + sum(max(0, len(member.in_flight) - 1) for member in busy),
            running=len(busy),
            lent=sum(member.lent for member in busy),
            idle=len(members) - len(busy),
            completed=roster.outcomes.completed,
            failed=roster.outcomes.failed,
            cancelled=roster.outcomes.cancelled,
            queue_wait=Quantiles.of([began - queued for queued, began, _ in samples]),
            run_time=Quantiles.of([ended - began for _, began, ended in samples]),
            workers=tuple(_statistics(member) for member in members),
        )


def _statistics(member: Member) -> WorkerStatistics:
    job = member.job
    return WorkerStatistics(
        pid=member.pid,
        function=None if job is None else name_of(job.named),
        age=perf_counter() - member.started_at,
        rss=tree.rss(member.pid),
        completed=member.completed,
    )
