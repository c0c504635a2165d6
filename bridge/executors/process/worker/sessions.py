"""Async context managers and iterations of the parent, as a worker process sees them: as synchronous ones.

Each is a session at home, one task on the loop (`process.sessions`); its number is chosen here, and sent with every
request that concerns it.
"""

from __future__ import annotations

import sys
from _thread import get_ident, start_new_thread
from collections.abc import AsyncIterable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, suppress
from types import FrameType, TracebackType
from typing import Any

from bridge.errors import LoopClosed
from bridge.executors.process.wire import frames
from bridge.executors.process.wire.errors import pack_error
from bridge.executors.process.wire.requests import CLOSE, ENTER, EXIT, HEAD, ITERATE, NEXT, TARGET
from bridge.executors.process.worker.asking import answering, ask, refuse_blocking
from bridge.executors.process.worker.line import Line
from bridge.threads.here import runs_a_loop


class Entered(AbstractContextManager[Any]):
    """The synchronous face of an async context manager in the parent. Left by itself if it is dropped while entered."""

    _target: bytes | None = None

    def __init__(self, line: Line, seq: int, async_cm: AbstractAsyncContextManager[Any]):
        if not hasattr(async_cm, "__aenter__"):
            raise TypeError(f"portal.enter needs an async context manager, not {async_cm!r}")
        self._line = line
        self._seq = seq
        self._async_cm: AbstractAsyncContextManager[Any] | None = async_cm

    def __enter__(self) -> Any:
        line = self._line
        if self._async_cm is None:
            raise RuntimeError("this context manager was entered before: call portal.enter(...) again")
        if runs_a_loop():
            refuse_blocking("portal.enter")
        parcel = line.packer.pack(self._async_cm)
        self._async_cm = None
        self._target = target = TARGET.pack(line.new_ident())
        try:
            return ask(line, ENTER, self._seq, target + parcel)
        except BaseException as error:
            # The answer may have been lost, or of no use, although the context was entered.
            self._leave(target, error)
            raise

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        target = self._target
        if target is None:
            raise RuntimeError(
                "this context manager is not entered, or was left before: write `with portal.enter(...) as value:`"
            )
        if runs_a_loop():
            refuse_blocking("leaving the context of portal.enter")
        try:
            body = target if exc is None else target + pack_error(exc, self._line.packer)
            suppressed: bool | None = ask(self._line, EXIT, self._seq, body, cleanup=True)
            self._target = None
            return suppressed
        except BaseException as error:
            self._leave(target, error)
            raise

    def _leave(self, target: bytes, error: BaseException) -> None:
        """See to it that the context is left, because of `error`. Harmless if it has been left."""
        with suppress(Exception):
            ask(self._line, EXIT, self._seq, target + pack_error(error, self._line.packer), cleanup=True)
        self._target = None

    def __del__(self) -> None:
        target, self._target = self._target, None
        if target is not None and not sys.is_finalizing():
            error = GeneratorExit("the context was dropped without being left")
            _send_from_finalizer(self._line, EXIT, self._seq, target + pack_error(error, self._line.packer))


class Iteration(Iterator[Any]):
    """The synchronous face of an async iteration in the parent. Like a generator it has `close`, and closes itself."""

    _over = True  # until it has begun there is nothing to close

    def __init__(self, line: Line, seq: int, async_iterable: AsyncIterable[Any]):
        self._line = line
        self._seq = seq
        self._async_iterable: AsyncIterable[Any] | None = async_iterable
        self._target = TARGET.pack(line.new_ident())
        self._thread = 0  # which has asked for the last item

    def __next__(self) -> Any:
        line = self._line
        if self._over and self._async_iterable is None:
            raise StopIteration
        if runs_a_loop():
            refuse_blocking("asking an iterator of portal.iterate for its next item")
        self._thread = get_ident()
        try:
            if not self._over:
                return ask(line, NEXT, self._seq, self._target)
            async_iterable, self._async_iterable = self._async_iterable, None
            if async_iterable is not None:
                parcel = line.packer.pack(async_iterable)
                del async_iterable
                self._over = False
                return ask(line, ITERATE, self._seq, self._target + parcel)
        except StopAsyncIteration:
            self._over = True
        except BaseException:
            self.close()
            raise
        raise StopIteration

    def close(self) -> None:
        """Leave the iteration: its iterator is closed in the parent, in the task that iterates."""
        self._async_iterable = None
        if self._over:
            return
        self._over = True
        if runs_a_loop():
            _send(self._line, CLOSE, self._seq, self._target)
        else:
            with suppress(LoopClosed):  # then it has been closed with the loop
                ask(self._line, CLOSE, self._seq, self._target, cleanup=True)

    def __del__(self) -> None:
        if self._over or sys.is_finalizing():
            return
        me = get_ident()
        if me == self._thread and me not in answering and not _within_the_line():
            self.close()  # at the end of a `for` that was left early: what it holds is closed by then
        else:
            self._over = True
            _send_from_finalizer(self._line, CLOSE, self._seq, self._target)


def _send(line: Line, operation: int, seq: int, body: bytes) -> None:
    """Send a request for whose answer no thread waits."""
    line.send(frames.CALL, line.new_ident(), HEAD.pack(operation, seq) + body)


def _send_from_finalizer(line: Line, operation: int, seq: int, body: bytes) -> None:
    """As `_send`, in whatever thread collects garbage, which may hold any of the line's locks just then."""
    if get_ident() in answering or _within_the_line():
        start_new_thread(_send, (line, operation, seq, body))
    else:
        _send(line, operation, seq, body)


def _within_the_line() -> bool:
    """True if the calling thread is at work in `worker.line`."""
    line = sys.modules[Line.__module__].__dict__
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals is line:
            return True
        frame = frame.f_back
    return False
