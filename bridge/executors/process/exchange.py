"""What a worker says, and who is told.

    RESULT, ERROR -> the job's outcome          ITEM -> its stream          READY -> the roster
    CALL -> calls (outside the turn)            LOG -> the parent's loggers (outside the turn)

Everything runs on the home's thread, under the crew's turn. What may run code of users (portal calls, log handlers) is
left for after it. Large results are unpickled by a helper thread.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from bridge.executors.process.logs import handle_record
from bridge.executors.process.member import Member, StreamJob
from bridge.executors.process.wire import frames, parcels
from bridge.executors.process.wire.errors import unpack_error
from bridge.executors.process.worker.chunk import Chunk
from bridge.threads.job import Job
from bridge.threads.site import note_site

if TYPE_CHECKING:
    from bridge.executors.process.roster import Roster


class Exchange:
    """Hears the workers of one roster."""

    def __init__(self, roster: Roster):
        self._roster = roster
        self._crew = roster.crew

    # -- hearing -------------------------------------------------------------------------------------------------------

    def hear(self, member: Member) -> None:
        """Something can be read from a worker."""
        if member.gone:
            return
        try:
            for kind, ident, payload in member.receive():
                if kind == frames.RESULT and ident:  # nearly always
                    self._outcome(member, kind, ident, payload)
                else:
                    self._heard(member, kind, ident, payload)
        except BlockingIOError:
            return
        except EOFError:  # it is about to end; the notice of that comes by another way
            self._crew.home.unwatch(member.lifelines.sock.fileno())
        if member.placed and not member.busy:
            self._roster.rest(member)

    def hear_unsent(self, member: Member) -> None:
        """A living worker is slow to send: see what it has finished already. It will be heard again, and ignored."""
        for kind, ident, payload in member.lifelines.page.unsent() or ():
            if kind in (frames.RESULT, frames.ERROR):
                self._heard(member, kind, ident, payload)

    def hear_the_rest(self, member: Member) -> None:
        """A dead worker: everything that it said, and what it had not come to send."""
        try:
            while True:
                for kind, ident, payload in member.receive():
                    self._heard(member, kind, ident, payload)
        except (EOFError, BlockingIOError):
            pass
        left, some_are_known = member.lifelines.page.left_behind()
        for kind, ident, payload in left:
            if kind in (frames.RESULT, frames.ERROR, frames.ITEM) or (kind == frames.LOG and not some_are_known):
                self._heard(member, kind, ident, payload)

    def _heard(self, member: Member, kind: int, ident: int, payload: memoryview) -> None:
        if kind == frames.RESULT or kind == frames.ERROR:
            if ident:
                self._outcome(member, kind, ident, payload)
            else:
                self._roster.endings.could_not_set_up(member, bytes(payload[frames.TIMES.size :]))
        elif kind == frames.CALL:
            member.calls.heard(ident, payload)
        elif kind == frames.ITEM:
            entry = member.in_flight.get(ident)
            if entry is not None and isinstance(entry[0], StreamJob):
                entry[0].item(frames.COUNT.unpack_from(payload)[0], bytes(payload[frames.COUNT.size :]))
        elif kind == frames.LOG:
            self._crew.todo.append(partial(handle_record, bytes(payload)))
        elif kind == frames.RELEASE:
            member.store.release(ident)
            for forgotten in member.store.take_forgotten():
                member.send(frames.FORGET, forgotten)
                self._roster.to_flush(member)
        elif kind == frames.LOST:
            member.store.lose(ident)
        elif kind == frames.FORGET:
            member.unpacker.mappings.forget(ident)
        elif kind == frames.READY:
            self._roster.endings.set_up(member)

    # -- outcomes ------------------------------------------------------------------------------------------------------

    def _outcome(self, member: Member, kind: int, ident: int, payload: memoryview) -> None:
        job = member.answered(ident)
        if job is None:
            return
        roster = self._roster
        try:
            began, ended = frames.TIMES.unpack_from(payload)
            job.started_at = began
            roster.outcomes.learn(job, began, ended)
            if member.condemned is job:
                roster.endings.reprieve(member)
            if member.lent:  # it answered without waiting for the answer to its call
                roster.goes_on(member)
            parcel = payload[frames.TIMES.size :]
            if kind == frames.ERROR:
                job.error = unpack_error(parcel, member.unpacker)
            elif parcel != parcels.NOTHING:
                if member.unpacker.is_large(parcel):
                    job.remote = None  # nothing can be cancelled any more
                    self._crew.aside(
                        partial(self._unpacked, job, member), member.unpacker.unpack_patiently, bytes(parcel)
                    )
                    return
                job.value = value = member.unpacker.unpack(parcel)
                if type(value) is Chunk:
                    self._unpacked(job, member, value, None)
                    return
        except BaseException as error:  # the caller gets it, whatever it is, and the other replies are read
            job.value, job.error = None, error
        roster.outcomes.settle(job)

    def _unpacked(self, job: Job, member: Member, value: Any, error: BaseException | None) -> None:
        job.value = value
        if type(value) is Chunk and value.error is not None:
            value.rebuild(member.unpacker)
            note_site(value.error, job)
        if error is not None:
            job.error = error
        self._roster.outcomes.settle(job)

    # -- sending later -------------------------------------------------------------------------------------------------

    def wait_until_writable(self, member: Member) -> None:
        """The socket is full: go on when the worker has read some."""
        crew, home = self._crew, self._crew.home
        home.watch_writable(member.lifelines.sock.fileno(), crew.look, home, partial(self._writable, member))

    def _writable(self, member: Member) -> None:
        if member.gone:
            return
        self._crew.home.unwatch_writable(member.lifelines.sock.fileno())
        member.blocked = False
        self._roster.to_flush(member)
