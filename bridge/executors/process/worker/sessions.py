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
    """The synchronous face of an async context manager in the parent."""

    def __init__(self, line: Line, seq: int, async_cm: AbstractAsyncContextManager[Any]):
        if not hasattr(async_cm, "__aenter__"):
            raise TypeError(f"portal.enter needs an async context manager, not {async_cm!r}")
        self._line = line
        self._seq = seq
        self._async_cm: AbstractAsyncContextManager[Any] | None = async_cm
        self._target: bytes | None = None

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
            with suppress(Exception):
                ask(line, EXIT, self._seq, target + pack_error(error, line.packer), cleanup=True)
            raise

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        target, self._target = self._target, None
        assert target is not None
        body = target if exc is None else target + pack_error(exc, self._line.packer)
        suppressed: bool | None = ask(self._line, EXIT, self._seq, body, cleanup=True)
        return suppressed


class Iteration(Iterator[Any]):
    """The synchronous face of an async iteration in the parent. Like a generator it has `close`, and closes itself."""

    def __init__(self, line: Line, seq: int, async_iterable: AsyncIterable[Any]):
        self._over = True  # until it has begun there is nothing to close
        self._line = line
        self._seq = seq
        self._async_iterable: AsyncIterable[Any] | None = async_iterable
        self._target = TARGET.pack(line.new_ident())

    def __next__(self) -> Any:
        line = self._line
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
            self._send_close()
        else:
            with suppress(LoopClosed):  # then it has been closed with the loop
                ask(self._line, CLOSE, self._seq, self._target, cleanup=True)

    def _send_close(self) -> None:
        line = self._line
        line.send(frames.CALL, line.new_ident(), HEAD.pack(CLOSE, self._seq) + self._target)

    def __del__(self) -> None:
        if self._over or sys.is_finalizing():
            return
        if get_ident() in answering or _within_the_line():
            # Collected in the middle of reading or sending, by a thread that may hold any of the line's locks.
            self._over = True
            start_new_thread(self._send_close, ())
        else:
            self.close()


def _within_the_line() -> bool:
    """Is the calling thread at work in `worker.line` just now?"""
    line = sys.modules[Line.__module__].__dict__
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals is line:
            return True
        frame = frame.f_back
    return False
