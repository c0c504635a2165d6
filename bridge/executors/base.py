"""The Executor contract: what every place that runs functions offers, whatever it is made of.

An executor brings a few things of its own: taking jobs and giving them back, closing, and saying what it does. What users
call all day (`run`, `submit`, `map`, `amap`, `stream`, `with`) is built here, once, on these.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from concurrent.futures import CancelledError, Future
from concurrent.futures import Executor as StandardExecutor
from functools import partial
from time import perf_counter
from types import TracebackType
from typing import Any, Literal, ParamSpec, Self, TypeVar, overload

from anyio import move_on_after

from bridge.diagnostics.places import Site, submit_site
from bridge.diagnostics.unclosed import tell_not_closed, with_block
from bridge.errors import OffloadTimeout
from bridge.executors.amap import Rules, Window, amap
from bridge.executors.policy import (
    check_blocking,
    check_errors,
    check_inputs,
    check_timeout,
    mode_on,
    undecorated,
)
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
from bridge.threads.trail import last_step, nest_here

P = ParamSpec("P")
T = TypeVar("T")

#: The file of what submits a whole `map` at once.
_MAP = StandardExecutor.map.__code__.co_filename


class Executor(StandardExecutor):
    """A place where functions run: a `concurrent.futures.Executor` that can also be awaited.

    As a context manager (`with` or `async with`) it owns its work: leaving waits until everything submitted has ended;
    leaving by an exception withdraws what has not begun and tells what runs (`check_cancelled`), then waits.
    """

    #: What `cancel=` may be for this kind of executor; the first is the default.
    cancel_modes: tuple[CancelMode, ...]
    #: Does a coroutine function run there, on a loop of its own? A thread would only create the coroutine.
    runs_coroutines: bool = False
    #: Does `Job.started_at` say when a function has begun?
    knows_when_begun: bool = True
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
    def close_within(self, timeout: float, since: float | None = None) -> None:
        """Shut down and wait for at most `timeout` seconds; what is still running then is reported and left behind.

        Where this is only the last part of a longer wait, that began at `since` (`time.monotonic`; None: now).
        """

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
        raise self.timeout_error(fn, job, timeout)

    def timeout_error(self, fn: Callable[..., Any], job: Job, timeout: float) -> OffloadTimeout:
        """Return the error of a job that is ended because its time is over."""
        return _timeout_error(fn, job, self.name, timeout, starts_processes="kill" in self.cancel_modes)

    @overload
    def amap(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        in_flight: int | None = None,
        errors: Literal["raise"] = "raise",
        timeout: float | None = None,
    ) -> AsyncGenerator[T, None]: ...
    @overload
    def amap(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        in_flight: int | None = None,
        errors: Literal["raise"] = "raise",
        timeout: float | None = None,
    ) -> AsyncGenerator[T, None]: ...
    @overload
    def amap(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        in_flight: int | None = None,
        errors: Literal["return"],
        timeout: float | None = None,
    ) -> AsyncGenerator[T | Exception, None]: ...
    @overload
    def amap(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        in_flight: int | None = None,
        errors: Literal["return"],
        timeout: float | None = None,
    ) -> AsyncGenerator[T | Exception, None]: ...
    def amap(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any] | AsyncIterable[Any],
        ordered: bool = True,
        in_flight: int | None = None,
        errors: Literal["raise", "return"] = "raise",
        timeout: float | None = None,
    ) -> AsyncGenerator[Any, None]:
        """Yield `fn(*items)` for the items of the iterables, zipped, sync or async ones.

        `ordered` yields in the order of the input, otherwise as completed. At most `in_flight` calls are queued, running
        or not yet taken (default: twice `max_workers`; in processes it grows for functions that are short), so the input
        may be endless.

        An error has a note with the index and the `repr`, cut where it is long, of the input that it is about. With
        `errors="raise"` the first one ends the iteration and is raised there. With `errors="return"` it is yielded in the
        place of the result, and the iteration goes on; a worker process that dies costs the one input that it worked on.
        What is not an Exception (KeyboardInterrupt, SystemExit, a cancellation), an error of the iterables, and an
        executor that takes no more work (ExecutorClosed) are always raised.

        `timeout` is in seconds, for each call from its beginning; time in the queue does not count. Then the call is
        ended in the executor's default way of cancelling, as by `offload(timeout=...)`, and OffloadTimeout is its error.

        A function that `offload` has decorated, or a partial of one, runs here whatever the decorator's `to` is, with the
        decorator's `cancel`, and with its `timeout` if there is none here.

        Leaving early, or being cancelled, withdraws the calls that have not begun, ends those that run, and waits for
        that. Raises TypeError or ValueError for what the inputs, `errors`, `timeout` or `in_flight` cannot be.
        """
        check_errors(errors)
        check_timeout(timeout)
        fn, policy = undecorated(fn)
        check_blocking(fn, self.runs_coroutines)
        check_inputs(iterables)
        if timeout is None and policy is not None:
            timeout = policy.timeout
        rules = Rules(timeout, mode_on(self, policy.cancel if policy is not None else None), errors == "return")
        return amap(partial(self._window, fn, in_flight), iterables, ordered, rules)

    def _window(self, fn: Callable[..., Any], in_flight: int | None, rules: Rules) -> Window:
        return Window(self, fn, 2 * self.max_workers if in_flight is None else in_flight, rules)

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
        kind = MappedJob if caller.co_filename == _MAP else FutureJob
        job = kind(fn, args, kwargs, origin_here(), self.withdraw)
        site = job.site = submit_site()
        future = job.future
        if site is not None and site[0] is caller and is_told(job.origin):  # `map` drops some knowingly
            future.tell_if_lost(fn, "executor.submit(...).result()", site, last_step())
        try:
            self.submit_job(job)
        except BaseException:  # refused, or interrupted when it may have been accepted: then it may also have begun
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
        if sys.is_finalizing():  # left by a finalizer: its threads do not run any more, and what it runs ends with them
            return
        try:
            if exc is not None:
                self.cancel_all()
        except BaseException:  # Ctrl-C once more
            self.shutdown(wait=False)
            raise
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
    """The loop on whose behalf the calling thread acts: the one it runs, or the one whose work it does.

    What is sent in a worker is nested in the job at hand from then on.
    """
    if loop_runs_here():
        return running_host()
    job = current_job()
    if job is None:
        return None
    nest_here()
    return job.origin


def _timeout_error(fn: object, job: Job, name: str, timeout: float, starts_processes: bool) -> OffloadTimeout:
    if not job.started_at:
        slow_start = " Worker processes take a while to start." if starts_processes else ""
        return OffloadTimeout(
            f"{name_of(fn)} had not begun after {timeout:g} s, in which it waited for a worker of {name!r}; it was "
            f"withdrawn. If all of them were busy, more workers, or fewer calls at a time (bridge.map limits them), "
            f"would let it begin.{slow_start}"
        )
    waited = job.started_at - job.queued_at
    ended = f" {job.error}." if isinstance(job.error, CancelledError) and str(job.error) else ""
    return OffloadTimeout(
        f"{name_of(fn)} did not end within {timeout:g} s on {name!r}: {waited:.3f} s in the queue, "
        f"{perf_counter() - job.started_at:.3f} s running so far.{ended} Raise timeout=, or have {last_name(fn)} call "
        f"bridge.check_cancelled() so that it ends early."
    )
