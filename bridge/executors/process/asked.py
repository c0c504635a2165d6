"""What a worker process asks of a loop, as that loop's host sees it: calls for which no thread of this process waits."""

from __future__ import annotations

from contextvars import Context
from typing import TYPE_CHECKING, Any

from bridge.callables import discard
from bridge.executors.process.wire import requests
from bridge.threads.calls import Call
from bridge.threads.session import Request, Session
from bridge.threads.trail import leave_in_context_of

if TYPE_CHECKING:
    from bridge.errors import BridgeError
    from bridge.executors.process.calls import RemoteCalls
    from bridge.executors.process.crew import Crew
    from bridge.executors.process.member import Member
    from bridge.threads.host import Host
    from bridge.threads.job import Job


class Asked:
    """One request, as it was heard."""

    __slots__ = ("cancelled", "context", "flags", "ident", "job", "operation", "origin", "parcel", "target")

    def __init__(self, ident: int, flags: int, job: Job | None, origin: Host | None):
        self.ident: int = ident
        self.flags: int = flags
        self.operation: int = flags & requests.OPERATION
        self.job: Job | None = job
        self.origin: Host | None = origin
        if job is not None:
            leave_in_context_of(job)
        context = None if job is None else job.context
        self.context: Context = Context() if context is None else context.copy()
        self.target: int = 0
        self.parcel: bytes = b""
        self.cancelled: bool = False  # before it was begun


class _Remote:
    """What is different about calls for which no thread of this process waits."""

    __slots__ = ()

    asked: Asked
    calls: RemoteCalls

    def _withdraw(self: Any) -> bool:
        if not self.claim():
            return False
        close_coroutines(self.args)
        return True

    def decline(self: Any, error: BridgeError) -> None:
        close_coroutines(self.args)
        self.answer(None, error)

    def _open(self: Any) -> None:
        self.host.forget(self)
        asked = self.asked
        job = asked.job
        if job is not None and job.call is self:
            job.call = None
        value, error = self._take_outcome()
        self.calls.answered(asked, value, error)

    def leave_behind(self, reason: str) -> None:
        """In a forked child: the worker has asked the parent, who answers."""


class RemoteCall(_Remote, Call):
    """A function of which a worker wants the outcome."""

    __slots__ = ("asked", "calls")

    def __init__(self, calls: RemoteCalls, asked: Asked, host: Host, fn: Any, args: Any, kwargs: Any):
        # Not Call.__init__, which makes a gate for a thread to wait at.
        self.host = host
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.context: Context = asked.context
        self.task: Any = None
        self.value: Any = None
        self.error: BaseException | None = None
        self.refused = False
        self._unclaimed = self._unanswered = True
        self.asked: Asked = asked
        self.calls: RemoteCalls = calls

    @property
    def waiting_job(self) -> Job | None:
        return self.asked.job if self.asked.flags & requests.SLOT else None


class RemoteRequest(_Remote, Request):
    """Something that a worker asks of a session."""

    __slots__ = ("asked", "calls")

    def __init__(self, calls: RemoteCalls, asked: Asked, session: Session, fn: Any, args: tuple[Any, ...] = ()):
        Request.__init__(self, session, fn, args)
        self.asked: Asked = asked
        self.calls: RemoteCalls = calls


class Caller:
    """A worker process that waits for a loop, in the shape in which that loop's host knows worker threads."""

    __slots__ = ("job", "name", "pool")

    def __init__(self, crew: Crew, member: Member, job: Job | None):
        self.pool: Crew = crew
        self.job: Job | None = job
        self.name: str = f"worker process {member.pid}"

    @property
    def thread(self) -> Caller:
        return self


def close_coroutines(args: Any) -> None:
    """They will never be awaited, and that is as it should be: they are copies made for this one call."""
    for argument in args:
        discard(argument)
