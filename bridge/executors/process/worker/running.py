"""Running one job after another in a worker process's main thread.

    next_job ──> BEGUN ──> unpack ──> fn(*args, **kwargs) ──> pack ──> outbox
                                        │ coroutine: on a loop of its own
                                        │ STREAM: item after item, as far as credit goes

Owners: everything here belongs to the main thread. `Seat` is what `bridge.threads.here` knows of it, so that
`check_cancelled` and `portal()` work here as they do in a worker thread.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError
from contextvars import Context, copy_context
from time import perf_counter
from types import AsyncGeneratorType, CoroutineType
from typing import Any, NoReturn

from bridge.callables import NOT_STREAMED, refuse_async
from bridge.executors.process.wire import frames
from bridge.executors.process.wire.alike import AlikeCalls
from bridge.executors.process.wire.context import Declared
from bridge.executors.process.wire.errors import pack_error
from bridge.executors.process.wire.page import BEGUN, CANCEL, LENGTH
from bridge.executors.process.wire.parcels import NOTHING
from bridge.executors.process.worker.line import Line
from bridge.threads.here import here
from bridge.threads.job import name_of

#: Results are sent at the latest when so many bytes of them have been kept: while the parent takes in the first ones of
#: a batch, the worker goes on with the others.
ENOUGH = 400


class Terminated(SystemExit):
    """SIGTERM has come while a function ran: it unwinds, then the process ends."""


class NoPool:
    """What a thread's worker has in its place: nothing is lent here, the parent knows what waits."""

    def lend(self, seat: object) -> None: ...

    def reclaim(self, seat: object) -> None: ...


class RunningJob:
    """The job at hand, with the part of a thread's job that functions can ask for."""

    call: Any = None
    origin: None = None

    def __init__(self, line: Line):
        self._words = line.page.words
        self.seq = 0
        self.fn: Any = None
        self.told = False
        self.step: Any = None

    @property
    def cancelling(self) -> Callable[[], NoReturn] | None:
        """As `Job.cancelling`; the parent writes it into the shared page."""
        return self._raise_cancelled if self._words[CANCEL] == self.seq else None

    def _raise_cancelled(self) -> NoReturn:
        raise CancelledError(f"nobody waits for {name_of(self.fn)} any more")


class Seat:
    """The worker process as `here.worker`."""

    def __init__(self, line: Line):
        self._line = line
        self._job = RunningJob(line)
        self.pool: NoPool = NoPool()
        self.packer: Any = line.packer
        self.words: memoryview = line.page.words
        self.has_slot = True
        self.job: Any = None  # the job at hand, None between jobs
        self.run_coroutine: Callable[[Any], Any]

    @property
    def takes_in_a_call(self) -> bool:
        """Does this thread rebuild a function and its arguments, and import what they need?"""
        return self.job is None

    @property
    def portal(self) -> Any:
        """The way into the loop that sent the job at hand."""
        from bridge.executors.process.worker.portal import RemotePortal

        return RemotePortal(self._line, self._job.seq)


class Runner:
    """Takes jobs from the line until the parent wants no more."""

    def __init__(self, line: Line, declared: Declared):
        self._line = line
        self._declared = declared
        self._seat = Seat(line)
        self._job = self._seat._job
        self._credit: dict[int, int] = {}  # by job; the first comes before its job is begun
        self._seat.run_coroutine = self.run_coroutine
        here.worker = self._seat  # type: ignore[assignment]
        line.listeners[frames.CREDIT] = self._more_credit
        line.listeners[frames.CANCEL] = self._cancelled
        self._cancel_coroutine: Callable[[], object] | None = None

    @property
    def busy(self) -> bool:
        """Does a function run?"""
        return self._seat.job is not None

    def serve(self) -> None:
        line = self._line
        words = line.page.words
        while (work := line.next_job()) is not None:
            seq, flags, parcel = work
            words[BEGUN] = seq
            self._run(seq, flags, parcel)
            del work, parcel
            if words[LENGTH] > ENOUGH:
                line.flush()

    def _run(self, seq: int, flags: int, parcel: bytes | AlikeCalls) -> None:
        line, job = self._line, self._job
        began = perf_counter()
        job.seq, job.told, job.step = seq, False, None
        try:
            if type(parcel) is AlikeCalls:
                fn, args = parcel.take(seq, line.unpacker)
                kwargs, values = {}, None
            else:
                fn, args, kwargs, values = line.unpacker.unpack(parcel)
            job.fn = fn
            self._seat.job = job
            context = self._declared.context(values)
            try:
                value = context.run(fn, *args, **kwargs)
                if flags & frames.STREAM:
                    context.run(self._send_items, seq, value)
                    value = None
                elif type(value) is CoroutineType or type(value) is AsyncGeneratorType:
                    value = self._run_coroutine(seq, value, context)
            finally:
                self._seat.job = None
            del args, kwargs
            try:
                result = NOTHING if value is None else line.packer.pack(value)
            except Exception:
                from bridge.executors.process.worker.chunk import Chunk

                if type(value) is not Chunk:
                    raise
                result = line.packer.pack(value.up_to_the_unpicklable(line.packer))
            line.keep(frames.outcome(frames.RESULT, seq, began, perf_counter(), result))
        except Terminated:
            end_by_signal(signal.SIGTERM)
        except BaseException as error:
            ended = perf_counter()
            line.keep(frames.outcome(frames.ERROR, seq, began, ended, pack_error(error, line.packer)))
        job.fn = None

    # -- coroutines ----------------------------------------------------------------------------------------------------

    def run_coroutine(self, coro: Any) -> Any:
        """For a function that is called inside of the job at hand: run what it has returned, and return its value."""
        return self._run_coroutine(self._job.seq, coro, copy_context())

    def _run_coroutine(self, seq: int, coro: Any, context: Context) -> Any:
        if type(coro) is AsyncGeneratorType:
            raise TypeError(f"{name_of(self._job.fn)} is an async generator function: a worker awaits coroutines only")
        from bridge.executors.process.worker.coroutine import run_coroutine

        return run_coroutine(self._line, coro, context, lambda: self._line.page.words[CANCEL] == seq)

    def _cancelled(self, seq: int, payload: memoryview) -> None:
        """Woken for nothing but to look at the shared page again."""

    # -- streams -------------------------------------------------------------------------------------------------------

    def _more_credit(self, seq: int, payload: memoryview) -> None:
        self._credit[seq] = self._credit.get(seq, 0) + frames.COUNT.unpack(payload)[0]

    def _send_items(self, seq: int, iterable: Iterable[Any]) -> None:
        """Send items as far as credit goes."""
        line, words, credit = self._line, self._line.page.words, self._credit
        credit.setdefault(seq, 0)
        refuse_async(self._job.fn, iterable, NOT_STREAMED)
        iterator = iter(iterable)
        number = 0
        try:
            for item in iterator:
                if not credit[seq] and words[CANCEL] != seq:
                    line.wait_until(lambda: credit[seq] > 0 or words[CANCEL] == seq)
                if words[CANCEL] == seq:
                    return
                credit[seq] -= 1
                number += 1
                line.send(frames.ITEM, seq, frames.COUNT.pack(number) + line.packer.pack(item))
                del item
        finally:
            credit.pop(seq, None)
            close = getattr(iterator, "close", None)
            if close is not None:
                close()


def end_by_signal(number: int) -> NoReturn:
    """End as if nobody had caught the signal, so that whoever waits for this process sees it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)
