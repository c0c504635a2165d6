"""A synchronous generator in a worker, consumed on the loop, never more than `in_flight` items ahead.

    worker: for item in gen: send(item) ──> mailbox ──> async for
            full? wait for a turn, slot lent  <── half empty: turn.open()

Owners: the generator lives and dies in its worker's thread. `_turn` is published by the worker before its last look at
the mailbox and taken by the consumer after it took an item: one sees the other, and opening a turn twice is harmless.
While the worker waits it stands in `host.waits`: a loop that ends answers it, and the generator is closed.
"""

from __future__ import annotations

from _thread import allocate_lock
from asyncio import CancelledError
from collections.abc import AsyncGenerator, Callable, Container, Iterable
from concurrent.futures import CancelledError as ThreadCancelled
from typing import Any, Protocol

from bridge.callables import NOT_STREAMED, refuse_async
from bridge.diagnostics.places import Site, submit_site
from bridge.errors import BridgeError, LoopClosed
from bridge.executors.amap import check_in_flight
from bridge.executors.mailbox import Mailbox
from bridge.loop.hosts import current_host
from bridge.threads.here import here
from bridge.threads.host import Carrier, Host
from bridge.threads.job import Job, name_of
from bridge.threads.trail import Consumer

_END = object()


class EndingJob(Protocol):
    """A stream's job, as far as its end matters."""

    ended: bool
    mailbox: Mailbox
    error: BaseException | None

    def unwrap(self) -> Any: ...


class _StreamJob(Job):
    __slots__ = ("ended", "gen_fn", "mailbox", "site")
    ended: bool
    gen_fn: Callable[..., Any]
    mailbox: Mailbox
    site: Site | None

    @property
    def named(self) -> Any:
        return self.gen_fn

    def take_awaitable_outcome(self) -> tuple[Any, BaseException | None]:
        return with_its_name(self.gen_fn, *super().take_awaitable_outcome())

    def deliver(self) -> None:
        self.ended = True
        self.mailbox.put(_END)


class _Turn:
    """A worker's wait for room."""

    from_a_thread = False

    def blocks_any_of(self, threads: Container[int]) -> bool:
        return False  # workers are daemons

    def __init__(self, channel: _Channel):
        self._channel = channel
        self.gate = allocate_lock()
        self.gate.acquire()

    def open(self) -> None:
        try:
            self.gate.release()
        except RuntimeError:
            pass  # open already

    def refuse(self, error: BridgeError) -> None:
        self._channel.refused = error
        self._channel.closed = True
        self.open()

    def leave_behind(self, reason: str) -> None:
        self.refuse(LoopClosed(reason))


class _Channel:
    def __init__(self, host: Host, in_flight: int):
        self.host = host
        self.mailbox = Mailbox(host)
        self.closed = False
        self.refused: BridgeError | None = None
        self._in_flight = in_flight
        self._turn: _Turn | None = None

    def produce(self, gen_fn: Callable[..., Iterable[Any]], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """In the worker: run the generator to its end, or until the consumer has left."""
        iterable = gen_fn(*args, **kwargs)
        refuse_async(gen_fn, iterable, NOT_STREAMED)
        iterator = iter(iterable)
        try:
            for item in iterator:
                self.mailbox.put(item)
                if len(self.mailbox.arrived) >= self._in_flight:
                    self._wait_for_room()
                if self.closed:
                    return
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()

    def _wait_for_room(self) -> None:
        worker = here.worker
        assert worker is not None
        turn = self._turn = _Turn(self)
        if self.closed or len(self.mailbox.arrived) < self._in_flight:
            return
        try:
            self.host.expect(turn, worker)
        except BridgeError as error:
            turn.refuse(error)
            return
        worker.pool.lend(worker)
        try:
            turn.gate.acquire()
        finally:
            self.host.forget(turn)
            worker.pool.reclaim(worker)

    def make_room(self) -> None:
        """On the loop, after items were taken: let the worker go on once half of the room is free."""
        turn = self._turn
        if turn is not None and len(self.mailbox.arrived) <= self._in_flight // 2:
            turn.open()

    def close(self) -> None:
        """On the loop: the consumer leaves."""
        self.closed = True
        turn = self._turn
        if turn is not None:
            turn.open()


async def stream(
    carrier: Carrier,
    gen_fn: Callable[..., Iterable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    in_flight: int,
) -> AsyncGenerator[Any, None]:
    """See `Executor.stream`."""
    check_in_flight(in_flight)
    host = current_host()
    channel = _Channel(host, in_flight)
    mailbox = channel.mailbox
    job = _StreamJob(channel.produce, (gen_fn, args, kwargs), {}, host)
    job.gen_fn = gen_fn
    job.site = submit_site()
    job.mailbox = mailbox
    job.ended = False
    with Consumer(job, "thread"):
        carrier.submit_job(job)
        try:
            while True:
                while not mailbox.arrived:
                    await mailbox.wait()
                item = mailbox.arrived.popleft()
                if item is _END:
                    job.unwrap()
                    if channel.refused is not None:
                        raise channel.refused
                    return
                channel.make_room()
                yield item
        finally:
            if not job.ended:
                channel.close()
                if not carrier.withdraw(job):
                    job.request_cancel(host.raise_cancelled)
                    await wait_for_end(job)
                    raise_late_error(job)


def with_its_name(gen_fn: object, value: Any, error: BaseException | None) -> tuple[Any, BaseException | None]:
    """The outcome of a stream. What Python says of a StopIteration in a generator (PEP 479) names no function."""
    if type(error) is not RuntimeError or error.args != ("generator raised StopIteration",):
        return value, error
    named = RuntimeError(
        f"generator raised StopIteration, in the stream of {name_of(gen_fn)}: end a generator with `return`, and give "
        f"`next` a default: next(iterator, None)"
    )
    named.__cause__ = error
    return value, named


async def wait_for_end(job: EndingJob) -> None:
    """The consumer has left: return when the worker has, too."""
    mailbox = job.mailbox
    while not job.ended and not mailbox.host.leaving:
        mailbox.arrived.clear()
        if not job.ended:  # it may have ended, and its news have been cleared away, in between
            await mailbox.wait_patiently()


def raise_late_error(job: EndingJob) -> None:
    """The generator's own clean-up failed after the consumer had left: that must not go unnoticed."""
    if job.ended and not isinstance(job.error, (CancelledError, ThreadCancelled)):
        job.unwrap()
