"""Portal calls of one worker process, on their way onto a loop and back.

    heard: which job asks? lend its place ── todo ──> unpack, RemoteCall ── the origin runs here? run it on the spot,
                                                                            else through its door ──┐
    ANSWER <── place reclaimed <── sent: the crew's turn <── packed, where it was answered <────────┘

A request goes to the loop that sent the job (its origin, any host), in the job's context. Requests of one worker are
begun in the order in which they were sent: one with large arguments, which are unpickled by a helper thread, holds up
those behind it.

Owners: everything belongs to the crew's home. `heard`, `_send` and `_unpacked` run under its turn; what may run users'
code, outside of it. Only `answered` is called in other threads, by the loop that has the answer.
"""

from __future__ import annotations

import logging
from collections import deque
from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING, Any

from bridge.errors import BridgeError, LoopClosed, WorkerDied, WrongThread
from bridge.executors.process.asked import Asked, Caller, RemoteCall, RemoteRequest, close_coroutines
from bridge.executors.process.sessions import Entered
from bridge.executors.process.wire import frames, requests
from bridge.executors.process.wire.errors import pack_error, unpack_error
from bridge.executors.process.wire.pickling import TooLarge
from bridge.loop.asyncio_host import AsyncioHost, Callback
from bridge.threads.calls import itself
from bridge.threads.job import last_name, name_of
from bridge.threads.session import Iteration, Session

if TYPE_CHECKING:
    from bridge.executors.process.crew import Crew
    from bridge.executors.process.member import Member
    from bridge.threads.host import Host
    from bridge.threads.job import Job

#: Bytes up to which answers are pickled on the loop; what is larger is left to a helper thread.
DIRECT = 1 << 16
#: Jobs whose origin is remembered when they have ended, for threads that they have left behind.
REMEMBERED = 256

_HEAD = requests.HEAD.size
_TARGET = requests.TARGET.size
_VALUE, _ERROR, _END = (status.to_bytes() for status in (requests.VALUE, requests.ERROR, requests.END))
_WITHOUT_PARCEL = frozenset((requests.EXIT, requests.NEXT, requests.CLOSE))

logger: logging.Logger = logging.getLogger("bridge.executors")


