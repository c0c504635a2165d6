"""A function over many inputs: a window of jobs moves along the input, and only the window is in memory.

    source ──> window: submitted, running, done but not taken ──> the consumer's `async for`
              (at most in_flight)        └─ _watch_time: begun longer than `timeout` ago? ended, as by `offload`

Owners: everything here belongs to the consumer's task, except `MapJob.deliver` and `Mailbox.put`, which the workers call.
A synchronous source is read by the consumer itself when there is room; an asynchronous one by a task of its own
(`_pump`), because a slow source must not keep finished results waiting. Time is watched by another task, because the
consumer may be busy with a result. The first call of `MapJob.finish` decides whether a job has ended or was given up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from concurrent.futures import CancelledError as ThreadCancelled
from contextlib import aclosing
from itertools import count
from time import perf_counter
from typing import Any, NamedTuple, Protocol

from anyio import Event, sleep

from bridge.callables import name_of
from bridge.diagnostics.places import Site
from bridge.errors import OffloadTimeout
from bridge.executors.input_notes import add_input_note, text_of
from bridge.executors.mailbox import Mailbox
from bridge.loop.hosts import current_host
from bridge.threads.calls import Call
from bridge.threads.host import CancelMode, Carrier, Host
from bridge.threads.job import Job

#: Seconds between two looks at the time, at most; loops cannot sleep for any number of seconds.
LONGEST_SLEEP = 3600.0
#: What a cancelled function ends with.
_ENDED_EARLY = (asyncio.CancelledError, ThreadCancelled)

_maps = count(1)


class MapCarrier(Carrier, Protocol):
    """An executor, as far as a window needs it."""

    #: Does `Job.started_at` say when a function has begun? Otherwise its time counts from its submission.
    knows_when_begun: bool

    def timeout_error(self, fn: Callable[..., Any], job: Job, timeout: float) -> OffloadTimeout: ...


class Rules(NamedTuple):
    """What a map does with its calls."""

    #: Seconds that one call may take; None: any.
    timeout: float | None
    #: How a call is ended, by `timeout` or when the consumer leaves.
    cancel: CancelMode
    #: Are errors yielded, in the place of results?
    returns_errors: bool


class _Overdue(NamedTuple):
    """A job that was ended because its time was over."""

    error: OffloadTimeout
    inputs: tuple[Any, ...]
    #: Is its outcome not waited for?
    given_up: bool


class MapJob(Job):
    """One call, or what a window makes of several."""

    __slots__ = ("_unfinished", "done", "index", "inputs", "mailbox", "overdue", "site")
    patient = True
    #: So many inputs after `index` may be the one that has failed.
    uncertain: int = 0

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], host: Host, mailbox: Mailbox, index: int):
        super().__init__(fn, args, {}, host)
        self.inputs: tuple[Any, ...] | None = args  # until it has succeeded: to say which they were
        self.index: int = index
        self.mailbox: Mailbox = mailbox
        self.site: Site | None = None
        self.overdue: _Overdue | None = None
        self.done: bool = False
        self._unfinished = True

    def deliver(self) -> None:
        if self.error is None:
            self.inputs = None
        self.finish()

    def finish(self) -> None:
        """It has its outcome, or will not be waited for. The first call counts, from any thread."""
        try:
            del self._unfinished
        except AttributeError:
            return
        self.done = True
        self.mailbox.put(self)

    def results(self) -> tuple[Iterable[Any], BaseException | None]:
        """What came of it: values, then perhaps an error, with `index` and `inputs` of the call that has failed."""
        overdue = self.overdue
        if overdue is None and self.error is None:  # nearly always
            return (self.value,), None
        if overdue is not None and overdue.given_up:
            self.inputs = overdue.inputs
            return (), overdue.error
        value, error = self.take_awaitable_outcome()
        if overdue is not None and (error is None or isinstance(error, _ENDED_EARLY)):
            self.inputs = overdue.inputs
            return (), overdue.error
        return ((value,), None) if error is None else ((), error)


class _Task(Call):
    """A task of the window's own; its end is news for the consumer."""

    __slots__ = ("mailbox",)
    from_a_thread = False
    mailbox: Mailbox

    def _open(self) -> None:
        self.mailbox.put(self)


