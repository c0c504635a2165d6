"""Every exception that bridge raises of its own accord.

Each one also derives from the built-in that existing code already catches (RuntimeError, TimeoutError, ...), so that
putting bridge under a program changes none of its `except` clauses.
"""

from __future__ import annotations

from concurrent.futures import BrokenExecutor


class BridgeError(Exception):
    """Base of all errors raised by bridge itself, never by the functions it runs."""


class LoopClosed(BridgeError, RuntimeError):
    """The loop that should have answered stopped, was closed, or was left behind by a fork."""


class WouldDeadlock(BridgeError, RuntimeError):
    """A blocking call that could never end, because what it waits for needs the very thread that waits."""


class WrongThread(BridgeError, RuntimeError):
    """The call needs an event loop that this thread does not run, or would block one that it does run."""


class ExecutorClosed(BridgeError, RuntimeError):
    """The executor was shut down, or left behind by a fork, before the function could start."""


class UnknownLane(BridgeError, LookupError):
    """`to=` names a lane that this loop does not have."""


class OffloadTimeout(BridgeError, TimeoutError):
    """A function did not end within its `timeout=`; the message says how long it waited and how long it ran."""


class WorkerDied(BridgeError, BrokenExecutor):
    """A worker process ended while it ran a function, or before it could. The executor goes on; see the message.

    `function` is the function's name, `pid` the process. `exitcode` is as in `multiprocessing`: -N for a process that
    signal N has killed; `signal` is then that signal. None where it is not known.
    """

    def __init__(
        self,
        message: str = "",
        *,
        function: str | None = None,
        pid: int | None = None,
        exitcode: int | None = None,
        signal: int | None = None,
    ):
        super().__init__(message)
        self.function: str | None = function
        self.pid: int | None = pid
        self.exitcode: int | None = exitcode
        self.signal: int | None = signal


class WorkerMemoryExceeded(WorkerDied):
    """A function was ended because its worker process had more in memory than `memory_limit` allows."""
