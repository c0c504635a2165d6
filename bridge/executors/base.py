"""The Executor contract: what every place that runs functions offers, whatever it is made of.

An executor brings a few things of its own: taking jobs and giving them back, closing, and saying what it does. What users
call all day (`run`, `submit`, `map`, `amap`, `stream`, `with`) is built here, once, on these.
"""

from __future__ import annotations

import os
import sys
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable
from concurrent.futures import Executor as StandardExecutor
from concurrent.futures import Future
from functools import partial
from time import perf_counter
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from anyio import move_on_after

from bridge.diagnostics.places import PACKAGE, Site, submit_site
from bridge.diagnostics.unclosed import tell_not_closed, with_block
from bridge.errors import OffloadTimeout
from bridge.executors.amap import Window, amap
from bridge.executors.process.wire.elsewhere import reduce_executor
from bridge.executors.statistics import ExecutorStatistics
from bridge.executors.stream import stream
from bridge.loop.hosts import current_host, running_host
from bridge.threads.blocking import loop_runs_here
from bridge.threads.future_job import FutureJob, MappedJob
from bridge.threads.here import current_job
from bridge.threads.host import CancelMode, Host
from bridge.threads.job import Job, last_name, name_of
from bridge.threads.lost import is_told
from bridge.threads.trail import last_step

P = ParamSpec("P")
T = TypeVar("T")

#: The files of those that submit a whole `map` at once.
_MAPS = frozenset((StandardExecutor.map.__code__.co_filename, os.path.join(PACKAGE, "executors", "process", "chunks.py")))


