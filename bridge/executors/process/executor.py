"""ProcessExecutor: functions that compute, in worker processes of which any may crash without harm to the others."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from itertools import count
from threading import Event as ThreadEvent
from time import perf_counter
from typing import Any, TypeVar

from anyio import Event
from loky import cpu_count

from bridge.callables import NOT_INITIALIZED, as_kind, async_kind, shown
from bridge.diagnostics.places import Site, submit_site
from bridge.executors.amap import Rules, Window
from bridge.executors.base import Executor, tell_forgotten
from bridge.executors.process import tree
from bridge.executors.process.chunks import CallWindow, ChunkWindow, map_in_chunks
from bridge.executors.process.closing import close_within
from bridge.executors.process.crew import Crew
from bridge.executors.process.member import Member
from bridge.executors.process.options import Options, whole_number
from bridge.executors.process.outcomes import pace_key
from bridge.executors.process.stream import stream
from bridge.executors.process.wire.context import resolve
from bridge.executors.statistics import ExecutorStatistics, Quantiles, WorkerStatistics
from bridge.loop.hosts import current_host
from bridge.loop.patience import wait_patiently
from bridge.threads.blocking import loop_runs_here
from bridge.threads.green import require_threads
from bridge.threads.host import CancelMode
from bridge.threads.job import Job, name_of
from bridge.threads.lending import checked_max_lent
from bridge.threads.queue_watch import DEFAULT_QUEUE_LIMIT, checked_limit
from bridge.threads.seconds import check_seconds

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
    seconds is reported (BRG401), together with what keeps the workers busy, unless the queue is worked off as fast as
    the workers can; None: never. Calls of `map` and `amap` may wait for as long as they like.

    A function that waits in a portal call lends its place to another, for which a process is started if none is idle.
    `max_lent` limits that: with `max_workers + max_lent` functions begun and not ended, running or waiting, only calls
    begin that one of them has sent by its own portal call; the others wait (BRG405). So nesting goes on, however deep,
    with at most `max_workers` functions more for each level. `max_lent` is `max_workers` by default.

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
        max_lent: int | None = None,
    ):
        if sys.platform == "win32":
            raise NotImplementedError(
                "ProcessExecutor needs descriptors that pass between processes, which Windows does not have: "
                "write bridge.ForeignExecutor(loky.get_reusable_executor())"
            )
        require_threads("bridge.ProcessExecutor", "thread", "socket")
        if initializer is not None and not callable(initializer):
            raise TypeError(f"initializer must be a function, not {shown(initializer)}")
        kind = async_kind(initializer)
        if kind is not None:
            raise TypeError(f"{as_kind(initializer, kind)}: {NOT_INITIALIZED}")
        self.max_workers: int = (
            int(cpu_count()) if max_workers is None else whole_number("max_workers", max_workers, "processes")
        )
        self.max_lent: int = checked_max_lent(max_lent, self.max_workers)
        self.name: str = name or f"ProcessExecutor-{next(_numbers)}"
        check_seconds("idle_timeout", idle_timeout, "idle_timeout=60.0")
        check_seconds("grace", grace, "grace=1.0")
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
            idle_timeout=idle_timeout,
            grace=grace,
            queue_limit=checked_limit(queue_limit),
            max_lent=self.max_lent,
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
        self,
        fn: Callable[..., T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        buffersize: int | None = None,
    ) -> Iterator[T]:
        """As `concurrent.futures.ProcessPoolExecutor.map`: `chunksize` calls travel together. Blocks the thread.

        At most `buffersize` chunks are submitted ahead of the result that is asked for (Python 3.14; default: all).
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        options: dict[str, Any] = {"timeout": timeout}
        if buffersize is not None:
            options["buffersize"] = buffersize
        if chunksize == 1:
            return super().map(fn, *iterables, **options)
        return map_in_chunks(self, fn, iterables, chunksize, **options)

    def _window(self, fn: Callable[..., Any], in_flight: int | None, rules: Rules) -> Window:
        if rules.returns_errors or rules.timeout is not None:
            return CallWindow(self, fn, in_flight, rules)
        return ChunkWindow(self, fn, in_flight, rules)

    def pace_of(self, fn: Callable[..., Any]) -> float | None:
        """Seconds that a function is expected to take, if it has run here. From any thread."""
        return self._crew.roster.outcomes.paces.get(pace_key(fn))

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
        if sys.is_finalizing():  # the worker processes end with this one, and no thread could do anything about them
            return
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

    def close_within(self, timeout: float, since: float | None = None) -> None:
        """As `Executor.close_within`; what is still running then is killed."""
        check_seconds("timeout", timeout, "close_within(10.0)")
        close_within(self._crew, timeout, since)

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
            queued=sum(not job.withdrawn for job in (*roster.queued, *self._crew.not_taken_in()))
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
