"""A concurrent Future that a signal handler's exception cannot leave locked.

`Future.result` waits within `with self._condition`, and `Condition.__exit__` is a Python function: an exception that a
signal handler raises at its first bytecode leaves the lock shut, and then the thread or loop that sets the result waits
for ever. So here the lock is entered and left by C code, which no handler interrupts, and waiting needs no lock at all:

    waiter: put a gate into the queue ── done by now? ── wait at the gate
    answer: set the state ── open every gate in the queue

One of the two sees the other. Worker processes import this, so it imports nothing that only an event loop needs.
"""

from __future__ import annotations

from _thread import LockType, RLock, allocate_lock
from collections import deque
from concurrent.futures import CancelledError, Future
from concurrent.futures._base import CANCELLED, CANCELLED_AND_NOTIFIED, FINISHED, PENDING, RUNNING
from contextlib import suppress
from threading import TIMEOUT_MAX
from typing import Any


class FutureCondition(RLock):  # type: ignore[misc]  # final for type checkers only
    """What a Future needs of a `threading.Condition`, as a lock of C."""

    __slots__ = ("gates",)

    gates: deque[LockType]

    def notify_all(self) -> None:
        """Wake up every thread that waits for the future."""
        gates = self.gates
        while gates:
            with suppress(IndexError):  # a waiter has given up
                gates.popleft().release()


class SafeFuture(Future[Any]):
    """A Future on which a thread may be interrupted, at any moment, by an exception."""

    def __init__(self) -> None:
        # Not Future.__init__, which makes a Condition: that alone takes longer than all of this.
        self._state = PENDING
        self._result = self._exception = None
        self._waiters: list[Any] = []
        self._done_callbacks: list[Any] = []
        self.renew_lock()

    def renew_lock(self) -> None:
        """Have a new lock: at first, and in the child of a fork, where the thread that holds it may not exist."""
        self._condition: Any = FutureCondition()
        self._condition.gates = deque()

    def take_back(self) -> None:
        """Be pending again: what was said to run has not begun."""
        with self._condition:
            if self._state is RUNNING:
                self._state = PENDING

    def result(self, timeout: float | None = None) -> Any:
        """As `Future.result`; `timeout` in seconds."""
        error = self._outcome(timeout)
        if error is None:
            return self._result
        try:
            raise error
        finally:
            del error, self  # without a cycle through the traceback

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """As `Future.exception`; `timeout` in seconds."""
        return self._outcome(timeout)

    def _outcome(self, timeout: float | None) -> BaseException | None:
        """Wait until it is done. Raises CancelledError, and TimeoutError if that takes longer than `timeout` seconds."""
        if self._state is not FINISHED:
            self._wait(timeout)
            if self._state in (CANCELLED, CANCELLED_AND_NOTIFIED):
                raise CancelledError
        return self._exception

    def _wait(self, timeout: float | None) -> None:
        if self.done():
            return
        gate = allocate_lock()
        gate.acquire()
        gates = self._condition.gates
        gates.append(gate)
        try:
            if not self.done():
                gate.acquire(timeout=-1 if timeout is None else min(max(timeout, 0.0), TIMEOUT_MAX))
        finally:
            with suppress(ValueError):  # it was opened
                gates.remove(gate)
        if not self.done():
            raise TimeoutError