class Executor(StandardExecutor):
    """A place where functions run: a `concurrent.futures.Executor` that can also be awaited.

    As a context manager (`with` or `async with`) it owns its work: leaving waits until everything submitted has ended;
    leaving by an exception withdraws what has not begun and tells what runs (`check_cancelled`), then waits.
    """

    #: What `cancel=` may be for this kind of executor; the first is the default.
    cancel_modes: tuple[CancelMode, ...]
    #: Does a coroutine function run there, on a loop of its own? A thread would only create the coroutine.
    runs_coroutines: bool = False
    name: str
    max_workers: int
    #: The line that made it, which is named if it is never closed; None if that is nobody's line to mend.
    made_at: Site | None = None
    _entered = False

    # -- what each kind brings -----------------------------------------------------------------------------------------

    @abstractmethod
    def submit_job(self, job: Job) -> None:
        """Accept a job: it is begun at most once. Raises ExecutorClosed."""

    @abstractmethod
    def withdraw(self, job: Job) -> bool:
        """Take back a job that has not begun; False if it has."""

    @abstractmethod
    def cancel_all(self) -> None:
        """Withdraw all that is queued, telling whoever waits for it, and ask all that runs to end early."""

    @abstractmethod
    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; with `cancel_futures` withdraw what is queued; with `wait`, block until all has ended."""

    @abstractmethod
    def close_within(self, timeout: float) -> None:
        """Shut down and wait for at most `timeout` seconds; what is still running then is reported and left behind."""

    @abstractmethod
    async def aclose(self) -> None:
        """Take no more work and wait, without blocking the loop, until all that was accepted has ended."""

    @abstractmethod
    def statistics(self) -> ExecutorStatistics:
        """What the executor is doing at this moment."""

    def __reduce__(self) -> tuple[Any, ...]:
        """In a worker process it is something to hand to `portal.call`; back here it is itself."""
        return reduce_executor(self)

    # -- awaited -------------------------------------------------------------------------------------------------------

    async def run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `fn(*args, **kwargs)` here and await its outcome, on any event loop.

        If the await is cancelled, a queued job is withdrawn; a running one ends as the executor's default mode says
        (docs/cancellation.md). Raises ExecutorClosed, and whatever `fn` raises.
        """
        host = current_host()
        job = host.new_job(fn, args, kwargs)
        return await host.perform(self, job, self.cancel_modes[0])  # type: ignore[no-any-return]

    async def run_job(
        self,
        fn: Callable[..., T],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        cancel: CancelMode,
        timeout: float | None,
    ) -> T:
        """As `run`, with a policy: what cancelling does, and after how many seconds (queueing included) to do it."""
        host = current_host()
        job = host.new_job(fn, args, kwargs)
        if timeout is None:
            return await host.perform(self, job, cancel)  # type: ignore[no-any-return]
        with move_on_after(timeout):
            return await host.perform(self, job, cancel)  # type: ignore[no-any-return]
        raise _timeout_error(fn, job, self.name, timeout)

    def amap(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        in_flight: int | None = None,
    ) -> AsyncGenerator[T, None]:
        """Yield `fn(*items)` for the items of the iterables, zipped, sync or async ones.

        `ordered` yields in the order of the input, otherwise as completed. At most `in_flight` calls are queued, running
        or not yet taken (default: twice `max_workers`), so the input may be endless. The first error ends the iteration
        and is raised there; leaving early withdraws the rest and waits for what runs.
        """
        limit = 2 * self.max_workers if in_flight is None else in_flight
        return amap(partial(Window, self, fn, limit), iterables, ordered)

    def stream(
        self, gen_fn: Callable[..., Iterable[T]], /, *args: Any, in_flight: int = 16, **kwargs: Any
    ) -> AsyncGenerator[T, None]:
        """Iterate `gen_fn(*args, **kwargs)`, a generator function or anything that returns an iterable, in a worker.

        The worker is at most `in_flight` items ahead; while it waits for the loop to take some, its slot is lent out.
        Leaving the iteration closes the generator in its worker, and waits for that.
        """
        return stream(self, gen_fn, args, kwargs, in_flight)

    # -- as concurrent.futures -----------------------------------------------------------------------------------------

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As `concurrent.futures.Executor.submit`: schedule `fn(*args, **kwargs)`, return its Future. Any thread."""
        caller = sys._getframe(1).f_code
        kind = MappedJob if caller.co_filename in _MAPS else FutureJob
        job = kind(fn, args, kwargs, origin_here(), self.withdraw)
        site = job.site = submit_site()
        future = job.future
        if site is not None and site[0] is caller and is_told(job.origin):  # `map` drops some knowingly
            future.tell_if_lost(fn, "executor.submit(...).result()", site, last_step())
        try:
            self.submit_job(job)
        except RuntimeError:  # refused; anything else (Ctrl-C) comes when it may have been accepted
            if job.claim():
                job.cancel()
            raise
        return future

    # -- as a scope ----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError(
                f"{self.name!r} is already entered: an executor's `with` block owns its work, so it cannot be nested. "
                f"Inside the block, use the executor as it is."
            )
        self._entered = True
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered = False
        if exc is not None:
            self.cancel_all()
        self.shutdown(wait=True)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered = False
        if exc is not None:
            self.cancel_all()
        await self.aclose()


def tell_forgotten(executor: Executor, kind: type[Executor]) -> None:
    """In a finalizer, when all has been released: an executor was used and never closed (BRG501)."""
    site, name = executor.made_at, kind.__name__
    if site is not None:
        tell_not_closed(name, executor.name, site, with_block(f"bridge.{name}", site, "executor"))


def origin_here() -> Host | None:
    """The loop on whose behalf the calling thread acts: the one it runs, or the one whose work it does."""
    if loop_runs_here():
        return running_host()
    job = current_job()
    return None if job is None else job.origin


def _timeout_error(fn: object, job: Job, name: str, timeout: float) -> OffloadTimeout:
    if not job.started_at:
        return OffloadTimeout(
            f"{name_of(fn)} had not begun after {timeout:g} s, all of it in the queue of {name!r}; it was withdrawn. "
            f"More workers, or fewer calls at a time (bridge.map limits them), would let it begin."
        )
    waited = job.started_at - job.queued_at
    return OffloadTimeout(
        f"{name_of(fn)} did not end within {timeout:g} s on {name!r}: {waited:.3f} s in the queue, "
        f"{perf_counter() - job.started_at:.3f} s running so far. Raise timeout=, or have {last_name(fn)} call "
        f"bridge.check_cancelled() so that it ends early."
    )