class RemoteCalls:
    """What one worker process has asked for and not been answered yet."""

    def __init__(self, crew: Crew, member: Member):
        self.dropped: bool = False
        self._crew = crew
        self._member = member
        self._open: dict[int, RemoteCall | RemoteRequest] = {}
        self._sessions: dict[int, Session] = {}
        self._held: deque[Asked] = deque()  # requests that are to be begun, in this order
        self._unpacking: Asked | None = None  # elsewhere, ahead of those held
        self._origins: dict[int, Host | None] = {}

    # -- hearing, under the crew's turn --------------------------------------------------------------------------------

    def heard(self, ident: int, payload: memoryview | bytes) -> None:
        """A CALL frame has come. Under the turn, before anything that came after it is looked at."""
        flags, seq = requests.HEAD.unpack_from(payload)
        member, crew = self._member, self._crew
        operation = flags & requests.OPERATION
        if operation == requests.CANCEL:
            crew.todo.append(partial(self._cancel, ident))
            return
        entry = member.in_flight.get(seq)
        job = entry[0] if entry is not None else None if seq else member.job
        if operation == requests.LEND:
            crew.roster.lend(member)
            crew.todo.append(partial(self._blocks, ident, job))
            return
        asked = Asked(ident, flags, job, self._origin(seq, job))
        if operation == requests.RECLAIM:
            asked.flags |= requests.SLOT
            self._send(asked, _VALUE + member.packer.pack(None))
            return
        start = _HEAD
        if requests.ENTER <= operation <= requests.CLOSE:
            (asked.target,) = requests.TARGET.unpack_from(payload, start)
            start += _TARGET
        asked.parcel = bytes(payload[start:])
        if flags & requests.SLOT:
            crew.roster.lend(member)
        crew.todo.append(partial(self._hear, asked))

    def handle(self, ident: int, payload: bytes) -> None:
        """As `heard`, for a caller that does not have the turn."""
        self._crew.post(partial(self.heard, ident, payload))

    def _origin(self, seq: int, job: Job | None) -> Host | None:
        """The loop that sent the job. It is known for a while after the job's end; later it is assumed to be the only
        one that this worker has worked for, if there was only one."""
        origins = self._origins
        if job is not None:
            if seq not in origins:
                if len(origins) >= REMEMBERED:
                    for old in list(origins)[: REMEMBERED // 2]:
                        del origins[old]
                origins[seq] = job.origin
            return job.origin
        if seq in origins:
            return origins[seq]
        known = set(origins.values())
        return known.pop() if len(known) == 1 else None

    # -- beginning, outside the turn -----------------------------------------------------------------------------------

    def _hear(self, asked: Asked) -> None:
        self._held.append(asked)
        if self._unpacking is None:
            self._begin_held()

    def _begin_held(self) -> None:
        unpacker = self._member.unpacker
        while self._held:
            asked = self._held.popleft()
            content = None
            if asked.operation not in _WITHOUT_PARCEL:
                if unpacker.is_large(asked.parcel):
                    self._unpacking = asked
                    self._crew.aside(self._unpacked, unpacker.unpack_patiently, asked.parcel)
                    return
                try:
                    content = unpacker.unpack(asked.parcel)
                except BaseException as error:
                    self._fail(asked, error)
                    if isinstance(error, (KeyboardInterrupt, SystemExit)):
                        raise
                    continue
            try:
                self._begin(asked, content)
            except Exception as error:  # something about this request: those behind it are begun all the same
                self._fail(asked, error)

    def _unpacked(self, content: Any, error: BaseException | None) -> None:
        self._crew.todo.append(partial(self._go_on, content, error))

    def _go_on(self, content: Any, error: BaseException | None) -> None:
        asked, self._unpacking = self._unpacking, None
        assert asked is not None
        if error is not None:
            self._fail(asked, error)
        elif self.dropped and asked.operation != requests.SOON:
            close_coroutines((content,) if asked.operation == requests.CORO else ())
        else:
            self._begin(asked, content)
        self._begin_held()

    def _begin(self, asked: Asked, content: Any) -> None:
        operation, host = asked.operation, asked.origin
        if asked.cancelled:
            self._fail(asked, CancelledError("it was cancelled before it was begun"), content)
        elif operation in _WITHOUT_PARCEL:
            self._in_session(asked)
        elif host is None:
            self._fail(asked, self._no_loop(asked), content)
        elif operation == requests.CALL:
            fn, args, kwargs = content
            self._start(RemoteCall(self, asked, host, fn, args, kwargs))
        elif operation == requests.SOON:
            self._call_soon(asked, host, *content)
        elif operation == requests.CORO:
            self._start(RemoteCall(self, asked, host, itself, (content,), {}))
        else:
            self._open_session(asked, host, content)

    def _start(self, call: RemoteCall | RemoteRequest) -> None:
        asked, host = call.asked, call.host
        self._open[asked.ident] = call
        job = asked.job
        if job is not None and asked.flags & requests.CANCELLABLE:
            job.call = call  # from now on whoever cancels the job cancels the call, too
            if job.cancelling is not None:
                call.cancel()
        if not _at_once(host):
            try:
                call.send(self._caller(asked))
            except BridgeError as error:
                call.answer(None, error)
            return
        call._run()
        if not call.answered:
            try:
                host.expect(call, self._caller(asked))
            except BridgeError as error:
                call.refuse(error)

    def _caller(self, asked: Asked) -> Any:
        """Whom the call blocks, if that is the function for whose end an executor may be waiting."""
        return Caller(self._crew, self._member, asked.job) if asked.flags & requests.SLOT else None

    def _blocks(self, ident: int, job: Job | None) -> None:
        """The job's own thread waits for something that it has started before."""
        call = self._open.get(ident)
        if call is not None:
            try:
                call.host.blocks(call, Caller(self._crew, self._member, job))  # type: ignore[arg-type]
            except BridgeError as error:
                call.refuse(error)

    def _call_soon(self, asked: Asked, host: Host, callback: Any, args: tuple[Any, ...]) -> None:
        if isinstance(host, AsyncioHost) and _at_once(host):  # ahead of what comes after it, which is run at once, too
            Callback(callback, args, host.loop, asked.context)._run()
            return
        try:
            asked.context.run(host.call_soon, callback, args)
        except LoopClosed as error:
            self._fail(asked, error, callback)

    def _open_session(self, asked: Asked, host: Host, content: Any) -> None:
        subject = Entered(content) if asked.operation == requests.ENTER else Iteration[Any](content)
        session = self._sessions[asked.target] = Session(host, subject, asked.context)
        first = subject.enter if isinstance(subject, Entered) else subject.next
        self._start(RemoteRequest(self, asked, session, first))

    def _in_session(self, asked: Asked) -> None:
        if asked.operation == requests.NEXT:
            session = self._sessions.get(asked.target)
            if session is None:
                self._fail(asked, LoopClosed("this iteration has ended"))
            else:
                self._start(RemoteRequest(self, asked, session, session.subject.next))
            return
        session = self._sessions.pop(asked.target, None)
        if session is None:  # it could not be begun, and the worker makes sure
            self.answered(asked, None, None)
            return
        if asked.operation == requests.CLOSE:
            self._start(RemoteRequest(self, asked, session, session.subject.close))
        else:
            error = unpack_error(asked.parcel, self._member.unpacker) if asked.parcel else None
            self._start(RemoteRequest(self, asked, session, session.subject.leave_by, (error,)))

    # -- answers, in any thread ----------------------------------------------------------------------------------------

    def answered(self, asked: Asked, value: Any, error: BaseException | None) -> None:
        """A request has its outcome: pack it where it arose, before anything there can change it."""
        if self.dropped:
            self._open.pop(asked.ident, None)
            return
        packer = self._member.packer
        if error is None:
            try:
                payload = _VALUE + packer.pack(value, limit=DIRECT)
            except TooLarge:
                self._crew.aside(partial(self._packed, asked), packer.pack_patiently, value)
                return
            except BaseException as unpicklable:
                unpicklable.add_note("It is what a portal call was to return to a worker process.")
                payload = _ERROR + pack_error(unpicklable, packer)
                if not isinstance(unpicklable, Exception):
                    self._crew.post(partial(self._send, asked, payload))
                    raise
        elif isinstance(error, StopAsyncIteration) and asked.operation in (requests.ITERATE, requests.NEXT):
            payload = _END
        else:
            payload = _ERROR + pack_error(error, packer)
        self._crew.post(partial(self._send, asked, payload))

    def _fail(self, asked: Asked, error: BaseException, content: Any = None) -> None:
        """It cannot be begun."""
        if asked.operation == requests.SOON:  # nobody waits for it
            what = "a callback" if content is None else name_of(content[0] if isinstance(content, tuple) else content)
            logger.error("%s, sent by worker process %d, was not called", what, self._member.pid, exc_info=error)
            return
        if asked.operation == requests.CALL and content is not None:
            close_coroutines(content[1])
        elif asked.operation == requests.CORO:
            close_coroutines((content,))
        self.answered(asked, None, error)

    def _no_loop(self, asked: Asked) -> WrongThread:
        if asked.job is None:
            return WrongThread(
                f"a thread of worker process {self._member.pid} used the portal of a job that has ended, and it is not "
                f"known any more which loop had sent it. Have the job wait for its threads."
            )
        return WrongThread(
            f"{name_of(asked.job.named)} in worker process {self._member.pid} used bridge.portal(), but was submitted in "
            f"a thread that runs no event loop, so there is no loop that it leads to. Send it from a loop, with "
            f"`await executor.run(...)`; in a program without a loop: `with bridge.background_loop() as portal: "
            f"portal.call(executor.run, {last_name(asked.job.named)}, ...)`."
        )

    # -- sending, under the crew's turn --------------------------------------------------------------------------------

    def _packed(self, asked: Asked, parcel: bytes | None, error: BaseException | None) -> None:
        packer = self._member.packer
        if self.dropped and parcel is not None:
            packer.discard(parcel)
        elif parcel is not None:
            self._send(asked, _VALUE + parcel)
        else:
            assert error is not None
            self._send(asked, _ERROR + pack_error(error, packer))

    def _send(self, asked: Asked, payload: bytes) -> None:
        self._open.pop(asked.ident, None)
        if payload == _END:
            self._sessions.pop(asked.target, None)
        if self.dropped:
            return
        if asked.flags & requests.SLOT:
            self._crew.roster.reclaim(self._member, partial(self._put, asked.ident, payload))
        else:
            self._put(asked.ident, payload)

    def _put(self, ident: int, payload: bytes) -> None:
        self._member.send(frames.ANSWER, ident, payload)
        self._crew.roster.to_flush(self._member)

    # -- the end, outside the turn -------------------------------------------------------------------------------------

    def _cancel(self, ident: int) -> None:
        call = self._open.get(ident)
        if call is not None:
            call.cancel()
            return
        waiting = self._held if self._unpacking is None else [self._unpacking, *self._held]
        for asked in waiting:
            if asked.ident == ident:
                asked.cancelled = True
                return
        # Sending it was interrupted, or its answer is on its way already, and then this one is not looked at.
        self.answered(Asked(ident, requests.CALL, None, None), None, CancelledError("it was cancelled as it was sent"))

    def drop_all(self) -> None:
        """The worker is gone: cancel what it has asked for, close what it has open, answer nobody.

        Callbacks that it sent without waiting are still called.
        """
        self.dropped = True
        self._held = deque(asked for asked in self._held if asked.operation == requests.SOON)
        for call in list(self._open.values()):
            if call.asked.operation not in (requests.EXIT, requests.CLOSE):
                call.cancel()
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            session.drop(WorkerDied(f"worker process {self._member.pid}, which had this open, has ended"))


def _at_once(host: Host) -> bool:
    """Is `host`'s loop the one that runs this? In debug mode it takes a callback of its own, which asyncio times."""
    return host.runs_here() and not (isinstance(host, AsyncioHost) and host.loop.get_debug())
