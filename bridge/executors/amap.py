"""A function over many inputs: a window of jobs moves along the input, and only the window is in memory.

    source ──> window: submitted, running, done but not taken ──> the consumer's `async for`
              (at most in_flight)

Owners: everything here belongs to the consumer's task, except `Mailbox.put`, which the workers call. A synchronous
source is read by the consumer itself when there is room; an asynchronous one by a task of its own (`_pump`), because a
slow source must not keep finished results waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any

from anyio import Event

from bridge.executors.mailbox import Mailbox
from bridge.loop.hosts import current_host
from bridge.threads.calls import Call
from bridge.threads.host import Carrier, Host
from bridge.threads.job import Job


class MapJob(Job):
    """One call, or what a window makes of several."""

    __slots__ = ("done", "mailbox")
    patient = True

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], host: Host, mailbox: Mailbox):
        super().__init__(fn, args, {}, host)
        self.mailbox: Mailbox = mailbox
        self.done: bool = False

    def deliver(self) -> None:
        self.done = True
        self.mailbox.put(self)

    def values(self) -> Iterator[Any]:
        """What came of it: the value, or the error raised."""
        yield self.unwrap()


class _Pump(Call):
    """The task that reads an asynchronous source; its end is news for the consumer."""

    __slots__ = ("mailbox",)
    from_a_thread = False
    mailbox: Mailbox

    def _open(self) -> None:
        self.mailbox.put(self)


class Window:
    """The calls that are submitted, running, or done and not taken."""

    def __init__(self, carrier: Carrier, fn: Callable[..., Any], in_flight: int, *, kill: bool = False):
        check_in_flight(in_flight)
        self.host: Host = current_host()
        self.mailbox: Mailbox = Mailbox(self.host)
        self.jobs: deque[MapJob] = deque()
        self._carrier = carrier
        self._kill = kill
        self.fn = fn
        self._in_flight = in_flight
        self._room: Event | None = None
        self._closing = False
        self._source_error: Exception | None = None
        self.source: Iterator[tuple[Any, ...]] | None = None
        self.pump: _Pump | None = None

    @property
    def full(self) -> bool:
        return len(self.jobs) >= self._in_flight

    def start(self, iterables: tuple[Any, ...]) -> None:
        if not any(hasattr(iterable, "__aiter__") for iterable in iterables):
            self.source = zip(*iterables, strict=False)
            return
        self.pump = _Pump(self.host, self._read, (_zip(iterables),), {})
        self.pump.mailbox = self.mailbox
        self.pump.send()

    async def _read(self, source: AsyncGenerator[tuple[Any, ...], None]) -> None:
        async with aclosing(source):  # whoever leaves the map leaves its source too, in the task that reads it
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
                args = next(self.source)
            except StopIteration:
                self.source = None
            except Exception as error:  # raised after the results of what was read before it, as for an async source
                self.source = None
                self._source_error = error
            else:
                self.send(args)

    def send(self, args: tuple[Any, ...]) -> None:
        job = MapJob(self.fn, args, self.host, self.mailbox)
        self._carrier.submit_job(job)
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

    async def close(self) -> None:
        """Withdraw what has not begun, tell what runs, wait for its end."""
        self._closing = True
        if self.pump is not None and not self.pump.answered:
            self.pump.cancel()
        for job in self.jobs:
            if not job.done and self._carrier.withdraw(job):
                job.done = True
            elif not job.done:
                job.request_cancel(self.host.raise_cancelled, kill=self._kill)
        while not self.host.leaving and not self._at_rest():
            self.mailbox.arrived.clear()
            if not self._at_rest():
                await self.mailbox.wait_patiently()

    def _at_rest(self) -> bool:
        return all(job.done for job in self.jobs) and (self.pump is None or self.pump.answered)


async def amap(
    open_window: Callable[[], Window], iterables: tuple[Iterable[Any] | Any, ...], ordered: bool
) -> AsyncGenerator[Any, None]:
    """See `Executor.amap`. The window is opened when the iteration begins, on the loop that iterates."""
    window = open_window()
    try:
        window.start(iterables)
        while True:
            window.fill()
            job = window.take(ordered)
            if job is not None:
                for value in job.values():
                    yield value
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
