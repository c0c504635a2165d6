"""A generator in a worker process, consumed on a loop, never more than `in_flight` items ahead.

    worker: for item in gen: ITEM ──> home: held ── unpickled, in order ──> mailbox ──> async for
            no credit? wait           <── CREDIT ── half of the room is free again <──┘

Owners: `_held`, `_credit` and the like belong to the crew's home; the consumer's task only takes from the mailbox and
posts what it has taken. While the worker has no credit, its place is lent. It dies: the items that it had sent still
come, then the error. The consumer leaves: the worker is told, and ended if it does not listen.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial
from typing import Any

from bridge.diagnostics.places import Site, submit_site
from bridge.executors.amap import check_in_flight
from bridge.executors.mailbox import Mailbox
from bridge.executors.process.crew import Crew
from bridge.executors.process.member import Member, StreamJob
from bridge.executors.process.wire import frames
from bridge.executors.stream import raise_late_error, wait_for_end, with_its_name
from bridge.loop.hosts import current_host
from bridge.threads.host import Host
from bridge.threads.trail import Consumer

_END = object()


class _Held:
    """An item on its way from the worker to the mailbox."""

    __slots__ = ("error", "here", "value")

    def __init__(self) -> None:
        self.here = False
        self.value: Any = None
        self.error: BaseException | None = None


class _StreamJob(StreamJob):
    __slots__ = ("_credit", "_held", "_member", "_number", "_over", "_seq", "ended", "in_flight", "mailbox", "site")

    _member: Member

    def __init__(self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], host: Host, in_flight: int):
        super().__init__(fn, args, kwargs, host)
        self.mailbox = Mailbox(host)
        self.in_flight = in_flight
        self.ended = False  # the consumer may see it before it sees _END
        self._held: deque[_Held] = deque()
        self._number = self._credit = self._seq = 0
        self._over = False
        self.site: Site | None = submit_site()

    def take_awaitable_outcome(self) -> tuple[Any, BaseException | None]:
        return with_its_name(self.fn, *super().take_awaitable_outcome())

    # -- on the crew's home --------------------------------------------------------------------------------------------

    def given(self, member: Member, seq: int) -> None:
        """It is on its way to a worker."""
        self._member, self._seq = member, seq
        self._send_credit(self.in_flight)

    def item(self, number: int, parcel: bytes) -> None:
        """An item has come; after the death of its worker perhaps for the second time."""
        if number <= self._number:
            return
        self._number = number
        member, crew = self._member, self._member.crew
        held = _Held()
        self._held.append(held)
        if member.unpacker.is_large(parcel):
            crew.aside(partial(self._fill, held), member.unpacker.unpack_patiently, parcel)
        else:
            try:
                value, error = member.unpacker.unpack(parcel), None
            except BaseException as reason:
                value, error = None, reason
            self._fill(held, value, error)
        self._credit -= 1
        if self._credit == 0:
            crew.roster.lend(member)

    def _fill(self, held: _Held, value: Any, error: BaseException | None) -> None:
        held.value, held.error, held.here = value, error, True
        while self._held and self._held[0].here:
            self.mailbox.put(self._held.popleft())
        if self._over and not self._held:
            self._end()

    def grant(self, count: int) -> None:
        """The consumer has taken so many."""
        if not self._over and not self._member.gone:
            self._member.crew.roster.reclaim(self._member, partial(self._send_credit, count))

    def _send_credit(self, count: int) -> None:
        self._credit += count
        self._member.send(frames.CREDIT, self._seq, frames.COUNT.pack(count))
        self._member.crew.roster.to_flush(self._member)

    def drop_held(self) -> None:
        self._held.clear()

    def deliver(self) -> None:
        self._over = True
        if not self._held:
            self._end()

    def _end(self) -> None:
        self.ended = True
        self.mailbox.put(_END)


async def stream(
    crew: Crew, gen_fn: Callable[..., Iterable[Any]], args: tuple[Any, ...], kwargs: dict[str, Any], in_flight: int
) -> AsyncGenerator[Any, None]:
    """See `ProcessExecutor.stream`."""
    check_in_flight(in_flight)
    host = current_host()
    job = _StreamJob(gen_fn, args, kwargs, host, in_flight)
    mailbox = job.mailbox
    with Consumer(job, "process"):
        crew.submit_job(job)
        taken = 0
        try:
            while True:
                while not mailbox.arrived:
                    await mailbox.wait()
                item = mailbox.arrived.popleft()
                if item is _END:
                    job.unwrap()
                    return
                taken += 1
                if taken * 2 >= in_flight:
                    crew.post(partial(job.grant, taken))
                    taken = 0
                if item.error is not None:
                    raise item.error
                value = item.value
                del item
                yield value
                del value
        finally:
            if not job.ended and not crew.withdraw(job):
                job.request_cancel(host.raise_cancelled, kill=True)
                await wait_for_end(job)
                raise_late_error(job)
