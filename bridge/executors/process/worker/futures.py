"""Futures, in a worker process, for coroutines in the parent."""

from __future__ import annotations

from _thread import LockType, allocate_lock, get_ident
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from bridge.executors.process.wire import frames
from bridge.executors.process.wire.requests import CANCEL, HEAD
from bridge.executors.process.worker.asking import LentPlace, answering, unwrap
from bridge.executors.process.worker.line import Line
from bridge.threads.safe_future import SafeFuture


class RemoteFuture(SafeFuture):
    """A future for a coroutine in the parent. Waiting for it in the job's own thread lends the job's place.

    It stays PENDING while the coroutine runs, so that `cancel()` works at any time; a cancelled future stays cancelled
    whatever the coroutine makes of it. `ended` is opened when the coroutine has ended, clean-up included.
    """

    def __init__(self, line: Line, seq: int):
        super().__init__()
        self.ident: int = line.new_ident()
        self.scope: set[RemoteFuture] | None = None  # the `with portal` that owns it
        self.ended: LockType = allocate_lock()
        self.ended.acquire()
        self.line = line
        self._seq = seq

    def cancel(self) -> bool:
        """As `Future.cancel`: cancels the coroutine in the parent, whether it has started or not."""
        before = self.cancelled()
        if not super().cancel():
            return False
        if not before:
            self.line.send(frames.CALL, self.ident, HEAD.pack(CANCEL, self._seq))
        return True

    cancel_future = cancel

    def answer(self, payload: memoryview) -> None:
        """In the thread that reads the line."""
        me = get_ident()
        answering.add(me)
        try:
            self._settle(payload)
        finally:
            answering.discard(me)

    def _settle(self, payload: memoryview) -> None:
        value, error = None, None
        try:
            value = unwrap(self.line, bytes(payload))
        except BaseException as reason:
            error = reason
        if self.scope is not None:
            self.scope.discard(self)
        self.ended.release()
        if isinstance(error, CancelledError):
            super().cancel()
        if not self.set_running_or_notify_cancel():
            return
        if error is None:
            self.set_result(value)
        else:
            self.set_exception(error)
            del error

    def result(self, timeout: float | None = None) -> Any:
        """As `Future.result`; `timeout` in seconds."""
        return self._blocking(super().result, timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `Future.exception`; `timeout` in seconds."""
        error: BaseException | None = self._blocking(super().exception, timeout)
        return error

    def _blocking(self, wait_for: Callable[[float | None], Any], timeout: float | None) -> Any:
        if self.done() or timeout == 0:
            return wait_for(timeout)
        with LentPlace(self.line, [self.ident]):
            return wait_for(timeout)


def wait_for_all(futures: list[RemoteFuture]) -> None:
    """Until each coroutine has ended: a cancelled future is done before its coroutine is."""
    with LentPlace(futures[0].line, [future.ident for future in futures]):
        for future in futures:
            future.ended.acquire()
            future.ended.release()