class Window:
    """The calls that are submitted, running, or done and not taken."""

    def __init__(self, carrier: MapCarrier, fn: Callable[..., Any], in_flight: int, rules: Rules):
        check_in_flight(in_flight)
        self.host: Host = current_host()
        self.mailbox: Mailbox = Mailbox(self.host)
        self.jobs: deque[MapJob] = deque()
        self.number: int = next(_maps)
        self.read: int = 0  # inputs that were taken from the source
        self._carrier = carrier
        self._rules = rules
        self.fn = fn
        self._in_flight = in_flight
        self._room: Event | None = None
        self._closing = False
        self._source_error: Exception | None = None
        self.source: Iterator[tuple[Any, ...]] | None = None
        self._tasks: list[_Task] = []
        self.pump: _Task | None = None
        self._repr_blocks = False

    @property
    def full(self) -> bool:
        return len(self.jobs) >= self._in_flight

    def start(self, iterables: tuple[Any, ...]) -> None:
        if self._rules.timeout is not None:
            self._begin(self._watch_time, self._rules.timeout)
        if not any(hasattr(iterable, "__aiter__") for iterable in iterables):
            self.source = zip(*iterables, strict=False)
            return
        self.pump = self._begin(self._pump, _zip(iterables))

    def _begin(self, fn: Callable[..., Any], *args: Any) -> _Task:
        task = _Task(self.host, fn, args, {})
        task.mailbox = self.mailbox
        self._tasks.append(task)
        task.send()
        return task

    async def _pump(self, source: AsyncGenerator[tuple[Any, ...], None]) -> None:
        async with aclosing(source):  # leaving the map leaves its source too, in the task that reads it
            async for args in source:
                while self.full:
                    self._room = Event()
                    await self._room.wait()
                if self._closing:
                    return
                self.send(args)
                self.mailbox.wake()

    def fill(self) -> None:
        """Submit as much of a synchronous source as there is room for."""
        while self.source is not None and not self.full:
            try:
                self.send(next(self.source))
            except StopIteration:
                self.source = None
            except Exception as error:
                self.fail(error)

    def fail(self, error: Exception) -> None:
        """There can be no more calls: raised after the results of those before, as for an asynchronous source."""
        self.source = None
        self._source_error = error

    def send(self, args: tuple[Any, ...]) -> None:
        """Submit the next call. Raises RuntimeError, ExecutorClosed among them, if there can be no more."""
        self.submit(MapJob(self.fn, args, self.host, self.mailbox, self.next_index()))

    def next_index(self) -> int:
        """The index of an input that has just been read."""
        self.read += 1
        return self.read - 1

    def submit(self, job: MapJob) -> None:
        """Give a job to the executor; what is wrong with its arguments is an error of that job."""
        try:
            self._carrier.submit_job(job)
        except RuntimeError:
            raise
        except Exception as error:  # an executor of others that pickles at once
            job.error = error
            job.finish()
        self.jobs.append(job)

    def take(self, ordered: bool) -> MapJob | None:
        """The next job that is done, out of the window; None if there is none yet."""
        if ordered:
            self.mailbox.arrived.clear()
            if not self.jobs or not self.jobs[0].done:
                return None
            job = self.jobs.popleft()
        else:
            while True:
                if not self.mailbox.arrived:
                    return None
                job = self.mailbox.arrived.popleft()
                if isinstance(job, MapJob):
                    break
            self.jobs.remove(job)
        if self._room is not None:
            self._room.set()
        return job

    def exhausted(self) -> bool:
        """True if the source has ended; raises what it ended with."""
        if self._source_error is not None:
            raise self._source_error
        if self.pump is None:
            return self.source is None
        if not self.pump.answered:
            return False
        self.pump.unwrap()
        return True

    # -- failures ------------------------------------------------------------------------------------------------------

    async def with_input(self, job: MapJob, error: BaseException) -> BaseException:
        """`error`, with a note that says for which input the job failed."""
        inputs = job.inputs or ()
        if job.uncertain:
            last = job.index + job.uncertain
            text = f"bridge.map inputs {job.index} to {last} (the first is 0): {name_of(self.fn)}"
        else:
            call, self._repr_blocks = await text_of(self.host, self.fn, inputs, self._repr_blocks)
            text = f"bridge.map input {job.index} (the first is 0): {call}"
        return add_input_note(error, text, self.number, job.queued_at)

    async def _watch_time(self, timeout: float) -> None:
        """End what has been running for longer than `timeout` seconds.

        A job that has not begun cannot be overdue earlier than `timeout` seconds from now, so that is how long it sleeps.
        """
        while not self._closing:
            now = perf_counter()
            pause = min(timeout, LONGEST_SLEEP)
            for job in list(self.jobs):
                if job.done or job.overdue is not None:
                    continue
                begun_at = job.started_at or (now if self._carrier.knows_when_begun else job.queued_at)
                left = begun_at + timeout - now
                if left <= 0:
                    self._time_out(job, timeout)
                else:
                    pause = min(pause, left)
            await sleep(pause)

    def _time_out(self, job: MapJob, timeout: float) -> None:
        inputs = job.inputs
        if inputs is None:  # it has succeeded just now
            return
        given_up = self._end(job)
        # The consumer looks at it after this, whatever the worker does: it is a task of the same loop.
        job.overdue = _Overdue(self._carrier.timeout_error(self.fn, job, timeout), inputs, given_up)
        if given_up:
            job.finish()

    def _end(self, job: MapJob) -> bool:
        """Withdraw or cancel it; False if its end has to be waited for."""
        if self._carrier.withdraw(job):
            return True
        job.request_cancel(self.host.raise_cancelled, kill=self._rules.cancel == "kill")
        return self._rules.cancel == "abandon"

    async def close(self) -> None:
        """Withdraw what has not begun, end what runs, wait for it."""
        self._closing = True
        for task in self._tasks:
            if not task.answered:
                task.cancel()
        for job in self.jobs:
            if not job.done and self._end(job):
                job.done = True
        while not self.host.leaving and not self._at_rest():
            self.mailbox.arrived.clear()
            if not self._at_rest():
                await self.mailbox.wait_patiently()

    def _at_rest(self) -> bool:
        return all(job.done for job in self.jobs) and all(task.answered for task in self._tasks)


