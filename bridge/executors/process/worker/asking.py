"""Requests of a worker process to its parent's loop, and the threads here that wait for the answers.

    ask: pack ── CALL frame ──> parent: calls.py ──> the loop
    wait: read the line  <── ANSWER frame ─────────────┘

In the thread that runs the job a request belongs to the job at hand, lends its place and is cancelled with it; in another
thread it belongs to the job whose portal it is.

Owners: a request belongs to the thread that makes it; its `_Pending` is written by whoever reads the line, once, before
the gate is opened. Callbacks of futures run in the thread that reads, which therefore must not wait for the line:
`answering` holds the threads that are at that.
"""

from __future__ import annotations

from _thread import LockType, allocate_lock, get_ident
from concurrent.futures import CancelledError
from typing import Any, NoReturn

from bridge.errors import WouldDeadlock, WrongThread
from bridge.executors.process.wire import frames
from bridge.executors.process.wire.errors import unpack_error
from bridge.executors.process.wire.requests import (
    CANCEL,
    CANCELLABLE,
    END,
    ERROR,
    HEAD,
    LEND,
    RECLAIM,
    SLOT,
)
from bridge.executors.process.worker.line import Line
from bridge.threads.here import here

answering: set[int] = set()


class _Pending:
    """One request that a thread waits for."""

    __slots__ = ("gate", "payload")

    def __init__(self) -> None:
        self.gate: LockType = allocate_lock()
        self.gate.acquire()
        self.payload: bytes | None = None

    def answer(self, payload: memoryview) -> None:
        self.payload = bytes(payload)
        self.gate.release()


def ask(line: Line, operation: int, seq: int, body: bytes, cleanup: bool = False) -> Any:
    """Make a request, wait for its answer; return or raise what it says. Raises StopAsyncIteration at an END.

    In the job's own thread: if nobody wants the job's result any more, the request is cancelled and the job told, once;
    with `cleanup` the request is left to finish.
    """
    if answering and get_ident() in answering:
        raise WouldDeadlock(
            "the portal of a worker process was asked, in a callback of one of its futures, to wait for an answer: "
            "that callback runs in the thread that would have to read it. Wait in another thread, or use "
            "portal.call_soon_threadsafe or portal.run_coroutine_threadsafe there."
        )
    worker: Any = here.worker
    job = None if worker is None else worker.job
    if job is None:
        return unwrap(line, _exchange(line, operation, seq, body, cleanup))
    own = getattr(job, "seq", None)
    if own is None:  # a thread of an executor that somebody has made in this process
        worker.pool.lend(worker)
        try:
            return unwrap(line, _exchange(line, operation, seq, body, cleanup))
        finally:
            worker.pool.reclaim(worker)
    if cleanup or job.told:
        return unwrap(line, _exchange(line, operation | SLOT, own, body, cleanup))
    if job.cancelling is not None:
        job.told = True
        job.cancelling()
    payload = _exchange(line, operation | SLOT | CANCELLABLE, own, body, False)
    if payload[0] == ERROR and job.cancelling is not None:
        error = unpack_error(memoryview(payload)[1:], line.unpacker)
        if isinstance(error, CancelledError):
            job.told = True
            job.cancelling()
        _raise(error)
    return unwrap(line, payload)


def _exchange(line: Line, operation: int, seq: int, body: bytes, cleanup: bool) -> bytes:
    """Send, and wait for the answer. What a signal handler raises cancels the request, and waits for its clean-up."""
    pending = _Pending()
    ident = line.new_ident()
    line.waiting[ident] = pending
    message = HEAD.pack(operation, seq) + body
    sent = False
    try:
        line.send(frames.CALL, ident, message)
        sent = True
        line.wait(pending.gate)
    except BaseException:
        if pending.payload is None:
            if not cleanup:
                line.send(frames.CALL, ident, HEAD.pack(CANCEL, seq))
            elif not sent:
                line.send(frames.CALL, ident, message)
            line.wait(pending.gate)
        raise
    payload = pending.payload
    assert payload is not None
    return payload


def unwrap(line: Line, payload: bytes) -> Any:
    """Return or raise what an answer says. Raises StopAsyncIteration at an END."""
    status = payload[0]
    parcel = memoryview(payload)[1:]
    if status == ERROR:
        _raise(unpack_error(parcel, line.unpacker))
    if status == END:
        raise StopAsyncIteration
    return line.unpacker.unpack(parcel)


def _raise(error: BaseException) -> NoReturn:
    """Without a cycle through the traceback."""
    try:
        raise error
    finally:
        del error


def job_number(seq: int) -> int:
    """Of the job at hand if this is its own thread, otherwise `seq`."""
    worker: Any = here.worker
    number: int = getattr(worker.job, "seq", seq) if worker is not None else seq
    return number


def refuse_blocking(what: str) -> NoReturn:
    """Raise the error of a thread that runs a loop, and must not wait for another one."""
    raise WrongThread(
        f"{what} was called in a worker process, in a thread that runs an event loop of its own: that loop would stand "
        f"still until the parent's loop answers. Write `await bridge.to_thread(...)` around the blocking call."
    )


class LentPlace:
    """Around a wait for futures: in the job's own thread its place is lent meanwhile."""

    def __init__(self, line: Line, idents: list[int]):
        self._line = line
        self._idents = idents
        self._worker: Any = here.worker
        job = None if self._worker is None else self._worker.job
        self._seq: int | None = getattr(job, "seq", None)

    def __enter__(self) -> None:
        if answering and get_ident() in answering:
            raise WouldDeadlock(
                "a future of a worker process's portal was waited for in a callback of another one: "
                "that callback runs in the thread that would have to read the answer"
            )
        if self._seq is not None:
            for ident in self._idents:
                self._line.send(frames.CALL, ident, HEAD.pack(LEND, self._seq))
        elif self._worker is not None:
            self._worker.pool.lend(self._worker)

    def __exit__(self, *exc: object) -> None:
        if self._seq is not None:
            _exchange(self._line, RECLAIM, self._seq, b"", cleanup=True)
        elif self._worker is not None:
            self._worker.pool.reclaim(self._worker)