async def amap(
    open_window: Callable[[Rules], Window], iterables: tuple[Iterable[Any] | Any, ...], ordered: bool, rules: Rules
) -> AsyncGenerator[Any, None]:
    """See `Executor.amap`. The window is opened when the iteration begins, on the loop that iterates."""
    window = open_window(rules)
    try:
        window.start(iterables)
        while True:
            window.fill()
            job = window.take(ordered)
            if job is not None:
                values, error = job.results()
                for value in values:
                    yield value
                if error is not None:
                    error = await window.with_input(job, error)
                    if not rules.returns_errors or not isinstance(error, Exception):
                        try:
                            raise error
                        finally:
                            del error, job  # which would tie the traceback into a cycle
                    yield error
                    del error
            elif not window.jobs and window.exhausted():
                return
            elif not window.mailbox.arrived:
                await window.mailbox.wait()
    finally:
        await window.close()


async def _zip(iterables: tuple[Any, ...]) -> AsyncGenerator[tuple[Any, ...], None]:
    iterators = [aiter(each) if hasattr(each, "__aiter__") else iter(each) for each in iterables]
    try:
        while True:
            items = []
            for iterator in iterators:
                try:
                    items.append(await anext(iterator) if hasattr(iterator, "__anext__") else next(iterator))
                except (StopIteration, StopAsyncIteration):
                    return
            yield tuple(items)
    finally:
        for iterator in iterators:
            aclose = getattr(iterator, "aclose", None)
            if aclose is not None:
                await aclose()


def check_in_flight(in_flight: object) -> None:
    """Raise for anything but a positive whole number."""
    if not isinstance(in_flight, int) or isinstance(in_flight, bool):
        raise TypeError(f"in_flight must be a whole number of calls, not {in_flight!r}: write in_flight=100")
    if in_flight < 1:
        raise ValueError(f"in_flight must be at least 1, not {in_flight}: with none in flight nothing would ever run")
